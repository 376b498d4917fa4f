"""Addons: PE files beside a UKI that add to its command line, initrd, microcode or device tree.

Sources: systemd src/boot/stub.c, load_addons, load_all_addons, install_addon_devicetrees,
measure_and_append_ucode_addons and _initrd_addons; src/boot/efi/stub.c of 254,
cmdline_append_and_measure_addons. The firmware loads an addon as it loads any image, so that it measures it
into register 4 as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from blindbuild.errors import MeasureError
from blindbuild.formats.pe_image import BOOT_MACHINES, PeImage, read_pe_source
from blindbuild.formats.source import BytesSource
from blindbuild.measure.command_line import decode_command_line, mangle
from blindbuild.measure.extra_files import check_name
from blindbuild.measure.sections import Sections, select_sections
from blindbuild.measure.stub import StubRules
from blindbuild.measure.stub_inputs import Addon, StubInputs

MAX_ADDON_SIZE = 1 << 28  # bytes, in the file and in memory, where its parts are held: room for an initrd

_SUFFIX = ".addon.efi"
_PAYLOADS = (".dtb", ".initrd", ".ucode")
_DEVICE_TREE_MAGIC = b"\xd0\x0d\xfe\xed"  # Devicetree Specification, 5.2

Payloads = tuple[tuple[str, bytes], ...]  # (file name of the addon, data)


@dataclass(frozen=True, slots=True)
class AddonEffects:
    """What the addons of a boot add, in the order in which the stub loaded them.

    Attributes:
        images: the files that the firmware loaded and measured.
        command_lines: one for each event.
        device_trees: of `.dtb`.
        initrds: of `.initrd`.
        microcode: of `.ucode`, in the stub's reverse order: the kernel takes the first that it finds.
    """

    images: tuple[PeImage, ...] = ()
    command_lines: tuple[str, ...] = ()
    device_trees: Payloads = ()
    initrds: Payloads = ()
    microcode: Payloads = ()


@dataclass(slots=True)
class _Collected:
    images: list[PeImage] = field(default_factory=list)
    texts: dict[bool, str] = field(default_factory=dict)
    payloads: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)


def read_addons(addons: Sequence[Addon], uname: bytes | None, rules: StubRules) -> AddonEffects:
    """Return what these addons do on a boot of a UKI.

    Args:
        addons: in any order; the stub takes those for all UKIs first, and sorts by file name.
        uname: the data of the UKI's `.uname`, None if there is none.
        rules: those of the stub; before 254 there are no addons.

    Raises:
        PeError: an addon is not an image.
        MeasureError: what the stub does with an addon is not known.
    """
    collected = _Collected()
    if not rules.reads_extra_command_lines:
        return AddonEffects()
    _check_names(addons)
    for addon in sorted(addons, key=lambda one: (not one.everywhere, one.name)):
        _take_addon(addon, uname, rules, collected)
    payloads = {name: tuple(collected.payloads.get(name, ())) for name in _PAYLOADS}
    return AddonEffects(
        images=tuple(collected.images),
        command_lines=_events(collected.texts, rules),
        device_trees=payloads[".dtb"],
        initrds=payloads[".initrd"],
        microcode=payloads[".ucode"][::-1],
    )


def _check_names(addons: Sequence[Addon]) -> None:
    seen: set[tuple[bool, str]] = set()
    for addon in addons:
        check_name(addon.name, _SUFFIX)
        key = (addon.everywhere, addon.name.lower())
        if key in seen:
            raise MeasureError(f"addon {addon.name}: expected one of this name in its directory, got two")
        seen.add(key)


def _take_addon(addon: Addon, uname: bytes | None, rules: StubRules, collected: _Collected) -> None:
    image = read_pe_source(BytesSource(addon.image), machines=BOOT_MACHINES, max_size=MAX_ADDON_SIZE)
    collected.images.append(image)
    if rules.has_profiles and image.has_section(".profile"):
        # pe_memory_locate_sections does not stop at profiles as it does in a UKI.
        raise MeasureError(f"addon {addon.name}: expected no section .profile")
    try:
        found = select_sections(image.sections, rules, StubInputs())
    except MeasureError as error:
        raise MeasureError(f"addon {addon.name}: {error.message}", hint=error.hint) from error
    if ".linux" in found or not _fits(found, image, uname, rules, addon.name):
        return
    if ".cmdline" in found:
        text = decode_command_line(image.data_of(found[".cmdline"]))
        if rules.has_profiles:
            text = mangle(text, rules, f"addon {addon.name}")
        directory = addon.everywhere or rules.has_profiles
        before = collected.texts.get(directory, "")
        collected.texts[directory] = f"{before} {text}" if before else text
    for name in _PAYLOADS:
        if name in found:
            _take_payload(addon, name, image.data_of(found[name]), rules, collected)


def _fits(found: Sections, image: PeImage, uname: bytes | None, rules: StubRules, name: str) -> bool:
    """Say whether the addon is for this kernel: names are compared as strings, as far as the addon's goes."""
    if ".uname" not in found or uname is None:
        return True
    if rules.version in (255, 256):
        raise MeasureError(f"addon {name}: expected no .uname with systemd-stub {rules.version}")
    wanted = image.data_of(found[".uname"])
    ours = uname.split(b"\0", 1)[0] + b"\0"
    wanted = wanted.split(b"\0", 1)[0] + (b"\0" if b"\0" in wanted else b"")
    return ours[: len(wanted)] == wanted


def _take_payload(addon: Addon, name: str, data: bytes, rules: StubRules, collected: _Collected) -> None:
    if rules.version == 254:
        return
    if not rules.reads_addon_payloads:
        raise MeasureError(f"addon {addon.name}: expected no {name} with systemd-stub {rules.version}")
    if name == ".dtb" and not data.startswith(_DEVICE_TREE_MAGIC):
        raise MeasureError(f"addon {addon.name}: expected a device tree in .dtb, got {data[:4]!r}")
    collected.payloads.setdefault(name, []).append((addon.name, data))


def _events(texts: dict[bool, str], rules: StubRules) -> tuple[str, ...]:
    ordered = [texts[everywhere] for everywhere in (True, False) if texts.get(everywhere)]
    if rules.joins_addon_command_lines and ordered:
        return (" ".join(ordered),)
    return tuple(ordered)
