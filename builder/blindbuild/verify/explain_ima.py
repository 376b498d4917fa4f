"""PCR 10 without an event: what a kernel with IMA leaves there, which can be computed.

The value itself is computed in `measure.pcr10`.
"""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.measure.pcr10 import REGISTER, ImaTemplate, predict_boot_aggregate
from blindbuild.verify.explain_view import Meaning

_ACTION = "boot a kernel without IMA, or leave PCR 10 out: it says nothing that PCR 0-9 do not say"


def say_ima(register: int, actual: Digest, values: Sequence[Digest]) -> Meaning | None:
    """Return what a value without an event means in PCR 10, None for another register.

    Args:
        register: the register's number.
        actual: its value.
        values: the values of all registers, in the same bank.
    """
    if register != REGISTER:
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
    registers = dict(enumerate(values))
    return {
        predict_boot_aggregate(
            registers, HashAlgorithm.SHA256, template=template, kernel_hashes=kernel_hashes
        )
        for template in ImaTemplate
        for kernel_hashes in (True, False)
    }
