"""PCR0, PCR1, PCR2 and PCR8 of an AWS Nitro Enclave, from the parts of its image or from the file.

Every register is one extend of 48 zero bytes with the SHA-384 of what it covers; the hypervisor computes
them when it starts the enclave. Metadata and the signature itself are in none of them.

Source: aws-nitro-enclaves-image-format, README.md "EIF Measurements" and src/utils/eif_reader.rs, commit
935dc626.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.eif import EifPart, SectionType, read_eif
from blindbuild.formats.eif_signature import parse_eif_signature
from blindbuild.formats.source import Source, read_chunks
from blindbuild.measure.named import NamedMeasurement

_ALGORITHM = HashAlgorithm.SHA384
_MEASURED = (SectionType.KERNEL, SectionType.COMMAND_LINE, SectionType.RAMDISK)


def measure_eif(source: Source) -> tuple[NamedMeasurement, ...]:
    """Return what an enclave started from this file reports, holding no ramdisk in memory.

    Args:
        source: the whole file, by whatever tool.

    Returns:
        PCR0, PCR1, PCR2 and PCR8, in this order. PCR8 is zero for an image that is not signed.

    Raises:
        EifError: the file is malformed, or its signature is not over its PCR0: no enclave would start.
    """
    image = read_eif(source)
    digests = _hash_sections(
        (section.section_type, read_chunks(source, section.offset, section.size))
        for section in image.sections
    )
    section = image.only(SectionType.SIGNATURE)
    certificate = None
    if section is not None:
        signature = parse_eif_signature(source.read(section.offset, section.size))
        certificate = signature.verify(digests[0])
    return _name_registers(*digests, certificate)


def measure_parts(
    parts: Sequence[EifPart], *, certificate: Certificate | None = None
) -> tuple[NamedMeasurement, ...]:
    """Return what `measure_eif` does, before there is a file.

    Args:
        parts: the sections in the order in which they will stand; of a signature only the certificate counts.
        certificate: the signer's, if the image will be signed.

    Raises:
        MeasureError: no kernel, command line or ramdisk is among them.
        FormatError: a source cannot be read.
    """
    for section_type in _MEASURED:
        if all(part.section_type is not section_type for part in parts):
            raise MeasureError(f"EIF: expected a section {section_type.name.lower()}, got none")
    pieces = ((part.section_type, read_chunks(part.source, 0, part.source.size)) for part in parts)
    return _name_registers(*_hash_sections(pieces), certificate)


def _hash_sections(
    sections: Iterable[tuple[SectionType, Iterable[bytes]]],
) -> tuple[Digest, Digest, Digest]:
    """Return PCR0, PCR1 and PCR2; sections count in the order of the file, whatever their type."""
    image, bootstrap, application = (hashlib.sha384() for _ in range(3))
    ramdisks = 0
    for section_type, chunks in sections:
        if section_type not in _MEASURED:
            continue
        is_ramdisk = section_type is SectionType.RAMDISK
        second = application if is_ramdisk and ramdisks else bootstrap
        ramdisks += is_ramdisk
        for chunk in chunks:
            image.update(chunk)
            second.update(chunk)
    pcr0, pcr1, pcr2 = (_extended(hasher.digest()) for hasher in (image, bootstrap, application))
    return pcr0, pcr1, pcr2


def _name_registers(
    pcr0: Digest, pcr1: Digest, pcr2: Digest, certificate: Certificate | None
) -> tuple[NamedMeasurement, ...]:
    if certificate is None:
        pcr8, what = Digest.zero(_ALGORITHM), "not signed"
    else:
        pcr8 = _extended(Digest.of(_ALGORITHM, certificate.der).value)
        what = "the signer's certificate"
    return (
        NamedMeasurement("PCR0", pcr0, "kernel, command line and every ramdisk"),
        NamedMeasurement("PCR1", pcr1, "kernel, command line and the first ramdisk"),
        NamedMeasurement("PCR2", pcr2, "every ramdisk but the first"),
        NamedMeasurement("PCR8", pcr8, what),
    )


def _extended(content: bytes) -> Digest:
    return Digest.zero(_ALGORITHM).extend(Digest(_ALGORITHM, content))
