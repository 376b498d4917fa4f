"""init's SHA-256 against hashlib; it decides whether the unpacked tree is the listed one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.guest_init import harness


@pytest.mark.parametrize("size", [0, 1, 3, 55, 56, 57, 63, 64, 65, 111, 112, 119, 120, 127, 128, 1000, 70000])
def test_the_digest_is_hashlibs_at_every_padding_length(size: int) -> None:
    data = bytes(index * 7 % 251 for index in range(size))
    assert harness("sha256").ask(b"\xff" + data) == hashlib.sha256(data).digest()


@settings(deadline=None)
@given(data=st.binary(max_size=400), step=st.integers(1, 255))
def test_the_digest_does_not_depend_on_how_the_data_is_cut(data: bytes, step: int) -> None:
    assert harness("sha256").ask(bytes([step]) + data) == hashlib.sha256(data).digest()
