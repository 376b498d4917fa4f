"""What differs between two logs, and what that means: one difference at a time."""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Callable, Sequence

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcglog import parse_event_log, replay
from blindbuild.verify.explain import Change, Difference, explain_logs
from blindbuild.verify.explain_align import MAX_CELLS, align
from blindbuild.verify.explain_event import Kind, Seen, Slot
from tests.fakes.published import (
    Event,
    action,
    application,
    command_line,
    honest_boot,
    initrd,
    log_bytes,
    section,
    separator,
    tagged,
    variable,
)
from tests.fakes.secure_boot import make_key
from tests.fakes.world import boot_of, judge, session

SHA256 = HashAlgorithm.SHA256
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
SECURITY = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
SHIM = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23").bytes_le
CALLING = "Calling EFI Application from Boot Option"
Boot = list[Event]


def differences(expected: Sequence[Event], got: Sequence[Event]) -> dict[int, Difference]:
    sides = [replay(parse_event_log(log_bytes(list(events))), SHA256) for events in (expected, got)]
    return {difference.register: difference for difference in explain_logs(*sides)}


def replaced(what: str, *new: Event, boot: Boot | None = None) -> Boot:
    events = honest_boot() if boot is None else boot
    assert any(event.what == what for event in events), what
    return [n for event in events for n in (new if event.what == what else (event,))]


def before(what: str, *new: Event, boot: Boot | None = None) -> Boot:
    events = honest_boot() if boot is None else boot
    found = next(event for event in events if event.what == what)
    return replaced(what, *new, found, boot=events)


def only(found: dict[int, Difference], register: int) -> Difference:
    assert found.keys() == {register}
    assert found[register].action
    return found[register]


def changes(difference: Difference) -> str:
    signs = {Change.SAME: "=", Change.CHANGED: "~", Change.MISSING: "-", Change.ADDED: "+"}
    return "".join(signs[step.change] for step in difference.steps)


def text(register: int, line: str) -> Event:
    return Event(register, "EV_IPL", line.encode("utf-16-le") + b"\0\0", line)


def path_event(path: bytes) -> bytes:
    path += bytes.fromhex("7fff0400")
    return struct.pack("<QQQQ", 0x1000, 0x2000, 0, len(path)) + path


def pci(device: int) -> bytes:
    return bytes.fromhex("02010c00d041030a00000000") + bytes((1, 1, 6, 0, 0, device))


def test_an_inserted_event_is_told_as_inserted_and_not_as_a_difference_of_all_that_follow() -> None:
    got = before("content of .linux", *section(".dtb", b"tree"))
    found = only(differences(honest_boot(), got), 11)
    assert changes(found) == "=++====="
    assert found.position == 1
    assert (found.expected, found.got) == ("", "EV_IPL '.dtb'")
    assert found.cause == "an image with other sections: .dtb came"


def test_another_boot_option_first_is_named_with_its_path() -> None:
    other = Event(4, "EV_EFI_BOOT_SERVICES_APPLICATION", b"other", "other", path_event(pci(3)))
    got = before(
        "Authenticode digest of the image",
        other,
        action(4, "Returning from EFI Application from Boot Option"),
        action(4, CALLING),
    )
    found = only(differences(honest_boot(), got), 4)
    assert found.cause == (
        "the firmware started another boot option first (PciRoot(0x0)/Pci(0x3,0x0)), and it returned"
    )
    assert changes(found) == "==+++=="
    assert found.action.startswith("put the image first in BootOrder")


def test_load_options_that_replace_the_command_line_are_told_from_an_addition() -> None:
    # Secure Boot off: PCR 12 and the kernel's LoadOptions hash the same UTF-16 string
    got = before("command line", text(12, "evil=1"))
    found = differences(honest_boot(), replaced("command line", command_line("evil=1"), boot=got))
    assert found.keys() == {9, 12}
    assert found[12].cause == "LoadOptions of the boot option replaced the kernel command line: `evil=1`"
    assert "LoadOptions of the boot option replaced it by `evil=1`" in found[9].cause
    added = replaced("command line", command_line("quiet evil=1"), boot=got)
    assert "through SMBIOS: `evil=1`" in differences(honest_boot(), added)[12].cause


