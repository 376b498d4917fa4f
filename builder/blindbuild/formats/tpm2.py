"""TPM 2.0 structures that cross the wire: attestations, selections and signatures.

All of them are big-endian; a TPM2B is a u16 size and that many bytes. Every parser uses up its input, and
each structure writes back to the bytes it was read from.

Source: TPM 2.0 Library, Part 2 (structures), revision 1.59; public areas are in `tpmkey`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from blindbuild.errors import TpmStructureError

TPM_GENERATED_VALUE = 0xFF544347  # Part 2, 6.2: a TPM signs nothing external that starts so
TPM_ST_ATTEST_QUOTE = 0x8018  # Part 2, 6.9
MAX_STRUCTURE = 4096  # bytes; larger than any TPM's command buffer
MAX_CERTIFICATE = 8192  # bytes; NV indices of real TPMs hold at most 4096
MAX_CRL = 4 << 20  # bytes; TPM makers' revocation lists have a few KiB
MAX_SELECTIONS = 16  # Part 2, 10.9.7: HASH_COUNT of the largest TPMs is below this
MAX_SELECT_SIZE = 4  # bytes; Part 2, 10.5: 3 for the 24 registers of a PC, 4 is the most ever implemented


class Algorithm(IntEnum):
    """TPM_ALG_ID (TCG Algorithm Registry)."""

    RSA = 0x0001
    AES = 0x0006
    NULL = 0x0010
    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECC = 0x0023
    CFB = 0x0043


class StructureReader:
    """Big-endian reads that never run past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE:
            raise TpmStructureError(f"{what}: expected at most {MAX_STRUCTURE} bytes, got {len(data)}")
        self._data = data
        self._what = what
        self._offset = 0

    def take(self, size: int, field: str) -> bytes:
        end = self._offset + size
        if end > len(self._data):
            raise TpmStructureError(
                f"{self._what}: expected {size} bytes of {field} at byte {self._offset}, "
                f"got {len(self._data) - self._offset}"
            )
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def integer(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "big")

    def sized(self, field: str) -> bytes:
        return self.take(self.integer(2, f"size of {field}"), field)

    def finish(self) -> None:
        left = len(self._data) - self._offset
        if left:
            raise TpmStructureError(f"{self._what}: expected the end at byte {self._offset}, got {left} more")

    def fail(self, message: str) -> TpmStructureError:
        return TpmStructureError(f"{self._what}: {message}")


def write_sized(data: bytes) -> bytes:
    """Return a TPM2B: u16 size, then the bytes."""
    return struct.pack(">H", len(data)) + data


