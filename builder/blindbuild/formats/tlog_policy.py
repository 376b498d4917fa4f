"""Which logs and which witnesses count, and how many of them, as a text file.

Source: C2SP tlog-policy (c2sp.org/tlog-policy), "Policy file syntax and structure".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from blindbuild.errors import TlogError
from blindbuild.formats.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ED25519,
    MAX_SIGNATURES,
    VerifierKey,
    parse_vkey,
)

MAX_POLICY = 1 << 18  # bytes; 96 lines with ML-DSA-44 keys take 180 KiB
MAX_LOGS = MAX_WITNESSES = MAX_GROUPS = 64  # twice what the specification asks an implementation to take
NO_QUORUM = "none"
_LOG_KINDS = frozenset({ED25519})
_WITNESS_KINDS = frozenset({COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44})
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A log by its key, whose name is the origin; `url` is where it is served, if that is said."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A witness; `name` means something in the policy only, `url` is where it takes checkpoints."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """Witnesses and groups of which at least `threshold` must have cosigned."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """A whole policy; `quorum` names a witness or a group, or is `none`."""

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str

    def is_met(self, cosigned: Collection[str]) -> bool:
        """Return whether these witnesses, by their names in the policy, are a quorum."""
        if self.quorum == NO_QUORUM:
            return True
        met = {witness.name for witness in self.witnesses if witness.name in cosigned}
        for group in self.groups:  # a group names only what stands before it
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met

    @property
    def fewest_cosignatures(self) -> int:
        """How many cosignatures the smallest quorum has."""
        needed = {NO_QUORUM: 0} | {witness.name: 1 for witness in self.witnesses}
        for group in self.groups:
            needed[group.name] = sum(sorted(needed[member] for member in group.members)[: group.threshold])
        return needed[self.quorum]

    @property
    def quorum_in_words(self) -> str:
        """The quorum for people, groups by their rule."""
        for group in self.groups:
            if group.name == self.quorum:
                return f"{group.threshold} of {', '.join(group.members)}"
        return self.quorum


@dataclass(slots=True)
class _Reader:
    """What the lines so far have said."""

    logs: list[PolicyLog] = field(default_factory=list)
    witnesses: list[PolicyWitness] = field(default_factory=list)
    groups: list[PolicyGroup] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    grouped: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)
    quorum: str | None = None

    def read_log(self, words: list[str]) -> None:
        """Take `log VKEY [URL]`."""
        if len(words) not in (1, 2):
            raise TlogError("expected `log VKEY [URL]`")
        key = self._key(words[0], _LOG_KINDS, "log")
        self.logs.append(PolicyLog(key, words[1] if len(words) > 1 else None))
        _check_count(self.logs, MAX_LOGS, "logs")

    def read_witness(self, words: list[str]) -> None:
        """Take `witness NAME VKEY [URL]`."""
        if len(words) not in (2, 3):
            raise TlogError("expected `witness NAME VKEY [URL]`")
        self._name(words[0])
        key = self._key(words[1], _WITNESS_KINDS, "witness")
        self.witnesses.append(PolicyWitness(words[0], key, words[2] if len(words) > 2 else None))
        _check_count(self.witnesses, MAX_WITNESSES, "witnesses")

    def read_group(self, words: list[str]) -> None:
        """Take `group NAME all|any|K NAME...`."""
        if len(words) < 3:
            raise TlogError("expected `group NAME all|any|K MEMBER...`")
        name, rule, *members = words
        for member in members:
            self._defined(member)
            if member in self.grouped:
                raise TlogError(f"expected {member!r} in one group, got it again")
            self.grouped.add(member)
        self._name(name)
        self.groups.append(PolicyGroup(name, _threshold(rule, len(members)), tuple(members)))
        _check_count(self.groups, MAX_GROUPS, "groups")

    def read_quorum(self, words: list[str]) -> None:
        """Take `quorum NAME`."""
        if len(words) != 1:
            raise TlogError("expected `quorum NAME`")
        if self.quorum is not None:
            raise TlogError("expected one quorum line, got another")
        if words[0] != NO_QUORUM:
            self._defined(words[0])
        self.quorum = words[0]

    def _name(self, name: str) -> None:
        if name == NO_QUORUM or name in self.names:
            raise TlogError(f"expected a name that is not taken, got {name[:80]!r}")
        self.names.add(name)

    def _defined(self, name: str) -> None:
        if name not in self.names:
            raise TlogError(f"expected a witness or group of a line above, got {name[:80]!r}")

    def _key(self, text: str, kinds: frozenset[int], what: str) -> VerifierKey:
        key = parse_vkey(text)
        if key.kind not in kinds:
            known = " or ".join(f"0x{kind:02x}" for kind in sorted(kinds))
            raise TlogError(f"expected a {what} key of type {known}, got 0x{key.kind:02x}")
        # by the bare key: one witness under two names would be two, and a log its own witness
        if key.fingerprint in self.keys:
            raise TlogError(f"expected every key once, got that of {key.name} again")
        self.keys.add(key.fingerprint)
        return key


def parse_log_policy(data: bytes) -> LogPolicy:
    """Parse a policy file.

    Raises:
        TlogError: malformed, a name used before it is defined or twice, a key twice, no quorum or two, or a
            quorum that no checkpoint with 16 signatures can meet; the message says which line.
    """
    if len(data) > MAX_POLICY:
        raise TlogError(f"log policy: expected at most {MAX_POLICY} bytes, got {len(data)}")
    forbidden = _FORBIDDEN.search(data)
    if forbidden is not None:
        raise TlogError(f"log policy: control character 0x{forbidden[0][0]:02x} at byte {forbidden.start()}")
    # names are opaque octets; what is no UTF-8 stays apart from everything else
    *lines, rest = data.decode("utf-8", "surrogateescape").split("\n")
    if rest:
        raise TlogError("log policy: expected every line to end with a newline")
    reader = _Reader()
    readers: dict[str, Callable[[list[str]], None]] = {
        "log": reader.read_log,
        "witness": reader.read_witness,
        "group": reader.read_group,
        "quorum": reader.read_quorum,
    }
    for number, line in enumerate(lines, 1):
        words = re.findall(r"[^ \t]+", line)
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in readers:
            raise TlogError(
                f"log policy, line {number}: expected {', '.join(readers)}, got {words[0][:80]!r}"
            )
        try:
            readers[words[0]](words[1:])
        except TlogError as error:
            raise TlogError(f"log policy, line {number}: {error.message}") from error
    return _finish(reader)


def _finish(reader: _Reader) -> LogPolicy:
    if reader.quorum is None:
        raise TlogError("log policy: expected a quorum line, got none", hint="add `quorum none` or a witness")
    policy = LogPolicy(tuple(reader.logs), tuple(reader.witnesses), tuple(reader.groups), reader.quorum)
    if policy.fewest_cosignatures >= MAX_SIGNATURES:  # the log's own signature is one of them
        raise TlogError(
            f"log policy: expected a quorum of at most {MAX_SIGNATURES - 1} cosignatures, "
            f"got {policy.fewest_cosignatures}"
        )
    return policy


def _threshold(rule: str, count: int) -> int:
    if rule in ("all", "any"):
        return count if rule == "all" else 1
    if not _NUMBER.fullmatch(rule) or int(rule) > count:
        raise TlogError(f"expected all, any or a number from 1 to {count}, got {rule[:80]!r}")
    return int(rule)


def _check_count(values: Collection[object], limit: int, what: str) -> None:
    if len(values) > limit:
        raise TlogError(f"expected at most {limit} {what}")
