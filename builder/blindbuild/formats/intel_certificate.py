"""The extension in the certificate of a platform's key (PCK): which platform, and how new its firmware is.

Source: Intel SGX PCK Certificate and CRL Profile Specification, 1.3.5 (SGX extensions).
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import unknown_extensions
from blindbuild.formats.der import (
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    Element,
    read_members,
    read_object_identifier,
    read_only,
    require,
)

SGX_EXTENSIONS = "1.2.840.113741.1.13.1"
_TCB, _PCE_ID, _FMSPC = (f"{SGX_EXTENSIONS}.{n}" for n in (2, 3, 4))
_COMPONENTS = tuple(f"{_TCB}.{n}" for n in range(1, 17))
_PCE_SVN, _CPU_SVN = f"{_TCB}.17", f"{_TCB}.18"


@dataclass(frozen=True, slots=True)
class PlatformTcb:
    """What Intel certified about a platform; nothing is verified.

    Attributes:
        fmspc: family, model, stepping, platform type and custom SKU: which collateral is about it.
        components: the 16 security versions of its firmware's parts.
        pce_svn: of the provisioning certification enclave.
    """

    fmspc: bytes
    pce_id: bytes
    components: bytes
    pce_svn: int


def read_platform_tcb(certificate: Certificate) -> PlatformTcb:
    """Read the SGX extensions of a PCK certificate.

    Raises:
        FormatError: no such extensions, one missing or twice, or one that is malformed.
    """
    extensions = unknown_extensions(certificate)
    if SGX_EXTENSIONS not in extensions:
        raise FormatError("PCK certificate: expected SGX extensions, got none")
    values = _read_pairs(read_only(extensions[SGX_EXTENSIONS]))
    tcb = _read_pairs(_find(values, _TCB))
    _octets(_find(tcb, _CPU_SVN), 16)
    return PlatformTcb(
        fmspc=_octets(_find(values, _FMSPC), 6),
        pce_id=_octets(_find(values, _PCE_ID), 2),
        components=bytes(_integer(_find(tcb, oid), 0xFF) for oid in _COMPONENTS),
        pce_svn=_integer(_find(tcb, _PCE_SVN), 0xFFFF),
    )


def _read_pairs(element: Element) -> dict[str, Element]:
    pairs: dict[str, Element] = {}
    for member in read_members(require(element, SEQUENCE, "a sequence")):
        parts = read_members(require(member, SEQUENCE, "a sequence"))
        if len(parts) != 2:
            raise FormatError("PCK certificate: expected pairs of identifier and value")
        oid = read_object_identifier(parts[0])
        if oid in pairs:
            raise FormatError(f"PCK certificate: expected {oid} once")
        pairs[oid] = parts[1]
    return pairs


def _find(values: dict[str, Element], oid: str) -> Element:
    if oid not in values:
        raise FormatError(f"PCK certificate: missing {oid}")
    return values[oid]


def _octets(element: Element, size: int) -> bytes:
    content = require(element, OCTET_STRING, "an octet string").content
    if len(content) != size:
        raise FormatError(f"PCK certificate: expected {size} octets, got {len(content)}")
    return content


def _integer(element: Element, maximum: int) -> int:
    content = require(element, INTEGER, "an integer").content
    value = int.from_bytes(content, "big")
    if value > maximum or content != value.to_bytes(value.bit_length() // 8 + 1, "big"):
        raise FormatError(f"PCK certificate: expected an integer up to {maximum}")
    return value
