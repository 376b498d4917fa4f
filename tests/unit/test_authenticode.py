"""The digest against the algorithm's steps, spelled out here once more on slices of known images."""

import hashlib

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import PeError
from blindbuild.formats.authenticode import authenticode_digests
from tests.fakes.pe_image import OPTIONAL, FakeSection, make_pe, with_certificates

IMAGE = make_pe()
CHECKSUM = OPTIONAL + 64
CERTIFICATES = OPTIONAL + 144
SHA256 = HashAlgorithm.SHA256


def sha256(*parts: bytes) -> Digest:
    return Digest(SHA256, hashlib.sha256(b"".join(parts)).digest())


def digest(image: bytes) -> Digest:
    return authenticode_digests(image, [SHA256])[SHA256]


def test_checksum_and_certificate_entry_are_left_out() -> None:
    assert digest(IMAGE) == sha256(
        IMAGE[:CHECKSUM], IMAGE[CHECKSUM + 4 : CERTIFICATES], IMAGE[CERTIFICATES + 8 :]
    )


def test_a_header_with_four_directories_has_no_certificate_entry_to_leave_out() -> None:
    image = make_pe(directories=4)
    assert digest(image) == sha256(image[:CHECKSUM], image[CHECKSUM + 4 :])


@pytest.mark.parametrize("certificates", [bytes(8), b"signature" * 8])
def test_a_signature_does_not_change_the_digest(certificates: bytes) -> None:
    assert digest(with_certificates(IMAGE, certificates)) == digest(IMAGE)


@pytest.mark.parametrize("tail", [b"x", b"seven b", b"12345678", b"123456789"])
def test_bytes_after_the_sections_are_hashed_without_padding(tail: bytes) -> None:
    image = make_pe(tail=tail)
    expected = sha256(image[:CHECKSUM], image[CHECKSUM + 4 : CERTIFICATES], image[CERTIFICATES + 8 :])
    assert digest(image) == expected
    assert digest(with_certificates(image, bytes(16))) == expected


def test_bytes_after_a_gap_are_counted_from_the_sum_of_sizes() -> None:
    # The second section is moved 512 bytes further: edk2 then hashes its last 512 bytes once more.
    image = bytearray(make_pe())
    entry = OPTIONAL + 112 + 16 * 8 + 40
    image[entry + 20 : entry + 24] = (2048).to_bytes(4, "little")
    image[1536:1536] = b"g" * 512
    moved = bytes(image)
    expected = sha256(
        moved[:CHECKSUM],
        moved[CHECKSUM + 4 : CERTIFICATES],
        moved[CERTIFICATES + 8 : 1536],
        moved[2048:],
        moved[2048:],
    )
    assert digest(moved) == expected


def test_sections_are_hashed_in_the_order_of_the_file() -> None:
    image = bytearray(make_pe([FakeSection(b".a", b"1" * 512), FakeSection(b".b", b"2" * 512)]))
    table = OPTIONAL + 112 + 16 * 8
    first, second = image[table + 20 : table + 24], image[table + 60 : table + 64]
    image[table + 20 : table + 24], image[table + 60 : table + 64] = second, first
    swapped = bytes(image)
    assert digest(swapped) == sha256(
        swapped[:CHECKSUM], swapped[CHECKSUM + 4 : CERTIFICATES], swapped[CERTIFICATES + 8 :]
    )


def test_a_section_without_bytes_in_the_file_is_not_hashed() -> None:
    image = make_pe([FakeSection(b".bss", b"", virtual_size=4096), FakeSection(b".text", b"x")])
    assert digest(image) == sha256(
        image[:CHECKSUM], image[CHECKSUM + 4 : CERTIFICATES], image[CERTIFICATES + 8 :]
    )


def test_every_algorithm_hashes_the_same_bytes() -> None:
    hashed = IMAGE[:CHECKSUM] + IMAGE[CHECKSUM + 4 : CERTIFICATES] + IMAGE[CERTIFICATES + 8 :]
    assert authenticode_digests(IMAGE, HashAlgorithm) == {
        algorithm: Digest.of(algorithm, hashed) for algorithm in HashAlgorithm
    }


def test_no_algorithm_and_no_image_are_refused() -> None:
    with pytest.raises(PeError, match="at least one hash algorithm"):
        authenticode_digests(IMAGE, [])
    with pytest.raises(PeError, match="expected magic"):
        authenticode_digests(b"not an image", [SHA256])
