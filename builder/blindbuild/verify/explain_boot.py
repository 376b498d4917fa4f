"""Rules about the way to the image: boot options, started applications, disk, end of boot services."""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.verify.explain_align import Change
from blindbuild.verify.explain_event import (
    CALLING,
    DEBUG_MODE,
    ERROR_SEPARATOR,
    EXIT_FAILURE,
    EXIT_INVOCATION,
    EXIT_SUCCESS,
    RETURNING,
    Kind,
    Seen,
)
from blindbuild.verify.explain_text import image_path
from blindbuild.verify.explain_view import Meaning, View

_EXITS = frozenset({EXIT_INVOCATION, EXIT_SUCCESS, EXIT_FAILURE})
_FIRMWARE_CODE = 2  # PCR 2, where firmware of some clouds measures what belongs into 4 and 5
_ASK_OPERATOR = (
    "if you run the machine, boot only this image; if not, ask whoever does why another was booted"
)
_PREDICT_AGAIN = "if this is intended, predict again for this image and publish a new statement"
_OTHER_FIRMWARE = "use a platform profile that knows this firmware"
_SECURE_BOOT = "give the state of Secure Boot when predicting (`measure --secure-boot`), or switch it back"


def say_boot(view: View) -> list[Meaning]:
    """Explain boot options and started applications (PCR 4; RTMR1)."""
    if view.pcr == _FIRMWARE_CODE:
        return [_more_started(view)]
    if view.of(Change.ADDED, Kind.ACTION, RETURNING):
        return [_other_option(view)]
    expected = [step.expected for step in view.all_steps if step.expected is not None]
    got = [step.got for step in view.all_steps if step.got is not None]
    if _handed_over(expected) != _handed_over(got):
        return [_other_way(handed_over=_handed_over(got))]
    meanings = [*_applications(view)]
    if view.of(Change.MISSING, Kind.ACTION, RETURNING):
        meanings.append(
            Meaning(
                "the boot option that used to be tried first was not", "compare the order of the boot options"
            )
        )
    return meanings or [_odd_actions(view)]


def _other_option(view: View) -> Meaning:
    added = view.of(Change.ADDED, Kind.APPLICATION)
    path = _path(added[0].got) if added else ""
    where = f" ({path})" if path else ""
    return Meaning(
        f"the firmware started another boot option first{where}, and it returned",
        "put the image first in BootOrder, or remove the other boot device",
    )


def _handed_over(events: Sequence[Seen]) -> bool:
    """Return whether an application was started before the firmware tried any boot option."""
    for event in events:
        if event.slot.kind is Kind.APPLICATION:
            return True
        if event.slot.kind is Kind.ACTION and event.slot.name == CALLING:
            return False
    return False


def _other_way(*, handed_over: bool) -> Meaning:
    if handed_over:
        return Meaning(
            "the firmware took another way to the image: it was handed over by QEMU (-kernel), not started "
            "as a boot option",
            "boot from the disk, or predict for direct boot",
        )
    return Meaning(
        "the firmware took another way to the image: a boot option, where a kernel handed over by QEMU "
        "(-kernel) was expected",
        "start it with -kernel, or predict for a boot from disk",
    )


def _odd_actions(view: View) -> Meaning:
    names = ", ".join(f"'{step.event.slot.name}'" for step in view.steps[:4])
    return Meaning(f"the firmware logged other actions: {names}", _ASK_OPERATOR)


def _applications(view: View) -> list[Meaning]:
    applications = [step for step in view.all_steps if step.event.slot.kind is Kind.APPLICATION]
    wanted = [step for step in applications if step.expected is not None]
    if not wanted:
        return [_more_started(view)] if applications else []
    image, inner = wanted[0], wanted[1:]
    added = [step for step in applications if step.change is Change.ADDED]
    missing = [step for step in inner if step.change is Change.MISSING]
    if image.change is Change.MISSING and len(missing) == len(inner):
        return [_not_started(view)]
    meanings = []
    if image.change is not Change.SAME:
        meanings.append(_another_image(view, same_kernel=any(step.change is Change.SAME for step in inner)))
    elif any(step.change is Change.CHANGED for step in inner):
        meanings.append(Meaning("another kernel inside the image", _PREDICT_AGAIN))
    if missing:
        meanings.append(_hidden_kernel(view))
    elif added and not inner and len(added) == 1:
        meanings.append(_shown_kernel(view))
    elif added:
        meanings.append(_more_started(view))
    return meanings


def _not_started(view: View) -> Meaning:
    elsewhere = [
        e for e in view.comparison.got.registers.get(_FIRMWARE_CODE, ()) if e.slot.kind is Kind.APPLICATION
    ]
    if view.comparison.tpm and elsewhere:
        return Meaning(
            "this firmware measured what it started into PCR 2 instead (GCP's TDX guests do)", _OTHER_FIRMWARE
        )
    return Meaning("the image was not started by the firmware", _ASK_OPERATOR)


