"""TPM structures: round trips, and no input gives anything but our error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import TpmStructureError
from blindbuild.formats.tpm2 import (
    Algorithm,
    ClockInfo,
    EcdsaSignature,
    PcrSelection,
    Quote,
    RsaSignature,
    parse_quote,
    parse_signature,
)
from blindbuild.formats.tpmkey import (
    EccKey,
    PublicArea,
    RsaKey,
    Scheme,
    Symmetric,
    parse_public,
)

_U16, _U32, _U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_BYTES = st.binary(max_size=300)
_SCHEMES = st.builds(Scheme, st.sampled_from([0x0014, 0x0016, 0x0018, 0x0019]), _U16) | st.just(
    Scheme(Algorithm.NULL, None)
)
QUOTES = st.builds(
    Quote,
    qualified_signer=_BYTES,
    extra_data=_BYTES,
    clock=st.builds(ClockInfo, _U64, _U32, _U32, st.booleans()),
    firmware_version=_U64,
    selections=st.lists(st.builds(PcrSelection, _U16, st.binary(max_size=4)), max_size=16).map(tuple),
    pcr_digest=_BYTES,
)
SIGNATURES = st.builds(EcdsaSignature, _U16, _BYTES, _BYTES) | st.builds(
    RsaSignature, st.sampled_from([Algorithm.RSASSA, Algorithm.RSAPSS]), _U16, _BYTES
)
KEYS = st.builds(RsaKey, _U16, _U32, _BYTES) | st.builds(
    EccKey,
    _U16,
    st.builds(Scheme, st.sampled_from([0x0007, 0x0020]), _U16) | st.just(Scheme(Algorithm.NULL, None)),
    _BYTES,
    _BYTES,
)
AREAS = st.builds(
    PublicArea,
    _U16,
    _U32,
    _BYTES,
    st.none() | st.builds(Symmetric, st.just(int(Algorithm.AES)), _U16, _U16),
    _SCHEMES,
    KEYS,
)


@given(QUOTES)
def test_quotes_read_back(quote: Quote) -> None:
    assert parse_quote(quote.to_bytes()) == quote


@given(SIGNATURES)
def test_signatures_read_back(signature) -> None:
    assert parse_signature(signature.to_bytes()) == signature


@given(AREAS)
def test_public_areas_read_back(area: PublicArea) -> None:
    assert parse_public(area.to_bytes()) == area


@given(st.binary(max_size=400))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    for parse in (parse_quote, parse_signature, parse_public):
        try:
            assert parse(data).to_bytes() == data
        except TpmStructureError:
            continue
