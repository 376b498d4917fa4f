"""PCR 10: the one value that a kernel with IMA extends without a policy, from registers 0 to 9.

Source: Linux security/integrity/ima (ima_init.c, ima_add_boot_aggregate; ima_crypto.c,
ima_calc_boot_aggregate; ima_template_lib.c for the templates). The register says nothing that the others do
not; predicting it explains a value that has no event in the firmware's log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError

REGISTER = 10

_AGGREGATED = range(10)
_NAME = b"boot_aggregate\0"


class ImaTemplate(Enum):
    """The kernel's CONFIG_IMA_DEFAULT_TEMPLATE."""

    IMA_NG = "ima-ng"
    IMA_SIG = "ima-sig"


def predict_boot_aggregate(
    registers: Mapping[int, Digest],
    bank: HashAlgorithm,
    *,
    template: ImaTemplate = ImaTemplate.IMA_SIG,
    kernel_hashes: bool = True,
) -> Digest:
    """Return register 10 of one bank after a kernel with IMA and without a policy has started.

    Args:
        registers: the values of registers 0 to 9 in one bank, which is sha256 if the TPM has it.
        bank: the bank whose register 10 is wanted.
        template: the kernel's.
        kernel_hashes: whether the kernel can compute the bank's hash that early; if it cannot, as with sha384
            while that is a module, it extends the SHA-1 hash filled up with zeros.

    Raises:
        MeasureError: a register is missing, or they are of several banks.
    """
    missing = [register for register in _AGGREGATED if register not in registers]
    if missing:
        raise MeasureError(f"boot_aggregate: expected registers 0 to 9, got none for {missing}")
    values = [registers[register] for register in _AGGREGATED]
    algorithm = values[0].algorithm
    if any(value.algorithm is not algorithm for value in values):
        raise MeasureError("boot_aggregate: expected registers of one bank, got several")
    aggregate = hashlib.new(algorithm.value, b"".join(value.value for value in values)).digest()
    digest = _field(algorithm.value.encode() + b":\0" + aggregate)
    entry = digest + _field(_NAME) + (_field(b"") if template is ImaTemplate.IMA_SIG else b"")
    return Digest.zero(bank).extend(_extended(entry, bank, kernel_hashes))


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _extended(entry: bytes, bank: HashAlgorithm, kernel_hashes: bool) -> Digest:
    if kernel_hashes:
        return Digest.of(bank, entry)
    short = hashlib.sha1(entry, usedforsecurity=False).digest()
    return Digest(bank, short.ljust(bank.size, b"\0")[: bank.size])
