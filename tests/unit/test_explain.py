"""Explanations: which register, which event, and what it means."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blindbuild.verify import Difference
from blindbuild.verify.explain import MAX_SHOWN, shown
from tests.fakes.published import (
    Event,
    action,
    application,
    command_line,
    honest_boot,
    initrd,
    section,
    variable,
)
from tests.fakes.world import boot_of, judge, session, tpm

Boot = list[Event]


def differences(change: Callable[[Boot], Boot]) -> dict[int, Difference]:
    appraisal = judge(session(*boot_of(change(honest_boot()))))
    assert "E1:register-mismatch" in appraisal.reasons
    assert appraisal.verdict is None
    return {difference.register: difference for difference in appraisal.differences}


def replaced(what: str, *new: Event) -> Callable[[Boot], Boot]:
    return lambda events: [n for event in events for n in (new if event.what == what else (event,))]


def both(*changes: Callable[[Boot], Boot]) -> Callable[[Boot], Boot]:
    def change(events: Boot) -> Boot:
        for one in changes:
            events = one(events)
        return events

    return change


def added_text(text: str) -> Event:
    data = text.encode("utf-16-le") + b"\0\0"
    return Event(12, "EV_IPL", data, text)


def test_a_command_line_added_by_the_host_is_shown() -> None:
    # systemd-stub 257 with SMBIOS io.systemd.stub.kernel-cmdline-extra: only 9 and 12 move
    change = both(
        replaced("command line", command_line("quiet evil=1")),
        lambda events: [*events[:-4], added_text("evil=1"), *events[-4:]],
    )
    found = differences(change)
    assert set(found) == {9, 12}
    assert found[9].position == 0
    assert found[9].expected == "command line"
    assert found[9].cause == "another kernel command line: the host added `evil=1` (PCR 12)"
    assert found[12].cause == "the host added a kernel command line through SMBIOS: `evil=1`"


def test_another_command_line_without_a_trace_is_still_named() -> None:
    found = differences(replaced("command line", command_line("quiet evil=1")))
    assert set(found) == {9}
    assert found[9].cause == "another kernel command line"


def test_another_initrd_is_named() -> None:
    found = differences(replaced("initrd", initrd(b"another")))
    assert set(found) == {9}
    assert found[9].position == 1
    assert found[9].cause.startswith("another initrd")


def test_another_image_is_named() -> None:
    change = replaced("Authenticode digest of the image", application(b"x", "x"))
    found = differences(change)
    assert found[4].cause == "another image, with the same kernel inside"
    change = both(change, replaced("Authenticode digest of the kernel in the image", application(b"y", "y")))
    # the sections in PCR 11 are left as they were
    assert differences(change)[4].cause.startswith("another image was started, whose measured sections are")


def test_another_inner_kernel_is_named() -> None:
    change = both(
        replaced("Authenticode digest of the kernel in the image", application(b"y", "y")),
        replaced("content of .linux", section(".linux", b"another kernel")[1]),
    )
    found = differences(change)
    assert found[4].cause == "another kernel inside the image"
    assert found[4].position == 3
    assert found[11].cause == "a different kernel; the initrd and command line are the expected ones"
    assert found[11].position == 1


def test_all_sections_that_differ_are_named() -> None:
    change = both(
        replaced("content of .cmdline", section(".cmdline", b"evil")[1]),
        replaced("content of .initrd", section(".initrd", b"evil")[1]),
    )
    assert (
        differences(change)[11].cause
        == "another command line (.cmdline), another initramfs (.initrd) in the image"
    )


def test_an_added_section_is_named() -> None:
    found = differences(lambda events: [*events, *section(".dtb", b"x")])
    assert found[11].cause == "an image with other sections: .dtb came"
    change = both(replaced("name .cmdline", *section(".osrel", b"x"), section(".cmdline", b"")[0]))
    assert differences(change)[11].cause == "an image with other sections: .osrel came"


def test_another_boot_option_first_is_named() -> None:
    returning = action(4, "Returning from EFI Application from Boot Option")
    calling = action(4, "Calling EFI Application from Boot Option")
    image = "Authenticode digest of the image"
    change = replaced(image, application(b"other", "x"), returning, calling, application(b"an image", image))
    assert differences(change)[4].cause == "the firmware started another boot option first, and it returned"


def test_a_kernel_handed_over_by_qemu_is_named() -> None:
    found = differences(
        lambda events: [application(b"kernel", "x"), *(e for e in events if e.register != 4), *events[-1:]]
    )
    assert found[4].cause.startswith("the firmware took another way")


def test_a_missing_event_is_named() -> None:
    found = differences(lambda events: [event for event in events if event.what != "initrd"])
    assert found[9].cause == "an event is missing: the boot took another way, the kernel measured no initrd"
    assert (found[9].expected, found[9].got) == ("initrd", "")


def test_another_secure_boot_variable_is_named() -> None:
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    on = Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(guid, "SecureBoot", b"\1"), "x")
    found = differences(replaced("variable SecureBoot: empty", on))
    assert found[7].cause == "Secure Boot is on, and was expected off"
    assert found[7].got == "EV_EFI_VARIABLE_DRIVER_CONFIG 'SecureBoot' 01"


@pytest.mark.parametrize(
    ("register", "cause"),
    [
        (2, "the firmware met something more, such as a device with an option ROM"),
        (
            8,
            "something that is not in the image measured itself here: a boot loader (GRUB logs its commands)",
        ),
        (13, "the host added a system extension: EV_IPL 'added'"),
        (15, "the running system measured itself here, such as systemd's machine id or volume keys"),
        (0, "another firmware, or another memory size than was recorded"),
        (5, "another disk layout, or boot services were left in another way"),
    ],
)
def test_something_added_to_a_register_is_explained_by_the_register(register: int, cause: str) -> None:
    added = Event(register, "EV_IPL", b"added", "added")
    assert differences(lambda events: [*events, added])[register].cause == cause


def test_a_value_that_the_log_does_not_lead_to_is_not_explained_by_it() -> None:
    values = dict(tpm().registers)
    values["sha256"] = [*values["sha256"]]
    values["sha256"][9] = b"\x07" * 32
    change = replaced("content of .linux", section(".linux", b"another")[1])
    machine, log = boot_of(change(honest_boot()))
    mixed = dict(machine.registers)
    mixed["sha256"] = [*mixed["sha256"]]
    mixed["sha256"][9] = b"\x07" * 32
    appraisal = judge(session(machine.but(registers=mixed), log))
    found = {difference.register: difference for difference in appraisal.differences}
    assert found[9].cause == "the event log does not lead to this value"
    assert found[9].position is None
    # the other register is still explained
    assert found[11].cause == "a different kernel; the initrd and command line are the expected ones"


def test_a_missing_log_leaves_all_unexplained() -> None:
    machine, _ = boot_of(replaced("initrd", initrd(b"x"))(honest_boot()))
    appraisal = judge(session(machine, b"not a log"))
    assert [d.cause for d in appraisal.differences] == ["there is no event log that can be replayed"]


def test_text_of_a_log_cannot_steer_a_terminal() -> None:
    text = "\x1b[2Jevil\u202e"
    assert shown(text) == "\\x1b[2Jevil\\x202e"
    assert len(shown("x" * 5000)) == MAX_SHOWN
    found = differences(lambda events: [*events, added_text(text)])
    assert "\x1b" not in found[12].cause
    assert "\u202e" not in found[12].cause


def test_an_archive_added_by_the_host_is_named() -> None:
    archive = b"070701" + b"0" * 200
    added = Event(12, "EV_IPL", archive, "credentials")
    assert differences(lambda events: [*events, added])[12].cause.endswith("archive of 206 bytes")


def test_a_tagged_event_is_named_by_its_text() -> None:
    added = Event(12, "EV_EVENT_TAG", b"1\0", "profile", b"\xdb\xf6\xae\x13\x02\0\0\0one\0")
    assert "'one'" in differences(lambda events: [*events, added])[12].cause


def test_the_error_lists_the_cause_of_every_register() -> None:
    from blindbuild.errors import VerificationError

    appraisal = judge(session(*boot_of(replaced("initrd", initrd(b"x"))(honest_boot()))))
    with pytest.raises(VerificationError) as caught:
        appraisal.accepted()
    assert "PCR 9: another initrd" in (caught.value.hint or "")
    assert "got other values in 9" in caught.value.message


def test_explanations_are_plain_data() -> None:
    appraisal = judge(session(*boot_of(replaced("initrd", initrd(b"x"))(honest_boot()))))
    plain = appraisal.to_json()
    assert isinstance(plain, dict)
    difference = appraisal.differences[0]
    names = ("register", "position", "expected", "got", "cause", "action")
    assert plain["differences"] == [{name: getattr(difference, name) for name in names}]
    assert plain["accepted"] is False
