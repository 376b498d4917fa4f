"""The statement: an in-toto statement with the reference measurements, as RFC 8785 bytes.

Sources: in-toto Attestation Framework spec/v1/statement.md; docs/spec/statement.md for the predicate, which
knows its fields and refuses all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import MAX_BYTES, JsonValue, canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.manifest.registers import read_platform, write_platform
from blindbuild.manifest.words import ATTRIBUTES, INPUT_NAME, MAX_SEQUENCE, NAME, VERSION
from blindbuild.measure.classification import PlatformReference

STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"  # in-toto spec/v1/envelope.md
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:blindbuild:reference-measurements:v1"
CHANNEL_BINDINGS = ("tls-spki-quote-v1", "hpke-quote-v1")  # docs/spec/evidence.md and hpke-channel.md
SCHEMES = ("ecdsa-p256-sha256", "rsassa-2048-sha256")  # docs/spec/evidence.md, "AK"
MEMORY_CONFIDENTIALITY = ("none", "sev-snp", "tdx")
SUBJECT_ALGORITHMS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
MAX_SUBJECTS = 16  # an image has one UKI and one disk
MAX_PLATFORMS = 64  # instances of firmware one image is measured for
MAX_INPUTS = 4096  # packages, wheels and files of one lock
_PREDICATE_FIELDS = (
    "name",
    "version",
    "sequence",
    "debug",
    "memoryConfidentiality",
    "ledger",
    "platforms",
    "attestationKey",
    "channelBinding",
    "build",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A file the statement is about; `digests` has SHA-256 and perhaps more."""

    name: str
    digests: Mapping[HashAlgorithm, Digest]


@dataclass(frozen=True, slots=True)
class AttestationKeyRule:
    """What the key that signs quotes must be; the attribute masks are TPMA_OBJECT bits."""

    schemes: tuple[str, ...]
    required_attributes: int
    forbidden_attributes: int
    hierarchy: str


# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign; never decrypt
DEFAULT_ATTESTATION_KEY = AttestationKeyRule(SCHEMES, 0x00050072, 0x00020000, "endorsement")


@dataclass(frozen=True, slots=True)
class BuildInput:
    """One input by name and SHA-256."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Statement:
    """Everything that is promised about one image; a pure function of recipe and lock.

    Attributes:
        name: the recipe's name, which is the product's.
        sequence: grows with each release; the client refuses to go back.
        ledger: SHA-256 of channels.json.
        tool: name and version of what built it.
        inputs: sorted by name.
    """

    subjects: tuple[Subject, ...]
    name: str
    version: str
    sequence: int
    debug: bool
    memory_confidentiality: str
    ledger: Digest
    platforms: tuple[PlatformReference, ...]
    tool: tuple[str, str]
    inputs: tuple[BuildInput, ...]
    attestation_key: AttestationKeyRule = DEFAULT_ATTESTATION_KEY
    channel_binding: str = CHANNEL_BINDINGS[0]


def statement_bytes(statement: Statement) -> bytes:
    """Return the statement as the bytes that are signed.

    Raises:
        ManifestError: the statement breaks a rule that `parse_statement` checks.
    """
    try:
        data = canonical_bytes(_write(statement))
    except (FormatError, ValueError) as error:
        raise ManifestError(f"statement: cannot be written: {error}") from error
    parse_statement(data)
    return data


def parse_statement(data: bytes) -> Statement:
    """Parse the bytes of a statement.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, another type, an unknown or missing field, or a
            rule broken.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_BYTES)
    except FormatError as error:
        raise ManifestError(f"statement: {error.message}") from error
    statement = _read(value)
    # what was understood, written again, is all there was
    if canonical_bytes(_write(statement)) != data:
        raise ManifestError("statement: says more than was understood")
    return statement


def _read(value: JsonValue) -> Statement:
    top = Fields(
        value,
        "statement",
        required=("_type", "subject", "predicateType", "predicate"),
        error=ManifestError,
    )
    top.word("_type", (STATEMENT_TYPE,))
    top.word("predicateType", (PREDICATE_TYPE,))
    predicate = Fields(top.raw("predicate"), "predicate", required=_PREDICATE_FIELDS, error=ManifestError)
    ledger = Fields(
        predicate.raw("ledger"), predicate.at("ledger"), required=("sha256",), error=ManifestError
    )
    tool, inputs = _read_build(predicate)
    return Statement(
        subjects=_read_subjects(top),
        name=predicate.token("name", NAME),
        version=predicate.token("version", VERSION),
        sequence=predicate.integer("sequence", minimum=0, maximum=MAX_SEQUENCE),
        debug=predicate.boolean("debug"),
        memory_confidentiality=predicate.word("memoryConfidentiality", MEMORY_CONFIDENTIALITY),
        ledger=ledger.digest("sha256", HashAlgorithm.SHA256),
        platforms=_read_platforms(predicate),
        tool=tool,
        inputs=inputs,
        attestation_key=_read_key_rule(predicate),
        channel_binding=predicate.word("channelBinding", CHANNEL_BINDINGS),
    )


