"""TCG event logs: round trip, and only our error for whatever bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType, VariableData, parse_variable_data, write_variable_data
from blindbuild.formats.tcglog import (
    LogEvent,
    SpecId,
    UnverifiedLog,
    data_mismatches,
    parse_event_log,
    replay,
    write_event_log,
)

ALGORITHMS = st.lists(st.sampled_from(HashAlgorithm), min_size=1, max_size=4, unique=True).map(tuple)


def digests(algorithm: HashAlgorithm) -> st.SearchStrategy[Digest]:
    """Any digest of this algorithm."""
    return st.binary(min_size=algorithm.size, max_size=algorithm.size).map(lambda v: Digest(algorithm, v))


@st.composite
def logs(draw: st.DrawFn) -> UnverifiedLog:
    """Any log that the writer takes; both formats."""
    crypto_agile = draw(st.booleans())
    algorithms = draw(ALGORITHMS) if crypto_agile else (HashAlgorithm.SHA1,)
    events = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(EventType) | st.integers(0, 0xFFFFFFFF))
        data = draw(st.binary(max_size=40))
        order = draw(st.permutations(algorithms))
        if kind == EventType.EV_NO_ACTION:
            data, values = b"-" + data, {algorithm: Digest.zero(algorithm) for algorithm in order}
        else:
            values = {algorithm: draw(digests(algorithm)) for algorithm in order}
        events.append(LogEvent(draw(st.integers(0, 23)), int(kind), values, data))
    spec = SpecId(
        platform_class=draw(st.integers(0, 0xFFFFFFFF)),
        version_minor=draw(st.integers(0, 255)),
        errata=draw(st.integers(0, 255)),
        vendor=draw(st.binary(max_size=255)),
    )
    return UnverifiedLog(algorithms, tuple(events), spec if crypto_agile else None)


@given(logs())
def test_a_log_that_is_written_parses_to_the_same_value(log: UnverifiedLog) -> None:
    data = write_event_log(log)
    parsed = parse_event_log(data)
    assert parsed == log
    assert write_event_log(parsed) == data


@given(logs())
@settings(max_examples=30)
def test_a_log_cut_anywhere_is_refused_or_loses_whole_events(log: UnverifiedLog) -> None:
    data = write_event_log(log)
    for size in range(len(data)):
        try:
            shorter = parse_event_log(data[:size])
        except EventLogError:
            continue
        assert shorter.events == log.events[: len(shorter.events)]
        assert len(shorter.events) < len(log.events)


@given(logs(), st.data())
def test_a_flipped_bit_is_refused_or_changes_the_value(log: UnverifiedLog, data: st.DataObject) -> None:
    raw = bytearray(write_event_log(log))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = parse_event_log(bytes(raw))
        for algorithm in other.algorithms:
            data_mismatches(other, algorithm)
            replay(other, algorithm)
    except EventLogError:
        return
    assert other != log or [list(e.digests) for e in other.events] != [list(e.digests) for e in log.events]


@given(st.binary(max_size=300))
def test_random_bytes_give_only_our_error(data: bytes) -> None:
    try:
        log = parse_event_log(data)
        replay(log, log.algorithms[0])
    except EventLogError:
        pass


@given(st.builds(VariableData, st.uuids(), st.text(max_size=12), st.binary(max_size=20)))
def test_variable_data_survives_a_round_trip(variable: VariableData) -> None:
    assert parse_variable_data(write_variable_data(variable)) == variable
