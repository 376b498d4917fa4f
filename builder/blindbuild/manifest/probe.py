"""The probe: an in-toto statement about what an image's machine was seen to do, beside the one of what it is.

It counts only for clients that ask for it: it says what somebody with a release key has seen, on which
machine, and what the same checks saw on an image that leaks. It has no time but durations.

Sources: in-toto Attestation Framework spec/v1/statement.md; docs/spec/probe.md for the predicate, which knows
its fields and refuses all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import INTEGER_LIMIT, JsonValue, canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.manifest.ledger import CHANNEL
from blindbuild.manifest.statement import STATEMENT_TYPE
from blindbuild.manifest.words import INPUT_NAME, NAME, VERSION

PROBE_TYPE = "urn:blindbuild:channel-probe:v1"
MAX_PROBE = 1 << 20  # bytes; a probe of a product has some 10 KiB, one full of findings 100
MAX_CHECKS = 64  # there are not 20
ROLES = ("product", "hostile", "leaky")
ACCELERATORS = ("kvm", "tcg")
MAX_PHASES = 64  # three machines of half a dozen phases
MAX_TEXT = 1000  # characters of one finding; it is cut before that
_MAX_TEXTS = 256  # findings of one check; the writer keeps to 40
_MAX_NUMBERS = 64  # kinds of things that one check looks at
_WORD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_PREDICATE = (
    *("name", "version", "debug", "statement", "ledger", "tool", "machine", "images", "phases", "checks"),
    "notLookedAt",
)
_CHECK = ("name", "claim", "channels", "closable", "lookedAt", "findings", "verdict", "reasons")


class Verdict(Enum):
    """What a check has come to; `shown` needs a control that was caught."""

    SHOWN = "shown"
    OPEN = "open"
    NOT_PROVEN = "not-proven"


@dataclass(frozen=True, slots=True)
class Count:
    """How many of what a check has looked at."""

    what: str
    number: int


@dataclass(frozen=True, slots=True)
class Control:
    """The image that leaks, and what the check saw there; nothing seen means that the check is no proof."""

    image: Digest
    saw: tuple[str, ...]

    @property
    def caught(self) -> bool:
        """Whether the check saw a leak."""
        return bool(self.saw)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One check and what it has come to.

    Attributes:
        name: stable word.
        claim: what holds if it is shown.
        channels: ids of the ledger that it is about.
        closable: an image can close what it looks at; if not, it is never shown.
        looked_at: numbers; any zero means that it has shown nothing.
        findings: what was wrong.
        control: None if no leaky image was run.
        reasons: why it is not proven, in words.
    """

    name: str
    claim: str
    channels: tuple[str, ...]
    closable: bool
    looked_at: tuple[Count, ...]
    findings: tuple[str, ...]
    control: Control | None
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """How long a phase of one machine took."""

    role: str
    phase: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class ProbedMachine:
    """What the machines ran on."""

    accelerator: str
    qemu: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Everything that one probe has shown.

    Attributes:
        subject: name and SHA-256 of the boot image.
        name, version: the image's, as in its statement.
        debug: the image is one to look into.
        statement: SHA-256 of statement.json.
        ledger: SHA-256 of channels.json.
        tool: name and version of what probed.
        images: the other images that were run, by role.
        not_looked_at: what there was no way to look at, and why.
    """

    subject: tuple[str, Digest]
    name: str
    version: str
    debug: bool
    statement: Digest
    ledger: Digest
    tool: tuple[str, str]
    machine: ProbedMachine
    images: tuple[tuple[str, Digest], ...]
    phases: tuple[PhaseReport, ...]
    checks: tuple[CheckReport, ...]
    not_looked_at: tuple[tuple[str, str], ...]


def settle_verdict(
    *, closable: bool, findings: Sequence[str], looked_at: Sequence[Count], control: Control | None
) -> tuple[Verdict, tuple[str, ...]]:
    """Return what a check has come to, and if that is not proven, why."""
    if findings:
        return Verdict.OPEN, ()
    reasons = [f"looked at no {count.what}" for count in looked_at if count.number == 0]
    if not looked_at:
        reasons.append("looked at nothing")
    if not closable:
        reasons.append("nothing was found, which does not show that there is nothing")
    elif control is None:
        reasons.append("no leaky image was run")
    elif not control.caught:
        reasons.append("the leaky image was not caught")
    return (Verdict.NOT_PROVEN, tuple(reasons)) if reasons else (Verdict.SHOWN, ())


def probe_bytes(probe: Probe) -> bytes:
    """Return the probe as the bytes that are signed.

    Raises:
        ManifestError: the probe breaks a rule that `parse_probe` checks.
    """
    try:
        data = canonical_bytes(_write(probe))
    except (FormatError, ValueError) as error:
        raise ManifestError(f"probe: cannot be written: {error}") from error
    parse_probe(data)
    return data


def parse_probe(data: bytes) -> Probe:
    """Parse the bytes of probe.json.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, another type, an unknown or missing field, or a
            verdict that its check does not bear out.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_PROBE)
    except FormatError as error:
        raise ManifestError(f"probe: {error.message}") from error
    probe = _read(value)
    # what was understood, written again, is all there was
    if canonical_bytes(_write(probe)) != data:
        raise ManifestError("probe: says more than was understood")
    return probe


