"""Signatures in PE images, as UEFI Secure Boot checks them: PKCS#7 SignedData over the Authenticode digest.

What is written has no signing time and nothing else that differs between two runs: image, certificates and an
RSA PKCS#1 v1.5 signature decide every byte.

Source: "Windows Authenticode Portable Executable Signature Format" (2008); PE Format, "The Attribute
Certificate Table"; RFC 2315, 9 (SignedData) and 9.3 (what is signed when there are attributes); UEFI 2.10,
32.2.4.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, PeError
from blindbuild.formats.der import (
    BIT_STRING,
    CONSTRUCTED,
    CONTEXT,
    INTEGER,
    NULL,
    OCTET_STRING,
    SEQUENCE,
    SET,
    Element,
    read_first,
    read_members,
    read_object_identifier,
    read_only,
    require,
    write_element,
    write_integer,
    write_object_identifier,
    write_sequence,
    write_set,
)
from blindbuild.formats.pe import compute_checksum, read_pe
from blindbuild.formats.pe_image import read_boot_image
from blindbuild.formats.source import Source

MAX_TABLE = 1 << 20  # bytes; a signature with chain and timestamp has some 10 KB
MAX_CERTIFICATES = 64  # in one signature; bounds the search for the chain
ALIGNMENT = 8  # PE Format: certificate table entries start at a multiple of eight

_ENTRY = struct.Struct("<IHH")  # WIN_CERTIFICATE: length, revision, type
_REVISION = 0x0200
_PKCS_SIGNED_DATA = 0x0002
_TAG_0 = CONTEXT | CONSTRUCTED
_TAG_1 = CONTEXT | CONSTRUCTED | 1
_TAG_2 = CONTEXT | CONSTRUCTED | 2

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
_SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
_SPC_PE_IMAGE_DATA = "1.3.6.1.4.1.311.2.1.15"
_ALGORITHMS = {
    "1.3.14.3.2.26": HashAlgorithm.SHA1,
    "2.16.840.1.101.3.4.2.1": HashAlgorithm.SHA256,
    "2.16.840.1.101.3.4.2.2": HashAlgorithm.SHA384,
    "2.16.840.1.101.3.4.2.3": HashAlgorithm.SHA512,
}
_SHA256 = "2.16.840.1.101.3.4.2.1"
# Authenticode, SpcPeImageData: no flags; a file name nobody reads, "obsolete" since page hashes
_FILE_NAME = "<<<Obsolete>>>"


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """One signature as it stands in the file; nothing about it is verified.

    Attributes:
        digest: the Authenticode digest that was signed.
        chain: DER certificates, the signer's first, then those carried ones that issued the one before.
        signed: the bytes that the signature value is over.
        value: the signature value.
    """

    digest: Digest
    chain: tuple[bytes, ...]
    signed: bytes
    value: bytes


def read_signatures(image: bytes | Source) -> tuple[ImageSignature, ...]:
    """Return the signatures of a PE image, in the order of its certificate table; empty if it has none.

    Of a source, headers and certificate table are read, nothing else.

    Raises:
        PeError: the image is malformed, or its table, or an entry is no signature over Authenticode content.
    """
    try:
        return tuple(_read_signed_data(blob) for blob in _table_entries(image))
    except PeError:
        raise
    except FormatError as error:
        raise PeError(f"pe signature: {error.message}") from error


def signer_certificates(image: bytes) -> tuple[bytes, ...]:
    """Return the DER certificates of each signature's chain, signers first; a firmware trusts one of them.

    Nothing is verified. A certificate of `db` that issued the last one of a chain need not be in the image.

    Raises:
        PeError: as `read_signatures`.
    """
    chains = (signature.chain for signature in read_signatures(image))
    return tuple(dict.fromkeys(certificate for chain in chains for certificate in chain))


def signed_content(digest: Digest) -> bytes:
    """Return SpcIndirectDataContent about an image with this Authenticode digest.

    Raises:
        PeError: not a SHA-256 digest; firmware takes others too, but this one everywhere.
    """
    if digest.algorithm is not HashAlgorithm.SHA256:
        raise PeError(f"pe signature: expected a sha256 digest to sign, got {digest.algorithm.value}")
    name = write_element(_TAG_2, write_element(CONTEXT, _FILE_NAME.encode("utf-16-be")))
    about = write_sequence(write_element(BIT_STRING, b"\0"), write_element(_TAG_0, name))
    return write_sequence(
        write_sequence(write_object_identifier(_SPC_PE_IMAGE_DATA), about),
        write_sequence(_algorithm(_SHA256), write_element(OCTET_STRING, digest.value)),
    )


def attributes_to_sign(content: bytes) -> bytes:
    """Return the DER SET that the signature value is over: what `content` is, and its SHA-256.

    Source: RFC 2315, 9.2 and 9.3: the digest of the content leaves its outer identifier and length out.
    """
    message_digest = hashlib.sha256(read_only(content).content).digest()
    return write_set(
        _attribute(_CONTENT_TYPE, write_object_identifier(_SPC_INDIRECT_DATA)),
        _attribute(_MESSAGE_DIGEST, write_element(OCTET_STRING, message_digest)),
    )


def write_signed_data(content: bytes, certificates: Sequence[bytes], value: bytes) -> bytes:
    """Return the ContentInfo of a SignedData with one RSA signature.

    Args:
        content: what `signed_content` returned.
        certificates: DER, the signer's first.
        value: the PKCS#1 v1.5 signature with SHA-256 over `attributes_to_sign(content)`.

    Raises:
        FormatError: no certificate, or one that is malformed.
    """
    if not certificates:
        raise FormatError("pe signature: expected the signer's certificate, got none")
    issuer, serial, _ = _names_of(certificates[0])
    attributes = read_only(attributes_to_sign(content)).content
    signer = write_sequence(
        write_integer(1),
        write_sequence(issuer, serial),
        _algorithm(_SHA256),
        write_element(_TAG_0, attributes),
        _algorithm(_RSA_ENCRYPTION),
        write_element(OCTET_STRING, value),
    )
    signed_data = write_sequence(
        write_integer(1),
        write_set(_algorithm(_SHA256)),
        write_sequence(write_object_identifier(_SPC_INDIRECT_DATA), write_element(_TAG_0, content)),
        write_element(_TAG_0, *certificates),
        write_set(signer),
    )
    return write_sequence(write_object_identifier(_SIGNED_DATA), write_element(_TAG_0, signed_data))


def attach_signature(image: bytes, signed_data: bytes) -> bytes:
    """Return the image with this signature as its only one.

    Raises:
        PeError: the image is malformed, signed, has no certificate directory, or would need padding before
            the signature, which the Authenticode digest would then cover.
    """
    pe = read_pe(image)
    directory = pe.certificate_directory
    if pe.certificate_table != (0, 0):
        raise PeError("pe: expected an unsigned image, got one with a certificate table")
    if directory is None:
        raise PeError("pe: expected a certificate table among the data directories, got none")
    if len(image) % ALIGNMENT:
        raise PeError(
            f"pe: expected a size that is a multiple of {ALIGNMENT}, got {len(image)} bytes",
            hint="padding would change the Authenticode digest; pad the image before it is measured",
        )
    entry = _ENTRY.pack(_ENTRY.size + len(signed_data), _REVISION, _PKCS_SIGNED_DATA) + signed_data
    table = entry + bytes(-len(entry) % ALIGNMENT)
    return _with_table(image + table, directory, pe.checksum_offset, (len(image), len(table)))


def remove_signatures(image: bytes) -> bytes:
    """Return the image without a certificate table; an unsigned one as it is.

    Raises:
        PeError: the image is malformed.
    """
    pe = read_pe(image)
    start, _ = pe.certificate_table
    if not start or pe.certificate_directory is None:
        return image
    return _with_table(image[:start], pe.certificate_directory, pe.checksum_offset, (0, 0))


def _with_table(image: bytes, directory: int, checksum: int, table: tuple[int, int]) -> bytes:
    output = bytearray(image)
    struct.pack_into("<II", output, directory, *table)
    struct.pack_into("<I", output, checksum, compute_checksum(bytes(output), checksum))
    return bytes(output)


def _table_entries(image: bytes | Source) -> Iterator[bytes]:
    """Yield what each WIN_CERTIFICATE of the table holds."""
    pe = read_boot_image(image)
    start, size = pe.certificate_table
    if size > MAX_TABLE:
        raise PeError(f"pe: certificate table: expected at most {MAX_TABLE} bytes, got {size}")
    table = pe.source.read(start, size)
    position = 0
    while position < size:
        if size - position < _ENTRY.size:
            raise PeError(f"pe: certificate table: cut off at {position}, it has {size} bytes")
        length, revision, kind = _ENTRY.unpack_from(table, position)
        if (revision, kind) != (_REVISION, _PKCS_SIGNED_DATA):
            raise PeError(
                f"pe: certificate table: expected PKCS signed data (revision 0x{_REVISION:04x}, type"
                f" {_PKCS_SIGNED_DATA}), got revision 0x{revision:04x}, type {kind}"
            )
        if not _ENTRY.size < length <= size - position:
            raise PeError(
                f"pe: certificate table: entry of {length} bytes at {position}, the table has {size}"
            )
        yield table[position + _ENTRY.size : position + length]
        position += length + -length % ALIGNMENT


def _read_signed_data(blob: bytes) -> ImageSignature:
    outer = read_first(blob)
    padding = blob[len(outer.encoded) :]
    if len(padding) >= ALIGNMENT or any(padding):
        raise FormatError(f"expected fewer than {ALIGNMENT} zero bytes after it, got {len(padding)}")
    kind, wrapped = _members(outer, 2, "ContentInfo")
    if read_object_identifier(kind) != _SIGNED_DATA:
        raise FormatError(f"expected SignedData, got {read_object_identifier(kind)}")
    fields = read_members(_unwrap(wrapped))
    if len(fields) < 4:  # version, algorithms, content, signers; certificates may be absent
        raise FormatError(f"SignedData: expected at least 4 fields, got {len(fields)}")
    content = _read_content(fields[2])
    certificates = _read_certificates(fields[3:-1])
    signers = read_members(require(fields[-1], SET, "the set of signers"))
    if len(signers) != 1:
        raise FormatError(f"expected one signer, got {len(signers)}")
    issuer, serial, signed, value = _read_signer(signers[0])
    return ImageSignature(_read_digest(content), _chain(certificates, issuer, serial), signed, value)


def _read_content(element: Element) -> Element:
    kind, wrapped = _members(element, 2, "the content")
    if read_object_identifier(kind) != _SPC_INDIRECT_DATA:
        raise FormatError(f"expected Authenticode content, got {read_object_identifier(kind)}")
    return require(_unwrap(wrapped), SEQUENCE, "SpcIndirectDataContent")


def _read_digest(content: Element) -> Digest:
    _, info = _members(content, 2, "SpcIndirectDataContent")
    algorithm, value = _members(info, 2, "DigestInfo")
    members = read_members(algorithm)
    name = read_object_identifier(members[0]) if members else ""
    if name not in _ALGORITHMS:
        raise FormatError(f"expected a known hash algorithm, got {name or 'nothing'}")
    octets = require(value, OCTET_STRING, "the digest").content
    if len(octets) != _ALGORITHMS[name].size:
        raise FormatError(
            f"expected {_ALGORITHMS[name].size} bytes of {_ALGORITHMS[name].value}, got {len(octets)}"
        )
    return Digest(_ALGORITHMS[name], octets)


def _read_certificates(optional: Sequence[Element]) -> tuple[bytes, ...]:
    """Return the certificates among the optional fields; revocation lists are passed over."""
    tags = [element.tag for element in optional]
    if tags not in ([], [_TAG_0], [_TAG_0, _TAG_1], [_TAG_1]):
        raise FormatError(f"SignedData: expected certificates and revocation lists, got identifiers {tags}")
    found = read_members(optional[0]) if _TAG_0 in tags else ()
    if len(found) > MAX_CERTIFICATES:
        raise FormatError(f"expected at most {MAX_CERTIFICATES} certificates, got {len(found)}")
    return tuple(element.encoded for element in found)


def _read_signer(signer: Element) -> tuple[bytes, bytes, bytes, bytes]:
    """Return issuer and serial number as they are encoded, what is signed, and the signature value."""
    fields = read_members(signer)
    if [element.tag for element in fields[:6]] != [
        INTEGER,
        SEQUENCE,
        SEQUENCE,
        _TAG_0,
        SEQUENCE,
        OCTET_STRING,
    ]:
        raise FormatError("SignerInfo: expected one with signed attributes, got other fields")
    issuer, serial = _members(fields[1], 2, "IssuerAndSerialNumber")
    # RFC 2315, 9.3: what is signed has the identifier of a SET, not the one it stands in the message with
    signed = write_element(SET, fields[3].content)
    return issuer.encoded, serial.encoded, signed, fields[5].content


def _chain(certificates: Sequence[bytes], issuer: bytes, serial: bytes) -> tuple[bytes, ...]:
    """Return the signer's certificate and those above it, as far as they are carried."""
    names = {certificate: _names_of(certificate) for certificate in certificates}
    found = [certificate for certificate in names if names[certificate][:2] == (issuer, serial)]
    if len(found) != 1:
        raise FormatError(f"expected the signer's certificate once, got {len(found)}")
    chain = found
    while above := [c for c in names if c not in chain and names[c][2] == names[chain[-1]][0]]:
        chain.append(above[0])
    return tuple(chain)


