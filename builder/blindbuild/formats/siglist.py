"""EFI_SIGNATURE_LIST: what PK, KEK, db and dbx hold, and what an ESL file is.

Source: UEFI 2.10, 32.4.1 (EFI_SIGNATURE_LIST, EFI_SIGNATURE_DATA and the signature types).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError

EFI_CERT_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
EFI_CERT_SHA1 = UUID("826ca512-cf10-4ac9-b187-be01496631bd")
EFI_CERT_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
EFI_CERT_SHA384 = UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01")
EFI_CERT_SHA512 = UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a")
EFI_CERT_X509_SHA256 = UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")
EFI_CERT_X509_SHA384 = UUID("7076876e-80c2-4ee6-aad2-28b349a6865b")
EFI_CERT_X509_SHA512 = UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d")

# Entries that are the digest of an image, and those that are the digest of a certificate's signed part with
# the time from which on it is revoked.
IMAGE_DIGESTS = {
    EFI_CERT_SHA1: HashAlgorithm.SHA1,
    EFI_CERT_SHA256: HashAlgorithm.SHA256,
    EFI_CERT_SHA384: HashAlgorithm.SHA384,
    EFI_CERT_SHA512: HashAlgorithm.SHA512,
}
CERTIFICATE_DIGESTS = {
    EFI_CERT_X509_SHA256: HashAlgorithm.SHA256,
    EFI_CERT_X509_SHA384: HashAlgorithm.SHA384,
    EFI_CERT_X509_SHA512: HashAlgorithm.SHA512,
}

MAX_LISTS_BYTES = 1 << 20  # a full dbx has some 25 KiB, a variable store of OVMF 256 KiB; bounds the work

_HEADER = struct.Struct("<16sIII")  # type, size of the list, of its header, of one signature
_OWNER_SIZE = 16
_TIME_SIZE = 16  # EFI_TIME
_DIGEST_SIZES = {
    **{kind: algorithm.size for kind, algorithm in IMAGE_DIGESTS.items()},
    **{kind: algorithm.size + _TIME_SIZE for kind, algorithm in CERTIFICATE_DIGESTS.items()},
}


@dataclass(frozen=True, slots=True)
class SignatureEntry:
    """EFI_SIGNATURE_DATA: who put it there, and a certificate or a digest."""

    owner: UUID
    data: bytes

    @property
    def encoded(self) -> bytes:
        """The bytes as they stand in the list, and in the event of the authority that they are."""
        return self.owner.bytes_le + self.data


@dataclass(frozen=True, slots=True)
class SignatureList:
    """Entries of one type and one size; `header` is empty for every type that is defined so far."""

    kind: UUID
    entries: tuple[SignatureEntry, ...]
    header: bytes = b""


def parse_signature_lists(data: bytes) -> tuple[SignatureList, ...]:
    """Return the lists that `data` is made of, none for an empty variable.

    Raises:
        FormatError: sizes that do not add up, a list without entries, or bytes left over.
    """
    if len(data) > MAX_LISTS_BYTES:
        raise FormatError(f"signature list: expected at most {MAX_LISTS_BYTES} bytes, got {len(data)}")
    lists: list[SignatureList] = []
    position = 0
    while position < len(data):
        found, position = _read_list(data, position)
        lists.append(found)
    if write_signature_lists(lists) != data:
        raise FormatError("signature list: what was parsed does not write back to the same bytes")
    return tuple(lists)


def write_signature_lists(lists: Iterable[SignatureList]) -> bytes:
    """Return the content of an ESL file; the inverse of `parse_signature_lists`.

    Raises:
        FormatError: a list without entries, or entries that do not have one size.
    """
    return b"".join(_write_list(item) for item in lists)


def x509_list(certificate: bytes, owner: UUID) -> SignatureList:
    """Return the list of one DER certificate, as enrolment tools write it."""
    return SignatureList(EFI_CERT_X509, (SignatureEntry(owner, certificate),))


def x509_entries(data: bytes) -> Iterator[SignatureEntry]:
    """Yield the entries that are certificates, in the order in which a firmware tries them.

    Raises:
        FormatError: as `parse_signature_lists`.
    """
    for item in parse_signature_lists(data):
        if item.kind == EFI_CERT_X509:
            yield from item.entries


def _read_list(data: bytes, start: int) -> tuple[SignatureList, int]:
    left = len(data) - start
    if left < _HEADER.size:
        raise FormatError(
            f"signature list at {start}: cut off: expected {_HEADER.size} bytes of header, got {left}"
        )
    kind, size, header_size, entry_size = _HEADER.unpack_from(data, start)
    if not _HEADER.size <= size <= left:
        raise FormatError(f"signature list at {start}: expected a size up to {left}, got {size}")
    room = size - _HEADER.size - header_size
    if room < 0 or entry_size <= _OWNER_SIZE or room < entry_size or room % entry_size:
        raise FormatError(
            f"signature list at {start}: {room} bytes are not one or more entries of {entry_size} bytes"
        )
    first = start + _HEADER.size + header_size
    entries = tuple(
        SignatureEntry(
            UUID(bytes_le=data[at : at + _OWNER_SIZE]), bytes(data[at + _OWNER_SIZE : at + entry_size])
        )
        for at in range(first, start + size, entry_size)
    )
    header = bytes(data[start + _HEADER.size : first])
    return _checked(SignatureList(UUID(bytes_le=kind), entries, header)), start + size


def _write_list(item: SignatureList) -> bytes:
    _checked(item)
    entry_size = _OWNER_SIZE + len(item.entries[0].data)
    body = item.header + b"".join(entry.encoded for entry in item.entries)
    return _HEADER.pack(item.kind.bytes_le, _HEADER.size + len(body), len(item.header), entry_size) + body


def _checked(item: SignatureList) -> SignatureList:
    sizes = {len(entry.data) for entry in item.entries}
    if len(sizes) != 1 or 0 in sizes:
        raise FormatError(f"signature list: expected entries of one size, got sizes {sorted(sizes)}")
    expected = _DIGEST_SIZES.get(item.kind)
    if expected is not None and sizes != {expected}:
        raise FormatError(f"signature list: expected digests of {expected} bytes, got {sizes.pop()}")
    return item
