"""The static ledger: every row is there, in its order, and a product with an open channel is not built."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.tree import TreeEntry, device_entry, file_entry
from blindbuild.audit.channels import CHECKS, Waiver, compute_ledger, write_ledger
from blindbuild.audit.files import render_listing
from blindbuild.audit.rows import RULES, UNCLOSABLE_ROWS
from blindbuild.errors import ArchiveError, ManifestError, PeError, PolicyError
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc
from blindbuild.manifest import ChannelState
from blindbuild.verify import CHANNEL_GROUPS
from tests.fakes.ledger_image import Parts, clean_parts, dynamic_elf, static_elf

STUDY_ROWS = range(1, 41)
NEVER_CLOSED = ("host-reads-memory", "host-supplied-acpi", "tpm", "size-and-timing", "arp")


@pytest.fixture(scope="module")
def clean() -> Parts:
    """An image with nothing to find."""
    return clean_parts()


def write(parts: Parts) -> dict:
    return json.loads(write_ledger("hello", "1.0.0", parts.inputs()))


def test_a_clean_image_gives_a_row_for_every_rule_and_no_finding(clean: Parts) -> None:
    ledger = write(clean)
    assert ledger["version"] == 2
    assert [row["number"] for row in ledger["channels"]] == [rule.number for rule in RULES]
    assert not any(check["findings"] for row in ledger["channels"] for check in row["checks"])


def test_every_row_of_the_study_is_there_once_and_identifiers_are_unique() -> None:
    numbers = [rule.number for rule in RULES]
    assert sorted(numbers) == [*STUDY_ROWS, 41]
    assert len({rule.identifier for rule in RULES}) == len(RULES)


def test_what_no_image_can_close_stands_first(clean: Parts) -> None:
    rows = write(clean)["channels"]
    assert tuple(row["id"] for row in rows[:5]) == NEVER_CLOSED
    closable = [row["closable"] for row in rows]
    assert closable == sorted(closable)
    assert len(UNCLOSABLE_ROWS) == closable.count(False)
    assert all(row["state"] in ("open", "narrowed") for row in rows if not row["closable"])


def test_every_check_belongs_to_a_row_and_every_control_names_checks_of_its_row() -> None:
    used = {name for rule in RULES for name in rule.checks}
    assert used == set(CHECKS)
    for rule in RULES:
        ran = {*rule.checks, "kernel-config", "kernel-symbols", "command-line-words"}
        ran |= {"refused-calls"} if rule.refused_calls else set()
        assert all(ran.issuperset(control.shown_by) for control in rule.controls), rule.identifier


def test_a_row_without_a_check_is_never_closed(clean: Parts) -> None:
    for row in write(clean)["channels"]:
        if not row["checks"]:
            assert row["state"] in (
                ChannelState.STATED.value,
                ChannelState.NARROWED.value,
                ChannelState.OPEN.value,
            ), row["id"]


def test_a_row_that_rests_on_code_no_check_executes_is_stated(clean: Parts) -> None:
    states = {row["id"]: row["state"] for row in write(clean)["channels"]}
    assert (states["tls-side-channels"], states["standard-streams"]) == ("stated", "stated")
    assert (states["kernel-log"], states["admin-entry"]) == ("closed", "closed")


def test_a_row_that_rests_on_filters_is_closed_by_executing_them(clean: Parts) -> None:
    rows = {row["id"]: row for row in write(clean)["channels"]}
    resting = [row for row in rows.values() if any("refused-calls" in c["shownBy"] for c in row["controls"])]
    assert len(resting) == 11
    assert {row["id"] for row in resting if row["state"] != "closed"} == {"answers"}  # which no image closes
    for group in ("egress", "admin"):
        assert {rows[name]["state"] for name in CHANNEL_GROUPS[group]} == {"closed"}


def test_what_each_role_can_still_call_is_in_the_ledger(clean: Parts) -> None:
    reachable = write(clean)["reachable"]
    assert set(reachable) == {"init", "gate", "launcher", "workload", "dhcp"}
    assert reachable["init"] == {name: [] for name in ("exit", "exit_group", "getpid", "reboot", "wait4")}
    assert reachable["gate"]["accept4"] == ["argument 0 is 3"]


@pytest.mark.parametrize("function", sorted({name for rule in RULES for name in rule.absent_functions}))
def test_a_forbidden_function_in_the_kernel_is_found(clean: Parts, function: str) -> None:
    with pytest.raises(PolicyError, match=rf"the kernel has {function}\b"):
        write(clean.with_symbol("T", function))


@pytest.mark.parametrize("call", [name for rule in RULES for name in rule.stub_calls])
def test_an_implemented_system_call_is_found_and_a_stub_is_not(clean: Parts, call: str) -> None:
    write(clean.with_symbol("W", f"__x64_sys_{call}"))
    with pytest.raises(PolicyError, match=f"the kernel implements {call}"):
        write(clean.with_symbol("T", f"__x64_sys_{call}"))


def test_a_system_call_with_a_weak_and_a_strong_symbol_is_implemented(clean: Parts) -> None:
    both = clean.with_symbol("W", "__x64_sys_bpf").with_symbol("T", "__x64_sys_bpf")
    with pytest.raises(PolicyError, match="the kernel implements bpf"):
        write(both)


def test_the_system_map_of_a_distribution_with_one_line_shows_nothing(clean: Parts) -> None:
    line = "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
    with pytest.raises(PolicyError, match=r"System\.map is a placeholder without a symbol table") as found:
        write(replace(clean, system_map=line))
    assert "System.map has 0 names" in found.value.message
    for what in ("functions and system calls", "drivers", "file systems", "initcalls", "system calls"):
        assert f"{what} of the kernel are unknown: System.map does not show them" in found.value.message


def test_no_row_that_rests_on_symbols_is_closed_by_a_table_that_shows_none(clean: Parts) -> None:
    debug = replace(clean, system_map="ffffffff81000000 T _text\n", debug=True)
    states = {row["id"]: row["state"] for row in write(debug)["channels"]}
    assert {states[rule.identifier] for rule in RULES if rule.absent_functions or rule.stub_calls} == {"open"}
    assert states["hot-plug"] == "open"


def test_the_ledger_has_every_broken_rule_of_the_kernel_policy_also_those_of_no_channel(clean: Parts) -> None:
    assert write(clean)["kernel"]["policy"]["broken"] == []
    changed = clean.with_config("# CONFIG_RD_XZ is not set", "CONFIG_RD_XZ=y\nCONFIG_BLINDBUILD=m")
    policy = write(changed)["kernel"]["policy"]
    assert policy["broken"] == ["CONFIG_RD_XZ: expected it to be off, got y (as above)"]
    assert (policy["rules"] > 300, policy["modules"]) == (True, 1)


@pytest.mark.parametrize(
    ("path", "entry", "finding"),
    [
        ("workload/bin/sh", file_entry(b"\x7fELF", 0o555), "workload/bin/sh: an interpreter or a tool"),
        ("workload/bin/python3.13", file_entry(b"", 0o555), "python3.13: an interpreter or a tool"),
        ("workload/run", file_entry(b"#!/bin/x", 0o555), "workload/run: a script"),
        (
            "workload/x.ko.xz",
            file_entry(b"\xfd7zXZ", 0o444),
            "workload/x.ko.xz: a kernel module, by its name",
        ),
        ("workload/su-id", file_entry(static_elf(), 0o4555), "workload/su-id: set-id bits"),
        ("workload/data", file_entry(b"", 0o666), "workload/data: writable"),
        ("dev/mem", device_entry(1, 1, 0o600), "dev/mem: device 1:1 is not allowed"),
        ("etc/passwd", file_entry(b"root"), "etc/passwd: not on the list of what an image has"),
    ],
)
def test_a_file_that_should_not_be_there_is_found(
    clean: Parts, path: str, entry: TreeEntry, finding: str
) -> None:
    with pytest.raises(PolicyError) as found:
        write(clean.with_file(path, entry))
    assert finding in found.value.message


def test_an_opened_kernel_option_is_found_by_its_channel(clean: Parts) -> None:
    with pytest.raises(PolicyError, match=r"channel 3 \(kernel-log\)"):
        write(clean.with_config("# CONFIG_PRINTK is not set", "CONFIG_PRINTK=y"))


def test_a_finding_about_several_channels_is_told_once(clean: Parts) -> None:
    with pytest.raises(PolicyError) as found:
        write(clean.with_file("workload/lib/x.so", file_entry(dynamic_elf("socket"))))
    assert found.value.message.count("imports socket") == 1
    assert "imports socket (network) (also channels 5, 21, 32)" in found.value.message


def test_a_ledger_that_readers_would_refuse_is_not_written(clean: Parts) -> None:
    with pytest.raises(ManifestError, match=r"ledger\.name: expected"):
        write_ledger("Hello World", "1.0.0", clean.inputs())


def test_a_debug_image_gets_its_ledger_and_the_ledger_says_open(clean: Parts) -> None:
    ledger = write(replace(clean, debug=True, command_line=kernel_command_line(debug=True)))
    row = next(row for row in ledger["channels"] if row["id"] == "serial-console")
    assert row["state"] == "open"
    assert ledger["debug"] is True


def test_a_waiver_lets_one_import_of_one_file_pass_and_is_in_the_ledger(clean: Parts) -> None:
    library = clean.with_file("workload/lib/x.so", file_entry(dynamic_elf("socket", "system")))
    waiver = Waiver("workload/lib/x.so", "socket", "filter F0 refuses it")
    with pytest.raises(PolicyError) as found:
        write(replace(library, waivers=(waiver,)))
    assert "workload/lib/x.so: imports system (programs)" in found.value.message
    assert "imports socket" not in found.value.message
    both = (waiver, Waiver("workload/lib/x.so", "system", "the workload's filter refuses execve"))
    ledger = write(replace(library, waivers=both))
    assert [item["what"] for item in ledger["waivers"]] == ["socket", "system"]
    (shown,) = (item for item in ledger["programs"] if item["path"] == "workload/lib/x.so")
    assert (shown["linkage"], shown["imports"]) == ("dynamic", ["socket", "system"])


@pytest.mark.parametrize(
    ("path", "data", "what"),
    [
        ("workload/bin/python3", b"", "interpreter"),
        ("workload/lib/site.pth", b"import x", "pickle"),
        ("workload/share/base-files/nsswitch.conf", b"hosts: files", "name-service"),
    ],
)
def test_a_waiver_lets_a_name_or_a_content_pass(clean: Parts, path: str, data: bytes, what: str) -> None:
    spoiled = clean.with_file(path, file_entry(data))
    with pytest.raises(PolicyError, match=path):
        write(spoiled)
    write(replace(spoiled, waivers=(Waiver(path, what, "nothing reads it"),)))


@pytest.mark.parametrize(
    "waiver",
    [
        Waiver("workload/app/hello", "socket", "filter F0"),  # a static program imports nothing
        Waiver("init", "interpreter", "none"),  # not the recipe's
        Waiver("workload/app/none", "interpreter", "none"),
    ],
)
def test_a_waiver_of_nothing_is_found(clean: Parts, waiver: Waiver) -> None:
    with pytest.raises(PolicyError, match=r"a waiver of .* that waives nothing"):
        write(replace(clean, waivers=(waiver,)))


def test_words_of_metadata_services_are_shown_and_are_no_finding(clean: Parts) -> None:
    program = static_elf(b"\0http://169.254.169.254/latest\0/etc/resolv.conf\0")
    ledger = write(clean.with_file("workload/app/agent", file_entry(program, 0o555)))
    assert ledger["habits"] == {"workload/app/agent": ["/etc/resolv.conf", "169.254.169.254"]}


def test_a_kernel_module_in_its_place_opens_the_loading_of_code_and_nothing_else(clean: Parts) -> None:
    module = clean.with_file("modules/00-virtio_net.ko", file_entry(b"module", 0o400))
    with pytest.raises(PolicyError) as found:
        write(module)
    assert "modules/00-virtio_net.ko: a kernel module, by its name" in found.value.message
    assert "got code-loading: 1 findings" in found.value.message


@pytest.mark.parametrize(
    "path",
    ["modules/virtio_net.ko", "modules/00-x.ko.xz", "modules/00-x/y.ko", "modules/order", "modules2/x"],
)
def test_any_other_file_beside_modules_is_not_on_the_list(clean: Parts, path: str) -> None:
    with pytest.raises(PolicyError, match=rf"{path}: not on the list of what an image has"):
        write(clean.with_file(path, file_entry(b"x", 0o400)))


def test_the_list_of_files_says_why_each_is_in(clean: Parts) -> None:
    reasons = {item["path"]: item["whyIn"] for item in write(clean)["files"]}
    assert reasons["init"] == "init and launcher"
    assert reasons["workload/app/hello"] == "recipe"
    assert all(reasons.values())


def test_bytes_after_the_archive_are_refused(clean: Parts) -> None:
    # the kernel would unpack a second archive behind the first
    second = replace(clean, respoil=lambda archive: archive + archive)
    with pytest.raises(ArchiveError, match=r"left over|trailer"):
        compute_ledger("hello", "1.0.0", second.inputs())


@pytest.mark.parametrize("lost", [b"workload/app", b"filters"])
def test_a_file_that_lies_below_a_link_or_nowhere_is_found(clean: Parts, lost: bytes) -> None:
    """The kernel follows a link among the parents: `workload/app/init` would be written over `/init`."""

    def redirect(archive: bytes) -> bytes:
        entries = {entry.path: entry for entry in read_newc(archive)}
        if lost == b"filters":
            del entries[lost]
        else:
            entries[lost] = CpioEntry(lost, 0o120777, b"/")
        listing = render_listing(tuple(entries[path] for path in sorted(entries)))
        entries[b".blindbuild.tree"] = replace(entries[b".blindbuild.tree"], data=listing)
        return write_newc(entries.values())

    ledger = compute_ledger("hello", "1.0.0", replace(clean, respoil=redirect).inputs())
    row = next(row for row in ledger.rows if row.rule.identifier == "admin-entry")
    below = {b"workload/app": "workload/app/hello", b"filters": "filters/child"}[lost]
    assert f"{below}: lies in no directory of the archive" in row.findings


def test_an_image_without_an_initramfs_is_refused(clean: Parts) -> None:
    inputs = clean.inputs()
    with pytest.raises(PeError, match=r"expected one section \.initrd, got 0"):
        compute_ledger("hello", "1.0.0", replace(inputs, uki=inputs.uki.replace(b".initrd\0", b".profil\0")))
