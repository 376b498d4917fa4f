"""A quote of Intel TDX, version 4 or 5, signed with ECDSA on P-256.

Source: Intel TDX DCAP Quoting Library API, A.3 (version 4) and A.4 (version 5): header, TD report bodies 1.0
and 1.5, signature data, certification data of types 5 and 6; Intel SDM vol. 3D, REPORTBODY (the quoting
enclave's report). Integers are little-endian; the numbers of keys and signatures are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import parse_pem_chain

MAX_QUOTE = 32 * 1024  # bytes; real quotes have 5 KiB, most of it certificates
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # A.3.1, "QE Vendor ID"
DEBUG_BITS = 0xFF  # TD attributes, TUD group: any of them takes the trust domain out of what is trusted

_HEADER = struct.Struct("<HHII16s20s")
_ECDSA_P256 = 2
_TEE_TDX = 0x81
_BODY_10 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_BODY_15_TAIL = struct.Struct("<16s48s")
_DESCRIPTOR = struct.Struct("<HI")
_BODY_TYPES = {2: _BODY_10.size, 3: _BODY_10.size + _BODY_15_TAIL.size}
_ENCLAVE = struct.Struct("<16sI28s16s32s32s32s96sHH60s64s")
_CERTIFICATION = struct.Struct("<HI")
_QE_REPORT, _PCK_CHAIN = 6, 5  # types of certification data
_HALVES = 64  # bytes of a P-256 signature, and of a key


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the processor says about a trust domain; `service` is MRSERVICETD, None before TDX 1.5.

    Attributes:
        tcb_svn: TEE_TCB_SVN: of the TDX module when the trust domain was made.
        attributes: TD attributes, as bits.
        rtmrs: RTMR0 to RTMR3.
    """

    tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    service: bytes | None


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """What the processor says about the quoting enclave; `raw` is what the platform's key signed."""

    misc_select: int
    attributes: bytes
    mr_signer: bytes
    product: int
    svn: int
    report_data: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """A quote whose every byte was read; none of its signatures is verified.

    Attributes:
        vendor: of the quoting enclave.
        signed: header and body, which the attestation key signed.
        signature: r and s.
        attestation_key: x and y.
        qe_signature: r and s by the platform's certified key (PCK) over the quoting enclave's report.
        authentication: what the quoting enclave adds to the attestation key.
        chain: the PCK's certificate first, the root last.
    """

    version: int
    vendor: bytes
    report: TdReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    quoting_enclave: EnclaveReport
    qe_signature: bytes
    authentication: bytes
    chain: tuple[Certificate, ...]


