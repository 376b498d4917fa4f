"""The TCG canonical event log (CEL), in its two encodings TLV and JSON, for events of PC clients.

Only content of type `pcclient_std` is taken: that is what a log of firmware converts to and from without
loss. A converted log starts with the Spec ID event as a record of its own, as in the log it came from.

Sources: TCG Canonical Event Log Format 1.0 revision 0.41, 4 (information model), 5.1 (TLV) and 5.3 (JSON).
The sizes of the two numbers differ between writers (whooo/libcel 8 and 4 bytes, google/go-eventlog 8 and 1,
David Safford's pcclient_to_cel 4 and 4, records counted for each register), so they are part of the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError, FormatError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json
from blindbuild.formats.fields import Fields
from blindbuild.formats.tcgevent import EventType, event_type_name
from blindbuild.formats.tcglog import MAX_EVENTS, REGISTER_COUNT, UnverifiedLog
from blindbuild.formats.tcgrecord import (
    MAX_EVENT_BYTES,
    SPEC_ID_CRYPTO_AGILE,
    LogEvent,
    SpecId,
    check_event,
    parse_spec_id,
    spec_id_data,
)

MAX_CEL_BYTES = 4 << 20  # bytes; JSON has two digits for a byte, and names
_MAX_ALGORITHMS = len(HashAlgorithm)
_RECNUM, _PCR, _DIGESTS, _CONTENT = 0, 1, 3, 5  # 5.1: types of the top level; 5 is pcclient_std
_EVENT_TYPE, _EVENT_DATA = 0, 1  # types inside pcclient_std
_RECNUM_SIZES = (4, 8)
_REGISTER_SIZES = (1, 4)
_EVENT_TYPE_BYTES = 4
_JSON_CONTENT = "pcclient_std"
_KNOWN_TYPES = frozenset(int(event_type) for event_type in EventType)


@dataclass(frozen=True, slots=True)
class CelLog:
    """A well-formed canonical log; nothing in it is known to be true.

    Attributes:
        events: in log order.
        count_by_register: a record's number counts the records of its register, not those of the log.
        recnum_bytes: size of a record's number in TLV, 4 or 8.
        register_bytes: size of a register's number in TLV, 1 or 4.
    """

    events: tuple[LogEvent, ...]
    count_by_register: bool = False
    recnum_bytes: int = 8
    register_bytes: int = 4

    def recnums(self) -> tuple[int, ...]:
        """Return the number of each record."""
        if not self.count_by_register:
            return tuple(range(len(self.events)))
        seen = [0] * REGISTER_COUNT
        numbers = []
        for event in self.events:
            numbers.append(seen[event.register])
            seen[event.register] += 1
        return tuple(numbers)


def cel_from_log(log: UnverifiedLog) -> CelLog:
    """Return the canonical form of a log, its Spec ID event first.

    Raises:
        EventLogError: the log has as many events as a log may have, and the Spec ID event would be one more.
    """
    if log.spec is None:
        return _checked(CelLog(log.events))
    zero = Digest.zero(HashAlgorithm.SHA1)
    data = spec_id_data(log.spec, log.algorithms)
    first = LogEvent(0, EventType.EV_NO_ACTION, {HashAlgorithm.SHA1: zero}, data)
    return _checked(CelLog((first, *log.events)))


def log_from_cel(cel: CelLog) -> UnverifiedLog:
    """Return the log of firmware; one that does not start with a Spec ID event gets a plain one.

    Raises:
        EventLogError: events that do not all have the same banks, or not those of the Spec ID event.
    """
    first, events = cel.events[0], cel.events
    if first.event_type == EventType.EV_NO_ACTION and first.data.startswith(SPEC_ID_CRYPTO_AGILE):
        spec, algorithms = parse_spec_id(first)
        log = UnverifiedLog(algorithms, events[1:], spec)
    else:
        algorithms = tuple(first.digests)
        log = UnverifiedLog(algorithms, events, None if algorithms == (HashAlgorithm.SHA1,) else SpecId())
    for index, event in enumerate(log.events):
        check_event(
            index, event, log.algorithms, registers=REGISTER_COUNT, allow_spec_id=not index and not log.spec
        )
    return log


def parse_cel_tlv(data: bytes) -> CelLog:
    """Parse records in TLV encoding.

    Raises:
        EventLogError: anything that the encoding does not allow, content of another type, a number in a size
            that no known writer uses, or more than the limits.

    Source: CEL 5.1: type u8, length u32 big-endian, value; record number, register, digests, content.
    """
    if len(data) > MAX_CEL_BYTES:
        raise EventLogError(f"cel: expected at most {MAX_CEL_BYTES} bytes, got {len(data)}")
    reader = _TlvReader(data, "cel")
    numbers: list[int] = []
    events: list[LogEvent] = []
    sizes: set[tuple[int, int]] = set()
    while not reader.at_end():
        if len(events) == MAX_EVENTS:
            raise EventLogError(f"cel: expected at most {MAX_EVENTS} records")
        recnum, register = reader.value(_RECNUM, "a record number"), reader.value(_PCR, "a register")
        sizes.add((len(recnum), len(register)))
        numbers.append(int.from_bytes(recnum, "big"))
        digests = _tlv_digests(reader.value(_DIGESTS, "digests"))
        event_type, event_data = _tlv_content(reader.value(_CONTENT, "content of type pcclient_std"))
        events.append(LogEvent(int.from_bytes(register, "big"), event_type, digests, event_data))
    if len(sizes) != 1:
        raise EventLogError(f"cel: expected records with numbers of one size, got {len(sizes)}")
    cel = _numbered(events, numbers, *sizes.pop())
    if write_cel_tlv(cel) != data:
        raise EventLogError("cel: what was parsed does not write back to the same bytes")
    return cel


class _TlvReader:
    """Reads type, length and value, and never past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def at_end(self) -> bool:
        return self.offset == len(self._data)

    def item(self) -> tuple[int, bytes]:
        head = self._data[self.offset : self.offset + 5]
        if len(head) < 5:
            raise EventLogError(f"{self._what} at offset {self.offset}: expected a type and a length")
        start, size = self.offset + 5, int.from_bytes(head[1:], "big")
        if size > len(self._data) - start:
            left = len(self._data) - start
            raise EventLogError(f"{self._what} at offset {self.offset}: expected {size} bytes, got {left}")
        self.offset = start + size
        return head[0], self._data[start : self.offset]

    def value(self, expected: int, field: str) -> bytes:
        start = self.offset
        kind, value = self.item()
        if kind != expected:
            raise EventLogError(
                f"{self._what} at offset {start}: expected {field} (type {expected}), got type {kind}"
            )
        return value