def read_sized(data: bytes, what: str) -> bytes:
    """Return what a TPM2B holds, when it is all there is."""
    reader = StructureReader(data, what)
    content = reader.sized(what)
    reader.finish()
    return content


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """TPMS_PCR_SELECTION: a bank (TPM_ALG_ID) and a bit map of registers (Part 2, 10.6.2)."""

    bank: int
    bitmap: bytes

    @property
    def registers(self) -> frozenset[int]:
        """The registers whose bits are set."""
        return frozenset(i for i in range(8 * len(self.bitmap)) if self.bitmap[i // 8] >> (i % 8) & 1)


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO (Part 2, 10.11.1); `clock` in milliseconds."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class Quote:
    """TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE (Part 2, 10.12.12 and 10.12.4)."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes

    def to_bytes(self) -> bytes:
        """Return the structure as a TPM signs it."""
        head = struct.pack(">IH", TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE)
        clock = self.clock
        middle = struct.pack(">QIIB", clock.clock, clock.reset_count, clock.restart_count, clock.safe)
        selections = b"".join(
            struct.pack(">HB", selection.bank, len(selection.bitmap)) + selection.bitmap
            for selection in self.selections
        )
        return b"".join(
            (
                head,
                write_sized(self.qualified_signer),
                write_sized(self.extra_data),
                middle,
                struct.pack(">QI", self.firmware_version, len(self.selections)),
                selections,
                write_sized(self.pcr_digest),
            )
        )


def attest_magic_and_type(data: bytes) -> tuple[int, int]:
    """Return the first two fields of a TPMS_ATTEST, so that each can be judged by its own rule."""
    reader = StructureReader(data, "attest")
    return reader.integer(4, "magic"), reader.integer(2, "type")


def parse_quote(data: bytes) -> Quote:
    """Parse a TPMS_ATTEST that is a quote.

    Raises:
        TpmStructureError: another magic or type, a size that does not fit, or bytes left over.
    """
    reader = StructureReader(data, "quote")
    magic, attest_type = reader.integer(4, "magic"), reader.integer(2, "type")
    if magic != TPM_GENERATED_VALUE:
        raise reader.fail(f"expected magic 0x{TPM_GENERATED_VALUE:08x}, got 0x{magic:08x}")
    if attest_type != TPM_ST_ATTEST_QUOTE:
        raise reader.fail(f"expected type 0x{TPM_ST_ATTEST_QUOTE:04x}, got 0x{attest_type:04x}")
    quote = Quote(
        qualified_signer=reader.sized("qualifiedSigner"),
        extra_data=reader.sized("extraData"),
        clock=_clock_info(reader),
        firmware_version=reader.integer(8, "firmwareVersion"),
        selections=_selections(reader),
        pcr_digest=reader.sized("pcrDigest"),
    )
    reader.finish()
    return quote


def _clock_info(reader: StructureReader) -> ClockInfo:
    clock = reader.integer(8, "clock")
    resets, restarts = reader.integer(4, "resetCount"), reader.integer(4, "restartCount")
    safe = reader.integer(1, "safe")
    if safe not in (0, 1):  # Part 2, 9.2: TPMI_YES_NO
        raise reader.fail(f"safe: expected 0 or 1, got {safe}")
    return ClockInfo(clock, resets, restarts, bool(safe))


def _selections(reader: StructureReader) -> tuple[PcrSelection, ...]:
    count = reader.integer(4, "selection count")
    if count > MAX_SELECTIONS:
        raise reader.fail(f"expected at most {MAX_SELECTIONS} selections, got {count}")
    return tuple(_selection(reader) for _ in range(count))


def _selection(reader: StructureReader) -> PcrSelection:
    bank, size = reader.integer(2, "selection bank"), reader.integer(1, "sizeofSelect")
    if size > MAX_SELECT_SIZE:
        raise reader.fail(f"sizeofSelect: expected at most {MAX_SELECT_SIZE}, got {size}")
    return PcrSelection(bank, reader.take(size, "selection"))


@dataclass(frozen=True, slots=True)
class EcdsaSignature:
    """TPMT_SIGNATURE of scheme ECDSA (Part 2, 11.3.2): hash (TPM_ALG_ID), r and s as unsigned integers."""

    hash_id: int
    r: bytes
    s: bytes

    def to_bytes(self) -> bytes:
        """Return the TPMT_SIGNATURE."""
        return struct.pack(">HH", Algorithm.ECDSA, self.hash_id) + write_sized(self.r) + write_sized(self.s)


@dataclass(frozen=True, slots=True)
class RsaSignature:
    """TPMT_SIGNATURE of scheme RSASSA or RSAPSS (Part 2, 11.3.1)."""

    scheme: Algorithm
    hash_id: int
    value: bytes

    def to_bytes(self) -> bytes:
        """Return the TPMT_SIGNATURE."""
        return struct.pack(">HH", self.scheme, self.hash_id) + write_sized(self.value)


TpmSignature = EcdsaSignature | RsaSignature


def signature_scheme(data: bytes) -> tuple[int, int]:
    """Return scheme and hash of a TPMT_SIGNATURE, so that they can be judged before the rest is read."""
    reader = StructureReader(data, "signature")
    return reader.integer(2, "sigAlg"), reader.integer(2, "hash")


def parse_signature(data: bytes) -> TpmSignature:
    """Parse a TPMT_SIGNATURE of scheme ECDSA, RSASSA or RSAPSS.

    Raises:
        TpmStructureError: another scheme, a size that does not fit, or bytes left over.
    """
    reader = StructureReader(data, "signature")
    scheme, hash_id = reader.integer(2, "sigAlg"), reader.integer(2, "hash")
    signature: TpmSignature
    if scheme == Algorithm.ECDSA:
        signature = EcdsaSignature(hash_id, reader.sized("signatureR"), reader.sized("signatureS"))
    elif scheme in (Algorithm.RSASSA, Algorithm.RSAPSS):
        signature = RsaSignature(Algorithm(scheme), hash_id, reader.sized("sig"))
    else:
        raise reader.fail(f"expected ECDSA, RSASSA or RSAPSS, got 0x{scheme:04x}")
    reader.finish()
    return signature
