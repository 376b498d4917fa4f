"""The channel ledger as its readers see it: channels.json, which the statement pins by digest.

Sources: docs/spec/statement.md and docs/spec/ledger.md for the fields; docs/adr/0005 for what a state may be
claimed on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import INTEGER_LIMIT, JsonValue, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.manifest.words import NAME, VERSION

CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MAX_LEDGER = 4 << 20  # bytes; a product's has 10 KiB, one of a stock kernel has all its findings
MAX_CHANNELS = 256  # the channel study has 40 rows
_MAX_TEXTS = 1 << 16  # entries of one list; a debug image may have a finding for each of its files
_MAX_TEXT = 8192  # characters; a finding may quote a path of 4095 bytes
_MAX_CHECKS = 64  # of one channel; there are half a dozen kinds
_LATEST = 2
_TOP = ("version", "name", "imageVersion", "debug", "channels")
_TOP_2 = ("waivers", "files", "programs", "kernel", "habits")  # for people: nothing is decided by them here
_MORE_2 = ("reachable", "telemetry")  # for people too; the first ledgers of version 2 have neither
_ROW = ("number", "id", "claim", "state", "controls", "checks")
_CONTROL = ("what", "shownBy", "secondLayer")
_MAX_SHOWN_BY = 16  # checks that one control names; there are two at most
_CHECK = ("name", "sourceSha256", "lookedAt", "findings")


class ChannelState(Enum):
    """What the ledger says of a channel; `stated` is claimed, with no check to show it."""

    CLOSED = "closed"
    STATED = "stated"
    NARROWED = "narrowed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """One check that was run.

    Attributes:
        source: SHA-256 of what it read.
        looked_at: how many things it looked at.
        findings: what it found wrong.
        notes: what it has to say besides.
    """

    name: str
    source: Digest
    looked_at: int
    findings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """One row: what is claimed of a channel, and what was run to see it.

    Attributes:
        number: row of the channel study.
        identifier: stable word, unique in a ledger.
        claim: what holds, in words.
        controls: what closes it beyond what the checks looked at.
        why: reasons for the state, for people.
        closable: an image can close it.
        allowed: the recipe says that it is open.
    """

    number: int
    identifier: str
    claim: str
    state: ChannelState
    controls: tuple[str, ...]
    checks: tuple[LedgerCheck, ...]
    why: tuple[str, ...]
    closable: bool
    allowed: bool

    @property
    def undeclared(self) -> bool:
        """Whether it is open, need not be, and nobody said so; no product has such a row."""
        needless = self.closable or bool(self.findings)
        return self.state is ChannelState.OPEN and needless and not self.allowed

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that any check found wrong."""
        return tuple(finding for check in self.checks for finding in check.findings)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole of channels.json; `name` and `image_version` are the recipe's, as in the statement."""

    version: int
    name: str
    image_version: str
    debug: bool
    channels: tuple[Channel, ...]

    def find(self, identifier: str) -> Channel | None:
        """Return the row of this identifier, or None."""
        return next((channel for channel in self.channels if channel.identifier == identifier), None)