def _tlv_digests(data: bytes) -> dict[HashAlgorithm, Digest]:
    reader = _TlvReader(data, "cel digests")
    digests: dict[HashAlgorithm, Digest] = {}
    while not reader.at_end():
        kind, value = reader.item()
        _add_digest(digests, kind, value)
    return digests


def _add_digest(digests: dict[HashAlgorithm, Digest], kind: int, value: bytes) -> None:
    try:
        algorithm = HashAlgorithm.from_tpm_id(kind)
        digest = Digest(algorithm, value)
    except FormatError as error:
        raise EventLogError(f"cel digests: {error.message}") from error
    if algorithm in digests:
        raise EventLogError(f"cel digests: expected one for each algorithm, got a second {algorithm.value}")
    digests[algorithm] = digest


def _tlv_content(data: bytes) -> tuple[int, bytes]:
    reader = _TlvReader(data, "cel content")
    event_type = reader.value(_EVENT_TYPE, "the event type")
    event_data = reader.value(_EVENT_DATA, "the event data")
    if len(event_type) != _EVENT_TYPE_BYTES or not reader.at_end():
        raise EventLogError("cel content: expected an event type of 4 bytes and event data, nothing else")
    return int.from_bytes(event_type, "big"), event_data


def _numbered(
    events: Sequence[LogEvent], numbers: Sequence[int], recnum_bytes: int = 8, register_bytes: int = 4
) -> CelLog:
    """Return the log whose records are numbered as these are, in the one way or in the other."""
    _check_registers(events)
    for by_register in (False, True):
        cel = CelLog(tuple(events), by_register, recnum_bytes, register_bytes)
        if list(cel.recnums()) == list(numbers):
            return _checked(cel)
    raise EventLogError("cel: expected records numbered from 0, over all or for each register")


def _check_registers(events: Iterable[LogEvent]) -> None:
    for index, event in enumerate(events):
        if not 0 <= event.register < REGISTER_COUNT:
            raise EventLogError(
                f"record {index}: expected a register up to {REGISTER_COUNT - 1}, got {event.register}"
            )


def _checked(cel: CelLog) -> CelLog:
    if not 1 <= len(cel.events) <= MAX_EVENTS:
        raise EventLogError(f"cel: expected 1 to {MAX_EVENTS} records, got {len(cel.events)}")
    if cel.recnum_bytes not in _RECNUM_SIZES or cel.register_bytes not in _REGISTER_SIZES:
        raise EventLogError("cel: expected record numbers of 4 or 8 bytes and registers of 1 or 4")
    _check_registers(cel.events)
    for index, event in enumerate(cel.events):
        if not event.digests or len(event.data) > MAX_EVENT_BYTES or not 0 <= event.event_type <= 0xFFFFFFFF:
            raise EventLogError(f"record {index}: no digest, or an event that is out of range")
    return cel


