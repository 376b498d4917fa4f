"""What of a UKI is measured: digests only, so that they can also come from elsewhere than the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.pe import PeImage, read_pe
from blindbuild.measure.event import Digests, PredictedEvent, hash_in_banks
from blindbuild.measure.pcr09 import combine_initrds, initrd_parts, load_options
from blindbuild.measure.stub import UNPREDICTABLE_SECTIONS, StubRules, parse_stub_magic

# No version measures these by name: the stub's own code and tables, and `.pcrsig`, which signs PCR 11.
_NEVER_MEASURED = frozenset(
    {
        ".text",
        ".rodata",
        ".data",
        ".bss",
        ".reloc",
        ".dynamic",
        ".dynsym",
        ".rela",
        ".eh_frame",
        ".sdmagic",
        ".pcrsig",
    }
)
# Measured by some versions only; an older stub does not look at them.
_MEASURED_LATER = frozenset({".sbat", ".uname"})
_INITRD_SECTIONS = (".ucode", ".initrd", ".pcrsig", ".pcrpkey", ".osrel")


@dataclass(frozen=True, slots=True)
class MeasuredUki:
    """Everything that the registers of a boot depend on in one UKI.

    Attributes:
        rules: those of its stub.
        authenticode: of the whole file.
        kernel_authenticode: of the `.linux` section, itself a PE image.
        sections: over VirtualSize bytes, of the sections that the stub measures.
        load_options: what the kernel gets as its command line.
        initrd: of what the kernel gets as its initrd; None if it gets none.
        pcr12: what the stub measures into register 12, in its order.
        pcr13: what the stub measures into register 13, in its order.
        secure_boot: the state that the above is right for.
    """

    rules: StubRules
    authenticode: Digests
    kernel_authenticode: Digests
    sections: Mapping[str, Digests]
    load_options: bytes
    initrd: Digests | None
    pcr12: tuple[PredictedEvent, ...] = ()
    pcr13: tuple[PredictedEvent, ...] = ()
    secure_boot: bool = False


def measure_uki(data: bytes, algorithms: Sequence[HashAlgorithm]) -> MeasuredUki:
    """Hash everything of a UKI that is measured at boot.

    Raises:
        PeError: not a PE image, or its `.linux` section is none.
        MeasureError: a stub or a section whose measurement cannot be predicted.
    """
    image = read_pe(data)
    names = _section_names(image)
    for required in (".sdmagic", ".linux", ".cmdline"):
        if required not in names:
            raise MeasureError(f"expected a UKI with a section {required}, got none")
    rules = parse_stub_magic(image.section_data(".sdmagic"))
    _check_sections(names, rules)
    kernel = image.section_data(".linux")
    parts = initrd_parts(
        {name: image.section_data(name) for name in _INITRD_SECTIONS if name in names}, rules
    )
    return MeasuredUki(
        rules=rules,
        authenticode=authenticode_digests(data, algorithms),
        kernel_authenticode=authenticode_digests(kernel, algorithms),
        sections={
            name: hash_in_banks((image.section_data(name),), algorithms)
            for name in rules.measured_sections
            if name in names
        },
        load_options=load_options(image.section_data(".cmdline"), rules),
        initrd=hash_in_banks(combine_initrds(parts), algorithms) if parts else None,
    )


def _section_names(image: PeImage) -> frozenset[str]:
    """Return the names of the sections that are not empty.

    Raises:
        MeasureError: a name is there twice; which of them counts differs between versions of the stub.
    """
    names = [section.name for section in image.sections]
    for name in names:
        if names.count(name) > 1:
            raise MeasureError(f"expected one section {name}, got {names.count(name)}")
    return frozenset(section.name for section in image.sections if section.virtual_size)


def _check_sections(names: frozenset[str], rules: StubRules) -> None:
    for name in sorted(names & UNPREDICTABLE_SECTIONS):
        raise MeasureError(f"section {name}: what is measured of it depends on the machine")
    unknown = names.difference(rules.measured_sections, _NEVER_MEASURED, _MEASURED_LATER)
    if unknown:
        raise MeasureError(
            f"expected only sections known to systemd-stub {rules.version}, got {', '.join(sorted(unknown))}"
        )