def _read(value: JsonValue) -> Probe:
    top = _open(value, "probe", ("_type", "subject", "predicateType", "predicate"))
    top.word("_type", (STATEMENT_TYPE,))
    top.word("predicateType", (PROBE_TYPE,))
    (listed,) = top.array("subject", minimum=1, maximum=1)
    subject = _open(listed, top.at("subject"), ("name", "digest"))
    predicate = _open(top.raw("predicate"), "predicate", _PREDICATE)
    tool = _open(predicate.raw("tool"), predicate.at("tool"), ("name", "version"))
    probe = Probe(
        subject=(subject.token("name", INPUT_NAME), _digest(subject, "digest")),
        name=predicate.token("name", NAME),
        version=predicate.token("version", VERSION),
        debug=predicate.boolean("debug"),
        statement=_digest(predicate, "statement"),
        ledger=_digest(predicate, "ledger"),
        tool=(tool.token("name", NAME), tool.token("version", VERSION)),
        machine=_read_machine(predicate),
        images=_read_images(predicate),
        phases=_read_phases(predicate),
        checks=tuple(
            _read_check(fields) for fields in _each(predicate, "checks", _CHECK, 1, MAX_CHECKS, ("control",))
        ),
        not_looked_at=tuple(
            (fields.phrase("what"), fields.phrase("why"))
            for fields in _each(predicate, "notLookedAt", ("what", "why"), 0, _MAX_NUMBERS)
        ),
    )
    _check_order(probe)
    _check_controls(probe)
    return probe


def _read_machine(predicate: Fields) -> ProbedMachine:
    fields = _open(predicate.raw("machine"), predicate.at("machine"), ("accelerator", "qemu", "memoryMiB"))
    return ProbedMachine(
        fields.word("accelerator", ACCELERATORS),
        fields.phrase("qemu"),
        fields.integer("memoryMiB", minimum=1, maximum=1 << 20),
    )


def _read_images(predicate: Fields) -> tuple[tuple[str, Digest], ...]:
    found = [
        (fields.word("role", ROLES[1:]), _digest(fields, "digest"))
        for fields in _each(predicate, "images", ("role", "digest"), 0, len(ROLES))
    ]
    roles = [role for role, _ in found]
    if roles != sorted(set(roles)):
        raise predicate.fail("images", "expected roles that are sorted and unique")
    return tuple(found)


def _read_phases(predicate: Fields) -> tuple[PhaseReport, ...]:
    return tuple(
        PhaseReport(
            fields.word("role", ROLES),
            fields.token("phase", _WORD),
            fields.integer("milliseconds", minimum=0, maximum=INTEGER_LIMIT - 1),
        )
        for fields in _each(predicate, "phases", ("role", "phase", "milliseconds"), 1, MAX_PHASES)
    )


def _read_check(fields: Fields) -> CheckReport:
    check = CheckReport(
        name=fields.token("name", _WORD),
        claim=fields.phrase("claim"),
        channels=_read_channels(fields),
        closable=fields.boolean("closable"),
        looked_at=tuple(
            Count(count.phrase("what"), count.integer("count", minimum=0, maximum=INTEGER_LIMIT - 1))
            for count in _each(fields, "lookedAt", ("what", "count"), 0, _MAX_NUMBERS)
        ),
        findings=_phrases(fields, "findings"),
        control=_read_control(fields) if "control" in fields else None,
        verdict=Verdict(fields.word("verdict", [verdict.value for verdict in Verdict])),
        reasons=_phrases(fields, "reasons"),
    )
    verdict, reasons = settle_verdict(
        closable=check.closable,
        findings=check.findings,
        looked_at=check.looked_at,
        control=check.control,
    )
    if check.verdict is not verdict:
        raise fields.fail("verdict", f"expected {verdict.value}, got {check.verdict.value}")
    if check.reasons != reasons:
        raise fields.fail("reasons", f"expected {', '.join(reasons) or 'none'}")
    return check


