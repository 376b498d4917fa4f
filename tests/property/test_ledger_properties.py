"""Ledgers of any rows: a state never lies about its checks, and damage raises our error or nothing."""

from __future__ import annotations

import json

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.errors import ManifestError
from blindbuild.manifest import ChannelState, parse_ledger
from tests.fakes.channels import closed_ledger, ledger_bytes

DATA = ledger_bytes(closed_ledger(2))
TEXT = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
CHECKS = st.fixed_dictionaries(
    {
        "name": TEXT,
        "sourceSha256": st.text("0123456789abcdef", min_size=64, max_size=64),
        "lookedAt": st.integers(0, 2),
        "findings": st.lists(TEXT, max_size=1),
    },
    optional={"notes": st.lists(TEXT, max_size=2)},
)
ROWS = st.fixed_dictionaries(
    {
        "number": st.integers(1, 40),
        "id": st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}", fullmatch=True),
        "claim": TEXT,
        "state": st.sampled_from([state.value for state in ChannelState]),
        "closable": st.just(True),
        "controls": st.lists(
            st.fixed_dictionaries(
                {"what": TEXT, "shownBy": st.lists(TEXT, max_size=1), "secondLayer": st.booleans()}
            ),
            max_size=2,
        ),
        "checks": st.lists(CHECKS, max_size=2),
    },
    optional={"why": st.lists(TEXT, max_size=2)},
)
LEDGERS = st.fixed_dictionaries(
    {
        "version": st.just(2),
        "name": st.just("hello"),
        "imageVersion": st.just("1.0.0"),
        "debug": st.booleans(),
        **{name: st.just([]) for name in ("waivers", "files", "programs")},
        **{name: st.just({}) for name in ("kernel", "habits")},
        "channels": st.lists(
            ROWS,
            min_size=1,
            max_size=4,
            unique_by=(lambda entry: entry["number"], lambda entry: entry["id"]),
        ),
    }
)


def borne_out(entry: dict) -> bool:
    found = any(check["findings"] for check in entry["checks"])
    looked = any(check["lookedAt"] for check in entry["checks"])
    return entry["state"] == "open" or not (found or (entry["state"] == "closed" and not looked))


@settings(deadline=None)
@given(LEDGERS)
def test_a_ledger_is_read_exactly_when_its_checks_bear_it_out(value: dict) -> None:
    try:
        ledger = parse_ledger(rfc8785.dumps(value))
    except ManifestError:
        assert not all(borne_out(entry) for entry in value["channels"])
        return
    assert all(borne_out(entry) for entry in value["channels"])
    assert [(c.identifier, c.state.value, list(c.why)) for c in ledger.channels] == [
        (entry["id"], entry["state"], entry.get("why", [])) for entry in value["channels"]
    ]


@settings(deadline=None)
@given(st.integers(0, len(DATA) - 1))
def test_a_ledger_cut_anywhere_is_refused(size: int) -> None:
    try:
        parse_ledger(DATA[:size])
    except ManifestError:
        return
    raise AssertionError(f"read after {size} of {len(DATA)} bytes")


@settings(deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_says_what_it_says(offset: int, bit: int) -> None:
    data = bytearray(DATA)
    data[offset] ^= 1 << bit
    try:
        ledger = parse_ledger(bytes(data))
    except ManifestError:
        return
    value = json.loads(bytes(data))
    assert [c.identifier for c in ledger.channels] == [entry["id"] for entry in value["channels"]]
    assert [c.state.value for c in ledger.channels] == [entry["state"] for entry in value["channels"]]
