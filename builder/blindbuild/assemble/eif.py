"""An AWS Nitro Enclave image, from a kernel, its command line and ramdisks, or from a UKI.

The bytes depend on the arguments alone: there is no time in the metadata unless it is given, and signatures
are deterministic. Whether the kernel has the drivers that an enclave needs is not looked at.

Source: aws-nitro-enclaves-image-format, README.md of 2024-06-21; Linux Documentation/arch/x86/boot.rst and
Documentation/arch/arm64/booting.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from blindbuild import __version__
from blindbuild.assemble.uki import MAX_COMMAND_LINE
from blindbuild.errors import BuildError, FormatError, PeError, UsageError
from blindbuild.formats.canonical import canonical_bytes
from blindbuild.formats.certificate import Certificate, parse_pem_certificate
from blindbuild.formats.eif import EifArchitecture, EifPart, SectionType, write_eif
from blindbuild.formats.eif_signature import sign_eif
from blindbuild.formats.pe_image import PeSection, read_pe_source
from blindbuild.formats.source import BytesSource, Source, as_source
from blindbuild.formats.streams import StreamSource
from blindbuild.manifest.rfc3339 import parse_time
from blindbuild.measure.eif import measure_parts
from blindbuild.measure.named import NamedMeasurement
from blindbuild.measure.sections import section_stream

NO_TIME = "1970-01-01T00:00:00+00:00"  # the metadata must have a time; this one says that there is none

_COMMAND_LINE = re.compile(r"[ -~]+")
_MAX_CMDLINE_SECTION = 1 << 16  # bytes with padding; bounds memory
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+~_-]*")
_UNKNOWN = "unknown"
_KERNEL_START = 0x10400  # bytes; a 16-bit pointer from 0x200 on, and 256 bytes of text

# Offsets in a bzImage, arch/x86/boot.rst "The Real-Mode Kernel Header".
_X86_MAGIC = (0x202, b"HdrS")
_X86_VERSION_POINTER = 0x20E
_X86_VERSION_BASE = 0x200
# In an Image, arch/arm64/booting.rst.
_ARM64_MAGIC = (0x38, b"ARM\x64")


@dataclass(frozen=True, slots=True, kw_only=True)
class EifMetadata:
    """What the metadata section says; nothing of it is measured.

    Attributes:
        name: of the image.
        version: of the image.
        build_time: such as `2026-12-31T23:59:59Z`; None for none.

    Raises:
        ManifestError: a time in another form.
    """

    name: str
    version: str
    build_time: str | None = None

    def __post_init__(self) -> None:
        if self.build_time is not None:
            parse_time(self.build_time)


@dataclass(frozen=True, slots=True)
class EifSigner:
    """Who vouches for an image: the key, and the certificate whose digest PCR8 is."""

    key: EllipticCurvePrivateKey
    certificate_pem: bytes
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class BuiltEif:
    """An image that is ready to be written: its parts, and what an enclave started from it will report."""

    architecture: EifArchitecture
    parts: tuple[EifPart, ...]
    measurements: tuple[NamedMeasurement, ...]

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes; EifError if a source changed since it was measured."""
        return write_eif(self.parts, self.architecture)


def build_eif(
    *,
    kernel: bytes | Source,
    command_line: str,
    ramdisks: Sequence[bytes | Source],
    metadata: EifMetadata,
    signer: EifSigner | None = None,
) -> BuiltEif:
    """Return an image with these sections in nitro-cli's order, and its registers.

    Args:
        kernel: a bzImage (x86-64) or an uncompressed Image (arm64).
        command_line: printable ASCII; in the file there is no NUL behind it.
        ramdisks: cpio archives, compressed or not, at least one. PCR1 covers the first, PCR2 the others.
        metadata: what is said about the image.
        signer: None for an unsigned image, whose PCR8 stays zero.

    Raises:
        BuildError: no kernel of a known kind, no ramdisk, an empty one, or a malformed command line.
        EifError: too many ramdisks, or a signer that cannot sign.
        FormatError: a source cannot be read.
    """
    kernel = as_source(kernel)
    architecture, release = inspect_kernel(kernel)
    _check_command_line(command_line)
    disks = [as_source(ramdisk) for ramdisk in ramdisks]
    if not disks or not all(disk.size for disk in disks):
        raise BuildError("eif: expected at least one ramdisk, and none of them empty")
    parts = (
        EifPart(SectionType.KERNEL, kernel),
        EifPart(SectionType.COMMAND_LINE, BytesSource(command_line.encode("ascii"))),
        EifPart(SectionType.METADATA, BytesSource(_metadata_bytes(metadata, release))),
        *(EifPart(SectionType.RAMDISK, disk) for disk in disks),
    )
    measurements = measure_parts(parts, certificate=signer.certificate if signer else None)
    if signer:
        pcr0 = measurements[0].digest
        signature = sign_eif(pcr0, key=signer.key, certificate_pem=signer.certificate_pem)
        parts = (*parts, EifPart(SectionType.SIGNATURE, BytesSource(signature)))
    return BuiltEif(architecture, parts, measurements)


