"""The digest of a TPM policy that ties a key or secret to the values of registers.

Source: TPM 2.0 Library, part 3, 23.7 (TPM2_PolicyPCR) and part 2, 10.9.7 (TPML_PCR_SELECTION).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError

_COMMAND = 0x0000017F  # part 2, table 12: TPM_CC_PolicyPCR
_SELECT_BYTES = 3  # PC Client Platform TPM Profile 1.05, 3.6: 24 registers, a bit each
_REGISTERS = range(8 * _SELECT_BYTES)


def pcr_policy_digest(bank: HashAlgorithm, values: Mapping[int, Digest]) -> Digest:
    """Return the SHA-256 policy digest of a session in which nothing but TPM2_PolicyPCR was run.

    Args:
        bank: whose registers.
        values: what each register of the policy must hold, by its number.

    Raises:
        FormatError: no register, one that there is not, or a value of another algorithm.
    """
    if not values or any(register not in _REGISTERS for register in values):
        raise FormatError(f"policy: expected registers from 0 to 23, got {sorted(values)}")
    if any(value.algorithm is not bank for value in values.values()):
        raise FormatError(f"policy: expected {bank.value} values")
    bits = sum(1 << register for register in values)
    selection = struct.pack(">IHB", 1, bank.tpm_id, _SELECT_BYTES) + bits.to_bytes(_SELECT_BYTES, "little")
    # part 3, 23.7.1: values in the order of the selection; the policy digest begins as zeros
    held = hashlib.sha256(b"".join(values[register].value for register in sorted(values))).digest()
    return Digest.sha256(bytes(32) + struct.pack(">I", _COMMAND) + selection + held)
