"""The canonical event log: both encodings, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.cel import (
    CelLog,
    cel_from_log,
    log_from_cel,
    parse_cel_json,
    parse_cel_tlv,
    write_cel_json,
    write_cel_tlv,
)
from blindbuild.formats.tcglog import LogEvent, parse_event_log, replay, write_event_log
from tests.fakes.published import honest_boot, log_bytes

SHA1, SHA256 = HashAlgorithm.SHA1, HashAlgorithm.SHA256
GOLDEN = Path(__file__).parents[1] / "golden" / "boots"


def tlv(kind: int, value: bytes) -> bytes:
    """Write one TLV by hand (CEL 1.0, 5.1)."""
    return bytes((kind,)) + len(value).to_bytes(4, "big") + value


def tlv_record(
    number: int, register: int, data: bytes, *, sizes: tuple[int, int] = (8, 4), kind: int = 4
) -> bytes:
    """Write one pcclient_std record by hand, with a sha256 digest."""
    return (
        tlv(0, number.to_bytes(sizes[0], "big"))
        + tlv(1, register.to_bytes(sizes[1], "big"))
        + tlv(3, tlv(0x0B, hashlib.sha256(data).digest()))
        + tlv(5, tlv(0, kind.to_bytes(4, "big")) + tlv(1, data))
    )


def test_records_in_tlv_are_taken_apart() -> None:
    cel = parse_cel_tlv(tlv_record(0, 7, bytes(4)) + tlv_record(1, 4, b"xy", kind=0x80000007))
    assert cel == CelLog(
        (
            LogEvent(7, 4, {SHA256: Digest.sha256(bytes(4))}, bytes(4)),
            LogEvent(4, 0x80000007, {SHA256: Digest.sha256(b"xy")}, b"xy"),
        )
    )


@pytest.mark.parametrize("sizes", [(8, 4), (8, 1), (4, 4)])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 0, 1)])
def test_the_forms_of_all_known_writers_are_written_back(
    sizes: tuple[int, int], numbers: tuple[int, ...]
) -> None:
    # libcel, go-eventlog and pcclient_to_cel; the last counts records for each register
    registers = (0, 4, 0) if numbers == (0, 0, 1) else (4, 4, 0)
    data = b"".join(
        tlv_record(number, register, b"x", sizes=sizes)
        for number, register in zip(numbers, registers, strict=True)
    )
    assert write_cel_tlv(parse_cel_tlv(data)) == data


def json_record(number: int, **changes: object) -> dict[str, object]:
    record: dict[str, object] = {
        "recnum": number,
        "pcr": 6,
        "digests": [{"hashAlg": "sha1", "digest": "11" * 20}, {"hashAlg": "0x000B", "digest": "22" * 32}],
        "content_type": "pcclient_std",
        "content": {"event_type": 12, "event_data": ""},
    }
    return record | changes


def test_the_example_of_the_specification_is_read() -> None:
    # CEL 1.0, 5.3: the third record of PCR 6
    example = json_record(
        2,
        content={
            "event_type": "EV_COMPACT_HASH",
            "event_data": "44656c6c20436f6e66696775726174696f6e20496e666f726d6174696f6e2032",
        },
        digests=[
            {"hashAlg": "sha1", "digest": "bac9a8935b720760bcdea2faae75152f5d1e4bea"},
            {
                "hashAlg": "sha256",
                "digest": "d18bf8d221a3a3b08774c8d077328c4b2ca205e4f1618ad4bac2b5786f453bc7",
            },
        ],
    )
    cel = parse_cel_json(json.dumps([json_record(0), json_record(1), example]).encode())
    assert cel.events[2].register == 6
    assert cel.events[2].event_type == 12
    assert cel.events[2].data == b"Dell Configuration Information 2"
    assert cel.events[2].digests[SHA1].hex == "bac9a8935b720760bcdea2faae75152f5d1e4bea"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({}, "expected an array of at most"),
        ([], "expected 1 to 4096 records, got 0"),
        ([json_record(1)], "expected records numbered from 0"),
        ([json_record(0, content_type="ima_template")], "expected pcclient_std, got 'ima_template'"),
        ([json_record(0, more=1)], "record 0: unknown 'more'"),
        ([json_record(0, pcr=24)], "expected 0 to 23, got 24"),
        ([json_record(0, digests=[])], "expected 1 to 4 entries, got 0"),
        ([json_record(0, digests=[{"hashAlg": "md5", "digest": "00"}])], "expected a known hash algorithm"),
        (
            [json_record(0, digests=[{"hashAlg": "sha1", "digest": "00"}])],
            "a sha1 digest has 20 bytes, got 1",
        ),
        (
            [json_record(0, digests=[{"hashAlg": "sha1", "digest": "0" * 40}] * 2)],
            "expected one for each algorithm, got a second sha1",
        ),
        ([json_record(0, content={"event_type": 12, "event_data": "AB"})], "lower-case hex digits"),
        ([json_record(0, content={"event_type": "EV_X", "event_data": ""})], "expected a TCG event type"),
        ([json_record(0, content={"event_type": True, "event_data": ""})], "expected a TCG event type"),
        ([json_record(0, content={"event_type": 1 << 32, "event_data": ""})], "expected a TCG event type"),
    ],
)
def test_json_that_is_no_such_log_is_refused(records: object, reason: str) -> None:
    with pytest.raises(EventLogError) as caught:
        parse_cel_json(json.dumps(records).encode())
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expected records with numbers of one size, got 0"),
        (tlv_record(0, 1, b"x")[:-1], "expected"),
        (tlv_record(1, 1, b"x"), "expected records numbered from 0"),
        (tlv_record(0, 24, b"x"), "expected a register up to 23, got 24"),
        (tlv_record(0, 1, b"x") + tlv_record(1, 1, b"x", sizes=(4, 4)), "numbers of one size, got 2"),
        (tlv_record(0, 1, b"x", sizes=(2, 4)), "expected record numbers of 4 or 8 bytes"),
        (tlv(0, bytes(8)) + tlv(2, bytes(4)), "expected a register (type 1), got type 2"),
        (tlv(1, bytes(8)), "expected a record number (type 0), got type 1"),
        (
            tlv_record(0, 1, b"x").replace(b"\x0b\0\0\0\x20", b"\x0b\0\0\0\x1f"),
            "a sha256 digest has 32 bytes",
        ),
        (
            tlv(0, bytes(8)) + tlv(1, bytes(4)) + tlv(3, b"") + tlv(7, b""),
            "pcclient_std (type 5), got type 7",
        ),
        (
            tlv(0, bytes(8))
            + tlv(1, bytes(4))
            + tlv(3, tlv(4, bytes(20)))
            + tlv(5, tlv(0, bytes(2)) + tlv(1, b"")),
            "expected an event type of 4 bytes",
        ),
        (
            tlv(0, bytes(8)) + tlv(1, bytes(4)) + tlv(3, b"") + tlv(5, tlv(0, bytes(4)) + tlv(1, b"")),
            "no digest",
        ),
    ],
)
def test_tlv_that_is_no_such_log_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(EventLogError) as caught:
        parse_cel_tlv(data)
    assert reason in caught.value.message


def logs() -> list[bytes]:
    """Real logs of this project's own boots, and one that a fake wrote."""
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.eventlog.bin"))] + [log_bytes(honest_boot())]