def _names_of(certificate: bytes) -> tuple[bytes, bytes, bytes]:
    """Return issuer, serial number and subject of a certificate, as they are encoded (RFC 5280, 4.1)."""
    signed = read_members(require(read_only(certificate), SEQUENCE, "a certificate"))
    fields = read_members(signed[0]) if signed else ()
    if fields and fields[0].tag == _TAG_0:  # the version, which version 1 certificates leave out
        fields = fields[1:]
    if len(fields) < 6:  # serial number, algorithm, issuer, validity, subject, key
        raise FormatError(f"certificate: expected at least 6 fields, got {len(fields)}")
    return fields[2].encoded, fields[0].encoded, fields[4].encoded


def _members(element: Element, count: int, what: str) -> tuple[Element, ...]:
    members = read_members(require(element, SEQUENCE, what))
    if len(members) != count:
        raise FormatError(f"{what}: expected {count} fields, got {len(members)}")
    return members


def _unwrap(element: Element) -> Element:
    members = read_members(require(element, _TAG_0, "an explicit [0]"))
    if len(members) != 1:
        raise FormatError(f"expected one value in [0], got {len(members)}")
    return members[0]


def _algorithm(identifier: str) -> bytes:
    return write_sequence(write_object_identifier(identifier), write_element(NULL))


def _attribute(identifier: str, value: bytes) -> bytes:
    return write_sequence(write_object_identifier(identifier), write_set(value))
