"""What lies in the initramfs: every entry against the list of what may be there, and what none may be.

Names are no proof, so content is looked at as well; neither finds a program written to hide what it is. What
an auditor reads in the end is the list of files with their digests.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blindbuild.audit.check import Check
from blindbuild.audit.elf import MAGIC
from blindbuild.audit.image import UnpackedImage, Waiver
from blindbuild.digest import Digest
from blindbuild.formats.cpio import CpioEntry

LISTING, SENTINEL = ".blindbuild.tree", "~blindbuild.end"
SENTINEL_CONTENT = b"blindbuild-end\n"


@dataclass(frozen=True, slots=True)
class FixedEntry:
    """An entry of every image: its full mode, its device, and why it is in."""

    mode: int
    why: str
    device: tuple[int, int] = (0, 0)


# docs/spec/guest-abi.md, "Files in the initramfs"
FIXED = {
    LISTING: FixedEntry(0o100400, "listing"),
    "aside": FixedEntry(0o40500, "init"),
    "dev": FixedEntry(0o40555, "init"),
    "dev/null": FixedEntry(0o20666, "init", (1, 3)),
    "dev/urandom": FixedEntry(0o20666, "init", (1, 9)),
    "dev/zero": FixedEntry(0o20666, "init", (1, 5)),
    "etc": FixedEntry(0o40555, "init"),
    "etc/blindbuild": FixedEntry(0o40555, "init"),
    "etc/blindbuild/init.conf": FixedEntry(0o100400, "init"),
    "filters": FixedEntry(0o40555, "init"),
    "filters/child": FixedEntry(0o100400, "filter"),
    "filters/dhcp": FixedEntry(0o100400, "filter"),
    "filters/init": FixedEntry(0o100400, "filter"),
    "filters/launcher": FixedEntry(0o100400, "filter"),
    "filters/socket-rule": FixedEntry(0o100400, "filter"),
    "filters/workload": FixedEntry(0o100400, "filter"),
    "gate": FixedEntry(0o40555, "gate"),
    "gate/filter": FixedEntry(0o100444, "filter"),
    "gate/gate": FixedEntry(0o100555, "gate"),
    "gate/gate.json": FixedEntry(0o100444, "gate"),
    "init": FixedEntry(0o100500, "init and launcher"),
    "workload": FixedEntry(0o40555, "recipe"),
    SENTINEL: FixedEntry(0o100400, "sentinel"),
}
RECIPE_PREFIX = "workload/"
# Of a kernel that was not built for the image. The list knows them; the check `modules` finds every one.
MODULE_ENTRY = FixedEntry(0o100400, "kernel module")
MODULE_ENTRY_NAME = re.compile(r"modules/[0-9]{2}-[a-z0-9_]+\.ko")
MODULE_DIRECTORY, MODULE_DIRECTORY_ENTRY = "modules", FixedEntry(0o40555, "kernel module")

_PATH_BYTES = frozenset(range(0x21, 0x7F))
SET_ID_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
WRITE_BITS = 0o222
_DEVICES = {path: entry.device for path, entry in FIXED.items() if entry.device != (0, 0)}
# Shells, interpreters, login and package tools, with or without a version: a recipe that needs one says so.
INTERPRETER_NAME = re.compile(
    r"(?:(?:ba|da|k|z|c|tc|fi|a|mk|rba|o|ya)?sh|busybox|toybox|python|pypy|perl|ruby|lua|luajit|node|nodejs|deno|bun"
    r"|php|tclsh|wish|[gmn]?awk|guile|java|gdb|strace|ld|sshd?|dropbear|telnetd|login|su|sudo|getty|agetty|apt|apt-get"
    r"|dpkg|rpm|dnf|apk|pip|curl|wget|nc|ncat|netcat|socat)(?:[-.]?[0-9][0-9.]*)?"
)
# Words that only the program itself has: the environment variables it reads, or what it says of itself. A
# shell of any name knows both variables of POSIX.1-2024, "Shell Variables".
INTERPRETER_CONTENT = {
    "a shell": (b"OPTIND", b"PS4"),
    "busybox": (b"BusyBox v",),
    "Python": (b"PYTHONHOME", b"PYTHONPATH"),
    "Perl": (b"PERL5LIB", b"PERL5OPT"),
    "Ruby": (b"RUBYLIB", b"RUBYOPT"),
    "Node": (b"NODE_OPTIONS", b"NODE_PATH"),
    "Lua": (b"LUA_PATH", b"LUA_CPATH"),
    "an SSH server": (b"SSH-2.0-", b"AuthorizedKeysFile"),
}
MODULE_NAME = re.compile(r".*\.ko(?:\.(?:gz|xz|zst))?")
MODULE_CONTENT = (b"vermagic=", b".modinfo")  # include/linux/module.h, kernel/module/main.c
PICKLE_NAME = re.compile(r".*\.(?:pkl|pickle|joblib|pt|pth|ckpt)")
_PICKLE_PROTOCOLS = tuple(
    bytes((0x80, protocol)) for protocol in range(2, 6)
)  # PROTO opcode, PEP 3154 and 574
_PICKLE_END = b"."
_ZIP_MAGIC = b"PK\x03\x04"
NAMES = {
    "log-daemons": r"rsyslogd|syslogd|syslog-ng|klogd|systemd-journald|auditd|fluent-?bit",
    "time-clients": r"x?ntpd|ntpdate|chronyd|chronyc|sntp|ptp4l|phc2sys|systemd-timesyncd",
    "agents": r"cloud-init|waagent|google_(?:guest|osconfig)_agent|amazon-(?:ssm|cloudwatch)-agent"
    r"|snapd|qemu-ga|vmtoolsd|hv_(?:kvp|vss|fcopy)_daemon|unattended-upgrades?|fwupd|salt-minion|puppet|telegraf|node_exporter",
    "name-service": r"resolv\.conf|nsswitch\.conf|systemd-resolved|nscd|dnsmasq",
    "crash-reporters": r"apport|abrtd|kdump|makedumpfile|crashpad_handler|systemd-coredump",
}


# What a waiver can be about besides an imported symbol: the content or the name of one file.
WAIVABLE = frozenset({"interpreter", "pickle", *NAMES})


def check_file_list(image: UnpackedImage) -> Check:
    """Check every entry against the allow list, and init's listing against the entries."""
    findings = [finding for entry in image.entries for finding in _judge_entry(entry)]
    names = [_name(entry) for entry in image.entries]
    findings += [f"{path}: missing" for path in FIXED if path not in names]
    findings += _find_misplaced(image)
    paths = [entry.path for entry in image.entries]
    if paths != sorted(paths) or names[:1] != [LISTING] or names[-1:] != [SENTINEL]:
        findings.append("the archive is not sorted between the listing and the sentinel")
    content = {_name(entry): entry.data for entry in image.entries}
    if content.get(LISTING) != render_listing(image.entries):
        findings.append(f"{LISTING}: not what the archive has")
    if content.get(SENTINEL) != SENTINEL_CONTENT:
        findings.append(f"{SENTINEL}: not the sentinel")
    return Check("file-list", image.archive, len(image.entries), tuple(findings))


