"""PCR 10 without an event: what a kernel with IMA leaves there, which can be computed.

Source: Linux security/integrity/ima/ima_init.c (ima_add_boot_aggregate) and ima_crypto.c: the aggregate is
SHA-256 over PCR 0-9 of the sha256 bank, logged by template ima-ng or ima-sig; compared with 17 boots.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.verify.explain_view import Meaning

IMA_REGISTER = 10
_AGGREGATED = range(10)
_NAME = b"boot_aggregate\0"
_ACTION = "boot a kernel without IMA, or leave PCR 10 out: it says nothing that PCR 0-9 do not say"


def say_ima(register: int, actual: Digest, values: Sequence[Digest]) -> Meaning | None:
    """Return what a value without an event means in PCR 10, None for another register.

    Args:
        register: the register's number.
        actual: its value.
        values: the values of all registers, in the same bank.
    """
    if register != IMA_REGISTER:
        return None
    if actual.algorithm is HashAlgorithm.SHA256 and actual in _aggregates(values):
        return Meaning(
            "PCR 10 has a value and no event: the kernel has IMA; it is exactly the boot aggregate of PCR "
            "0-9",
            _ACTION,
        )
    return Meaning(
        "PCR 10 has a value and no event: the kernel has IMA, which logs elsewhere (files it measured, or an "
        "aggregate of another bank)",
        _ACTION,
    )


def _aggregates(values: Sequence[Digest]) -> set[Digest]:
    """Return what PCR 10 may hold after the boot aggregate alone, in the sha256 bank."""
    joined = b"".join(values[register].value for register in _AGGREGATED)
    entry = b"sha256:\0" + hashlib.sha256(joined).digest()
    template = struct.pack("<I", len(entry)) + entry + struct.pack("<I", len(_NAME)) + _NAME
    # ima-ng ends there, ima-sig has an empty signature
    return {
        Digest.zero(HashAlgorithm.SHA256).extend(Digest.sha256(data))
        for data in (template, template + struct.pack("<I", 0))
    }
