"""The boot_aggregate of IMA, put together by hand from Linux' templates."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.measure.pcr10 import ImaTemplate, predict_boot_aggregate

SHA1, SHA256, SHA384 = HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384
REGISTERS = {number: Digest(SHA256, bytes([number]) * 32) for number in range(24)}
AGGREGATE = hashlib.sha256(b"".join(bytes([number]) * 32 for number in range(10))).digest()
NG = struct.pack("<I", 40) + b"sha256:\0" + AGGREGATE + struct.pack("<I", 15) + b"boot_aggregate\0"
SIG = NG + bytes(4)


@pytest.mark.parametrize(("template", "entry"), [(ImaTemplate.IMA_NG, NG), (ImaTemplate.IMA_SIG, SIG)])
def test_the_template_is_extended_into_each_bank(template: ImaTemplate, entry: bytes) -> None:
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(entry).digest()).digest()
    assert predict_boot_aggregate(REGISTERS, SHA256, template=template).value == expected


def test_a_bank_that_the_kernel_cannot_hash_gets_a_padded_sha1() -> None:
    extended = hashlib.sha1(SIG, usedforsecurity=False).digest() + bytes(28)
    expected = hashlib.sha384(bytes(48) + extended).digest()
    assert predict_boot_aggregate(REGISTERS, SHA384, kernel_hashes=False).value == expected
    assert predict_boot_aggregate(REGISTERS, SHA1, kernel_hashes=False) == predict_boot_aggregate(
        REGISTERS, SHA1
    )


def test_registers_that_are_missing_or_of_several_banks_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"expected registers 0 to 9, got none for \[0, 7\]"):
        predict_boot_aggregate({n: d for n, d in REGISTERS.items() if n not in (0, 7)}, SHA256)
    with pytest.raises(MeasureError, match="expected registers of one bank, got several"):
        predict_boot_aggregate({**REGISTERS, 3: Digest.zero(SHA1)}, SHA256)