def test_an_addon_is_told_by_the_application_that_the_firmware_loaded() -> None:
    got = before("command line", text(12, "evil=1"), application(b"addon", "addon"))
    found = differences(honest_boot(), replaced("command line", command_line("quiet evil=1"), boot=got))
    assert found[12].cause == "the host added a kernel command line through an addon of the stub: `evil=1`"


def test_a_text_in_register_12_that_its_digest_does_not_cover_is_not_believed() -> None:
    lie = Event(12, "EV_IPL", b"something else", "x", "harmless=1\0".encode("utf-16-le"))
    found = differences(honest_boot(), before("command line", lie))
    assert found[12].cause.startswith("the host added to what the image boots with: EV_IPL 'harmless=1'")
    assert "command line" not in found[12].cause


def test_a_text_in_register_12_is_no_section_whatever_it_says() -> None:
    found = only(differences(honest_boot(), before("command line", text(12, ".linux"))), 12)
    assert found.cause == "the host added a kernel command line through SMBIOS: `.linux`"


def test_credentials_of_the_host_are_named_in_12_and_9() -> None:
    packed = Event(12, "EV_IPL", b"070701 archive", "x", "Credentials initrd\0".encode("utf-16-le"))
    got = before("command line", packed)
    found = differences(honest_boot(), replaced("initrd", initrd(b"initrd and more"), boot=got))
    assert "'Credentials initrd'" in found[12].cause
    assert "the host added files to it" in found[9].cause


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        (0x13AED6DB, "another profile of the image was chosen"),
        (0x6C46F751, "the host added a device tree"),
        (0x49DFFE0F, "the host added an initrd"),
        (0xDAC08E1A, "the host added microcode"),
    ],
)
def test_tagged_events_of_the_stub_are_named(tag: int, words: str) -> None:
    event = Event(12, "EV_EVENT_TAG", b"x", "x", tagged(tag, "name"))
    assert only(differences(honest_boot(), before("command line", event)), 12).cause.startswith(words)


def test_another_memory_size_is_told_by_the_early_firmware_and_the_tables() -> None:
    def boot(size: bytes) -> Boot:
        dxe = Event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"DXE volume", "dxe", bytes(16))
        pei = Event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"PEI " + size, "pei", bytes(16))
        return replaced("firmware", pei, dxe)

    found = only(differences(boot(b"1 GiB"), boot(b"2 GiB")), 0)
    assert found.cause.startswith("only the early firmware (PEI) differs: another memory size")
    other = replaced("firmware", Event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"another", "x", bytes(16)))
    assert only(differences(honest_boot(), other), 0).cause == "another firmware build of the same version"


def test_another_firmware_version_is_named_by_its_measured_text() -> None:
    version = "2026.01\0".encode("utf-16-le")
    got = replaced("firmware version", Event(0, "EV_S_CRTM_VERSION", version, "x"))
    found = only(differences(honest_boot(), got), 0)
    assert found.cause == "another firmware version: '2026.01' instead of '2025.02'"
    lie = replaced("firmware version", Event(0, "EV_S_CRTM_VERSION", b"x", "x", version))
    assert "2026.01" not in only(differences(honest_boot(), lie), 0).cause


def test_an_option_rom_is_named_by_its_device() -> None:
    rom = Event(2, "EV_EFI_BOOT_SERVICES_DRIVER", b"rom", "x", path_event(pci(5)))
    got = [*honest_boot()[:-3], rom, *honest_boot()[-3:]]
    found = only(differences(honest_boot(), got), 2)
    assert "option ROM or driver (was measured in addition: PciRoot(0x0)/Pci(0x5,0x0))" in found.cause
    assert "romfile" in found.action


