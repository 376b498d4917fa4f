"""Reading channels.json: every field has a rule, and a state is held against its checks."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from blindbuild.audit.channels import write_ledger
from blindbuild.audit.rows import RULES
from blindbuild.errors import ManifestError
from blindbuild.manifest import ChannelState, parse_ledger
from blindbuild.verify import CHANNEL_GROUPS
from tests.fakes.channels import but_row, check, closed_ledger, ledger_bytes, row, without_row
from tests.fakes.damage import bit_flips, truncations
from tests.unit.test_channels import clean  # noqa: F401  (a fixture)

LEDGER = closed_ledger()
SECOND = closed_ledger(2)
MISSING = object()


def parse(value: object):
    return parse_ledger(ledger_bytes(value))


def test_a_ledger_reads_as_it_was_written() -> None:
    ledger = parse(LEDGER)
    assert (ledger.version, ledger.name, ledger.image_version, ledger.debug) == (1, "hello", "1.0.0", False)
    assert [(c.number, c.identifier, c.state.value) for c in ledger.channels] == [
        (entry["number"], entry["id"], entry["state"]) for entry in LEDGER["channels"]
    ]
    disks = ledger.find("disks-file-systems")
    assert disks is not None
    assert disks.claim == "what holds of disks-file-systems"
    assert [(c.name, c.looked_at, c.findings, c.notes) for c in disks.checks] == [
        ("kernel-config", 7, (), ())
    ]
    assert disks.checks[0].source.hex == check()["sourceSha256"]
    assert ledger.find("disks") is None


@pytest.mark.parametrize("debug", [False, True])
def test_what_the_builder_writes_can_be_read(clean, debug: bool) -> None:  # noqa: F811
    parts = dataclasses.replace(clean, debug=debug)
    if debug:
        parts = dataclasses.replace(parts, command_line=f"{clean.command_line} console=ttyS0")
    written = write_ledger("hello", "1.0.0", parts.inputs())
    ledger = parse_ledger(written)
    assert {channel.identifier for channel in ledger.channels} == {rule.identifier for rule in RULES}
    console = ledger.find("serial-console")
    assert console is not None
    assert console.state is (ChannelState.OPEN if debug else ChannelState.CLOSED)
    assert ("the command line has console=ttyS0" in console.findings) is debug
    states = {entry["id"]: entry["state"] for entry in json.loads(written)["channels"]}
    assert {channel.identifier: channel.state.value for channel in ledger.channels} == states


def test_groups_are_made_of_rows_and_named_like_none() -> None:
    identifiers = {rule.identifier for rule in RULES}
    assert {identifier for group in CHANNEL_GROUPS.values() for identifier in group} <= identifiers
    assert not identifiers & CHANNEL_GROUPS.keys()


def test_version_2_may_say_why_and_note_things() -> None:
    value = but_row(SECOND, "kexec", why=["because"], checks=[check(notes=["one", "two"])])
    kexec = parse(value).find("kexec")
    assert kexec is not None
    assert kexec.why == ("because",)
    assert kexec.checks[0].notes == ("one", "two")
    opened = but_row(SECOND, "kexec", state="open", checks=[check("it is there")], why=["the recipe asks"])
    assert parse(opened).find("kexec").findings == ("it is there",)


def test_version_2_has_fields_that_version_1_has_not() -> None:
    for name in ("waivers", "files", "programs", "kernel", "habits"):
        with pytest.raises(ManifestError, match=f"missing {name}"):
            parse({key: item for key, item in SECOND.items() if key != name})
        with pytest.raises(ManifestError, match=f"unknown '{name}'"):
            parse(LEDGER | {name: SECOND[name]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"closable": False}, "expected a row that no image can close to be open or narrowed, got closed"),
        ({"closable": 1}, "expected true or false"),
        ({"controls": ["text"]}, r"controls\[0\]: expected an object"),
        ({"controls": [{"what": "x", "shownBy": []}]}, "missing secondLayer"),
        ({"controls": [{"what": "x", "shownBy": "y", "secondLayer": False}]}, "expected a list"),
    ],
)
def test_a_row_of_version_2_that_breaks_a_rule_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse(but_row(SECOND, "kexec", **changes))


def top(**changes) -> dict:
    value = LEDGER | changes
    return {key: item for key, item in value.items() if item is not MISSING}


def first(**changes) -> dict:
    value = copy.deepcopy(LEDGER)
    entry = value["channels"][0] | changes
    value["channels"][0] = {key: item for key, item in entry.items() if item is not MISSING}
    return value


def checked(**changes) -> dict:
    entry = {key: item for key, item in check(**changes).items() if item is not MISSING}
    return but_row(LEDGER, "kexec", checks=[entry])


REFUSED = {
    "a list": ([], "expected an object, got a list"),
    "version 0": (top(version=0), "ledger.version: expected 1 to 2"),
    "version 3": (top(version=3), "ledger.version: expected 1 to 2"),
    "version as text": (top(version="1"), "expected an integer, got a string"),
    "version missing": (top(version=MISSING), "missing version"),
    "name in capitals": (top(name="Hello"), "ledger.name: expected"),
    "debug as a number": (top(debug=0), "expected true or false"),
    "an unknown field": (top(more=1), "ledger: unknown 'more'"),
    "no row": (top(channels=[]), "ledger.channels: expected 1 to 256"),
    "too many rows": (top(channels=[row(1, "x", "open")] * 257), "ledger.channels: expected 1 to 256"),
    "rows by name": (top(channels={}), "expected a list, got an object"),
    "a row that is text": (top(channels=["x"]), "ledger.channels[0]: expected an object"),
    "a row twice": (
        top(channels=[row(1, "x", "open"), row(2, "x", "closed")]),
        "expected each id once, got x again",
    ),
    "a number twice": (
        top(channels=[row(1, "x", "open"), row(1, "y", "open")]),
        "expected each number once, got 1 again",
    ),
    "row number 0": (first(number=0), "channels[0].number: expected 1 to"),
    "an id of two words": (first(id="serial console"), "channels[0].id: expected"),
    "an id that is two for a policy": (first(id="disk,console"), "channels[0].id: expected"),
    "an unknown state": (first(state="ajar"), "channels[0].state: expected"),
    "a state in capitals": (first(state="Closed"), "channels[0].state: expected"),
    "a claim that steers a terminal": (first(claim="\x1b[2J"), "channels[0].claim: expected"),
    "no claim": (first(claim=MISSING), "missing claim"),
    "an unknown field of a row": (first(waived=True), "channels[0]: unknown 'waived'"),
    "why in version 1": (first(why=["x"]), "channels[0]: unknown 'why'"),
    "controls as text": (first(controls="x"), "channels[0].controls: expected a list"),
    "a control of two lines": (first(controls=["a\nb"]), "channels[0].controls: expected"),
    "an empty control": (first(controls=[""]), "channels[0].controls: expected"),
    "closed without a check": (first(checks=[]), "got closed without one"),
    "closed by a check of nothing": (checked(lookedAt=0), "got closed without one"),
    "closed with a finding": (checked(findings=["x"]), "expected open because of its findings, got closed"),
    "stated with a finding": (
        but_row(LEDGER, "standard-streams", checks=[check("x")]),
        "expected open because of its findings, got stated",
    ),
    "narrowed with a finding": (
        but_row(LEDGER, "arp", checks=[check(), check("x")]),
        "expected open because of its findings, got narrowed",
    ),
    "a finding in version 1 without debug": (
        but_row(LEDGER, "kexec", state="open", checks=[check("x")]),
        "expected findings in a debug image only, got some for kexec",
    ),
    "an unknown field of a check": (checked(result="ok"), "checks[0]: unknown 'result'"),
    "notes in version 1": (checked(notes=[]), "checks[0]: unknown 'notes'"),
    "a check without its source": (checked(sourceSha256=MISSING), "missing sourceSha256"),
    "a source in capitals": (checked(sourceSha256="AB" * 32), "lower-case hex"),
    "a check that looked at -1": (checked(lookedAt=-1), "lookedAt: expected 0 to"),
    "a check that looked at true": (checked(lookedAt=True), "expected an integer, got a boolean"),
    "a finding that is no text": (checked(findings=[1]), "expected a list of strings"),
    "a finding that steers a terminal": (checked(findings=["\u202e"]), "printable characters"),
    "a finding without end": (checked(findings=["x" * 8193]), "expected 1 to 8192"),
    "too many checks": (but_row(LEDGER, "kexec", checks=[check()] * 65), "checks: expected 0 to 64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_ledger_that_breaks_a_rule_is_refused(name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(ManifestError) as caught:
        parse(value)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (json.dumps(LEDGER, sort_keys=True).encode(), "not in its RFC 8785 form"),
        (ledger_bytes(LEDGER) + b"\n", "not in its RFC 8785 form"),
        (ledger_bytes(LEDGER).replace(b'"debug":false', b'"debug":false,"debug":false'), "duplicate key"),
        (b"\xef\xbb\xbf" + ledger_bytes(LEDGER), "byte order mark"),
        (b" " * ((4 << 20) + 1), "expected at most 4194304 bytes"),
    ],
)
def test_bytes_that_are_no_canonical_ledger_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=r"^ledger: ") as caught:
        parse_ledger(data)
    assert message in caught.value.message


def test_a_ledger_cut_short_is_refused_and_a_changed_one_raises_nothing_else() -> None:
    data = ledger_bytes(top(channels=SECOND["channels"][:4]))
    for cut in truncations(data):
        with pytest.raises(ManifestError):
            parse_ledger(cut)
    refused = 0
    for flipped in bit_flips(data):
        try:
            parse_ledger(flipped)
        except ManifestError:
            refused += 1
    assert refused > len(data) // 3


def test_a_row_that_was_left_out_is_not_found() -> None:
    assert parse(without_row(LEDGER, "kexec")).find("kexec") is None
