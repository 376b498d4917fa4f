"""What `explain` reads: logs in any of their formats, recorded sessions, and statements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blindbuild.cli.naming import reading
from blindbuild.cli.outputs import MANIFEST, STATEMENT
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, UsageError, VerificationError
from blindbuild.formats.ccel import CC_REGISTERS, CcEventLog, parse_cc_event_log, replay_cc
from blindbuild.formats.cel import log_from_cel, parse_cel_json, parse_cel_tlv
from blindbuild.formats.dsse import MAX_ENVELOPE, parse_envelope
from blindbuild.formats.tcglog import (
    REGISTER_COUNT,
    ReplayedLog,
    UnverifiedLog,
    parse_event_log,
    replay,
)
from blindbuild.host.files import read_bytes
from blindbuild.manifest import Statement, parse_statement
from blindbuild.measure.classification import PlatformReference
from blindbuild.verify import parse_session
from blindbuild.verify.bundle import MAX_BUNDLE, looks_like_bundle, parse_bundle
from blindbuild.verify.registers import PlatformMatch, compare_registers

PCR_NAMES = tuple(f"PCR {register}" for register in range(REGISTER_COUNT))
_PREFERRED = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512, HashAlgorithm.SHA1)
_TLV_NUMBERS = {b"\0\0\0\0\x08": 8, b"\0\0\0\0\x04": 4}  # a record number of 8 or 4 bytes
_TLV_REGISTERS = (b"\1\0\0\0\x04", b"\1\0\0\0\x01")  # the register that follows it
_STATEMENT_STARTS = (b'{"_type"', b'{"payload')
_LOGS = (
    "a log is Linux's binary_bios_measurements or CCEL, a canonical event log,"
    " or a session that `blindbuild verify --save` wrote"
)
_TD_SHIM = b"td-shim"
_SPEC_ID_AT = 32  # offset of the first event's data
_STATEMENTS = "name a statement.json, a manifest.dsse.json, or the image directory that has one"
FORMATS = ("auto", "tcg", "ccel", "cel")


@dataclass(frozen=True, slots=True)
class NamedLog:
    """A log as it was read.

    Attributes:
        form: `tcg`, `ccel`, `cel-tlv` or `cel-json`.
        log: its events.
        names: what its registers are called, by number.
        cc: the whole area, if it is a log of a confidential guest.
        quoted: the bank and the values that a recorded session says were quoted; None for a log alone.
    """

    form: str
    log: UnverifiedLog
    names: tuple[str, ...]
    cc: CcEventLog | None = None
    quoted: tuple[HashAlgorithm, tuple[Digest, ...]] | None = None

    @property
    def tpm(self) -> bool:
        """Whether its registers are those of a TPM."""
        return self.cc is None

    def replayed(self, bank: HashAlgorithm) -> ReplayedLog:
        """Return the register values that it leads to; EventLogError if it has no such bank."""
        return replay(self.log, bank) if self.cc is None else replay_cc(self.cc, bank)


def read_log(path: Path, *, form: str = "auto") -> NamedLog:
    """Read a log or a recorded session.

    Args:
        path: the file.
        form: one of `FORMATS`; `auto` looks at the first bytes.

    Raises:
        UsageError: the file cannot be read.
        FormatError: it is in none of the formats.
    """
    if path.is_dir():
        raise UsageError(
            f"{path}: expected a log, got a directory",
            hint=f"to compare with an image: blindbuild explain LOG --statement {path}",
        )
    data = read_bytes(path, error=UsageError, limit_bytes=MAX_BUNDLE)
    if form == "auto" and data.startswith(_STATEMENT_STARTS):
        raise UsageError(
            f"{path}: expected a log, got a statement or a manifest",
            hint=f"to compare with it: blindbuild explain LOG --statement {path}",
        )
    with reading(path, hint=_LOGS):
        return _parse_log(data, form)


def _parse_log(data: bytes, form: str) -> NamedLog:
    start = data[:64].lstrip()[:1]
    if form == "auto" and start == b"{":
        return _session_log(data)
    if form == "cel" or (form == "auto" and (start == b"[" or _looks_like_tlv(data))):
        if start == b"[":
            return NamedLog("cel-json", log_from_cel(parse_cel_json(data)), PCR_NAMES)
        return NamedLog("cel-tlv", log_from_cel(parse_cel_tlv(data)), PCR_NAMES)
    if form == "ccel" or (form == "auto" and _looks_like_cc(data)):
        area = parse_cc_event_log(data)
        return NamedLog("ccel", area.log, CC_REGISTERS, area)
    return NamedLog("tcg", parse_event_log(data), PCR_NAMES)


def _looks_like_tlv(data: bytes) -> bool:
    # the first five bytes alone are also those of a TCG 1.2 log that begins with EV_S_CRTM_VERSION in PCR 0
    size = _TLV_NUMBERS.get(data[:5])
    return size is not None and data[5 + size : 10 + size] in _TLV_REGISTERS


def _looks_like_cc(data: bytes) -> bool:
    # edk2 logs the Spec ID event as RTMR0's; td-shim names itself as its vendor
    head = data[_SPEC_ID_AT : _SPEC_ID_AT + 256]
    return head.startswith(b"Spec ID Event03") and (data[:4] == b"\1\0\0\0" or _TD_SHIM in head)


def _session_log(data: bytes) -> NamedLog:
    try:
        recorded = parse_bundle(data).session if looks_like_bundle(data) else parse_session(data)
    except VerificationError as error:
        raise FormatError(
            f"not a recorded session: {error.message}", hint="`blindbuild verify --save FILE` writes one"
        ) from error
    evidence = recorded.evidence
    log = parse_event_log(evidence.event_log)
    return NamedLog("tcg", log, PCR_NAMES, quoted=(evidence.bank, evidence.registers))


def read_statement(path: Path) -> Statement:
    """Read a statement, the one in an envelope, or the one in an image directory; no signature is checked.

    Raises:
        UsageError: the file cannot be read.
        ManifestError: it is no statement.
        EnvelopeError: the envelope is malformed.
    """
    if path.is_dir():
        path = path / STATEMENT if (path / STATEMENT).is_file() else path / MANIFEST
    data = read_bytes(path, error=UsageError, hint=_STATEMENTS, limit_bytes=MAX_ENVELOPE)
    with reading(path, hint=_STATEMENTS):
        if not data.startswith(b'{"_type"'):  # the first key of every statement, as its keys are sorted
            data = parse_envelope(data).payload
        return parse_statement(data)


def choose_bank(chosen: str | None, *banks: tuple[HashAlgorithm, ...]) -> HashAlgorithm:
    """Return the bank asked for, or the best one that all sides have.

    Raises:
        UsageError: there is none.
    """
    common = [bank for bank in _PREFERRED if all(bank in side for side in banks)]
    if chosen is not None:
        bank = HashAlgorithm.from_name(chosen)
        if bank not in common:
            known = ", ".join(item.value for item in common) or "none"
            raise UsageError(f"expected a bank that all sides have ({known}), got {chosen}")
        return bank
    if not common:
        raise UsageError("expected a bank that all sides have, got none")
    return common[0]


def choose_match(
    statement: Statement, log: NamedLog, *, bank: str | None, platform: str | None
) -> tuple[PlatformMatch, HashAlgorithm]:
    """Compare a log, or what a session quoted, with the platform that fits best or was named.

    Raises:
        UsageError: no such platform or bank, or a log of other registers than a TPM's.
        EventLogError: a log that cannot be replayed.
    """
    if not log.tpm:
        raise UsageError("expected a TPM's log to compare with a statement, got one of a confidential guest")
    platforms = [p for p in statement.platforms if platform in (None, p.identifier)]
    if not platforms:
        known = ", ".join(p.identifier for p in statement.platforms)
        raise UsageError(f"expected a platform of the statement ({known}), got {platform}")
    banks = tuple(dict.fromkeys(b for p in platforms for b in p.banks))
    sides = (log.log.algorithms, banks, *(((log.quoted[0],),) if log.quoted else ()))
    chosen = choose_bank(bank, *sides)
    values = log.quoted[1] if log.quoted else log.replayed(chosen).values
    usable: list[PlatformReference] = [p for p in platforms if chosen in p.banks]
    matches = [compare_registers(p, chosen, values) for p in usable]
    return min(matches, key=lambda m: (len(m.differing), m.platform.identifier)), chosen