def test_other_acpi_tables_are_named() -> None:
    def boot(tables: bytes) -> Boot:
        return before("boot order", Event(1, "EV_PLATFORM_CONFIG_FLAGS", tables, "x", b"ACPI DATA"))

    found = only(differences(boot(b"1"), boot(b"2")), 1)
    assert found.cause.startswith("other ACPI tables or settings: memory size")


def test_a_second_exit_from_boot_services_is_harmless_and_told_as_such() -> None:
    failed = action(5, "Exit Boot Services Returned with Failure")
    again = action(5, "Exit Boot Services Invocation")
    got = before("Exit Boot Services Returned with Success", failed, again)
    found = only(differences(honest_boot(), got), 5)
    assert found.cause.startswith("the kernel left boot services at its second call")
    assert found.action.startswith("nothing is wrong")
    back = only(differences(got, honest_boot()), 5)
    assert back.cause.startswith("the kernel left boot services at its first call")


def test_a_log_that_ends_too_early_is_told() -> None:
    found = only(differences(honest_boot(), honest_boot()[:-1]), 5)
    assert found.cause == "the log ends before the kernel left boot services"


def test_what_gcp_measures_into_register_2_is_told() -> None:
    table = Event(2, "EV_EFI_GPT_EVENT", b"EFI PART", "x")
    image = Event(2, "EV_EFI_BOOT_SERVICES_APPLICATION", b"image", "x", path_event(pci(1)))
    gone = replaced("Authenticode digest of the image")
    gone = replaced("Authenticode digest of the kernel in the image", boot=gone)
    elsewhere = differences(honest_boot(), [*gone, table, image])
    assert elsewhere.keys() == {2, 4}
    assert elsewhere[4].cause.startswith("this firmware measured what it started into PCR 2 instead")
    found = only(differences(honest_boot(), [*honest_boot(), table, image]), 2)
    assert "measures the partition table into PCR 2 (GCP's TDX guests do)" in found.cause
    assert "measures started images into PCR 2 (GCP's TDX guests do): PciRoot" in found.cause


def test_what_shim_measures_is_told() -> None:
    mok = Event(14, "EV_IPL", b"keys", "x", b"MokList\0")
    sbat = Event(7, "EV_EFI_VARIABLE_AUTHORITY", variable(SHIM, "SbatLevel", b"sbat,1"), "x")
    found = differences(honest_boot(), [*honest_boot(), mok, sbat])
    assert found.keys() == {7, 14}
    assert found[7].cause == "shim's SbatLevel was measured in addition"
    assert found[14].cause.startswith("shim measured its keys and settings (MokList")


def test_boot_phases_of_systemd_are_named_by_their_digest() -> None:
    phases = [Event(11, "EV_IPL", name.encode(), "x", b"?") for name in ("enter-initrd", "leave-initrd")]
    found = only(differences(honest_boot(), [*honest_boot(), *phases]), 11)
    assert found.cause == "systemd measured its boot phases here: enter-initrd, leave-initrd"


def test_the_debug_mode_of_firmware_is_told() -> None:
    found = only(differences(honest_boot(), [action(7, "UEFI Debug Mode"), *honest_boot()]), 7)
    assert found.cause.startswith("the firmware is in debug mode ('UEFI Debug Mode')")


def test_a_separator_that_says_error_is_told() -> None:
    error = Event(3, "EV_SEPARATOR", struct.pack("<I", 1), "x")
    got = [error if event == separator(3) else event for event in honest_boot()]
    assert only(differences(honest_boot(), got), 3).cause == "the firmware measured that it failed"


def signature_list(*digests: bytes) -> bytes:
    """EFI_SIGNATURE_LIST of SHA-256 digests (UEFI 2.10, 32.4.1), written by hand."""
    kind = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
    entries = b"".join(bytes(16) + digest for digest in digests)
    return kind + struct.pack("<III", 28 + len(entries), 0, 48) + entries


def with_variable(name: str, data: bytes) -> Boot:
    guid = GLOBAL if name in ("SecureBoot", "PK", "KEK") else SECURITY
    event = Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(guid, name, data), name)
    return replaced(f"variable {name}: empty", event)


