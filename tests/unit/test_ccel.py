"""Logs of confidential guests: padding, register numbers, and what a replay makes of them."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.ccel import (
    MAX_AREA_BYTES,
    CcEventLog,
    parse_cc_event_log,
    replay_cc,
    write_cc_event_log,
)


def record(register: int, event_type: int, data: bytes, digest: bytes | None = None) -> bytes:
    """Write one record by hand (UEFI 2.10, 38.2; PFP 10.2.2), sha384 only."""
    value = hashlib.sha384(data).digest() if digest is None else digest
    head = struct.pack("<IIIH", register, event_type, 1, 0x0C)
    return head + value + struct.pack("<I", len(data)) + data


def spec_id(register: int = 1, vendor: bytes = b"") -> bytes:
    """Write the Spec ID event of edk2 (RTMR0) or td-shim (MRTD)."""
    data = b"Spec ID Event03\0" + bytes.fromhex("0000000000020002010000000c003000")
    data += bytes((len(vendor),)) + vendor
    return struct.pack("<II20sI", register, 3, b"", len(data)) + data


SEPARATOR = bytes(4)
EVENTS = (
    record(1, 0x8000000B, b"\x09TdxTable\0", b"\x07" * 48)
    + record(1, 4, SEPARATOR)
    + record(2, 0x80000007, b"Calling EFI Application from Boot Option")
    + record(3, 6, b"x")
)


@pytest.mark.parametrize(("fill", "count"), [(0xFF, 0), (0xFF, 5), (0xFF, 4000), (0, 1), (0, 4000)])
def test_padding_up_to_the_end_of_the_area_is_taken_and_written_back(fill: int, count: int) -> None:
    data = spec_id() + EVENTS + bytes((fill,)) * count
    log = parse_cc_event_log(data)
    assert len(log.log.events) == 4
    assert (log.padding_bytes, log.spec_register) == (count, 1)
    assert write_cc_event_log(log) == data


def test_the_spec_id_event_of_td_shim_names_register_0() -> None:
    data = spec_id(0, b"td-shim") + EVENTS
    log = parse_cc_event_log(data)
    assert log.log.spec is not None
    assert log.log.spec.vendor == b"td-shim"
    assert write_cc_event_log(log) == data


def test_a_replay_extends_the_registers_of_the_guest() -> None:
    replayed = replay_cc(parse_cc_event_log(spec_id() + EVENTS + b"\xff" * 40))
    rtmr0 = hashlib.sha384(bytes(48) + b"\x07" * 48).digest()
    rtmr0 = hashlib.sha384(rtmr0 + hashlib.sha384(SEPARATOR).digest()).digest()
    assert replayed.values[1].value == rtmr0
    assert replayed.values[3].value == hashlib.sha384(bytes(48) + hashlib.sha384(b"x").digest()).digest()
    assert replayed.values[4].value == bytes(48)
    assert replayed.touched == {1, 2, 3}


def test_an_event_that_is_not_extended_may_name_any_register() -> None:
    reference = record(0, 3, b"SP800-155 Event3", bytes(48))
    assert replay_cc(parse_cc_event_log(spec_id() + reference + EVENTS)).touched == {1, 2, 3}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expected 4 bytes for the register, got 0"),
        (spec_id(2) + EVENTS, "expected its Spec ID event in 0 or 1, got 2"),
        (struct.pack("<II20sI", 1, 4, b"", 4) + SEPARATOR, "expected a Spec ID event first"),
        (spec_id() + EVENTS + b"\xff" * 40 + b"\0", "expected ff up to the end"),
        (spec_id() + EVENTS + bytes(40) + b"\1", "expected 00 up to the end"),
        (spec_id() + EVENTS + b"\xff" * 12 + record(1, 4, SEPARATOR), "expected ff up to the end"),
        (spec_id() + EVENTS + b"\xff\xff\0\0", "expected 4 bytes for the event type, got 0"),
        (spec_id() + record(5, 4, SEPARATOR), "expected a register up to 4, got 5"),
        (spec_id() + record(0, 4, SEPARATOR), "MRTD is final"),
        (spec_id() + record(1, 3, b"", b"\1" * 48), "expected zero digests of an EV_NO_ACTION"),
        (spec_id() + bytes(MAX_AREA_BYTES), f"expected at most {MAX_AREA_BYTES} bytes"),
    ],
)
def test_what_is_no_such_log_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(EventLogError) as caught:
        parse_cc_event_log(data)
    assert reason in caught.value.message


def test_a_log_cut_anywhere_is_refused_or_loses_whole_events() -> None:
    data = spec_id() + EVENTS
    whole = parse_cc_event_log(data)
    accepted = 0
    for size in range(len(data)):
        try:
            log = parse_cc_event_log(data[:size])
        except EventLogError:
            continue
        accepted += 1
        events = log.log.events
        assert events == whole.log.events[: len(events)]
        assert len(events) < 4 or log.padding_bytes
    assert accepted >= 4  # the ends of records, and a few bytes of a record that are all zero


def test_flipped_bits_give_only_our_error() -> None:
    data = spec_id() + EVENTS + b"\xff" * 20
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            log = parse_cc_event_log(bytes(flipped))
            replay_cc(log, log.log.algorithms[0])
        except EventLogError:
            continue


def test_a_bank_that_the_log_does_not_have_is_refused() -> None:
    with pytest.raises(EventLogError, match="expected a log of sha256, got sha384"):
        replay_cc(parse_cc_event_log(spec_id() + EVENTS), HashAlgorithm.SHA256)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec_register": 3}, "expected a Spec ID event in 0 or 1"),
        ({"fill": 1}, "expected padding of ff or 00, got 01"),
        ({"padding_bytes": -1}, "expected padding"),
        ({"padding_bytes": MAX_AREA_BYTES}, "expected at most"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(change: dict[str, int], reason: str) -> None:
    log = parse_cc_event_log(spec_id() + EVENTS)
    with pytest.raises(EventLogError, match=reason):
        write_cc_event_log(CcEventLog(log.log, **change))
