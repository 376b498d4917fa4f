"""Predictions: only our errors for whatever image, and nothing that is measured goes unnoticed."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError, PeError
from blindbuild.measure.bank import extend_all
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.pcr09 import combine_initrds, initrd_parts, load_options
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.stub import NEWEST, OLDEST, parse_stub_magic, stub_rules
from blindbuild.measure.uki import measure_uki

SHA256 = HashAlgorithm.SHA256


@given(st.binary(max_size=400), st.booleans())
def test_whatever_bytes_give_only_our_errors(data: bytes, magic: bool) -> None:
    with contextlib.suppress(PeError, MeasureError):
        measure_uki(b"MZ" + data if magic else data, (SHA256,))
    with contextlib.suppress(MeasureError):
        parse_stub_magic(data)


@given(st.lists(st.binary(max_size=40)), st.lists(st.sampled_from(HashAlgorithm), min_size=1))
def test_one_pass_gives_the_same_as_hashing_each_bank_alone(
    parts: list[bytes], algorithms: list[HashAlgorithm]
) -> None:
    found = hash_in_banks(parts, algorithms)
    assert found == {algorithm: Digest.of(algorithm, b"".join(parts)) for algorithm in algorithms}


@given(st.binary(min_size=1, max_size=60), st.integers(OLDEST, NEWEST))
def test_load_options_never_hold_more_than_one_nul_and_no_control_characters(
    text: bytes, version: int
) -> None:
    try:
        options = load_options(text, stub_rules(version))
    except MeasureError:
        return
    decoded = options.decode("utf-16-le")
    assert decoded.endswith("\0")
    assert all(character >= " " for character in decoded[:-1])
    assert decoded[:-1] == (decoded[:-1].strip(" \x7f") if version >= 257 else decoded[:-1].rstrip(" "))


@given(
    st.dictionaries(
        st.sampled_from([".ucode", ".initrd", ".pcrsig", ".pcrpkey", ".osrel"]), st.binary(max_size=9)
    ),
    st.integers(OLDEST, NEWEST),
)
def test_every_initrd_but_a_single_one_starts_on_a_multiple_of_four(
    sections: dict[str, bytes], version: int
) -> None:
    parts = initrd_parts(sections, stub_rules(version))
    combined = b"".join(combine_initrds(parts))
    assert all(part in combined for part in parts)
    assert len(parts) < 2 or len(combined) % 4 == 0


@given(
    st.sets(st.sampled_from([".osrel", ".cmdline", ".initrd", ".sbat", ".uname"])),
    st.sampled_from([".linux", ".osrel", ".cmdline", ".initrd", ".sbat", ".uname"]),
)
def test_any_change_to_a_measured_section_changes_register_11(names: set[str], changed: str) -> None:
    rules = stub_rules(257)
    before = {name: {SHA256: Digest.zero(SHA256)} for name in {*names, ".linux"}}
    after = {**before, changed: {SHA256: Digest.ones(SHA256)}}
    values = [extend_all(11, predict_pcr11(sections, rules), SHA256) for sections in (before, after)]
    assert values[0] != values[1]