def test_an_update_of_dbx_names_what_came_and_what_went() -> None:
    old = with_variable("dbx", signature_list(b"\x01" * 32, b"\x02" * 32))
    new = with_variable("dbx", signature_list(b"\x02" * 32, b"\x03" * 32))
    found = only(differences(old, new), 7)
    assert found.cause == "dbx differs (+: 0303030303030303…; -: 0101010101010101…)"
    same = with_variable("dbx", signature_list(b"\x02" * 32, b"\x01" * 32))
    assert only(differences(old, same), 7).cause == "dbx differs (same entries in another form)"


def test_entries_of_a_variable_that_its_digest_does_not_cover_are_not_named() -> None:
    lie = variable(SECURITY, "dbx", signature_list(b"\x05" * 32))
    got = replaced("variable dbx: empty", Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", b"other", "x", lie))
    assert only(differences(honest_boot(), got), 7).cause == "dbx differs"


def test_a_certificate_in_db_is_named_by_its_subject() -> None:
    der = make_key("Evil <b>CA</b>").certificate.public_bytes(Encoding.DER)
    kind = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
    data = kind + struct.pack("<III", 44 + len(der), 0, 16 + len(der)) + bytes(16) + der
    found = only(differences(honest_boot(), with_variable("db", data)), 7)
    assert "db differs (+: CN=Evil" in found.cause
    assert found.cause.isprintable()


def test_an_authority_is_named_by_its_subject() -> None:
    der = make_key("A CA").certificate.public_bytes(Encoding.DER)
    event = Event(7, "EV_EFI_VARIABLE_AUTHORITY", variable(SECURITY, "db", bytes(16) + der), "x")
    found = only(differences(honest_boot(), before("Authenticode digest of the image", event)), 7)
    assert found.cause.startswith("what was started was verified with an entry of db (CN=A CA")


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (b"\0", b"\1", "Secure Boot is on, and was expected off"),
        (b"\1", b"\0", "Secure Boot is off, and was expected on"),
        (b"\1", b"", "Secure Boot is off, and was expected on"),
        (b"\0", b"", "another firmware build: its variable SecureBoot does not exist"),
    ],
)
def test_the_state_of_secure_boot_is_told(expected: bytes, got: bytes, words: str) -> None:
    found = differences(with_variable("SecureBoot", expected), with_variable("SecureBoot", got))
    assert found[7].cause.startswith(words)


def test_secure_boot_hides_the_inner_kernel_and_a_newer_stub_does_not_need_it() -> None:
    inner = "Authenticode digest of the kernel in the image"
    hidden = replaced(inner, boot=with_variable("SecureBoot", b"\1"))
    cause = "Secure Boot is on: the stub hides the inner kernel from PCR 4"
    assert differences(honest_boot(), hidden)[4].cause == cause
    newer = replaced("Authenticode digest of the image", application(b"newer", "x"), boot=replaced(inner))
    assert "systemd-stub 258 and later start it" in only(differences(honest_boot(), newer), 4).cause
    assert "such as with" not in cause
    assert "the stub did not start it" in only(differences(honest_boot(), replaced(inner)), 4).cause


def test_another_stub_build_is_told_by_its_sbat_section() -> None:
    def boot(sbat: bytes, image: bytes) -> Boot:
        events = replaced("Authenticode digest of the image", application(image, "x"))
        return before("Authenticode digest of the kernel in the image", *section(".sbat", sbat), boot=events)

    found = differences(boot(b"1", b"one"), boot(b"2", b"two"))
    words = "another systemd-stub build (.sbat); kernel, initrd and command line are the expected ones"
    assert {register: d.cause for register, d in found.items()} == {4: words, 11: words}


