"""TCG event logs: what is refused and why, and what a replay makes of what is accepted."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import (
    EFI_GLOBAL_VARIABLE,
    VariableData,
    event_type_name,
    parse_variable_data,
    tagged_event_data,
    write_variable_data,
)
from blindbuild.formats.tcglog import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_LOG_BYTES,
    EventType,
    LogEvent,
    SpecId,
    UnverifiedLog,
    data_mismatches,
    parse_event_log,
    replay,
    write_event_log,
)

SHA1, SHA256, SHA384 = HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384


def record(register: int, event_type: int, digests: list[tuple[int, bytes]], data: bytes = b"") -> bytes:
    """Write one crypto-agile record by hand, so that the writer under test has no part in it."""
    body = b"".join(struct.pack("<H", algorithm) + value for algorithm, value in digests)
    return (
        struct.pack("<III", register, event_type, len(digests)) + body + struct.pack("<I", len(data)) + data
    )


def spec_id(algorithms: bytes = bytes.fromhex("010000000b002000"), vendor: bytes = b"\0") -> bytes:
    """Write a Spec ID event by hand; the default lists sha256 only."""
    data = b"Spec ID Event03\0" + bytes.fromhex("0000000000020002") + algorithms + vendor
    return struct.pack("<II20sI", 0, 3, b"", len(data)) + data


def sha256_record(register: int, event_type: int, data: bytes = b"", digest: bytes | None = None) -> bytes:
    """Write a record with one sha256 digest, that of the data unless given."""
    value = hashlib.sha256(data).digest() if digest is None else digest
    return record(register, event_type, [(0x0B, value)], data)


def no_action(data: bytes, register: int = 0) -> bytes:
    """Write an EV_NO_ACTION, whose digest is zero."""
    return sha256_record(register, 3, data, bytes(32))


SEPARATOR = sha256_record(0, 4, bytes(4))


def test_a_small_log_is_parsed_into_its_parts() -> None:
    log = parse_event_log(spec_id(vendor=b"\x02ab") + sha256_record(7, 4, bytes(4)))
    assert log.algorithms == (SHA256,)
    assert log.spec == SpecId(vendor=b"ab")
    assert log.events == (LogEvent(7, EventType.EV_SEPARATOR, {SHA256: Digest.sha256(bytes(4))}, bytes(4)),)


def test_digests_may_come_in_another_order_and_are_written_back_in_it() -> None:
    algorithms = bytes.fromhex("0200000004001400 0b002000")
    digests = [(0x0B, b"\x01" * 32), (0x04, b"\x02" * 20)]
    data = spec_id(algorithms) + record(1, 5, digests, b"x")
    log = parse_event_log(data)
    assert log.algorithms == (SHA1, SHA256)
    assert list(log.events[0].digests) == [SHA256, SHA1]
    assert write_event_log(log) == data


def test_a_log_in_the_sha1_format_has_no_spec_id() -> None:
    data = struct.pack("<II20sI", 4, 5, b"\x07" * 20, 3) + b"abc"
    log = parse_event_log(data)
    assert log.spec is None
    assert log.algorithms == (SHA1,)
    assert log.events[0].data == b"abc"


def test_an_older_spec_id_may_begin_a_log_in_the_sha1_format() -> None:
    old = b"Spec ID Event00\0" + bytes(9)
    data = struct.pack("<II20sI", 0, 3, b"", len(old)) + old + struct.pack("<II20sI", 0, 4, b"\1" * 20, 0)
    log = parse_event_log(data)
    assert len(log.events) == 2
    assert replay(log, SHA1).values[0] == Digest.zero(SHA1).extend(Digest(SHA1, b"\1" * 20))


REFUSED = {
    "no bytes": (b"", "expected 4 bytes for the register, got 0"),
    "only a spec id": (spec_id(), "expected 1 to 4096 events, got 0"),
    "more than the limit": (bytes(MAX_LOG_BYTES + 1), "expected at most"),
    "register 24": (spec_id() + sha256_record(24, 4), "expected a register up to 23, got 24"),
    "register -1": (spec_id() + sha256_record(0xFFFFFFFF, 4), "expected a register up to 23"),
    "register 24, sha1": (struct.pack("<II20sI", 24, 4, b"", 0), "expected a register up to 23, got 24"),
    "no digest": (spec_id() + record(0, 4, []), "expected 1 digests, as in the Spec ID event, got 0"),
    "two digests": (
        spec_id() + record(0, 4, [(0x0B, bytes(32))] * 2),
        "expected 1 digests, as in the Spec ID event, got 2",
    ),
    "a huge number of digests": (
        spec_id() + struct.pack("<III", 0, 4, 0xFFFFFFFF),
        "expected 1 digests, as in the Spec ID event, got 4294967295",
    ),
    "an algorithm not listed": (
        spec_id() + record(0, 4, [(0x04, bytes(20))]),
        "one digest for each algorithm of the Spec ID event, got also a sha1",
    ),
    "the same algorithm twice": (
        spec_id(bytes.fromhex("0200000004001400 0b002000")) + record(0, 4, [(0x0B, bytes(32))] * 2),
        "one digest for each algorithm of the Spec ID event, got a second sha256",
    ),
    "an unknown algorithm": (
        spec_id() + record(0, 4, [(0x12, bytes(32))]),
        "unknown hash algorithm 0x0012",
    ),
    "data longer than the log": (
        spec_id() + record(0, 4, [(0x0B, bytes(32))])[:-4] + struct.pack("<I", 5) + b"abcd",
        "expected 5 bytes for the event data, got 4",
    ),
    "data longer than the limit": (
        spec_id() + record(0, 4, [(0x0B, bytes(32))])[:-4] + b"\xff" * 4,
        "expected at most 262144 bytes of event data, got 4294967295",
    ),
    "a second spec id": (spec_id() + no_action(b"Spec ID Event03\0"), "Spec ID event that is not the first"),
    "an old spec id inside": (
        spec_id() + no_action(b"Spec ID Event02\0"),
        "Spec ID event that is not the first",
    ),
    "a no-action with a digest": (
        spec_id() + sha256_record(0, 3, b"x"),
        "event 0: expected zero digests of an EV_NO_ACTION",
    ),
    "a spec id in register 1": (
        struct.pack("<I", 1) + spec_id()[4:] + SEPARATOR,
        "spec id event: expected register 0 and a zero digest",
    ),
    "a spec id with a digest": (
        spec_id()[:8] + b"\1" + spec_id()[9:] + SEPARATOR,
        "spec id event: expected register 0 and a zero digest",
    ),
    "a spec id without algorithms": (spec_id(bytes(4)) + SEPARATOR, "at least one algorithm, got none"),
    "a spec id with a wrong size": (
        spec_id(bytes.fromhex("010000000b001400")) + SEPARATOR,
        "expected sha256 once, with 32 bytes, got 20 bytes",
    ),
    "a spec id with one algorithm twice": (
        spec_id(bytes.fromhex("020000000b0020000b002000")) + SEPARATOR,
        "expected sha256 once, with 32 bytes, got 32 bytes a second time",
    ),
    "a spec id with an unknown algorithm": (
        spec_id(bytes.fromhex("0100000012002000")) + SEPARATOR,
        "unknown hash algorithm 0x0012",
    ),
    "a spec id with too many algorithms": (
        spec_id(bytes.fromhex("ffffffff0b002000")) + SEPARATOR,
        "spec id event at offset 32: expected 2 bytes for an algorithm, got 1",
    ),
    "a spec id with vendor data cut off": (
        spec_id(vendor=b"\x04ab") + SEPARATOR,
        "expected 4 bytes for the vendor information, got 2",
    ),
    "a spec id with bytes left over": (
        spec_id(vendor=b"\x00ab") + SEPARATOR,
        "spec id event: 2 bytes are left over",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_log_is_refused(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(EventLogError) as caught:
        parse_event_log(data)
    assert reason in caught.value.message


def test_a_log_with_too_many_events_is_refused() -> None:
    record_bytes = sha256_record(1, 4)
    assert len(parse_event_log(spec_id() + record_bytes * MAX_EVENTS).events) == MAX_EVENTS
    with pytest.raises(EventLogError, match="expected at most 4096 events"):
        parse_event_log(spec_id() + record_bytes * (MAX_EVENTS + 1))


UNWRITABLE = {
    "no events": UnverifiedLog((SHA256,), (), SpecId()),
    "register 24": UnverifiedLog((SHA256,), (LogEvent(24, 4, {SHA256: Digest.zero(SHA256)}, b""),), SpecId()),
    "type out of range": UnverifiedLog(
        (SHA256,), (LogEvent(0, 1 << 32, {SHA256: Digest.zero(SHA256)}, b""),), SpecId()
    ),
    "data too long": UnverifiedLog(
        (SHA256,),
        (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, bytes(MAX_EVENT_BYTES + 1)),),
        SpecId(),
    ),
    "log too long": UnverifiedLog(
        (SHA256,), (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, bytes(MAX_EVENT_BYTES)),) * 5, SpecId()
    ),
    "missing digest": UnverifiedLog(
        (SHA256, SHA1), (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, b""),), SpecId()
    ),
    "digest under another name": UnverifiedLog(
        (SHA256,), (LogEvent(0, 4, {SHA256: Digest.zero(SHA1)}, b""),), SpecId()
    ),
    "algorithm twice": UnverifiedLog(
        (SHA256, SHA256), (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, b""),), SpecId()
    ),
    "vendor too long": UnverifiedLog(
        (SHA256,), (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, b""),), SpecId(vendor=bytes(256))
    ),
    "class out of range": UnverifiedLog(
        (SHA256,), (LogEvent(0, 4, {SHA256: Digest.zero(SHA256)}, b""),), SpecId(platform_class=-1)
    ),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_log_that_could_not_be_parsed_is_not_written(name: str) -> None:
    with pytest.raises(EventLogError):
        write_event_log(UNWRITABLE[name])


def test_replay_extends_each_register_from_its_own_start() -> None:
    log = parse_event_log(spec_id() + sha256_record(4, 5, b"a") + sha256_record(17, 5, b"b"))
    replayed = replay(log, SHA256)
    assert replayed.values[4].value == hashlib.sha256(bytes(32) + hashlib.sha256(b"a").digest()).digest()
    assert replayed.values[17].value == hashlib.sha256(b"\xff" * 32 + hashlib.sha256(b"b").digest()).digest()
    assert replayed.values[5] == Digest.zero(SHA256)
    assert replayed.values[22] == Digest.ones(SHA256)
    assert replayed.values[23] == Digest.zero(SHA256)
    assert replayed.touched == {4, 17}
    assert [event.data for event in replayed.events_of(4)] == [b"a"]
    assert replayed.events_of(0) == ()


def test_a_no_action_event_is_never_extended() -> None:
    replayed = replay(parse_event_log(spec_id() + no_action(b"anything") + SEPARATOR), SHA256)
    assert replayed.values[0] == Digest.zero(SHA256).extend(Digest.sha256(bytes(4)))
    assert len(replayed.events) == 1


def test_a_hardware_root_of_trust_extends_register_0_from_locality_4() -> None:
    # PFP 10.4.5.3 and TPM 2.0 Part 1, 34.3: H-CRTM measures before TPM2_Startup, PCR 0 starts from 4
    contents = sha256_record(0, 0x80000010, b"HCRTM", hashlib.sha256(b"contents").digest())
    log = parse_event_log(spec_id() + no_action(b"StartupLocality\0\x04") + contents + SEPARATOR)
    value = hashlib.sha256(bytes(31) + b"\x04" + hashlib.sha256(b"contents").digest()).digest()
    value = hashlib.sha256(value + hashlib.sha256(bytes(4)).digest()).digest()
    assert replay(log, SHA256).values[0].value == value
    assert data_mismatches(log, SHA256) == ()


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_startup_locality_is_where_register_0_starts(locality: int) -> None:
    log = parse_event_log(spec_id() + no_action(b"StartupLocality\0" + bytes((locality,))) + SEPARATOR)
    replayed = replay(log, SHA256)
    start = bytes(31) + bytes((locality,))
    assert replayed.values[0].value == hashlib.sha256(start + hashlib.sha256(bytes(4)).digest()).digest()
    assert replayed.startup_locality == locality


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (no_action(b"StartupLocality\0\x05"), "startup locality of 0, 3 or 4 in one byte, got '05'"),
        (no_action(b"StartupLocality\0\x01"), "startup locality of 0, 3 or 4 in one byte, got '01'"),
        (no_action(b"StartupLocality\0"), "startup locality of 0, 3 or 4 in one byte, got ''"),
        (no_action(b"StartupLocality\0\x03\x00"), "startup locality of 0, 3 or 4 in one byte, got '0300'"),
        (no_action(b"StartupLocality\0\x03") * 2, "event 1: expected StartupLocality at most once"),
        (SEPARATOR + no_action(b"StartupLocality\0\x03"), "and before PCR 0 is extended"),
        (no_action(b"StartupLocality\0\x03", register=7), "event 0: expected StartupLocality at most once"),
    ],
)
def test_a_startup_locality_out_of_place_is_refused(records: bytes, reason: str) -> None:
    log = parse_event_log(spec_id() + records + SEPARATOR)
    with pytest.raises(EventLogError) as caught:
        replay(log, SHA256)
    assert reason in caught.value.message


def test_a_startup_locality_that_is_not_a_no_action_is_an_event_like_any_other() -> None:
    data = b"StartupLocality\0\x03"
    replayed = replay(parse_event_log(spec_id() + sha256_record(0, 5, data)), SHA256)
    assert replayed.startup_locality == 0
    assert replayed.values[0] == Digest.zero(SHA256).extend(Digest.sha256(data))


def test_a_bank_that_the_log_lacks_cannot_be_replayed() -> None:
    with pytest.raises(EventLogError, match="expected a log of the sha384 bank, got sha256"):
        replay(parse_event_log(spec_id() + SEPARATOR), SHA384)


def test_event_data_that_was_not_hashed_is_found() -> None:
    lie = sha256_record(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, b"a lie", hashlib.sha256(b"x").digest())
    log = parse_event_log(spec_id() + SEPARATOR + lie)
    (mismatch,) = data_mismatches(log, SHA256)
    assert mismatch.index == 1
    assert mismatch.reason == "the digest of EV_EFI_VARIABLE_DRIVER_CONFIG is not that of its data"


def test_event_data_that_only_describes_is_not_judged() -> None:
    events = [
        EventType.EV_IPL,
        EventType.EV_EVENT_TAG,
        EventType.EV_EFI_BOOT_SERVICES_APPLICATION,
        0x12345678,
    ]
    log = parse_event_log(spec_id() + b"".join(sha256_record(4, kind, b"x", bytes(32)) for kind in events))
    assert data_mismatches(log, SHA256) == ()


def test_of_a_boot_variable_its_data_or_the_whole_structure_may_have_been_hashed() -> None:
    whole = write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, "BootOrder", b"\0\0"))
    kind = EventType.EV_EFI_VARIABLE_BOOT
    good = sha256_record(1, kind, whole) + sha256_record(1, kind, whole, hashlib.sha256(b"\0\0").digest())
    bad = sha256_record(1, kind, whole, hashlib.sha256(b"BootOrder").digest()) + sha256_record(
        1, kind, b"short"
    )
    found = data_mismatches(parse_event_log(spec_id() + good + bad), SHA256)
    assert [mismatch.index for mismatch in found] == [2, 3]
    assert "expected at least 32 bytes, got 5" in found[1].reason


def test_variable_data_is_read_and_written_as_the_specification_says() -> None:
    raw = bytes.fromhex(
        "61dfe48bca93d211aa0d00e098032b8c 0200000000000000 0100000000000000 50004b00 ff"
    )  # GUID, 2 characters, 1 byte, "PK", data
    variable = VariableData(EFI_GLOBAL_VARIABLE, "PK", b"\xff")
    assert parse_variable_data(raw) == variable
    assert write_variable_data(variable) == raw


@pytest.mark.parametrize("size", range(37))
def test_variable_data_cut_anywhere_is_refused(size: int) -> None:
    raw = write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, "PK", b"\xff"))
    assert len(raw) == 37
    with pytest.raises(EventLogError, match="variable data: expected"):
        parse_variable_data(raw[:size])


def test_variable_data_with_bytes_left_over_is_refused() -> None:
    raw = write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, "PK", b""))
    with pytest.raises(EventLogError, match="expected 36 bytes in all, got 37"):
        parse_variable_data(raw + b"\0")


def test_a_tagged_event_counts_the_nul_of_its_text() -> None:
    assert tagged_event_data(0x8F3B22EC, "Linux initrd") == b'\xec";\x8f\x0d\0\0\0Linux initrd\0'


def test_an_event_type_is_named_or_shown_as_a_number() -> None:
    assert event_type_name(0x80000003) == "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert event_type_name(0x80000099) == "0x80000099"
