"""An Intel platform in Python: trust domain, quoting enclave, and Intel's service, written from their papers.

It shares no code with `blindbuild.formats`: a quote is bytes in a row. It signs whatever a test asks for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.fakes.authorities import Authority, make_root, pem_of

VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
MEASUREMENTS = {
    name: hashlib.sha384(name.encode()).digest() for name in ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")
}
FMSPC, PCE_ID, PCE_SVN = bytes.fromhex("00806f050000"), b"\0\0", 11
SGX_SVNS = (3, 3, 2, 2, 2, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
TDX_SVNS = (5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
QE_SVN = 6
_SGX = "1.2.840.113741.1.13.1"


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content


def oid(dotted: str) -> bytes:
    first, second, *others = (int(arc) for arc in dotted.split("."))
    encoded = bytes((40 * first + second,))
    for arc in others:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(digits))
    return tlv(6, encoded)


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pair(arc: str, value: bytes) -> bytes:
    return tlv(0x30, oid(f"{_SGX}{arc}") + value)


def sgx_extension(
    *,
    svns: tuple[int, ...] = SGX_SVNS,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    pce_svn: int = PCE_SVN,
    more: bytes = b"",
    left_out: str = "",
) -> tuple[str, bytes]:
    """The extension of a PCK certificate, with PPID and SGX type as real ones have."""
    tcb = [(f".2.{n + 1}", integer(svn)) for n, svn in enumerate(svns)]
    tcb += [(".2.17", integer(pce_svn)), (".2.18", tlv(4, bytes(svns)))]
    parts = [
        (".1", tlv(4, bytes(16))),
        (".2", tlv(0x30, b"".join(pair(*each) for each in tcb if each[0] != left_out))),
        (".3", tlv(4, pce_id)),
        (".4", tlv(4, fmspc)),
        (".5", tlv(0x0A, b"\1")),
    ]
    return _SGX, tlv(0x30, b"".join(pair(*each) for each in parts if each[0] != left_out) + more)


@dataclass(frozen=True)
class Intel:
    """The root, what is below it, and the keys that those certify."""

    root: Authority
    platform_authority: Authority
    platform_key: ec.EllipticCurvePrivateKey
    service_key: ec.EllipticCurvePrivateKey
    attestation_key: ec.EllipticCurvePrivateKey

    def platform_certificate(self, *extensions: tuple[str, bytes], **changes) -> bytes:
        key = self.platform_key.public_key()
        listed = list(extensions) or [sgx_extension()]
        return self.platform_authority.issue("Intel SGX PCK Certificate", key, listed, **changes)

    def chain(self, certificate: bytes | None = None) -> str:
        leaf = pem_of(certificate or self.platform_certificate())
        return leaf + self.platform_authority.pem + self.root.pem

    def service_chain(self, name: str = "Intel SGX TCB Signing", *extensions, **changes) -> bytes:
        leaf = self.root.issue(name, self.service_key.public_key(), list(extensions), **changes)
        return (pem_of(leaf) + self.root.pem).encode()


@functools.cache
def intel() -> Intel:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(5)]
    root = make_root("Intel SGX Root CA", keys[0], hashes.SHA256())
    return Intel(root, root.below("Intel SGX PCK Platform CA", keys[1]), keys[2], keys[3], keys[4])


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def enclave_report(
    report_data: bytes,
    *,
    misc: int = 0,
    attributes: bytes = b"\x15" + bytes(7) + b"\xe7" + bytes(7),
    signer: bytes = QE_SIGNER,
    product: int = 2,
    svn: int = QE_SVN,
) -> bytes:
    head = bytes(16) + struct.pack("<I", misc) + bytes(28) + attributes + b"m" * 32 + bytes(32) + signer
    return head + bytes(96) + struct.pack("<HH", product, svn) + bytes(60) + report_data.ljust(64, b"\0")


def td_report(
    report_data: bytes,
    *,
    later: bool = False,
    svns: tuple[int, ...] = TDX_SVNS,
    signer_seam: bytes = bytes(48),
    seam_attributes: bytes = bytes(8),
    attributes: int = 1 << 28,
    owners: bytes = bytes(3 * 48),
    service: bytes = bytes(48),
    **measurements: bytes,
) -> bytes:
    values = MEASUREMENTS | measurements
    body = bytes(svns) + b"s" * 48 + signer_seam + seam_attributes + struct.pack("<QQ", attributes, 0xE7)
    body += values["MRTD"] + owners + b"".join(values[f"RTMR{n}"] for n in range(4)) + report_data
    return body + (bytes(svns) + service if later else b"")


def quote(
    report: bytes,
    *,
    version: int = 4,
    vendor: bytes = VENDOR,
    key_type: int = 2,
    tee: int = 0x81,
    reserved: int = 0,
    kind: int | None = None,
    enclave: dict | None = None,
    bound: bytes | None = None,
    chain: bytes | None = None,
    certification: tuple[int, int] = (6, 5),
    attestation_key: bytes | None = None,
) -> bytes:
    """A quote over a TD report, signed by the attestation key; the platform vouches for that."""
    made = intel()
    signed = struct.pack("<HHII", version, key_type, tee, reserved) + vendor + bytes(20)
    if version == 5:
        signed += struct.pack("<HI", kind or {584: 2, 648: 3}[len(report)], len(report))
    signed += report
    key, extra = attestation_key or point(made.attestation_key), bytes(range(32))
    about = hashlib.sha256(key + extra).digest() if bound is None else bound
    enclave_said = enclave_report(about, **enclave or {})
    certificates = (made.chain() + "\0").encode() if chain is None else chain
    inner = enclave_said + sign(made.platform_key, enclave_said) + struct.pack("<H", len(extra)) + extra
    inner += struct.pack("<HI", certification[1], len(certificates)) + certificates
    outer = (
        sign(made.attestation_key, signed) + key + struct.pack("<HI", certification[0], len(inner)) + inner
    )
    return signed + struct.pack("<I", len(outer)) + outer


def components(svns: tuple[int, ...]) -> list[dict]:
    return [{"svn": svn, "category": "BIOS"} for svn in svns]


def level(status: str = "UpToDate", *, sgx=SGX_SVNS, tdx=TDX_SVNS, pce: int = PCE_SVN) -> dict:
    tcb = {"sgxtcbcomponents": components(sgx), "pcesvn": pce, "tdxtcbcomponents": components(tdx)}
    return {"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}


def svn_level(svn: int, status: str = "UpToDate") -> dict:
    return {"tcb": {"isvsvn": svn}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status}


def module(**changes) -> dict:
    return {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8} | changes


def tcb_info(**changes) -> dict:
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": "2026-09-01T00:00:00Z",
        "nextUpdate": "2026-10-01T00:00:00Z",
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": 18,
        "tdxModule": module(),
        "tdxModuleIdentities": [module(id="TDX_01", tcbLevels=[svn_level(5), svn_level(2, "OutOfDate")])],
        "tcbLevels": [level(), level("OutOfDate", pce=5, tdx=(0,) * 16)],
    } | changes


def qe_identity(**changes) -> dict:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-09-01T00:00:00Z",
        "nextUpdate": "2026-10-01T00:00:00Z",
        "tcbEvaluationDataNumber": 18,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [svn_level(QE_SVN), svn_level(4, "OutOfDate")],
    } | changes


def answer(name: str, value: dict, key=None) -> bytes:
    """What Intel's service answers: the object, and a signature over its bytes."""
    raw = json.dumps(value, separators=(",", ":")).encode()
    signature = sign(key or intel().service_key, raw)
    return b'{"%s":%s,"signature":"%s"}' % (name.encode(), raw, signature.hex().encode())