def test_a_different_kernel_with_the_same_initrd_and_command_line_is_told() -> None:
    got = replaced("Authenticode digest of the image", application(b"other", "x"))
    got = replaced("Authenticode digest of the kernel in the image", application(b"k2", "x"), boot=got)
    got = replaced("content of .linux", section(".linux", b"k2")[1], boot=got)
    found = differences(honest_boot(), got)
    words = "a different kernel; the initrd and command line are the expected ones"
    assert found.keys() == {4, 11}
    assert all(words in difference.cause for difference in found.values())


def test_a_log_that_starts_from_another_locality_is_told() -> None:
    def boot(locality: int) -> Boot:
        event = Event(0, "EV_NO_ACTION", b"", "x", b"StartupLocality\0" + bytes((locality,)))
        return [event, *honest_boot()]

    def log(locality: int) -> bytes:
        # the fake hashes what it is given; this event has zero digests
        data = log_bytes(boot(locality))
        for bank in ("sha256", "sha384"):
            data = data.replace(hashlib.new(bank, b"").digest(), bytes(hashlib.new(bank).digest_size), 1)
        return data

    sides = [replay(parse_event_log(log(locality)), SHA256) for locality in (0, 3)]
    found = explain_logs(*sides)
    assert [difference.register for difference in found] == [0]
    assert found[0].cause == "the register started from another value (locality)"


# --- statements that have only values


def judged(events: Boot) -> dict[int, Difference]:
    appraisal = judge(session(*boot_of(events)))
    return {difference.register: difference for difference in appraisal.differences}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda boot: [*boot[:-2], Event(5, "EV_EFI_GPT_EVENT", b"EFI PART", "x"), *boot[-2:]],
            "the disk has a partition table (GPT), and none was expected",
        ),
        (
            lambda boot: [*boot[:-1], action(5, "Exit Boot Services Returned with Failure"), *boot[-2:]],
            "the kernel left boot services at its second call, because the memory map had changed in between",
        ),
        (lambda boot: boot[:-1], "the log ends before the kernel left boot services"),
    ],
)
def test_events_behind_a_recorded_value_are_found_by_trying(
    change: Callable[[Boot], Boot], cause: str
) -> None:
    found = judged(change(honest_boot()))
    assert found.keys() == {5}
    assert found[5].cause == cause
    assert found[5].steps


def test_a_recorded_value_that_no_likely_events_lead_to_is_explained_by_its_register() -> None:
    other = replaced("firmware", Event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"another", "x", bytes(16)))
    found = judged(other)
    assert found[0].cause == "another firmware, or another memory size than was recorded"
    assert found[0].steps == ()


# --- alignment


def event(number: int, kind: Kind = Kind.OTHER) -> Seen:
    return Seen(0, 5, Digest.sha256(bytes((number,))), None, str(number), Slot(kind, str(number % 3)))


EVENTS = st.lists(st.integers(0, 5).map(event), max_size=8)


@given(EVENTS, EVENTS)
def test_both_sides_are_in_the_steps_in_their_order(expected: list[Seen], got: list[Seen]) -> None:
    steps = align(expected, got)
    assert [step.expected for step in steps if step.expected] == expected
    assert [step.got for step in steps if step.got] == got
    for step in steps:
        sides = (step.expected is not None, step.got is not None)
        assert sides == {Change.ADDED: (False, True), Change.MISSING: (True, False)}.get(
            step.change, (True, True)
        )
        if step.expected and step.got:
            assert (step.expected.digest == step.got.digest) == (step.change is Change.SAME)


@given(EVENTS, st.integers(0, 8), st.integers(0, 5))
def test_one_inserted_event_is_one_added_step(events: list[Seen], at: int, number: int) -> None:
    longer = [*events[:at], event(number), *events[at:]]
    assert [step.change for step in align(events, longer)].count(Change.ADDED) == 1
    assert len(align(events, longer)) == len(longer)


def test_very_long_registers_are_compared_in_bounded_time() -> None:
    count = int(MAX_CELLS**0.5) + 1
    expected = [event(n % 200) for n in range(count)]
    got = [event(n % 200 + 50) for n in range(count)]
    assert len(align([event(0), *expected], [event(0), *got])) <= 1 + 2 * count
