"""The Authenticode digest of a PE image, as UEFI firmware measures it into PCR 4.

Source: edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib and SecurityPkg/Tcg/Tcg2Dxe/MeasureBootPeCoff.c;
"Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash". Two points
where tools differ, and edk2 decides: bytes after the sections are hashed as they are, without padding to
eight bytes; and they are counted from the *sum* of the sizes hashed so far, not from the end of the last
section.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import PeError
from blindbuild.formats.pe_image import PeImage, read_boot_image
from blindbuild.formats.source import Source
from blindbuild.formats.streams import FileRange, Stream, hash_streams, join_pieces


def authenticode_digests(
    data: bytes | Source, algorithms: Iterable[HashAlgorithm]
) -> dict[HashAlgorithm, Digest]:
    """Return the Authenticode digest of an image for each algorithm, in one pass over it.

    A signature does not change the result: CheckSum, the certificate table and its directory entry are left
    out.

    Raises:
        PeError: the image is malformed, or no algorithm was asked for.
    """
    image = read_boot_image(data)
    chosen = tuple(algorithms)
    if not chosen:
        raise PeError("authenticode: expected at least one hash algorithm, got none")
    return hash_streams(image.source, {"image": authenticode_stream(image)}, chosen)["image"]


def authenticode_stream(image: PeImage) -> Stream:
    """Return the ranges of the image's file that its Authenticode digest is over."""
    return join_pieces(FileRange(start, end - start) for start, end in _hashed_ranges(image))


def _hashed_ranges(image: PeImage) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) file ranges that are hashed, in the order of edk2's numbered steps."""
    yield 0, image.checksum_offset
    # A file with fewer than five data directories has no entry to leave out.
    after_checksum = image.checksum_offset + 4
    directory = image.certificate_directory
    if directory is None:
        yield after_checksum, image.size_of_headers
    else:
        yield after_checksum, directory
        yield directory + 8, image.size_of_headers
    hashed = image.size_of_headers
    for section in sorted(image.sections, key=lambda section: section.raw_offset):
        if section.raw_size:
            yield section.raw_offset, section.raw_offset + section.raw_size
            hashed += section.raw_size
    _, certificate_size = image.certificate_table
    end = image.source.size - certificate_size
    # Sections are apart and inside the file (read_pe), so hashed never exceeds end.
    if end > hashed:
        yield hashed, end
