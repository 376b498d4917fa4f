"""TUF metadata as a publisher makes it: who may sign which role, for how long, and their signatures.

The classic format of TUF ("Metadata"), not DSSE, so that every TUF client reads it. Bytes and values only.

Source: TUF specification 1.0.33, 4; tuf.api.metadata of python-tuf 7.0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import Key, Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from blindbuild.client.tuf import ISSUED
from blindbuild.client.tuf_keys import public_bytes
from blindbuild.errors import BuildError, FormatError, UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.manifest import format_time
from blindbuild.publish.sign import ReleaseSigner

DAY_S = 86400
MAX_DAYS = 3660  # ten years
ROLES = ("root", "targets", "snapshot", "timestamp")
DAYS = "x-blindbuild-days"  # in root.json: how many days each role is signed for
_SIGNATURE_HALF = 32  # bytes of r, and of s, of a P-256 signature
Signed = TypeVar("Signed", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Who signs a role, and how many of them must."""

    keys: tuple[SignerKey, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class Days:
    """How long the signatures of each role last."""

    root: int = 365
    targets: int = 90
    snapshot: int = 7
    timestamp: int = 1


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What a root says: the keys of each role, and the days."""

    root: RoleKeys
    targets: RoleKeys
    snapshot: RoleKeys
    timestamp: RoleKeys
    days: Days = Days()


def make_root(plan: RootPlan, *, version: int, now: int) -> Metadata[Root]:
    """Return unsigned root metadata.

    Raises:
        UsageError: a key twice in a role, or a threshold that cannot be met.
    """
    root = Root(version=version, expires=expiry(now, plan.days.root), consistent_snapshot=True)
    for role in ROLES:
        named: RoleKeys = getattr(plan, role)
        ids = {key.spki: _tuf_key(key) for key in named.keys}
        if len(ids) != len(named.keys):
            raise UsageError(f"{role}: expected different keys, got one twice")
        if not 1 <= named.threshold <= len(ids):
            raise UsageError(f"{role}: expected a threshold of 1 to {len(ids)}, got {named.threshold}")
        root.roles[role] = Role([], named.threshold)
        for key in ids.values():
            root.add_key(key, role)
    root.unrecognized_fields[DAYS] = {field.name: getattr(plan.days, field.name) for field in fields(Days)}
    return Metadata(root)


def plan_of(root: Root) -> RootPlan:
    """Return what a root says.

    Raises:
        BuildError: it has keys that blindbuild does not sign with, or days that are none.
    """
    return RootPlan(**{role: _role_keys(root, role) for role in ROLES}, days=_read_days(root))


def make_snapshot(
    targets: bytes, *, version: int, targets_version: int, expires: datetime
) -> Metadata[Snapshot]:
    """Return an unsigned snapshot of one targets file."""
    return Metadata(
        Snapshot(version=version, expires=expires, meta={"targets.json": _describe(targets, targets_version)})
    )


def make_timestamp(
    snapshot: bytes, *, version: int, snapshot_version: int, expires: datetime, now: int
) -> Metadata[Timestamp]:
    """Return an unsigned timestamp of one snapshot file."""
    timestamp = Timestamp(
        version=version, expires=expires, snapshot_meta=_describe(snapshot, snapshot_version)
    )
    timestamp.unrecognized_fields[ISSUED] = format_time(now)
    return Metadata(timestamp)


def expiry(now: int, days: int) -> datetime:
    """Return the end of a validity that begins now."""
    return datetime.fromtimestamp(now + days * DAY_S, UTC)


def sign(metadata: Metadata[Any], signers: Iterable[ReleaseSigner], roots: Sequence[Root]) -> int:
    """Add the signatures of those who count for this role in any of the roots; return how many did.

    Both the old and the new keys sign what a rotation brings, so that a client is served whichever it knows.
    """
    role, count = metadata.signed.type, 0
    for signer in signers:
        key = _tuf_key(signer.public)
        if not any(key.keyid in root.roles[role].keyids for root in roots):
            continue
        signature = signer.sign(metadata.signed_bytes)
        if not isinstance(load_der_public_key(signer.public.spki), Ed25519PublicKey):
            signature = _der(signature)
        metadata.signatures[key.keyid] = Signature(key.keyid, signature.hex())
        count += 1
    return count


def counts(signer: ReleaseSigner, roots: Sequence[Root]) -> bool:
    """Return whether a signer's key is a release key in any of the roots."""
    return any(key_id(signer.public) in root.roles[Targets.type].keyids for root in roots)


def has_signed(signer: ReleaseSigner, targets: Metadata[Targets], roots: Sequence[Root]) -> bool:
    """Return whether a release key has signed targets.json already."""
    results = [
        root.get_verification_result(Targets.type, targets.signed_bytes, targets.signatures) for root in roots
    ]
    return any(key_id(signer.public) in result.signed for result in results)


def is_signed(metadata: Metadata[Any], root: Root) -> bool:
    """Return whether enough keys of a root signed a role; `Content.problems` says whether they differ."""
    return not missing(metadata, root)


def missing(metadata: Metadata[Any], root: Root) -> str:
    """Return what is missing for a role to be signed, or nothing."""
    role = metadata.signed.type
    result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if result.verified:
        return ""
    absent = ", ".join(sorted(keyid[:16] for keyid in result.unsigned))
    count = f"{len(result.signed)} of {result.threshold} signatures"
    return f"{role} {metadata.signed.version}: {count}, not by {absent}"


def read_metadata(kind: type[Signed], data: bytes) -> Metadata[Signed]:
    """Read metadata of one's own repository.

    Raises:
        BuildError: it is not of this role.
    """
    try:
        metadata = Metadata[Signed].from_bytes(data)
    except RepositoryError as error:
        raise BuildError(f"{kind.type}.json: expected TUF metadata, got something else") from error
    if not isinstance(metadata.signed, kind):
        raise BuildError(f"{kind.type}.json: expected metadata of this role, got {metadata.signed.type}")
    return metadata


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """Return a metadata file, laid out for people."""
    return metadata.to_bytes(JSONSerializer(compact=False))


def key_id(key: SignerKey) -> str:
    """Return the key id that TUF has for a key; it is not the DSSE one."""
    return _tuf_key(key).keyid


def describe_changes(old: Root | None, new: Root) -> tuple[str, ...]:
    """Return what a new root changes, a line each, for those who are asked to sign it."""
    lines: list[str] = []
    for role in ROLES:
        keys, threshold = new.roles[role].keyids, new.roles[role].threshold
        before, formerly = ([], 0) if old is None else (old.roles[role].keyids, old.roles[role].threshold)
        lines += [f"{role}: key {keyid[:16]} is new" for keyid in keys if keyid not in before]
        lines += [f"{role}: key {keyid[:16]} is removed" for keyid in before if keyid not in keys]
        if (len(keys), threshold) != (len(before), formerly):
            lines.append(f"{role}: {threshold} of {len(keys)} must sign")
    return (*lines, *_changed_days(_read_days(new), Days() if old is None else _read_days(old)))


def _changed_days(new: Days, old: Days) -> list[str]:
    pairs = {role: (getattr(new, role), getattr(old, role)) for role in ROLES}
    return [
        f"{role}: signed for {now} days, not {then}" for role, (now, then) in pairs.items() if now != then
    ]


def _read_days(root: Root) -> Days:
    value = root.unrecognized_fields.get(DAYS, {})
    if not isinstance(value, dict):
        raise BuildError(f"root {root.version}, {DAYS}: expected days by role")
    days = {field.name: value[field.name] for field in fields(Days) if field.name in value}
    for role, number in days.items():
        if type(number) is not int or not 1 <= number <= MAX_DAYS:
            raise BuildError(f"root {root.version}, {DAYS}: {role}: expected 1 to {MAX_DAYS} days")
    return Days(**days)


def _tuf_key(key: SignerKey) -> SSlibKey:
    return SSlibKey.from_crypto(load_der_public_key(key.spki))


def _role_keys(root: Root, role: str) -> RoleKeys:
    try:
        keys = tuple(_signer_key(root.get_key(keyid)) for keyid in root.roles[role].keyids)
    except (FormatError, ValueError) as error:
        raise BuildError(f"root {root.version}, {role}: {error}") from error
    return RoleKeys(keys, root.roles[role].threshold)


def _signer_key(key: Key) -> SignerKey:
    return SignerKey.from_spki(public_bytes(key))


def _describe(data: bytes, version: int) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _der(signature: bytes) -> bytes:
    # TUF has ECDSA signatures in DER, DSSE has r and s beside each other
    r, s = signature[:_SIGNATURE_HALF], signature[_SIGNATURE_HALF:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