def _read_subjects(top: Fields) -> tuple[Subject, ...]:
    subjects = []
    for index, entry in enumerate(top.array("subject", minimum=1, maximum=MAX_SUBJECTS)):
        where = f"{top.at('subject')}[{index}]"
        fields = Fields(entry, where, required=("name", "digest"), error=ManifestError)
        digests = Fields(
            fields.raw("digest"),
            fields.at("digest"),
            required=("sha256",),
            optional=[algorithm.value for algorithm in SUBJECT_ALGORITHMS],
            error=ManifestError,
        )
        found = {a: digests.digest(a.value, a) for a in SUBJECT_ALGORITHMS if a.value in digests}
        subjects.append(Subject(fields.token("name", INPUT_NAME), found))
    _require_sorted([subject.name for subject in subjects], top.at("subject"))
    return tuple(subjects)


def _read_platforms(predicate: Fields) -> tuple[PlatformReference, ...]:
    entries = predicate.array("platforms", minimum=1, maximum=MAX_PLATFORMS)
    where = predicate.at("platforms")
    platforms = tuple(read_platform(entry, f"{where}[{index}]") for index, entry in enumerate(entries))
    _require_sorted([platform.identifier for platform in platforms], where)
    return platforms


def _read_key_rule(predicate: Fields) -> AttestationKeyRule:
    fields = Fields(
        predicate.raw("attestationKey"),
        predicate.at("attestationKey"),
        required=("schemes", "requiredAttributes", "forbiddenAttributes", "hierarchy"),
        error=ManifestError,
    )
    schemes = fields.texts("schemes", minimum=1, maximum=len(SCHEMES))
    if schemes != tuple(scheme for scheme in SCHEMES if scheme in schemes):
        raise fields.fail("schemes", f"expected some of {', '.join(SCHEMES)}, in this order, each once")
    return AttestationKeyRule(
        schemes,
        int(fields.token("requiredAttributes", ATTRIBUTES), 16),
        int(fields.token("forbiddenAttributes", ATTRIBUTES), 16),
        fields.word("hierarchy", ("endorsement",)),
    )


def _read_build(predicate: Fields) -> tuple[tuple[str, str], tuple[BuildInput, ...]]:
    build = Fields(
        predicate.raw("build"), predicate.at("build"), required=("tool", "inputs"), error=ManifestError
    )
    tool = Fields(build.raw("tool"), build.at("tool"), required=("name", "version"), error=ManifestError)
    inputs = []
    for index, entry in enumerate(build.array("inputs", maximum=MAX_INPUTS)):
        where = f"{build.at('inputs')}[{index}]"
        fields = Fields(entry, where, required=("name", "digest"), error=ManifestError)
        digest = Fields(fields.raw("digest"), fields.at("digest"), required=("sha256",), error=ManifestError)
        inputs.append(
            BuildInput(fields.token("name", INPUT_NAME), digest.digest("sha256", HashAlgorithm.SHA256))
        )
    _require_sorted([entry.name for entry in inputs], build.at("inputs"))
    return (tool.token("name", NAME), tool.token("version", VERSION)), tuple(inputs)


def _require_sorted(names: list[str], where: str) -> None:
    if names != sorted(set(names)):
        raise ManifestError(f"{where}: expected names that are sorted and unique")


def _write(statement: Statement) -> JsonValue:
    rule = statement.attestation_key
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": subject.name, "digest": {a.value: d.hex for a, d in subject.digests.items()}}
            for subject in statement.subjects
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "name": statement.name,
            "version": statement.version,
            "sequence": statement.sequence,
            "debug": statement.debug,
            "memoryConfidentiality": statement.memory_confidentiality,
            "ledger": {statement.ledger.algorithm.value: statement.ledger.hex},
            "platforms": [write_platform(platform) for platform in statement.platforms],
            "attestationKey": {
                "schemes": list(rule.schemes),
                "requiredAttributes": f"0x{rule.required_attributes:08x}",
                "forbiddenAttributes": f"0x{rule.forbidden_attributes:08x}",
                "hierarchy": rule.hierarchy,
            },
            "channelBinding": statement.channel_binding,
            "build": {
                "tool": {"name": statement.tool[0], "version": statement.tool[1]},
                "inputs": [
                    {"name": entry.name, "digest": {entry.digest.algorithm.value: entry.digest.hex}}
                    for entry in statement.inputs
                ],
            },
        },
    }
