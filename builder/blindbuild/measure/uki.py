"""What of a UKI is measured: digests only, so that they can also come from elsewhere than the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_stream
from blindbuild.formats.pe_image import (
    BOOT_MACHINES,
    PeImage,
    PeSection,
    read_boot_image,
    read_pe_source,
)
from blindbuild.formats.source import Source
from blindbuild.formats.streams import (
    FileRange,
    Stream,
    StreamSource,
    cut_pieces,
    hash_streams,
    join_pieces,
)
from blindbuild.measure.addons import read_addons
from blindbuild.measure.command_line import MAX_TEXT, encode_options, settle_command_line
from blindbuild.measure.event import Digests, PredictedEvent
from blindbuild.measure.initrd import ExtraInitrds, initrd_streams, join_initrds
from blindbuild.measure.pcr12 import (
    CONFIGURATION,
    EXTENSIONS,
    predict_pcr12_and_13,
    sidecar_archives,
)
from blindbuild.measure.sections import Sections, section_stream, select_sections
from blindbuild.measure.stub import StubRules, parse_stub_magic, stub_rules
from blindbuild.measure.stub_inputs import Addon, StubInputs

__all__ = ["Addon", "MeasuredUki", "StubInputs", "measure_uki"]

_IMAGE, _KERNEL, _INITRD = "image", "kernel", "initrd"  # no section is called so: those begin with a dot


@dataclass(frozen=True, slots=True)
class MeasuredUki:
    """Everything that the registers of a boot depend on in one UKI.

    Attributes:
        rules: those of its stub.
        authenticode: of the whole file.
        kernel_authenticode: of the `.linux` section, itself a PE image.
        sections: over VirtualSize bytes, of the sections that the stub measures.
        load_options: what the kernel gets as its command line; empty if it gets none.
        initrd: of what the kernel gets as its initrd; None if it gets none.
        pcr12: what the stub measures into register 12, in its order.
        pcr13: what the stub measures into register 13, in its order.
        secure_boot: the state that the above is right for.
        addons: Authenticode digests of the addons, in the order in which the firmware loads them: after the
            UKI and before the kernel.
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
    addons: tuple[Digests, ...] = ()


def measure_uki(
    source: bytes | Source,
    algorithms: Sequence[HashAlgorithm],
    *,
    inputs: StubInputs | None = None,
    stub_version: int | None = None,
    threads: int | None = None,
) -> MeasuredUki:
    """Hash everything of a UKI that is measured at boot, reading each byte of it once.

    Args:
        source: the file, which is not loaded.
        algorithms: the banks.
        inputs: what else the stub sees; nothing of it if None.
        stub_version: the major version of the stub; None to read it from `.sdmagic`.
        threads: how many hash; 0 for none, None to choose by the size. The result is the same.

    Raises:
        PeError: not a PE image, or its `.linux` section is none.
        MeasureError: a stub, a section or an input whose measurement cannot be predicted.
        FormatError: the file cannot be read to its end.
    """
    if not algorithms:
        raise MeasureError("expected at least one bank to predict, got none")
    inputs = StubInputs() if inputs is None else inputs
    image = read_boot_image(source)
    rules = _find_rules(image) if stub_version is None else stub_rules(stub_version)
    found = select_sections(image.sections, rules, inputs)
    if ".linux" not in found:
        raise MeasureError("expected a UKI with a section .linux, got none")
    if inputs.random_seed and rules.completes_machine_state:
        raise MeasureError(
            f"systemd-stub {rules.version} adds a secret of the machine to the initrd if there is a seed"
        )
    return _measure(_Uki(image, rules, found), inputs, tuple(algorithms), threads)


@dataclass(frozen=True, slots=True)
class _Uki:
    """An image, the rules of its stub, and the sections that the stub takes."""

    image: PeImage
    rules: StubRules
    found: Sections

    def text(self, name: str) -> bytes | None:
        """Return the data of a short section, None if there is none."""
        return _short(self.image, self.found[name]) if name in self.found else None


def _measure(
    uki: _Uki, inputs: StubInputs, algorithms: tuple[HashAlgorithm, ...], threads: int | None
) -> MeasuredUki:
    rules = uki.rules
    addons = read_addons(inputs.addons, uki.text(".uname"), rules)
    command_line = settle_command_line(uki.text(".cmdline"), addons.command_lines, inputs, rules)
    archives = sidecar_archives(inputs, rules)
    extra = ExtraInitrds(
        microcode=tuple(data for _, data in addons.microcode),
        previous=inputs.previous_initrd,
        packed=tuple(archive.data for archive in archives),
        addons=tuple(data for _, data in addons.initrds),
    )
    digests = hash_streams(uki.image.source, _streams(uki, extra), algorithms, threads=threads)
    events = predict_pcr12_and_13(
        profile=inputs.profile,
        command_line=command_line,
        addons=addons,
        archives=archives,
        algorithms=algorithms,
    )
    return MeasuredUki(
        rules=rules,
        authenticode=digests[_IMAGE],
        kernel_authenticode=digests[_KERNEL],
        sections={name: digests[name] for name in rules.measured_sections if name in digests},
        load_options=b"" if command_line.text is None else encode_options(command_line.text),
        initrd=digests.get(_INITRD),
        pcr12=tuple(event for event in events if event.register == CONFIGURATION),
        pcr13=tuple(event for event in events if event.register == EXTENSIONS),
        secure_boot=inputs.secure_boot,
        addons=tuple(_authenticode(addon, algorithms) for addon in addons.images),
    )


def _streams(uki: _Uki, extra: ExtraInitrds) -> dict[str, Stream]:
    """Return all that is to be hashed of the file, by name."""
    contents = {name: section_stream(section) for name, section in uki.found.items()}
    streams = {name: contents[name] for name in uki.rules.measured_sections if name in contents}
    streams[_IMAGE] = authenticode_stream(uki.image)
    streams[_KERNEL] = _kernel_stream(uki.image.source, contents[".linux"])
    initrds = initrd_streams(contents, uki.rules, extra)
    if initrds:
        streams[_INITRD] = join_pieces(join_initrds(initrds))
    return streams


def _kernel_stream(source: Source, section: Stream) -> Stream:
    """Return what the kernel's Authenticode digest is over, as parts of the UKI's file."""
    kernel = read_pe_source(StreamSource(source, section), machines=BOOT_MACHINES)
    parts = [part for part in authenticode_stream(kernel) if isinstance(part, FileRange)]
    return join_pieces(
        piece for part in parts for piece in cut_pieces(section, part.offset, part.offset + part.size)
    )


def _authenticode(image: PeImage, algorithms: Sequence[HashAlgorithm]) -> Digests:
    return hash_streams(image.source, {_IMAGE: authenticode_stream(image)}, algorithms)[_IMAGE]


def _find_rules(image: PeImage) -> StubRules:
    """Return the rules of the stub that the image says it has.

    Raises:
        MeasureError: it does not say so.
    """
    magic = next((section for section in image.sections if section.name == ".sdmagic"), None)
    if magic is None:
        raise MeasureError(
            "expected a UKI with a section .sdmagic, got none",
            hint="state the version of its systemd-stub, if it has one",
        )
    return parse_stub_magic(_short(image, magic))


def _short(image: PeImage, section: PeSection) -> bytes:
    if section.virtual_size > MAX_TEXT:
        raise MeasureError(
            f"section {section.name}: expected at most {MAX_TEXT} bytes, got {section.virtual_size}"
        )
    return image.data_of(section)
