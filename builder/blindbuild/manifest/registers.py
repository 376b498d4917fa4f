"""The platforms of a statement: what each of 24 registers must hold, in each bank, or the named values."""

from __future__ import annotations

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.fields import Fields
from blindbuild.formats.tcgevent import EventType
from blindbuild.manifest.words import NAME
from blindbuild.measure.classification import (
    KIND_UEFI_TPM,
    REGISTER_COUNT,
    Classification,
    Exact,
    Initial,
    OneOf,
    PlatformReference,
    StatedEvent,
    Unconstrained,
    initial_value,
)
from blindbuild.measure.launch_kinds import LAUNCH_KINDS

# sha1 can be measured for people who compare, but nothing is promised by it
BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
MAX_EVENTS = 256  # behind one exact value; real registers have fewer than 40
MAX_VALUES = 64  # of one oneOf rule; recorded firmware values are a handful
_NUMBERS = tuple(str(register) for register in range(REGISTER_COUNT))


def read_platform(value: JsonValue, where: str) -> PlatformReference:
    """Read one entry of `platforms`.

    Raises:
        ManifestError: unknown, missing or malformed fields; a register left out; a value that its events do
            not lead to.
    """
    if isinstance(value, dict) and isinstance(named := value.get("kind"), str) and named in LAUNCH_KINDS:
        return _read_launch(value, where)
    fields = Fields(
        value, where, required=("id", "kind", "banks"), optional=("firmwareDigest",), error=ManifestError
    )
    names = [algorithm.value for algorithm in BANKS]
    banks = Fields(fields.raw("banks"), fields.at("banks"), required=(), optional=names, error=ManifestError)
    present = [algorithm for algorithm in BANKS if algorithm.value in banks]
    if not present:
        raise fields.fail("banks", f"expected at least one of {', '.join(names)}")
    kind = fields.token("kind", NAME)
    return PlatformReference(
        identifier=fields.token("id", NAME),
        kind=kind,
        firmware=_read_firmware(fields, kind),
        banks={
            algorithm: _read_bank(banks.raw(algorithm.value), banks.at(algorithm.value), algorithm)
            for algorithm in present
        },
    )


def write_platform(platform: PlatformReference) -> JsonValue:
    """Return the JSON value that `read_platform` reads."""
    if platform.kind in LAUNCH_KINDS:
        rules: dict[str, JsonValue] = {
            name: _write_rule(rule) for name, rule in platform.measurements.items()
        }
        return {"id": platform.identifier, "kind": platform.kind, "measurements": rules}
    banks: dict[str, JsonValue] = {
        algorithm.value: {"pcrs": {str(number): _write_rule(rule) for number, rule in enumerate(registers)}}
        for algorithm, registers in platform.banks.items()
    }
    written: dict[str, JsonValue] = {"id": platform.identifier, "kind": platform.kind, "banks": banks}
    if platform.firmware is not None:
        written["firmwareDigest"] = {platform.firmware.algorithm.value: platform.firmware.hex}
    return written


def _read_launch(value: JsonValue, where: str) -> PlatformReference:
    fields = Fields(value, where, required=("id", "kind", "measurements"), error=ManifestError)
    kind = LAUNCH_KINDS[fields.word("kind", tuple(LAUNCH_KINDS))]
    rules = Fields(
        fields.raw("measurements"),
        fields.at("measurements"),
        required=kind.required,
        optional=kind.optional,
        error=ManifestError,
    )
    measurements: dict[str, OneOf | Unconstrained] = {}
    for name in (*kind.required, *kind.optional):
        if name not in rules:
            continue
        rule = _read_rule(rules.raw(name), rules.at(name), 0, HashAlgorithm.SHA384)
        if not isinstance(rule, OneOf | Unconstrained):
            raise rules.fail(name, "expected rule oneOf or unconstrained")
        if name in kind.fixed and not isinstance(rule, OneOf):
            raise rules.fail(name, "expected rule oneOf: without it another image could run")
        measurements[name] = rule
    return PlatformReference(fields.token("id", NAME), kind.identifier, None, {}, measurements)