def _find_misplaced(image: UnpackedImage) -> Iterator[str]:
    """Yield entries whose parent is no directory: the kernel follows a link there, and writes elsewhere."""
    directories = {entry.path for entry in image.entries if stat.S_ISDIR(entry.mode)}
    for entry in image.entries:
        parent = entry.path.rpartition(b"/")[0]
        if parent and parent not in directories:
            yield f"{_name(entry)}: lies in no directory of the archive"


def render_listing(entries: tuple[CpioEntry, ...]) -> bytes:
    """Return what `.blindbuild.tree` has to say about an archive.

    Source: docs/spec/guest-abi.md, ".blindbuild.tree".
    """
    lines = []
    for entry in entries:
        if _name(entry) == LISTING:
            continue
        kind, size, digest = "?", str(len(entry.data)), "-"
        if stat.S_ISREG(entry.mode) or stat.S_ISLNK(entry.mode):
            kind, digest = "f" if stat.S_ISREG(entry.mode) else "l", Digest.sha256(entry.data).hex
        elif stat.S_ISCHR(entry.mode):
            kind, size = "c", f"{entry.rdev[0]}:{entry.rdev[1]}"
        elif stat.S_ISDIR(entry.mode):
            kind = "d"
        line = f"{kind} {entry.mode:07o} {entry.uid} {entry.gid} {size} {digest} "
        lines.append(line.encode("ascii") + entry.path + b"\n")
    return b"blindbuild-tree 1 %d\n" % len(lines) + b"".join(lines)


def why_in(path: str) -> str:
    """Return whose an entry is: `init`, `gate`, `recipe` and so on, or "" for what may not be there."""
    if fixed := _fixed(path):
        return fixed.why
    return "recipe" if path.startswith(RECIPE_PREFIX) else ""


def check_devices(image: UnpackedImage) -> Check:
    """Check that the only device nodes are null, zero and urandom, and that there is no pipe or socket."""
    findings = []
    for entry in image.entries:
        name, kind = _name(entry), stat.S_IFMT(entry.mode)
        if kind == stat.S_IFCHR and _DEVICES.get(name) != entry.rdev:
            findings.append(f"{name}: device {entry.rdev[0]}:{entry.rdev[1]} is not allowed")
        elif kind in (stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
            findings.append(f"{name}: a block device, pipe or socket")
    return Check("device-nodes", image.archive, len(image.entries), tuple(findings))


def check_set_id(image: UnpackedImage) -> Check:
    """Check that no file lends its owner's rights."""
    return _check_each(
        image, "set-id", lambda _name, entry: "set-id bits" if entry.mode & SET_ID_BITS else ""
    )


def check_writable(image: UnpackedImage) -> Check:
    """Check that no file or directory can be written to."""

    def judge(_name: str, entry: CpioEntry) -> str:
        plain = stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)
        return "writable" if plain and entry.mode & WRITE_BITS else ""

    return _check_each(image, "writable", judge)


