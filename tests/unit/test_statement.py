"""The statement: every field has a rule, and what breaks one is refused."""

from __future__ import annotations

import copy
import dataclasses
import hashlib

import pytest
import rfc8785

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import ManifestError
from blindbuild.manifest import parse_statement, statement_bytes
from blindbuild.manifest.registers import read_platform, write_platform
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained
from tests.fakes.published import statement_value

VALUE = statement_value()
MISSING = object()


def path_set(value: dict, path: str, new: object) -> dict:
    """A copy with one place changed; `MISSING` removes it. A path is keys and indices with slashes."""
    copied = copy.deepcopy(value)
    *above, last = [int(part) if part.isdigit() and len(part) < 2 else part for part in path.split("/")]
    place = copied
    for part in above:
        place = place[part if isinstance(place, list) else str(part)]
    key = last if isinstance(place, list) else str(last)
    if new is MISSING:
        del place[key]
    else:
        place[key] = new
    return copied


def parse(value: object):
    return parse_statement(rfc8785.dumps(value))


PCRS = "predicate/platforms/0/banks/sha256/pcrs"
BANKS = VALUE["predicate"]["platforms"][0]["banks"]
ONE = VALUE["predicate"]["platforms"][0]
HEX = "ab" * 32

REFUSED = {
    "20 float": ("predicate/sequence", 42.5, "expected an integer"),
    "22 negative sequence": ("predicate/sequence", -1, "predicate.sequence: expected 0 to"),
    "23 boolean for integer": ("predicate/sequence", True, "expected an integer, got a boolean"),
    "integer for boolean": ("predicate/debug", 0, "expected true or false, got an integer"),
    "text for integer": ("predicate/sequence", "42", "expected an integer, got a string"),
    "30 old _type": ("_type", "https://in-toto.io/Statement/v0.1", "statement._type: expected"),
    "31 major 2": ("predicateType", "urn:blindbuild:reference-measurements:v2", "predicateType: expected"),
    "32 unknown top-level field": ("more", 1, "statement: unknown 'more'"),
    "33 unknown predicate field": ("predicate/more", 1, "predicate: unknown 'more'"),
    "missing field": ("predicate/debug", MISSING, "predicate: missing debug"),
    "34 empty subject": ("subject", [], "statement.subject: expected 1 to"),
    "35 upper-case digest": (
        "subject/0/digest/sha256",
        VALUE["subject"][0]["digest"]["sha256"].upper(),
        "lower-case hex",
    ),
    "35 short digest": ("subject/0/digest/sha256", "ab" * 31, "expected 64 lower-case hex digits"),
    "35 only md5": ("subject/0/digest", {"md5": "ab" * 16}, "missing sha256"),
    "md5 beside": ("subject/0/digest/md5", "ab" * 16, "unknown 'md5'"),
    "sha1 beside": ("subject/0/digest/sha1", "ab" * 20, "unknown 'sha1'"),
    "subject name with a space": ("subject/0/name", "a b", "subject[0].name: expected"),
    "subjects twice": ("subject", VALUE["subject"] * 2, "sorted and unique"),
    "36 register 24": (f"{PCRS}/24", {"rule": "initial"}, "unknown '24'"),
    "36 register 04": (f"{PCRS}/04", {"rule": "initial"}, "unknown '04'"),
    "36 register -1": (f"{PCRS}/-1", {"rule": "initial"}, "unknown '-1'"),
    "36 register with a space": (f"{PCRS}/4 ", {"rule": "initial"}, "unknown '4 '"),
    "37 register missing": (f"{PCRS}/12", MISSING, "missing 12"),
    "firmware missing": ("predicate/platforms/0/firmwareDigest", MISSING, "expected the firmware"),
    "39 value of 31 bytes": (f"{PCRS}/4/value", "ab" * 31, "expected 64 lower-case hex digits"),
    "39 value of 33 bytes": (f"{PCRS}/4/value", "ab" * 33, "expected 64 lower-case hex digits"),
    "40 bank sha1": ("predicate/platforms/0/banks/sha1", BANKS["sha256"], "unknown 'sha1'"),
    "no bank": ("predicate/platforms/0/banks", {}, "expected at least one of sha256"),
    "value of another bank": (
        "predicate/platforms/0/banks/sha384",
        BANKS["sha256"],
        "expected 96 lower-case hex digits",
    ),
    "41 empty oneOf": (f"{PCRS}/0/values", [], "expected 1 to 64 entries"),
    "oneOf not sorted": (f"{PCRS}/0/values", ["bb" * 32, "aa" * 32], "sorted and unique"),
    "oneOf twice": (f"{PCRS}/0/values", [HEX, HEX], "sorted and unique"),
    "oneOf not hex": (f"{PCRS}/0/values", ["xx" * 32], "lower-case hex digits"),
    "oneOf not text": (f"{PCRS}/0/values", [1], "expected a list of strings"),
    "oneOf with an empty why": (f"{PCRS}/0/why", "", "printable characters"),
    "unknown rule": (f"{PCRS}/4/rule", "warnOnly", "expected rule exact, oneOf, initial or unconstrained"),
    "rule missing": (f"{PCRS}/4", {}, "expected rule exact"),
    "rule not an object": (f"{PCRS}/4", "initial", "expected rule exact"),
    "initial with a value": (f"{PCRS}/8/value", HEX, "unknown 'value'"),
    "unconstrained without a reason": (f"{PCRS}/1/reason", MISSING, "missing reason"),
    "a reason that steers a terminal": (f"{PCRS}/1/reason", "\x1b[2J", "printable characters"),
    "a reason of two lines": (f"{PCRS}/1/reason", "a\nb", "printable characters"),
    "exact without events": (f"{PCRS}/4/events", [], "expected 1 to 256 entries"),
    "events that do not lead to the value": (f"{PCRS}/4/value", HEX, "what its events lead to"),
    "an event left out": (
        f"{PCRS}/4/events",
        VALUE["predicate"]["platforms"][0]["banks"]["sha256"]["pcrs"]["4"]["events"][1:],
        "what its events lead to",
    ),
    "unknown event type": (f"{PCRS}/4/events/0/type", "EV_NONSENSE", "expected a TCG event type"),
    "event type by number": (f"{PCRS}/4/events/0/type", "0x0000000d", "expected a TCG event type"),
    "no platforms": ("predicate/platforms", [], "expected 1 to 64 entries"),
    "a platform twice": ("predicate/platforms", [ONE, ONE], "sorted and unique"),
    "platform id with a slash": ("predicate/platforms/0/id", "a/b", "platforms[0].id: expected"),
    "unknown channel binding": ("predicate/channelBinding", "none", "channelBinding: expected"),
    "unknown memory confidentiality": ("predicate/memoryConfidentiality", "all", "memoryConfidentiality: "),
    "unknown scheme": ("predicate/attestationKey/schemes", ["hmac"], "expected some of"),
    "no scheme": ("predicate/attestationKey/schemes", [], "expected 1 to"),
    "a scheme twice": ("predicate/attestationKey/schemes", ["ecdsa-p256-sha256"] * 2, "each once"),
    "schemes in another order": (
        "predicate/attestationKey/schemes",
        ["rsassa-2048-sha256", "ecdsa-p256-sha256"],
        "in this order",
    ),
    "attributes in capitals": ("predicate/attestationKey/requiredAttributes", "0X00050072", "expected 0x"),
    "other hierarchy": ("predicate/attestationKey/hierarchy", "owner", "expected endorsement"),
    "ledger by md5": ("predicate/ledger", {"md5": "ab" * 16}, "missing sha256"),
    "a time in build": ("predicate/build/time", "2026-01-01T00:00:00Z", "unknown 'time'"),
    "inputs not sorted": (
        "predicate/build/inputs",
        [{"name": n, "digest": {"sha256": HEX}} for n in ("b", "a")],
        "sorted and unique",
    ),
    "name in capitals": ("predicate/name", "Hello", "predicate.name: expected"),
    "empty version": ("predicate/version", "", "predicate.version: expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_statement_that_breaks_a_rule_is_refused(name: str) -> None:
    path, new, message = REFUSED[name]
    with pytest.raises(ManifestError) as caught:
        parse(path_set(VALUE, path, new))
    assert message in caught.value.message


@pytest.mark.parametrize("value", [None, [], "x", 1, {}])
def test_a_statement_that_is_not_one_is_refused(value: object) -> None:
    with pytest.raises(ManifestError):
        parse(value)


def test_a_register_classified_twice_is_refused() -> None:  # 38
    data = rfc8785.dumps(VALUE).replace(b'"12":{"rule":"initial"}', b'"12":{"rule":"initial"},' * 2, 1)
    with pytest.raises(ManifestError):
        parse_statement(data.replace(b",,", b","))


def test_a_statement_that_is_not_canonical_is_refused() -> None:  # 29
    with pytest.raises(ManifestError, match="RFC 8785 form"):
        parse_statement(rfc8785.dumps(VALUE) + b"\n")


def test_an_honest_statement_is_understood() -> None:
    statement = parse(VALUE)
    assert (statement.name, statement.version, statement.sequence) == ("hello", "1.0.0", 42)
    registers = statement.platforms[0].banks[HashAlgorithm.SHA256]
    kinds = {number: type(rule) for number, rule in enumerate(registers)}
    assert [n for n, kind in kinds.items() if kind is Exact] == [2, 3, 4, 6, 7, 9, 11]
    assert [n for n, kind in kinds.items() if kind is OneOf] == [0, 5]
    assert [n for n, kind in kinds.items() if kind is Unconstrained] == [1, 16, 23]
    assert sum(kind is Initial for kind in kinds.values()) == 12


def test_a_statement_written_by_another_writer_writes_back_to_the_same_bytes() -> None:
    data = rfc8785.dumps(VALUE)
    assert statement_bytes(parse_statement(data)) == data


def test_a_statement_that_no_client_would_accept_is_not_written() -> None:
    statement = parse(VALUE)
    values = (Digest.sha256(b"b"), Digest.sha256(b"a"))
    unsorted = tuple(sorted(values, key=lambda value: value.value, reverse=True))
    registers = list(statement.platforms[0].banks[HashAlgorithm.SHA256])
    registers[5] = OneOf(unsorted, "")
    banks = {**statement.platforms[0].banks, HashAlgorithm.SHA256: tuple(registers)}
    platform = dataclasses.replace(statement.platforms[0], banks=banks)
    with pytest.raises(ManifestError, match="sorted and unique"):
        statement_bytes(dataclasses.replace(statement, platforms=(platform,)))


@pytest.mark.parametrize(
    "change", [{"sequence": 2**53}, {"sequence": -1}, {"name": "a b"}, {"version": "\n"}]
)
def test_a_field_out_of_bounds_is_not_written(change: dict) -> None:
    with pytest.raises(ManifestError):
        statement_bytes(dataclasses.replace(parse(VALUE), **change))


def test_events_are_chained_from_the_registers_own_start() -> None:
    # a register of the dynamic-launch range starts at all ones: its event must be chained from there
    digest = hashlib.sha256(b"x").digest()
    rule = {
        "rule": "exact",
        "value": hashlib.sha256(b"\xff" * 32 + digest).hexdigest(),
        "events": [{"type": "EV_IPL", "digest": digest.hex(), "what": "x"}],
    }
    parse(path_set(VALUE, f"{PCRS}/17", rule))
    rule["value"] = hashlib.sha256(bytes(32) + digest).hexdigest()
    with pytest.raises(ManifestError, match="events lead to"):
        parse(path_set(VALUE, f"{PCRS}/17", rule))


def test_a_truncated_statement_gives_our_error_at_every_length() -> None:
    data = rfc8785.dumps(VALUE)
    for length in range(0, len(data), 7):
        with pytest.raises(ManifestError):
            parse_statement(data[:length])


def test_a_flipped_bit_in_a_statement_gives_another_statement_or_our_error() -> None:
    data = rfc8785.dumps(VALUE)
    honest = parse_statement(data)
    for position in range(0, len(data), 23):
        flipped = bytearray(data)
        flipped[position] ^= 1
        try:
            assert parse_statement(bytes(flipped)) != honest
        except ManifestError:
            continue


def test_only_a_platform_whose_provider_keeps_the_firmware_may_lack_its_digest() -> None:
    written = copy.deepcopy(ONE)
    del written["firmwareDigest"]
    written["kind"] = "gcp"
    platform = read_platform(written, "platforms[0]")
    assert platform.firmware is None
    assert write_platform(platform) == written


@pytest.mark.parametrize("kind", [[], {}, 7, None, True, ["amd-sev-snp"]], ids=repr)
def test_a_platforms_kind_of_another_type_is_refused(kind: object) -> None:
    with pytest.raises(ManifestError, match=r"platforms\[0\]\.kind: expected"):
        read_platform(ONE | {"kind": kind}, "platforms[0]")