def _read_firmware(fields: Fields, kind: str) -> Digest | None:
    """Read the digest of the firmware's file; only where the provider keeps the firmware is there none."""
    if "firmwareDigest" not in fields:
        if kind == KIND_UEFI_TPM:
            raise fields.fail(
                "firmwareDigest", f"expected the firmware of a platform of kind {kind}, got none"
            )
        return None
    firmware = Fields(
        fields.raw("firmwareDigest"), fields.at("firmwareDigest"), required=("sha256",), error=ManifestError
    )
    return firmware.digest("sha256", HashAlgorithm.SHA256)


def _read_bank(value: JsonValue, where: str, algorithm: HashAlgorithm) -> tuple[Classification, ...]:
    bank = Fields(value, where, required=("pcrs",), error=ManifestError)
    registers = Fields(bank.raw("pcrs"), bank.at("pcrs"), required=_NUMBERS, error=ManifestError)
    return tuple(
        _read_rule(registers.raw(number), registers.at(number), int(number), algorithm) for number in _NUMBERS
    )


def _read_rule(value: JsonValue, where: str, register: int, algorithm: HashAlgorithm) -> Classification:
    rule = value.get("rule") if isinstance(value, dict) else None
    match rule:
        case "exact":
            return _read_exact(value, where, register, algorithm)
        case "oneOf":
            return _read_one_of(value, where, algorithm)
        case "initial":
            Fields(value, where, required=("rule",), error=ManifestError)
            return Initial()
        case "unconstrained":
            fields = Fields(value, where, required=("rule", "reason"), error=ManifestError)
            return Unconstrained(fields.phrase("reason"))
        case _:
            raise ManifestError(
                f"{where}: expected rule exact, oneOf, initial or unconstrained, got {str(rule)[:80]!r}"
            )


def _read_exact(value: JsonValue, where: str, register: int, algorithm: HashAlgorithm) -> Exact:
    fields = Fields(value, where, required=("rule", "value", "events"), error=ManifestError)
    events = tuple(
        _read_event(entry, f"{fields.at('events')}[{index}]", algorithm)
        for index, entry in enumerate(fields.array("events", minimum=1, maximum=MAX_EVENTS))
    )
    stated = fields.digest("value", algorithm)
    replayed = initial_value(register, algorithm)
    for event in events:
        replayed = replayed.extend(event.digest)
    if replayed != stated:
        raise fields.fail("value", f"expected {replayed.hex}, what its events lead to, got {stated.hex}")
    return Exact(stated, events)


def _read_event(value: JsonValue, where: str, algorithm: HashAlgorithm) -> StatedEvent:
    fields = Fields(value, where, required=("type", "digest", "what"), error=ManifestError)
    name = fields.text("type")
    if name not in EventType.__members__:
        raise fields.fail("type", f"expected a TCG event type, got {name[:80]!r}")
    return StatedEvent(EventType[name].value, fields.digest("digest", algorithm), fields.phrase("what"))


def _read_one_of(value: JsonValue, where: str, algorithm: HashAlgorithm) -> OneOf:
    fields = Fields(value, where, required=("rule", "values"), optional=("why",), error=ManifestError)
    texts = fields.texts("values", minimum=1, maximum=MAX_VALUES)
    if list(texts) != sorted(set(texts)):
        raise fields.fail("values", "expected values that are sorted and unique")
    try:
        values = tuple(Digest.from_hex(algorithm, text) for text in texts)
    except FormatError as error:
        raise fields.fail("values", error.message) from error
    return OneOf(values, fields.phrase("why") if "why" in fields else "")


def _write_rule(rule: Classification) -> JsonValue:
    match rule:
        case Exact(value, events):
            listed: list[JsonValue] = [
                {"type": EventType(e.event_type).name, "digest": e.digest.hex, "what": e.what} for e in events
            ]
            return {"rule": "exact", "value": value.hex, "events": listed}
        case OneOf(values, why):
            hexes: list[JsonValue] = [value.hex for value in values]
            stated: dict[str, JsonValue] = {"rule": "oneOf", "values": hexes}
            return {**stated, "why": why} if why else stated
        case Initial():
            return {"rule": "initial"}
        case Unconstrained(reason):
            return {"rule": "unconstrained", "reason": reason}