def _another_image(view: View, *, same_kernel: bool) -> Meaning:
    changed = view.comparison.changed_sections()
    if changed == {".sbat"}:
        return Meaning(
            "another systemd-stub build (.sbat); kernel, initrd and command line are the expected ones",
            "predict with the stub that was booted, or build with the expected one",
        )
    if changed == {".linux"}:
        return Meaning(
            "another image was started: a different kernel; the initrd and command line are the expected "
            "ones",
            _PREDICT_AGAIN,
        )
    if same_kernel or (changed and ".linux" not in changed):
        other = f" (other: {', '.join(sorted(changed))})" if changed else ""
        return Meaning(f"another image, with the same kernel inside{other}", _PREDICT_AGAIN)
    if changed is not None and not changed:
        return Meaning(
            "another image was started, whose measured sections are the expected ones: another stub, or "
            "sections that are not measured",
            _PREDICT_AGAIN,
        )
    other = f" (other: {', '.join(sorted(changed))})" if changed else ""
    return Meaning(f"another image was started{other}", _PREDICT_AGAIN)


def _hidden_kernel(view: View) -> Meaning:
    sides = view.comparison
    if sides.got.secure_boot == "on" and sides.expected.secure_boot != "on":
        return Meaning("Secure Boot is on: the stub hides the inner kernel from PCR 4", _SECURE_BOOT)
    if sides.same_image() is False:
        return Meaning(
            "the inner kernel has no event: systemd-stub 258 and later start it without the firmware",
            "predict with the version of the stub that was booted",
        )
    return Meaning(
        "the inner kernel has no event: the stub did not start it through the firmware, as with Secure Boot "
        "on",
        _SECURE_BOOT,
    )


def _shown_kernel(view: View) -> Meaning:
    sides = view.comparison
    if sides.expected.secure_boot == "on" and sides.got.secure_boot != "on":
        return Meaning(
            "Secure Boot is off: the firmware measures the inner kernel too, which the stub hides otherwise",
            _SECURE_BOOT,
        )
    return Meaning(
        "the firmware measured the inner kernel too: systemd-stub before 258 starts it through the firmware",
        "predict with the version of the stub that was booted",
    )


def _more_started(view: View) -> Meaning:
    added = view.of(Change.ADDED, Kind.APPLICATION)
    paths = [path for step in added if (path := _path(step.got))]
    names = f": {', '.join(paths[:4])}" if paths else ""
    if view.pcr == _FIRMWARE_CODE:
        return Meaning(
            f"this firmware measures started images into PCR 2 (GCP's TDX guests do){names}",
            _OTHER_FIRMWARE,
        )
    return Meaning(
        f"something more was started, such as a boot loader or an addon of the stub{names}", _ASK_OPERATOR
    )


def _path(event: Seen | None) -> str:
    return "" if event is None or event.data is None else image_path(event.data)


def say_exit(view: View) -> list[Meaning]:
    """Explain the end of boot services (PCR 5; RTMR1)."""
    if view.of(Change.ADDED, name=EXIT_FAILURE):
        return [
            Meaning(
                "the kernel left boot services at its second call, because the memory map had changed in "
                "between",
                "nothing is wrong; a statement should allow both values",
            )
        ]
    if view.of(Change.MISSING, name=EXIT_FAILURE):
        return [
            Meaning(
                "the kernel left boot services at its first call; a second one was expected",
                "nothing is wrong; a statement should allow both values",
            )
        ]
    if view.of(Change.MISSING, name=EXIT_SUCCESS):
        return [
            Meaning(
                "the log ends before the kernel left boot services",
                "read the log after boot; it must include the final events table",
            )
        ]
    return [Meaning("boot services were left in another way", "compare kernel and firmware versions")]


def is_exit(name: str) -> bool:
    """Return whether an action is about leaving boot services."""
    return name in _EXITS


def say_partitions(view: View) -> list[Meaning]:
    """Explain the partition table (PCR 5; RTMR1)."""
    if view.pcr == _FIRMWARE_CODE:
        return [
            Meaning(
                "this firmware measures the partition table into PCR 2 (GCP's TDX guests do)",
                _OTHER_FIRMWARE,
            )
        ]
    if view.of(Change.ADDED):
        return [
            Meaning(
                "the disk has a partition table (GPT), and none was expected",
                "boot from the disk as built, or predict with the partition table",
            )
        ]
    if view.of(Change.MISSING):
        return [
            Meaning(
                "the disk has no partition table, and one (GPT) was expected",
                "boot from the disk as built, or predict without a partition table",
            )
        ]
    return [Meaning("another partition table: other partitions or another disk GUID", "compare the disks")]


def say_separator(view: View) -> list[Meaning]:
    """Explain separators, which end what the firmware measures."""
    if any(step.got is not None and step.got.slot.name == ERROR_SEPARATOR for step in view.steps):
        return [Meaning("the firmware measured that it failed", "look at the machine's own error log")]
    if view.of(Change.MISSING):
        return [
            Meaning("the firmware did not get to booting anything", "look at the machine's own error log")
        ]
    return [Meaning("the firmware separated its phases in another way", "compare the firmware versions")]


def say_debug_mode(_view: View) -> list[Meaning]:
    """Explain the action of PFP 10.4.4 that a debugger can be attached."""
    return [
        Meaning(
            f"the firmware is in debug mode ('{DEBUG_MODE}'): whoever runs it can look inside",
            "do not trust this machine with data; use production firmware",
        )
    ]