def split_uki(uki: bytes | Source) -> tuple[Source, str, Source]:
    """Return kernel, command line and initrd of a UKI; nothing else in it has a place in an EIF.

    Raises:
        PeError: not a PE image, or one without exactly one section `.linux`, `.cmdline` and `.initrd` each.
        BuildError: a command line that is too long or not ASCII.
    """
    source = as_source(uki)
    sections = read_pe_source(source).sections
    kernel, text, initrd = (_section(source, sections, name) for name in (".linux", ".cmdline", ".initrd"))
    if not kernel.size or not initrd.size:
        raise PeError("eif: expected a UKI whose .linux and .initrd are not empty")
    if text.size > _MAX_CMDLINE_SECTION:
        raise BuildError(f"eif: command line: expected at most {MAX_COMMAND_LINE} characters")
    try:
        return kernel, text.read(0, text.size).rstrip(b"\0").decode("ascii").strip(), initrd
    except UnicodeDecodeError as error:
        raise BuildError("eif: command line: expected ASCII in section .cmdline") from error


def inspect_kernel(kernel: Source) -> tuple[EifArchitecture, str]:
    """Return what a kernel is for, and its release where the file says it (x86-64), else `unknown`.

    Raises:
        BuildError: neither a bzImage nor an arm64 Image.
        FormatError: the source cannot be read.
    """
    start = kernel.read(0, min(kernel.size, _KERNEL_START))
    if _has(start, _X86_MAGIC):
        pointer = int.from_bytes(start[_X86_VERSION_POINTER : _X86_VERSION_POINTER + 2], "little")
        text = start[_X86_VERSION_BASE + pointer :][:256].partition(b"\0")[0].decode("ascii", "replace")
        release = text.partition(" ")[0]
        known = pointer and _RELEASE.fullmatch(release)
        return EifArchitecture.X86_64, release if known else _UNKNOWN
    if _has(start, _ARM64_MAGIC):
        return EifArchitecture.AARCH64, _UNKNOWN
    raise BuildError(
        "eif: expected a bzImage (x86-64) or an uncompressed Image (arm64) as kernel",
        hint="vmlinux, Image.gz and zboot images will not do",
    )


def load_signer(key_pem: bytes, certificate_pem: bytes) -> EifSigner:
    """Read a signer from an unencrypted private key and one certificate of it, both PEM.

    Raises:
        UsageError: the key is malformed, encrypted or not on an elliptic curve.
        FormatError: the certificate is malformed.
    """
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("expected an unencrypted private key in PEM") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UsageError("expected a key on P-384, got another kind of key")
    try:
        text = certificate_pem.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("expected one PEM certificate") from error
    return EifSigner(key, certificate_pem, parse_pem_certificate(text))


def _check_command_line(text: str) -> None:
    if not _COMMAND_LINE.fullmatch(text) or len(text) > MAX_COMMAND_LINE:
        raise BuildError(
            f"eif: command line: expected 1 to {MAX_COMMAND_LINE} characters of printable ASCII, "
            f"got {text[:80]!r}"
        )


def _section(source: Source, sections: Sequence[PeSection], name: str) -> Source:
    found = [section for section in sections if section.name == name]
    if len(found) != 1:
        raise PeError(f"eif: expected one section {name}, got {len(found)}")
    return StreamSource(source, section_stream(found[0]))


def _has(start: bytes, magic: tuple[int, bytes]) -> bool:
    offset, expected = magic
    return start[offset : offset + len(expected)] == expected


def _metadata_bytes(metadata: EifMetadata, release: str) -> bytes:
    # the names are the format's; AWS's reader wants all of them, CustomMetadata too
    return canonical_bytes(
        {
            "ImageName": metadata.name,
            "ImageVersion": metadata.version,
            "BuildMetadata": {
                "BuildTime": metadata.build_time or NO_TIME,
                "BuildTool": "blindbuild",
                "BuildToolVersion": __version__,
                "OperatingSystem": "Linux",
                "KernelVersion": release,
            },
            "DockerInfo": {},
            "CustomMetadata": {},
        }
    )
