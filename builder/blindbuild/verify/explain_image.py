"""Rules about the image: its sections, command line and initrd, and what the host adds to them."""

from __future__ import annotations

from blindbuild.digest import Digest
from blindbuild.verify.explain_align import Change
from blindbuild.verify.explain_event import Kind, Seen
from blindbuild.verify.explain_text import CPIO_MAGIC, shown
from blindbuild.verify.explain_view import Comparison, Meaning, View, listed

COMMAND_LINE_REGISTER = 12
_EXTENSIONS_REGISTER = 13
_WORDS = {
    ".linux": "kernel",
    ".initrd": "initramfs",
    ".cmdline": "command line",
    ".uname": "kernel release",
    ".osrel": "os-release",
    ".sbat": "systemd-stub build",
}
# systemd src/fundamental/uki.c: the version that first measures a section
_SINCE = {".uname": 254, ".sbat": 254, ".ucode": 256, ".profile": 257, ".dtbauto": 257, ".hwids": 257}
_SINCE[".efifw"] = 258
# systemd src/fundamental/tpm2-pcr.h and src/boot: ids of tagged events
_TAGS = {
    "13aed6db": "another profile of the image was chosen",
    "6c46f751": "the host added a device tree",
    "49dffe0f": "the host added an initrd",
    "dac08e1a": "the host added microcode",
}
_BOOT_LOADER_TEXTS = (b"MokList", b"MokSBState", b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
_PREDICT_AGAIN = "if this is intended, predict again for this image and publish a new statement"
_REFUSE = "refuse this boot; remove what the host adds (SMBIOS strings, LoadOptions, files beside the image)"


def say_sections(view: View) -> list[Meaning]:
    """Explain sections of the UKI and boot phases (PCR 11; RTMR2)."""
    phases = [step.event.slot.name for step in view.of(Change.ADDED, Kind.PHASE)]
    changed = {step.event.slot.name for step in view.of(Change.CHANGED, Kind.SECTION)}
    added = {step.event.slot.name for step in view.of(Change.ADDED, Kind.SECTION)}
    missing = {step.event.slot.name for step in view.of(Change.MISSING, Kind.SECTION)}
    meanings = []
    if missing and not view.comparison.got.find(Kind.SECTION):
        return [
            Meaning(
                "no unified kernel image was started: systemd-stub measured nothing",
                "boot the image, and not a kernel of its own",
            )
        ]
    if added and not view.comparison.expected.find(Kind.SECTION):
        return [
            Meaning(
                "a unified kernel image was started, where none was expected",
                "predict for this image, or start the kernel itself",
            )
        ]
    if changed:
        meanings.append(_other_contents(changed, alone=not added and not missing))
    if added or missing:
        meanings.append(_other_sections(added, missing))
    if phases:
        meanings.append(
            Meaning(
                f"systemd measured its boot phases here: {listed(phases)}",
                "compare at the same point of the boot, or state the phases",
            )
        )
    if view.of(Change.MISSING, Kind.PHASE):
        meanings.append(
            Meaning("boot phases of systemd are missing", "compare at the same point of the boot")
        )
    return meanings or [Meaning("an image with other sections", _PREDICT_AGAIN)]


def _other_contents(changed: set[str], *, alone: bool) -> Meaning:
    if changed == {".linux"} and alone:
        return Meaning(
            "a different kernel; the initrd and command line are the expected ones", _PREDICT_AGAIN
        )
    if changed == {".sbat"} and alone:
        return Meaning(
            "another systemd-stub build (.sbat); kernel, initrd and command line are the expected ones",
            "predict with the stub that was booted, or build with the expected one",
        )
    known = (f"{_WORDS[name]} ({name})" if name in _WORDS else name for name in sorted(changed))
    return Meaning(f"another {', another '.join(known)} in the image", _PREDICT_AGAIN)


def _other_sections(added: set[str], missing: set[str]) -> Meaning:
    names = [f"{name} came" for name in sorted(added)] + [f"{name} went" for name in sorted(missing)]
    version = max((_SINCE.get(name, 0) for name in added | missing), default=0)
    if version and (added | missing) <= _SINCE.keys():
        side = "or later" if added else "or later was expected"
        return Meaning(
            f"an image with other measured sections: {listed(names)} (systemd-stub {version} {side})",
            "predict with the version of the stub that was booted",
        )
    return Meaning(f"an image with other sections: {listed(names)}", _PREDICT_AGAIN)


def say_kernel_inputs(view: View) -> list[Meaning]:
    """Explain the command line and the initrd that the kernel got (PCR 9; RTMR2)."""
    kinds = {step.event.slot.kind for step in view.steps}
    if {step.change for step in view.steps} == {Change.MISSING} and len(kinds) == len(view.steps):
        names = " and ".join(sorted(kind.value for kind in kinds))
        return [
            Meaning(
                f"an event is missing: the boot took another way, the kernel measured no {names}",
                "compare kernel versions; a kernel without an EFI stub measures neither",
            )
        ]
    meanings = []
    if Kind.LOAD_OPTIONS in kinds:
        meanings.append(_command_line(view.comparison))
    if Kind.INITRD in kinds:
        meanings.append(_initrd(view.comparison))
    return meanings


def added_texts(sides: Comparison) -> list[Seen]:
    """Return the command lines in PCR 12 that were measured and not expected."""
    known = {event.digest for event in sides.expected.registers.get(COMMAND_LINE_REGISTER, ())}
    events = sides.got.registers.get(COMMAND_LINE_REGISTER, ())
    return [e for e in events if e.digest not in known and e.slot.kind is Kind.TEXT and _line(e)]


def _line(event: Seen) -> str:
    return "" if event.data is None or event.data.startswith(CPIO_MAGIC) else event.text()


def _replaces(event: Seen, sides: Comparison) -> bool:
    """Return whether this text is all that the kernel got: both events hash the same UTF-16 string."""
    options = sides.got.first(Kind.LOAD_OPTIONS)
    return options is not None and options.digest == event.digest


def _command_line(sides: Comparison) -> Meaning:
    for event in added_texts(sides):
        text = f"`{shown(_line(event))}`"
        if _replaces(event, sides):
            return Meaning(
                f"another kernel command line: LoadOptions of the boot option replaced it by {text} (PCR 12)",
                _REFUSE,
            )
        return Meaning(f"another kernel command line: the host added {text} (PCR 12)", _REFUSE)
    changed = sides.changed_sections()
    if changed and ".cmdline" in changed:
        return Meaning("another kernel command line: that in the image (.cmdline) differs", _PREDICT_AGAIN)
    return Meaning("another kernel command line", _PREDICT_AGAIN)


def _initrd(sides: Comparison) -> Meaning:
    expected, got = sides.expected.sections().get(".initrd"), sides.got.sections().get(".initrd")
    if expected is None or got is None:
        return Meaning(
            "another initrd: its files, or something the firmware or the host added to it", _PREDICT_AGAIN
        )
    if expected.digest != got.digest:
        return Meaning("another initrd: that in the image (.initrd) differs", _PREDICT_AGAIN)
    if sides.same_image():
        return Meaning(
            "another initrd: that in the image is the expected one, so the host added files to it, such as "
            "credentials or extensions (PCR 12 and 13)",
            _REFUSE,
        )
    return _packed_files(_is_plain(sides.expected.first(Kind.INITRD), expected.digest), sides, got.digest)


def _packed_files(expected_plain: bool, sides: Comparison, section: Digest) -> Meaning:
    got_plain = _is_plain(sides.got.first(Kind.INITRD), section)
    action = "predict with the version of the stub that was booted"
    if expected_plain and not got_plain:
        return Meaning(
            "stub 257 adds /.extra/os-release to the initrd; that in the image (.initrd) is the expected one",
            action,
        )
    if got_plain and not expected_plain:
        return Meaning(
            "a stub before 257 adds no /.extra/os-release to the initrd; that in the image (.initrd) is the "
            "expected one",
            action,
        )
    return Meaning(
        "another initrd: that in the image (.initrd) is the expected one, the files that the stub adds "
        "(/.extra) differ",
        "compare .osrel, .pcrsig, .pcrpkey and .profile of both images",
    )


def _is_plain(event: Seen | None, section: Digest) -> bool:
    """Return whether the kernel got the section itself, with nothing added."""
    return event is not None and event.digest == section


def say_texts(view: View) -> list[Meaning]:
    """Explain texts and tagged events by the register they are in."""
    if view.pcr in (COMMAND_LINE_REGISTER, None):
        return _side_door(view)
    if view.pcr == _EXTENSIONS_REGISTER:
        names = listed([step.event.what for step in view.steps], 3)
        return [Meaning(f"the host added a system extension: {names}", _REFUSE)]
    return []


def _side_door(view: View) -> list[Meaning]:
    meanings = []
    loaders = [step.event.what for step in view.steps if _is_boot_loader(step.event)]
    if loaders:
        meanings.append(
            Meaning(
                f"a boot loader measured itself here (shim or GRUB): {listed(loaders, 3)}",
                "boot the image without a boot loader, or record the value",
            )
        )
    for step in view.steps:
        event = step.event
        if _is_boot_loader(event):
            continue
        if step.change is Change.MISSING:
            meanings.append(
                Meaning(f"an addition that was expected is missing: {event.what}", _PREDICT_AGAIN)
            )
        elif _line(event) and event.slot.kind is Kind.TEXT:
            meanings.append(_added_line(view, event))
        elif event.slot.name in _TAGS:
            meanings.append(Meaning(f"{_TAGS[event.slot.name]}: {event.what}", _REFUSE))
        else:
            meanings.append(Meaning(f"the host added to what the image boots with: {event.what}", _REFUSE))
    return meanings


def _is_boot_loader(event: Seen) -> bool:
    # rhboot/shim README.tpm and GRUB's tpm.c: what the text beside the event starts with
    return event.data is not None and event.data.startswith(_BOOT_LOADER_TEXTS)


def _added_line(view: View, event: Seen) -> Meaning:
    text = f"`{shown(_line(event))}`"
    if _replaces(event, view.comparison):
        return Meaning(f"LoadOptions of the boot option replaced the kernel command line: {text}", _REFUSE)
    steps = view.comparison.steps.values()
    addon = any(
        s.change is Change.ADDED and s.event.slot.kind is Kind.APPLICATION for all_ in steps for s in all_
    )
    if addon:
        return Meaning(f"the host added a kernel command line through an addon of the stub: {text}", _REFUSE)
    return Meaning(f"the host added a kernel command line through SMBIOS: {text}", _REFUSE)
