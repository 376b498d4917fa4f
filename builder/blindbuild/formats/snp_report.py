"""The attestation report of AMD SEV-SNP, as the secure processor writes it.

Source: AMD, SEV Secure Nested Paging Firmware ABI Specification (56860), revision 1.58: the tables
ATTESTATION_REPORT (versions 2, 3 and 5), TCB_VERSION, guest policy and PLATFORM_INFO, and the signature
format for ECDSA P-384 with SHA-384. All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from blindbuild.errors import FormatError

REPORT_SIZE = 0x4A0  # bytes
SIGNED_SIZE = 0x2A0  # bytes that the signature covers: all before it
VERSIONS = (2, 3, 5)  # those whose layout is published
REPORT_DATA_SIZE = 64  # bytes
HOST_REQUESTED = 0xFFFFFFFF  # VMPL of a report that the host asked for, not the guest

POLICY_SMT = 1 << 16
POLICY_MIGRATION_AGENT = 1 << 18
POLICY_DEBUG = 1 << 19
_POLICY_ONE = 1 << 17  # reserved, must be one
_POLICY_BITS = {2: 25, 3: 25, 5: 26}  # bits from here on are reserved; 25 (PAGE_SWAP_DISABLE) is new in 5

PLATFORM_ALIAS_CHECK = 1 << 5
# bit 5 (alias check) is new in 3, bits 6 and 7 in 5 (IOMMU_WRITE_SAFE, which Turin sets, and SEV-TIO)
_PLATFORM_BITS = {2: 0x1F, 3: 0x3F, 5: 0xFF}

_ECDSA_P384_SHA384 = 1
_NUMBER_SIZE = 72  # bytes of r and of s; a P-384 number has 48
_P384_SIZE = 48
_HEAD = struct.Struct("<IIQ16s16sII8sQI4s64s48s32s48s48s32s32s8s")
_TAIL = struct.Struct("<64s8s3ss3ss8s")
_TAIL_AT = 0x1A0
_FMS_AT = 0x188


class SigningKey(IntEnum):
    """Which of the processor's keys signed."""

    VCEK = 0
    VLEK = 1


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security versions of the firmware's parts; `fmc` is None where there is none (before Turin)."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def reaches(self, minimum: TcbVersion) -> bool:
        """Return whether every part is at least that of `minimum`, and the parts are the same ones."""
        if (self.fmc is None) != (minimum.fmc is None):
            return False
        return all(have >= want for have, want in zip(self._parts(), minimum._parts(), strict=True))

    def _parts(self) -> tuple[int, ...]:
        return (self.bootloader, self.tee, self.snp, self.microcode, self.fmc or 0)

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return (
            f"{fmc}boot loader {self.bootloader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
        )


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A report whose every byte was read; its signature is not verified.

    Attributes:
        policy: the guest policy, as bits.
        vmpl: the privilege level that asked; `HOST_REQUESTED` if it was none.
        tcbs: current, reported, committed and launch TCB as 8 bytes each; their layout is the product's.
        cpu: family, model and stepping, or None in version 2.
        chip_id: zeros when the host masks it.
        r, s: the signature.
        signed: the bytes that it is over.
    """

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    platform_info: int
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    tcbs: dict[str, bytes]
    cpu: tuple[int, int, int] | None
    chip_id: bytes
    r: int
    s: int
    signed: bytes


def parse_snp_report(data: bytes) -> SnpReport:
    """Parse a report.

    Raises:
        FormatError: another length, version or signature algorithm, or a reserved byte or bit that is not
            what it must be.
    """
    if len(data) != REPORT_SIZE:
        raise FormatError(f"SNP report: expected {REPORT_SIZE} bytes, got {len(data)}")
    head = _HEAD.unpack_from(data)
    version, svn, policy, _family, _image, vmpl, algorithm, current, platform, key, reserved = head[:11]
    report_data, measurement, host_data, id_key, author_key, _report_id, _agent, reported = head[11:]
    if version not in VERSIONS:
        raise FormatError(f"SNP report: expected version {', '.join(map(str, VERSIONS))}, got {version}")
    if algorithm != _ECDSA_P384_SHA384:
        raise FormatError(f"SNP report: expected signature algorithm {_ECDSA_P384_SHA384}, got {algorithm}")
    _check_bits(version, policy, platform)
    _require_zero(reserved, 0x4C)
    if vmpl > 3 and vmpl != HOST_REQUESTED:
        raise FormatError(f"SNP report: expected VMPL 0 to 3, got {vmpl}")
    chip_id, committed, _now, gap, _commit, second_gap, launch = _TAIL.unpack_from(data, _TAIL_AT)
    _require_zero(gap, 0x1EB)
    _require_zero(second_gap, 0x1EF)
    cpu = _read_cpu(data, version)
    end = 0x208 if version >= 5 else 0x1F8  # of the fields: version 5 has two vectors of mitigations more
    _require_zero(data[end:SIGNED_SIZE], end)
    r, s = _read_signature(data[SIGNED_SIZE:])
    return SnpReport(
        version=version,
        guest_svn=svn,
        policy=policy,
        vmpl=vmpl,
        platform_info=platform,
        signing_key=_read_key(key, author_key),
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        tcbs={"current": current, "reported": reported, "committed": committed, "launch": launch},
        cpu=cpu,
        chip_id=chip_id,
        r=r,
        s=s,
        signed=data[:SIGNED_SIZE],
    )


def read_tcb(data: bytes, *, with_fmc: bool) -> TcbVersion:
    """Read the eight bytes of a TCB_VERSION.

    Args:
        data: as in a report.
        with_fmc: the layout since Turin, which begins with the FMC's version.

    Raises:
        FormatError: another length, or reserved bytes that are not zero.

    Source: 56860, the two layouts of TCB_VERSION.
    """
    if len(data) != 8:
        raise FormatError(f"TCB version: expected 8 bytes, got {len(data)}")
    if any(data[4:7] if with_fmc else data[2:6]):
        raise FormatError("TCB version: expected zeros in its reserved bytes")
    if with_fmc:
        return TcbVersion(data[1], data[2], data[3], data[7], fmc=data[0])
    return TcbVersion(data[0], data[1], data[6], data[7])


def _check_bits(version: int, policy: int, platform: int) -> None:
    if not policy & _POLICY_ONE:
        raise FormatError("SNP report: expected bit 17 of the guest policy to be one")
    if policy >> _POLICY_BITS[version]:
        raise FormatError(
            f"SNP report: expected a guest policy of {_POLICY_BITS[version]} bits, got 0x{policy:x}"
        )
    if platform & ~_PLATFORM_BITS[version]:
        raise FormatError(
            f"SNP report: expected platform information within 0x{_PLATFORM_BITS[version]:x}, "
            f"got 0x{platform:x}"
        )


def _read_key(bits: int, author_key: bytes) -> SigningKey:
    if bits >> 5:
        raise FormatError(f"SNP report: expected five bits about the signing key, got 0x{bits:x}")
    if not bits & 1 and any(author_key):
        raise FormatError("SNP report: expected no author key where none is enabled")
    number = bits >> 2 & 7
    if number not in list(SigningKey):
        raise FormatError(f"SNP report: expected a signature by VCEK or VLEK, got key {number}")
    return SigningKey(number)


def _read_cpu(data: bytes, version: int) -> tuple[int, int, int] | None:
    start = _FMS_AT + (3 if version >= 3 else 0)
    _require_zero(data[start:_TAIL_AT], start)
    return (data[_FMS_AT], data[_FMS_AT + 1], data[_FMS_AT + 2]) if version >= 3 else None


def _read_signature(data: bytes) -> tuple[int, int]:
    halves = data[:_NUMBER_SIZE], data[_NUMBER_SIZE : 2 * _NUMBER_SIZE]
    for half in halves:
        if any(half[_P384_SIZE:]):
            raise FormatError(f"SNP report: expected numbers of {_P384_SIZE} bytes in the signature")
    _require_zero(data[2 * _NUMBER_SIZE :], SIGNED_SIZE + 2 * _NUMBER_SIZE)
    r, s = (int.from_bytes(half, "little") for half in halves)
    return r, s


def _require_zero(data: bytes, where: int) -> None:
    if any(data):
        raise FormatError(f"SNP report: expected zeros in the reserved bytes from 0x{where:x}")