class _Cursor:
    """Takes bytes off the front, and knows whether some are left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise FormatError(
                f"TDX quote: cut off: expected {size} bytes at {self.position}, got {len(self._data)} in all"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def finish(self, what: str) -> None:
        if self.position != len(self._data):
            raise FormatError(f"TDX quote: expected {self.position} bytes of {what}, got {len(self._data)}")


def parse_tdx_quote(data: bytes) -> TdxQuote:
    """Parse a quote.

    Raises:
        FormatError: too large, cut off, another version or kind of key, reserved bytes that are not zero,
            lengths that disagree, or bytes left over.
    """
    if len(data) > MAX_QUOTE:
        raise FormatError(f"TDX quote: expected at most {MAX_QUOTE} bytes, got {len(data)}")
    quote = _Cursor(data)
    version, vendor = _read_header(quote.take(_HEADER.size))
    report = _read_report(quote, version)
    signed = data[: quote.position]
    authentication = _Cursor(quote.take(int.from_bytes(quote.take(4), "little")))
    quote.finish("the quote")
    signature, key = authentication.take(_HALVES), authentication.take(_HALVES)
    certified = _Cursor(_take_certification(authentication, _QE_REPORT))
    authentication.finish("signature data")
    enclave, qe_signature = _read_enclave(certified.take(_ENCLAVE.size)), certified.take(_HALVES)
    extra = certified.take(int.from_bytes(certified.take(2), "little"))
    chain = _read_chain(_take_certification(certified, _PCK_CHAIN))
    certified.finish("certification data")
    return TdxQuote(
        version=version,
        vendor=vendor,
        report=report,
        signed=signed,
        signature=signature,
        attestation_key=key,
        quoting_enclave=enclave,
        qe_signature=qe_signature,
        authentication=extra,
        chain=chain,
    )


def trim_quote(data: bytes) -> bytes:
    """Return the quote at the start of a buffer; what follows it must be zeros, as some guests hand it out.

    Raises:
        FormatError: cut off, another version, or something else follows.
    """
    quote = _Cursor(data)
    version, _vendor = _read_header(quote.take(_HEADER.size))
    _read_report(quote, version)
    quote.take(int.from_bytes(quote.take(4), "little"))
    if any(data[quote.position :]):
        raise FormatError(f"TDX quote: expected only zeros after its {quote.position} bytes")
    return data[: quote.position]


def _read_header(data: bytes) -> tuple[int, bytes]:
    version, key_type, tee, reserved, vendor, _user_data = _HEADER.unpack(data)
    if version not in (4, 5):
        raise FormatError(f"TDX quote: expected version 4 or 5, got {version}")
    if key_type != _ECDSA_P256:
        raise FormatError(f"TDX quote: expected an ECDSA key on P-256 (2), got type {key_type}")
    if tee != _TEE_TDX:
        raise FormatError(f"TDX quote: expected TEE type 0x{_TEE_TDX:x}, got 0x{tee:x}")
    if reserved:
        raise FormatError("TDX quote: expected zeros in the reserved bytes of the header")
    return version, vendor


def _read_report(quote: _Cursor, version: int) -> TdReport:
    kind = 2
    if version == 5:
        kind, size = _DESCRIPTOR.unpack(quote.take(_DESCRIPTOR.size))
        if _BODY_TYPES.get(kind) != size:
            raise FormatError(f"TDX quote: expected a TD report of 1.0 or 1.5, got type {kind}, {size} bytes")
    fields = _BODY_10.unpack(quote.take(_BODY_10.size))
    service = None
    if kind == 3:
        # TEE_TCB_SVN_2 is of the module that runs now; it may only be newer
        _svn2, service = _BODY_15_TAIL.unpack(quote.take(_BODY_15_TAIL.size))
    return TdReport(
        tcb_svn=fields[0],
        mr_seam=fields[1],
        mr_signer_seam=fields[2],
        seam_attributes=fields[3],
        attributes=int.from_bytes(fields[4], "little"),
        xfam=int.from_bytes(fields[5], "little"),
        mr_td=fields[6],
        mr_config_id=fields[7],
        mr_owner=fields[8],
        mr_owner_config=fields[9],
        rtmrs=(fields[10], fields[11], fields[12], fields[13]),
        report_data=fields[14],
        service=service,
    )


def _take_certification(data: _Cursor, expected: int) -> bytes:
    kind, size = _CERTIFICATION.unpack(data.take(_CERTIFICATION.size))
    if kind != expected:
        raise FormatError(f"TDX quote: expected certification data of type {expected}, got {kind}")
    return data.take(size)


def _read_enclave(data: bytes) -> EnclaveReport:
    fields = _ENCLAVE.unpack(data)
    _svn, misc, gap, attributes, _enclave, gap2, signer, gap3, product, svn, gap4, report_data = fields
    if any(gap + gap2 + gap3 + gap4):
        raise FormatError("TDX quote: expected zeros in the reserved bytes of the quoting enclave's report")
    return EnclaveReport(misc, attributes, signer, product, svn, report_data, data)


def _read_chain(data: bytes) -> tuple[Certificate, ...]:
    text = data.removesuffix(b"\0")  # the quoting library counts the C string's end
    try:
        return parse_pem_chain(text.decode("ascii"))
    except UnicodeDecodeError as error:
        raise FormatError("TDX quote: expected certificates in PEM") from error