@pytest.mark.parametrize("data", logs(), ids=lambda data: str(len(data)))
def test_a_log_of_firmware_survives_the_way_there_and_back(data: bytes) -> None:
    log = parse_event_log(data)
    cel = cel_from_log(log)
    assert len(cel.events) == len(log.events) + 1
    for there, back in ((write_cel_tlv, parse_cel_tlv), (write_cel_json, parse_cel_json)):
        again = log_from_cel(back(there(cel)))
        assert replay(again, SHA256).values == replay(log, SHA256).values
    assert write_event_log(log_from_cel(parse_cel_tlv(write_cel_tlv(cel)))) == data


def test_a_canonical_log_without_a_spec_id_event_can_be_replayed() -> None:
    log = log_from_cel(parse_cel_tlv(tlv_record(0, 7, bytes(4))))
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(bytes(4)).digest()).hexdigest()
    assert replay(log, SHA256).values[7].hex == expected


def test_events_of_different_banks_make_no_log_of_firmware() -> None:
    first = LogEvent(0, 4, {SHA256: Digest.sha256(b"")}, b"")
    second = LogEvent(0, 4, {SHA1: Digest.of(SHA1, b"")}, b"")
    cel = parse_cel_tlv(write_cel_tlv(CelLog((first, second))))
    with pytest.raises(EventLogError, match="expected one digest for each algorithm of the log"):
        log_from_cel(cel)


EVENTS = st.lists(
    st.builds(
        LogEvent,
        st.integers(0, 23),
        st.integers(0, 0xFFFFFFFF),
        st.binary(min_size=32, max_size=32).map(lambda value: {SHA256: Digest(SHA256, value)}),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


@given(EVENTS, st.booleans(), st.sampled_from([4, 8]), st.sampled_from([1, 4]))
def test_what_is_written_is_read_back(
    events: tuple[LogEvent, ...], by_register: bool, recnum: int, register: int
) -> None:
    cel = CelLog(events, by_register, recnum, register)
    assert parse_cel_tlv(write_cel_tlv(cel)).events == events
    assert write_cel_tlv(parse_cel_tlv(write_cel_tlv(cel))) == write_cel_tlv(cel)
    assert parse_cel_json(write_cel_json(cel)).events == events


@given(st.binary(max_size=200))
def test_random_bytes_give_only_our_error(data: bytes) -> None:
    for parse in (parse_cel_tlv, parse_cel_json):
        try:
            parse(data)
        except EventLogError:
            continue


def test_a_log_cut_or_flipped_anywhere_gives_only_our_error() -> None:
    data = tlv_record(0, 7, bytes(4)) + tlv_record(1, 4, b"xy")
    for size in range(len(data)):
        try:
            assert len(parse_cel_tlv(data[:size]).events) == 1
        except EventLogError:
            continue
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            parse_cel_tlv(bytes(flipped))
        except EventLogError:
            continue
