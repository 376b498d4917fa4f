"""Controls that must be caught: for each static check images spoiled in one place, and the check finds it.

A check that nothing here makes fail is not proven, and fails this file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from blindbuild.assemble.tree import device_entry, directory_entry, file_entry, symlink_entry
from blindbuild.audit.channels import CHECKS, Waiver, compute_ledger
from blindbuild.formats.pe import NewSection
from tests.fakes import spoiled_filters
from tests.fakes.ledger_image import Parts, clean_parts, dynamic_elf, static_elf

Spoil = Callable[[Parts], Parts]
ROW_CHECKS = {"kernel-config", "kernel-symbols", "command-line-words", "refused-calls"}  # each row's own
UNCHECKED = {
    "host-reads-memory",
    "host-supplied-acpi",
    "standard-streams",
}  # rows without any check


def _file(path: str, data: bytes, mode: int = 0o444) -> Spoil:
    return lambda parts: parts.with_file(path, file_entry(data, mode))


def _program(path: str, words: bytes) -> Spoil:
    return _file(path, static_elf(b"\0" + words), 0o555)


def _symbol(kind: str, name: str) -> Spoil:
    return lambda parts: parts.with_symbol(kind, name)


def _config(old: str, new: str) -> Spoil:
    return lambda parts: parts.with_config(old, new)


def _word(word: str) -> Spoil:
    def spoil(parts: Parts) -> Parts:
        line = f"{parts.command_line} {word}"
        return replace(parts, command_line=line).with_config(
            f'CONFIG_CMDLINE="{parts.command_line}"', f'CONFIG_CMDLINE="{line}"'
        )

    return spoil


def _lacking(word: str) -> Spoil:
    def spoil(parts: Parts) -> Parts:
        line = parts.command_line.replace(f"{word} ", "")
        return replace(parts, command_line=line).with_config(
            f'CONFIG_CMDLINE="{parts.command_line}"', f'CONFIG_CMDLINE="{line}"'
        )

    return spoil


def _foreign_owner(archive: bytes) -> bytes:
    # newc: magic, inode, mode, then the user id as eight digits
    start = archive.index(b"070701", archive.index(b"workload/app/hello") - 120)
    return archive[: start + 22] + b"000003E8" + archive[start + 30 :]


def _filters(changed: Mapping[str, bytes]) -> Spoil:
    """Return the image with other filters; tests/unit/test_reachable_calls.py has many more."""

    def spoil(parts: Parts) -> Parts:
        for name, data in changed.items():
            path = spoiled_filters.PATHS[name]
            parts = parts.with_file(path, file_entry(data, 0o444 if name == "gate" else 0o400))
        return parts

    return spoil


CONTROLS: dict[str, tuple[str, Spoil]] = {
    "PRINTK on": ("kernel-config", _config("# CONFIG_PRINTK is not set", "CONFIG_PRINTK=y")),
    "BLOCK on": ("kernel-config", _config("# CONFIG_BLOCK is not set", "CONFIG_BLOCK=y")),
    "a family's new member": ("kernel-config", _config("CONFIG_EFI=y", "CONFIG_EFI=y\nCONFIG_EFI_ZBOOT=y")),
    "command line not compiled in": (
        "kernel-config",
        _config("CONFIG_CMDLINE_OVERRIDE=y", "# CONFIG_CMDLINE_OVERRIDE is not set"),
    ),
    "a console in the kernel": ("kernel-symbols", _symbol("T", "tty_register_driver")),
    "kexec in the kernel": ("kernel-symbols", _symbol("T", "__x64_sys_kexec_load")),
    "a System.map of one line": (
        "symbol-table",
        lambda parts: replace(parts, system_map="ffffffffffffffff B placeholder\n"),
    ),
    "a System.map cut in half": (
        "symbol-table",
        lambda parts: replace(parts, system_map="\n".join(parts.system_map.splitlines()[5000:]) + "\n"),
    ),
    "a network driver": ("kernel-drivers", _symbol("d", "e1000_driver")),
    "a driver that nobody named": ("kernel-drivers", _symbol("d", "brand_new_drv")),
    "FUSE": ("kernel-file-systems", _symbol("d", "fuse_fs_type")),
    "9p's own initcall": ("kernel-initcalls", _symbol("d", "__initcall__kmod_9p__300_400_init_v9fs6")),
    "io_uring": ("system-calls", _symbol("T", "__x64_sys_io_uring_setup")),
    "console=": ("command-line", _word("console=ttyS0")),
    "earlyprintk": ("command-line", _word("earlyprintk=serial")),
    "init=": ("command-line", _word("init=/x")),
    "efi=runtime": ("command-line", _word("efi=runtime")),
    "quiet missing": ("command-line-words", _lacking("quiet")),
    "another line than the kernel's": (
        "command-line",
        lambda parts: replace(parts, command_line=f"{parts.command_line} nosmp"),
    ),
    "a profile section": (
        "boot-image-sections",
        lambda parts: replace(parts, sections=(NewSection(".profile", b"x"),)),
    ),
    "microcode beside the initramfs": (
        "boot-image-sections",
        lambda parts: replace(parts, sections=(NewSection(".ucode", b"x"),)),
    ),
    "a file outside the recipe's tree": ("file-list", _file("etc/passwd", b"root")),
    "a fixed file with another mode": ("file-list", _file("init", static_elf(), 0o555)),
    "a fixed file missing": ("file-list", lambda parts: parts.without_file("aside")),
    "a foreign owner": ("file-list", lambda parts: replace(parts, respoil=_foreign_owner)),
    "a listing of another tree": ("file-list", _file(".blindbuild.tree", b"blindbuild-tree 1 0\n", 0o400)),
    "another sentinel": ("file-list", _file("~blindbuild.end", b"end\n", 0o400)),
    "/dev/mem": ("device-nodes", lambda parts: parts.with_file("dev/mem", device_entry(1, 1, 0o600))),
    "null's name for memory": (
        "device-nodes",
        lambda parts: parts.with_file("dev/null", device_entry(1, 1, 0o666)),
    ),
    "a device in the recipe's tree": (
        "device-nodes",
        lambda parts: parts.with_file("workload/dev/null", device_entry(1, 3, 0o666)),
    ),
    "a set-uid file": ("set-id", _file("workload/app/su-id", static_elf(), 0o4555)),
    "a sticky directory": ("set-id", lambda parts: parts.with_file("workload/tmp", directory_entry(0o1555))),
    "a writable file": ("writable", _file("workload/app/data", b"", 0o644)),
    "a writable directory": (
        "writable",
        lambda parts: parts.with_file("workload/tmp", directory_entry(0o777)),
    ),
    "a shell by name": ("interpreters", _file("workload/bin/sh", b"\x7fELF", 0o555)),
    "a shell by another name": ("interpreters", _program("workload/app/server", b"OPTIND\0PS4\0IFS\0")),
    "Python by another name": ("interpreters", _program("workload/app/x", b"PYTHONHOME\0PYTHONPATH\0")),
    "a script": ("interpreters", _file("workload/app/run", b"#!/app/hello\n", 0o555)),
    "a module by name": ("modules", _file("workload/app/x.ko", b"")),
    "a module by content": ("modules", _file("workload/app/x", static_elf(b"vermagic=6.12\0.modinfo\0"))),
    "ACPI tables": ("modules", _file("kernel/firmware/acpi/dsdt.aml", b"DSDT")),
    "a pickle by name": ("pickles", _file("workload/model.pkl", b"")),
    "a pickle by content": ("pickles", _file("workload/model.bin", b"\x80\x04\x95N.")),
    "a torch archive": ("pickles", _file("workload/model.bin", b"PK\x03\x04model/data.pkl")),
    "a log daemon": ("log-daemons", _file("workload/sbin/rsyslogd", static_elf(), 0o555)),
    "a time client": ("time-clients", _file("workload/sbin/chronyd", static_elf(), 0o555)),
    "a cloud's agent": ("agents", _file("workload/bin/amazon-ssm-agent", static_elf(), 0o555)),
    "a resolver's configuration": ("name-service", _file("workload/etc/resolv.conf", b"nameserver 9.9.9.9")),
    "a resolver's configuration as a link": (
        "name-service",
        lambda parts: parts.with_file("workload/etc/resolv.conf", symlink_entry(b"/app/hello")),
    ),
    "a crash reporter": ("crash-reporters", _file("workload/bin/crashpad_handler", static_elf(), 0o555)),
    "a dynamic init": ("static-programs", _file("init", dynamic_elf("getpid"), 0o500)),
    "a gate that is no program": ("static-programs", _file("gate/gate", b"none", 0o555)),
    "a library with sockets": ("elf-imports", _file("workload/lib/x.so", dynamic_elf("socket"))),
    "a library that starts programs": ("elf-imports", _file("workload/lib/x.so", dynamic_elf("posix_spawn"))),
    "a library that writes logs": ("elf-imports", _file("workload/lib/x.so", dynamic_elf("syslog"))),
    "a library that loads libraries": ("elf-imports", _file("workload/lib/x.so", dynamic_elf("dlopen"))),
    "a library that makes any system call": (
        "elf-imports",
        _file("workload/lib/x.so", dynamic_elf("syscall")),
    ),
    "an ELF file that cannot be read": ("elf-imports", _file("workload/lib/x.so", b"\x7fELF\x02\x01")),
    "F0 off": ("system-call-filters", _filters(spoiled_filters.without_any("socket-rule"))),
    "F0 off, as a row sees it": ("refused-calls", _filters(spoiled_filters.without_any("socket-rule"))),
    "the gate's filter off": ("system-call-filters", _filters(spoiled_filters.without_any("gate"))),
    "a socket for everybody": ("refused-calls", _filters(spoiled_filters.allowing(41, "socket-rule"))),
    "calls of i386": ("system-call-filters", _filters(spoiled_filters.without_architecture("socket-rule"))),
    "calls of x32": ("system-call-filters", _filters(spoiled_filters.without_x32("socket-rule"))),
    "no filter for the gate": ("system-call-filters", lambda parts: parts.without_file("gate/filter")),
    "a filter that is none": ("system-call-filters", _file("filters/init", b"none", 0o400)),
    "a key log in the gate": ("key-log", _program("gate/gate", b"SSLKEYLOGFILE")),
    "a waiver of nothing": (
        "waivers",
        lambda parts: replace(parts, waivers=(Waiver("workload/app/hello", "socket", "none"),)),
    ),
}


def _found(parts: Parts) -> set[str]:
    ledger = compute_ledger("hello", "1.0.0", parts.inputs())
    return {check.name for row in ledger.rows for check in row.checks if check.findings}


@pytest.fixture(scope="module")
def clean() -> Parts:
    return clean_parts()


@pytest.mark.parametrize("control", CONTROLS)
def test_the_control_is_caught_by_its_check(clean: Parts, control: str) -> None:
    check, spoil = CONTROLS[control]
    assert check in _found(spoil(clean))


def test_without_a_control_nothing_is_caught(clean: Parts) -> None:
    assert _found(clean) == set()


def test_every_check_has_a_control(clean: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {*CHECKS, *ROW_CHECKS}
    first = dict(CONTROLS.values())
    caught = {check for check, spoil in first.items() if check in _found(spoil(clean))}
    with capsys.disabled():
        sys.stdout.write(f"\nstatic checks whose controls are caught: {len(caught)} of {len(wanted)}\n")
    assert caught == wanted


def test_every_row_but_the_named_ones_has_a_check(clean: Parts) -> None:
    ledger = compute_ledger("hello", "1.0.0", clean.inputs())
    assert {row.rule.identifier for row in ledger.rows if not row.checks} == UNCHECKED