def check_interpreters(image: UnpackedImage, waivers: tuple[Waiver, ...]) -> Check:
    """Check for shells, interpreters and tools of administrators, by name and by content."""
    excused = _excused(waivers, "interpreter")

    def judge(name: str, entry: CpioEntry) -> str:
        if name in excused or not stat.S_ISREG(entry.mode):
            return ""
        if INTERPRETER_NAME.fullmatch(posixpath.basename(name)):
            return "an interpreter or a tool, by its name"
        if entry.data.startswith(b"#!"):
            return "a script"
        if entry.data.startswith(MAGIC):
            for what, words in INTERPRETER_CONTENT.items():
                if all(word in entry.data for word in words):
                    return f"{what}, by its content"
        return ""

    return _check_each(image, "interpreters", judge)


def check_modules(image: UnpackedImage) -> Check:
    """Check that no kernel module and no ACPI table lies in the archive."""

    def judge(name: str, entry: CpioEntry) -> str:
        if MODULE_NAME.fullmatch(name):
            return "a kernel module, by its name"
        if entry.data.startswith(MAGIC) and all(word in entry.data for word in MODULE_CONTENT):
            return "a kernel module, by its content"
        # drivers/acpi/tables.c, arch/x86/kernel/cpu/microcode: taken out of an initramfs by the kernel itself
        return "what the kernel would load by itself" if name.startswith(("kernel/", ".extra")) else ""

    return _check_each(image, "modules", judge)


def check_pickles(image: UnpackedImage, waivers: tuple[Waiver, ...]) -> Check:
    """Check for files that run code when a program loads its weights."""
    excused = _excused(waivers, "pickle")

    def judge(name: str, entry: CpioEntry) -> str:
        if name in excused:
            return ""
        if PICKLE_NAME.fullmatch(name):
            return "a pickle, by its name"
        data = entry.data
        if data.startswith(_PICKLE_PROTOCOLS) and data.endswith(_PICKLE_END):
            return "a pickle, by its content"
        return "an archive with a pickle" if data.startswith(_ZIP_MAGIC) and b".pkl" in data else ""

    return _check_each(image, "pickles", judge)


def check_names(image: UnpackedImage, check: str, waivers: tuple[Waiver, ...]) -> Check:
    """Check that no file has the name of a program of one kind."""
    pattern, excused = re.compile(NAMES[check]), _excused(waivers, check)

    def judge(name: str, _entry: CpioEntry) -> str:
        found = name not in excused and pattern.fullmatch(posixpath.basename(name))
        return "a name of this kind" if found else ""

    return _check_each(image, check, judge)


def _excused(waivers: tuple[Waiver, ...], what: str) -> frozenset[str]:
    return frozenset(waiver.path for waiver in waivers if waiver.what == what)


def _check_each(image: UnpackedImage, check: str, judge: Callable[[str, CpioEntry], str]) -> Check:
    findings = []
    for entry in image.entries:
        if wrong := judge(_name(entry), entry):
            findings.append(f"{_name(entry)}: {wrong}")
    return Check(check, image.archive, len(image.entries), tuple(findings))


def _fixed(name: str) -> FixedEntry | None:
    if MODULE_ENTRY_NAME.fullmatch(name):
        return MODULE_ENTRY
    return MODULE_DIRECTORY_ENTRY if name == MODULE_DIRECTORY else FIXED.get(name)


def _judge_entry(entry: CpioEntry) -> Iterator[str]:
    name = _name(entry)
    if not _PATH_BYTES.issuperset(entry.path):
        yield f"{name}: a path of other bytes than printable ASCII without spaces"
    if (entry.uid, entry.gid, entry.mtime) != (0, 0, 0):
        yield f"{name}: expected owner 0:0 and time 0, got {entry.uid}:{entry.gid} and {entry.mtime}"
    if not (fixed := _fixed(name)):
        if not name.startswith(RECIPE_PREFIX):
            yield f"{name}: not on the list of what an image has"
    elif (entry.mode, entry.rdev) != (fixed.mode, fixed.device):
        yield f"{name}: expected mode {fixed.mode:o}, got {entry.mode:o} or another device"


def _name(entry: CpioEntry) -> str:
    return entry.path.decode("ascii", "backslashreplace")
