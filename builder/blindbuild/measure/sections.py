"""Which sections of a UKI, or of an addon, a version of systemd-stub takes.

Sources: systemd src/boot/efi/pe.c of 252 and 254, locate_sections: names are compared as far as the known
name goes, and later sections replace earlier ones; src/boot/pe.c of 257 and 262, pe_locate_profile_sections
and pe_locate_sections_internal: names are compared whole, and the first section counts, of the profile if it
has one, else of what precedes the first `.profile`.

What the stub does not look at is not refused: it has no effect on the boot, and is in register 4 with the
rest of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.errors import MeasureError
from blindbuild.formats.pe_image import PeSection
from blindbuild.formats.streams import FileRange, Stream, Zeros, join_pieces
from blindbuild.measure.stub import HARDWARE_SECTIONS, StubRules
from blindbuild.measure.stub_inputs import StubInputs

Sections = dict[str, PeSection]


def select_sections(table: Sequence[PeSection], rules: StubRules, inputs: StubInputs) -> Sections:
    """Return the sections that the stub takes by name; empty ones are as good as missing.

    Raises:
        MeasureError: what it takes depends on the machine or is not known, or there is no such profile.
    """
    if not rules.has_profiles:
        if inputs.profile:
            raise MeasureError(f"systemd-stub {rules.version} has no profiles, got number {inputs.profile}")
        return _not_empty(_last_of_each(table, rules))
    taken = _hardware_matches(table, rules, inputs)
    starts = [index for index, section in enumerate(table) if section.name == ".profile"]
    bounds = [0, *starts, len(table)]
    found = _first_of_each(table, range(bounds[0], bounds[1]), rules, taken)
    if inputs.profile < 0 or inputs.profile >= max(len(starts), 1):
        raise MeasureError(f"expected a profile from 0 to {max(len(starts), 1) - 1}, got {inputs.profile}")
    if starts:
        scope = range(bounds[inputs.profile + 1], bounds[inputs.profile + 2])
        found |= _first_of_each(table, scope, rules, taken)
    return _not_empty(found)


def section_stream(section: PeSection) -> Stream:
    """Return VirtualSize bytes as the firmware loads them: cut, or filled with zero bytes."""
    size = min(section.raw_size, section.virtual_size)
    return join_pieces((FileRange(section.raw_offset, size), Zeros(section.virtual_size - size)))


def _not_empty(found: Sections) -> Sections:
    return {name: section for name, section in found.items() if section.virtual_size}


def _last_of_each(table: Sequence[PeSection], rules: StubRules) -> Sections:
    found: Sections = {}
    for section in table:
        mistaken = [name for name in rules.names if section.name.startswith(name) and section.name != name]
        if mistaken:
            raise MeasureError(
                f"section {section.name}: systemd-stub {rules.version} takes it for {max(mistaken)}"
            )
        if section.name in rules.names:
            found[section.name] = section
    return found


def _first_of_each(
    table: Sequence[PeSection], scope: range, rules: StubRules, taken: dict[str, int]
) -> Sections:
    found: Sections = {}
    for index in scope:
        name = table[index].name
        if name in HARDWARE_SECTIONS and taken.get(name) != index:
            continue
        if name in rules.names:
            found.setdefault(name, table[index])
    return found


def _hardware_matches(table: Sequence[PeSection], rules: StubRules, inputs: StubInputs) -> dict[str, int]:
    """Return where in the table the sections are that are stated to be for the machine.

    Raises:
        MeasureError: nothing is stated, or a section that is not there.
    """
    stated = dict(zip(HARDWARE_SECTIONS, (inputs.device_tree, inputs.firmware_image), strict=True))
    found: dict[str, int] = {}
    for name, number in stated.items():
        candidates = [index for index, section in enumerate(table) if section.name == name]
        if name not in rules.names or not candidates:
            continue
        if number is None:
            raise MeasureError(
                f"section {name}: what is measured of it depends on the machine",
                hint="state which of these sections is for the machine, or that none is",
            )
        if not 0 <= number <= len(candidates):
            raise MeasureError(f"section {name}: expected a number from 0 to {len(candidates)}, got {number}")
        if number:
            found[name] = candidates[number - 1]
    return found