def _read_channels(fields: Fields) -> tuple[str, ...]:
    channels = fields.texts("channels", minimum=1, maximum=_MAX_NUMBERS)
    if len(set(channels)) != len(channels) or not all(map(CHANNEL.fullmatch, channels)):
        raise fields.fail("channels", "expected ids of the ledger, each once")
    return channels


def _read_control(fields: Fields) -> Control:
    inner = _open(fields.raw("control"), fields.at("control"), ("image", "caught", "saw"))
    control = Control(_digest(inner, "image"), _phrases(inner, "saw"))
    if inner.boolean("caught") is not control.caught:
        raise inner.fail("caught", "expected it to say whether anything was seen")
    return control


def _check_order(probe: Probe) -> None:
    names = [check.name for check in probe.checks]
    if len(set(names)) != len(names):
        raise ManifestError("predicate.checks: expected each name once")
    # what no image can close must not be read last
    closable = [check.closable for check in probe.checks]
    if closable != sorted(closable):
        raise ManifestError("predicate.checks: expected those first that no image can close")


def _check_controls(probe: Probe) -> None:
    leaky = dict(probe.images).get("leaky")
    for check in probe.checks:
        if check.control is not None and check.control.image != leaky:
            raise ManifestError(f"predicate.checks: {check.name} has a control that is not the leaky image")


def _phrases(fields: Fields, key: str) -> tuple[str, ...]:
    texts = fields.texts(key, maximum=_MAX_TEXTS)
    for text in texts:
        if not 0 < len(text) <= MAX_TEXT or not text.isprintable():
            raise fields.fail(
                key, f"expected texts of 1 to {MAX_TEXT} printable characters, got {text[:80]!r}"
            )
    return texts


def _each(
    fields: Fields,
    key: str,
    required: Sequence[str],
    minimum: int,
    maximum: int,
    optional: Sequence[str] = (),
) -> list[Fields]:
    return [
        _open(entry, f"{fields.at(key)}[{index}]", required, optional)
        for index, entry in enumerate(fields.array(key, minimum=minimum, maximum=maximum))
    ]


def _open(value: JsonValue, where: str, required: Sequence[str], optional: Sequence[str] = ()) -> Fields:
    return Fields(value, where, required=required, optional=optional, error=ManifestError)


def _digest(fields: Fields, key: str) -> Digest:
    inner = _open(fields.raw(key), fields.at(key), ("sha256",))
    return inner.digest("sha256", HashAlgorithm.SHA256)


def _write(probe: Probe) -> JsonValue:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": probe.subject[0], "digest": _sha256(probe.subject[1])}],
        "predicateType": PROBE_TYPE,
        "predicate": {
            "name": probe.name,
            "version": probe.version,
            "debug": probe.debug,
            "statement": _sha256(probe.statement),
            "ledger": _sha256(probe.ledger),
            "tool": {"name": probe.tool[0], "version": probe.tool[1]},
            "machine": {
                "accelerator": probe.machine.accelerator,
                "qemu": probe.machine.qemu,
                "memoryMiB": probe.machine.memory_mib,
            },
            "images": [{"role": role, "digest": _sha256(image)} for role, image in probe.images],
            "phases": [
                {"role": phase.role, "phase": phase.phase, "milliseconds": phase.milliseconds}
                for phase in probe.phases
            ],
            "checks": [_write_check(check) for check in probe.checks],
            "notLookedAt": [{"what": what, "why": why} for what, why in probe.not_looked_at],
        },
    }


def _write_check(check: CheckReport) -> JsonValue:
    value: dict[str, JsonValue] = {
        "name": check.name,
        "claim": check.claim,
        "channels": list(check.channels),
        "closable": check.closable,
        "lookedAt": [{"what": count.what, "count": count.number} for count in check.looked_at],
        "findings": list(check.findings),
        "verdict": check.verdict.value,
        "reasons": list(check.reasons),
    }
    if check.control is not None:
        control = check.control
        value["control"] = {
            "image": _sha256(control.image),
            "caught": control.caught,
            "saw": list(control.saw),
        }
    return value


def _sha256(digest: Digest) -> JsonValue:
    return {digest.algorithm.value: digest.hex}
