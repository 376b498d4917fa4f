"""Releases, and the times in them."""

from __future__ import annotations

import pytest
import rfc8785

from blindbuild.errors import ManifestError, UsageError
from blindbuild.manifest import format_time, parse_release, parse_time, release_bytes
from blindbuild.publish import make_release
from tests.fakes.published import Publisher, release_value, statement_value

VALUE = release_value(b"statement", statement_value())

REFUSED = {
    "42 ends before it begins": ({"validUntil": "2025-01-01T00:00:00Z"}, "expected a time after validFrom"),
    "42 ends as it begins": ({"validUntil": "2026-01-01T00:00:00Z"}, "expected a time after validFrom"),
    "43 time without Z": ({"validFrom": "2026-01-01T00:00:00"}, "expected a time such as"),
    "43 time with an offset": ({"validFrom": "2026-01-01T00:00:00+00:00"}, "expected a time such as"),
    "43 leap second": ({"validFrom": "2016-12-31T23:59:60Z"}, "expected a time"),
    "fraction": ({"validFrom": "2026-01-01T00:00:00.5Z"}, "expected a time such as"),
    "lower case": ({"validFrom": "2026-01-01t00:00:00z"}, "expected a time such as"),
    "30 February": ({"validFrom": "2026-02-30T00:00:00Z"}, "expected a time that exists"),
    "Arabic digits": ({"validFrom": "٢٠٢٦-01-01T00:00:00Z"}, "expected a time such as"),
    "final newline": ({"validFrom": "2026-01-01T00:00:00Z\n"}, "expected a time such as"),
    "before 1970": ({"validFrom": "1969-12-31T23:59:59Z"}, "expected a time from 1970"),
    "unknown field": ({"line": "stable"}, "unknown 'line'"),
    "a channel that is no name": ({"channel": "../x"}, "release.channel: expected"),
    "the default channel written out": ({"channel": "stable"}, "expected another channel than the default"),
    "type": ({"_type": "urn:blindbuild:release:v2"}, "_type: expected"),
    "sequence": ({"sequence": 1.5}, "expected an integer"),
    "product": ({"product": "../x"}, "release.product: expected"),
    "replaces itself": ({"replaces": VALUE["statement"]}, "expected another statement"),
    "statement by sha1": ({"statement": {"sha1": "ab" * 20}}, "missing sha256"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_release_that_breaks_a_rule_is_refused(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ManifestError) as caught:
        parse_release(rfc8785.dumps(VALUE | changes))
    assert message in caught.value.message


@pytest.mark.parametrize("more", [{}, {"replaces": {"sha256": "ab" * 32}}, {"channel": "beta"}])
def test_a_release_writes_back_to_the_same_bytes(more: dict) -> None:
    data = rfc8785.dumps(VALUE | more)
    assert release_bytes(parse_release(data)) == data


def test_a_release_without_a_channel_is_on_the_default_one() -> None:
    assert parse_release(rfc8785.dumps(VALUE)).channel == "stable"
    assert parse_release(rfc8785.dumps(VALUE | {"channel": "beta"})).channel == "beta"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2001-09-09T01:46:40Z", 1_000_000_000),
        ("2024-02-29T12:00:00Z", 1_709_208_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_times_are_seconds_since_1970(text: str, seconds: int) -> None:
    # expected values from `date -u -d TEXT +%s` of GNU coreutils 9.1
    assert parse_time(text) == seconds
    assert format_time(seconds) == text


@pytest.mark.parametrize("seconds", [-1, 253_402_300_800])
def test_a_time_that_four_digits_cannot_say_is_not_written(seconds: int) -> None:
    with pytest.raises(ManifestError):
        format_time(seconds)


def test_a_release_is_made_from_a_statement() -> None:
    statement = Publisher().statement
    release = make_release(statement, valid_from=10, valid_until=20)
    assert (release.product, release.version, release.sequence) == ("hello", "1.0.0", 42)
    assert parse_release(release_bytes(release)) == release


def test_a_release_in_the_wrong_order_is_not_made() -> None:
    statement = Publisher().statement
    with pytest.raises(UsageError, match="ends after it begins"):
        make_release(statement, valid_from=20, valid_until=20)
    with pytest.raises(UsageError, match="replace an earlier hello"):
        make_release(statement, valid_from=1, valid_until=2, replaces=statement)


def test_a_release_names_what_it_replaces() -> None:
    before = Publisher().but(sequence=41).statement
    release = make_release(Publisher().statement, valid_from=1, valid_until=2, replaces=before)
    assert parse_release(release_bytes(release)).replaces == release.replaces is not None


def test_a_release_does_not_replace_another_products() -> None:
    before = Publisher().but(sequence=41, name="other").statement
    with pytest.raises(UsageError, match="expected to replace an earlier hello, got other"):
        make_release(Publisher().statement, valid_from=1, valid_until=2, replaces=before)


def test_a_truncated_release_gives_our_error_at_every_length() -> None:
    data = rfc8785.dumps(VALUE)
    for length in range(len(data)):
        with pytest.raises(ManifestError):
            parse_release(data[:length])