def write_cel_tlv(cel: CelLog) -> bytes:
    """Return the records in TLV encoding; the inverse of `parse_cel_tlv`.

    Raises:
        EventLogError: a value that no canonical log can hold.
    """
    _checked(cel)
    parts = []
    for number, event in zip(cel.recnums(), cel.events, strict=True):
        digests = b"".join(
            _tlv(algorithm.tpm_id, digest.value) for algorithm, digest in event.digests.items()
        )
        content = _tlv(_EVENT_TYPE, event.event_type.to_bytes(4, "big")) + _tlv(_EVENT_DATA, event.data)
        parts += [
            _tlv(_RECNUM, number.to_bytes(cel.recnum_bytes, "big")),
            _tlv(_PCR, event.register.to_bytes(cel.register_bytes, "big")),
            _tlv(_DIGESTS, digests),
            _tlv(_CONTENT, content),
        ]
    data = b"".join(parts)
    if len(data) > MAX_CEL_BYTES:
        raise EventLogError(f"cel: expected at most {MAX_CEL_BYTES} bytes, got {len(data)}")
    return data


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(4, "big") + value


def parse_cel_json(data: bytes) -> CelLog:
    """Parse an array of records in JSON encoding.

    Raises:
        EventLogError: not strict JSON, an unknown or missing field, content of another type, or more than the
            limits.

    Source: CEL 5.3; an event type or a hash algorithm is its name or its number.
    """
    try:
        value = parse_json(data, max_bytes=MAX_CEL_BYTES)
    except FormatError as error:
        raise EventLogError(f"cel: {error.message}") from error
    if not isinstance(value, list) or len(value) > MAX_EVENTS:
        raise EventLogError(f"cel: expected an array of at most {MAX_EVENTS} records")
    numbers, events = [], []
    for index, entry in enumerate(value):
        number, event = _json_record(entry, f"record {index}")
        numbers.append(number)
        events.append(event)
    return _numbered(events, numbers)


def _json_record(value: JsonValue, where: str) -> tuple[int, LogEvent]:
    names = ("recnum", "pcr", "digests", "content_type", "content")
    record = Fields(value, where, required=names, error=EventLogError)
    record.word("content_type", (_JSON_CONTENT,))
    content = Fields(
        record.raw("content"), f"{where}.content", required=("event_type", "event_data"), error=EventLogError
    )
    digests: dict[HashAlgorithm, Digest] = {}
    for index, entry in enumerate(record.array("digests", minimum=1, maximum=_MAX_ALGORITHMS)):
        place = f"{where}.digests[{index}]"
        fields = Fields(entry, place, required=("hashAlg", "digest"), error=EventLogError)
        _add_digest(digests, _json_algorithm(fields.raw("hashAlg")), _json_bytes(fields, "digest"))
    register = record.integer("pcr", minimum=0, maximum=REGISTER_COUNT - 1)
    event_type = _json_event_type(content.raw("event_type"), where)
    event = LogEvent(register, event_type, digests, _json_bytes(content, "event_data"))
    return record.integer("recnum", minimum=0, maximum=MAX_EVENTS), event


def _json_algorithm(value: JsonValue) -> int:
    if isinstance(value, str):
        for algorithm in HashAlgorithm:
            if value in (algorithm.value, f"0x{algorithm.tpm_id:04X}"):
                return algorithm.tpm_id
    elif isinstance(value, int):
        return value
    raise EventLogError(f"cel digests: expected a known hash algorithm, got {str(value)[:40]!r}")


def _json_event_type(value: JsonValue, where: str) -> int:
    if isinstance(value, str) and value in EventType.__members__:
        return EventType[value].value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFFFFFF:
        return value
    raise EventLogError(f"{where}: expected a TCG event type, got {str(value)[:40]!r}")


def _json_bytes(fields: Fields, key: str) -> bytes:
    text = fields.text(key)
    if len(text) % 2 or not set(text) <= set("0123456789abcdef"):
        raise fields.fail(key, "expected an even number of lower-case hex digits")
    return bytes.fromhex(text)


def write_cel_json(cel: CelLog) -> bytes:
    """Return the records as one JSON array; `parse_cel_json` gives them back.

    Raises:
        EventLogError: a value that no canonical log can hold.
    """
    _checked(cel)
    records: list[JsonValue] = []
    for number, event in zip(cel.recnums(), cel.events, strict=True):
        digests: list[JsonValue] = [
            {"hashAlg": algorithm.value, "digest": digest.hex} for algorithm, digest in event.digests.items()
        ]
        known = event.event_type in _KNOWN_TYPES
        content: dict[str, JsonValue] = {
            "event_type": event_type_name(event.event_type) if known else event.event_type,
            "event_data": event.data.hex(),
        }
        records.append(
            {
                "recnum": number,
                "pcr": event.register,
                "digests": digests,
                "content_type": _JSON_CONTENT,
                "content": content,
            }
        )
    data = canonical_bytes(records)
    if len(data) > MAX_CEL_BYTES:
        raise EventLogError(f"cel: expected at most {MAX_CEL_BYTES} bytes, got {len(data)}")
    return data