def parse_ledger(data: bytes) -> Ledger:
    """Parse the bytes of channels.json.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, an unknown or missing field, a channel twice, or
            a state that its checks do not bear out.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_LEDGER)
    except FormatError as error:
        raise ManifestError(f"ledger: {error.message}") from error
    fields = Fields(value, "ledger", required=_TOP, optional=(*_TOP_2, *_MORE_2), error=ManifestError)
    version = fields.integer("version", minimum=1, maximum=_LATEST)
    more, optional = ((), ()) if version == 1 else (_TOP_2, _MORE_2)
    fields = Fields(value, "ledger", required=(*_TOP, *more), optional=optional, error=ManifestError)
    channels = []
    for index, entry in enumerate(fields.array("channels", minimum=1, maximum=MAX_CHANNELS)):
        where = f"{fields.at('channels')}[{index}]"
        row = _open_row(entry, where, version)
        channels.append(_read_channel(row, version))
    ledger = Ledger(
        version=version,
        name=fields.token("name", NAME),
        image_version=fields.token("imageVersion", VERSION),
        debug=fields.boolean("debug"),
        channels=tuple(channels),
    )
    _check_unique(ledger)
    _check_findings(ledger)
    return ledger


def _open_row(entry: JsonValue, where: str, version: int) -> Fields:
    if version == 1:
        return Fields(entry, where, required=_ROW, error=ManifestError)
    optional = ("why", "allowedByRecipe")
    return Fields(entry, where, required=(*_ROW, "closable"), optional=optional, error=ManifestError)


def _read_controls(row: Fields) -> tuple[str, ...]:
    controls = []
    for index, entry in enumerate(row.array("controls", maximum=_MAX_CHECKS)):
        where = f"{row.at('controls')}[{index}]"
        fields = Fields(entry, where, required=_CONTROL, error=ManifestError)
        fields.boolean("secondLayer")
        fields.texts("shownBy", maximum=_MAX_SHOWN_BY)
        controls.append(fields.phrase("what"))
    return tuple(controls)


def _read_channel(row: Fields, version: int) -> Channel:
    checks = []
    for index, entry in enumerate(row.array("checks", maximum=_MAX_CHECKS)):
        where = f"{row.at('checks')}[{index}]"
        optional = () if version == 1 else ("notes",)
        fields = Fields(entry, where, required=_CHECK, optional=optional, error=ManifestError)
        checks.append(_read_check(fields))
    channel = Channel(
        number=row.integer("number", minimum=1, maximum=MAX_CHANNELS),
        identifier=row.token("id", CHANNEL),
        claim=row.phrase("claim"),
        state=ChannelState(row.word("state", [state.value for state in ChannelState])),
        controls=_read_texts(row, "controls") if version == 1 else _read_controls(row),
        checks=tuple(checks),
        why=_read_texts(row, "why"),
        # version 1 does not say; a row that no image can close has no findings there
        closable=row.boolean("closable") if version > 1 else False,
        allowed="allowedByRecipe" in row,
    )
    _check_state(row, channel)
    if version > 1 and not channel.closable and channel.state is ChannelState.CLOSED:
        raise row.fail("state", "expected a row that no image can close to be open or narrowed, got closed")
    if channel.allowed and not (row.boolean("allowedByRecipe") and channel.findings):
        raise row.fail(
            "allowedByRecipe", "expected true, and findings that the recipe allows, or no such field"
        )
    return channel


def _read_check(fields: Fields) -> LedgerCheck:
    return LedgerCheck(
        name=fields.phrase("name"),
        source=fields.digest("sourceSha256", HashAlgorithm.SHA256),
        looked_at=fields.integer("lookedAt", minimum=0, maximum=INTEGER_LIMIT - 1),
        findings=_read_texts(fields, "findings"),
        notes=_read_texts(fields, "notes"),
    )


def _read_texts(fields: Fields, key: str) -> tuple[str, ...]:
    texts = fields.texts(key, maximum=_MAX_TEXTS)
    for text in texts:
        if not 0 < len(text) <= _MAX_TEXT or not text.isprintable():
            raise fields.fail(key, f"expected 1 to {_MAX_TEXT} printable characters, got {text[:80]!r}")
    return texts


def _check_state(row: Fields, channel: Channel) -> None:
    if channel.findings and channel.state is not ChannelState.OPEN:
        raise row.fail("state", f"expected open because of its findings, got {channel.state.value}")
    # a check that looked at nothing has shown nothing
    if channel.state is ChannelState.CLOSED and not any(check.looked_at for check in channel.checks):
        raise row.fail("state", "expected a check that looked at something, got closed without one")


def _check_unique(ledger: Ledger) -> None:
    for what, values in (
        ("id", [channel.identifier for channel in ledger.channels]),
        ("number", [str(channel.number) for channel in ledger.channels]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ManifestError(f"ledger.channels: expected each {what} once, got {', '.join(twice)} again")


def _check_findings(ledger: Ledger) -> None:
    # version 1 knew no recipe that opens a channel: whatever was found failed the build of a product
    found = [channel.identifier for channel in ledger.channels if channel.findings]
    if ledger.version == 1 and found and not ledger.debug:
        raise ManifestError(f"ledger: expected findings in a debug image only, got some for {found[0]}")
