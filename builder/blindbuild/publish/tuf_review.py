"""What lies in a repository's directory, read as if a stranger had put it there, before anybody signs it.

Whoever can write to the directory can stage what he likes, and swap what is served. So what is served must be
signed, from the first root on; what is staged must be what blindbuild itself would write, so that the lines
that people are shown say everything about it; and what is signed are the very bytes that were shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from blindbuild.digest import Digest
from blindbuild.errors import BuildError
from blindbuild.manifest import format_time
from blindbuild.manifest.tuf import is_safe_target, release_of
from blindbuild.publish.tuf_metadata import DAY_S, make_root, plan_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "somebody else wrote it: find out who, and remove it from staged/"
_CUSTOM = {"product": str, "channel": str, "sequence": int}


@dataclass(frozen=True, slots=True)
class Review:
    """What people are shown before they sign; `digests` are those of the bytes, by role."""

    lines: tuple[str, ...]
    digests: Mapping[str, Digest]


def signed_digest(metadata: Metadata[Any]) -> Digest:
    """Return SHA-256 of the bytes that signatures are over."""
    return Digest.sha256(metadata.signed_bytes)


def heading(metadata: Metadata[Root] | Metadata[Targets]) -> str:
    """Return the line that says which file it is, how long it would last, and what exactly it is."""
    signed = metadata.signed
    until = format_time(int(signed.expires.timestamp()))
    return f"{signed.type} {signed.version}, until {until}, {signed_digest(metadata)}"


def check_staged_root(root: Metadata[Root], served: Root | None, *, now: int) -> None:
    """Check that a staged root is the next one, and is in all of its fields what its plan says.

    Key ids above all: they are what people compare, and TUF lets any key stand under any id.

    Raises:
        BuildError: it is not.
    """
    signed = root.signed
    _check_version("root", signed.version, served)
    plan = plan_of(signed)
    _check_end("root", signed, plan.days.root, now)
    meant = make_root(plan, version=signed.version, now=now)
    meant.signed.expires = signed.expires
    if meant.signed_bytes != root.signed_bytes:
        raise _refusal("root", "the fields and key ids that blindbuild writes, got others")


def check_staged_targets(
    targets: Metadata[Targets], served: Targets | None, *, roots: Sequence[Root], now: int
) -> None:
    """Check that staged targets are the next ones, with no field that nobody is shown.

    Raises:
        BuildError: they are not.
    """
    signed = targets.signed
    _check_version("targets", signed.version, served)
    _check_end("targets", signed, max(plan_of(root).days.targets for root in roots), now)
    if signed.delegations is not None or signed.unrecognized_fields:
        raise _refusal("targets", "no delegations and no unknown fields, got some")
    for name, entry in signed.targets.items():
        _check_target(name, entry)


def check_chain(root: Metadata[Root], before: Metadata[Root] | None) -> None:
    """Check that a served root is signed by its own keys and by those of the one before.

    Raises:
        BuildError: it is not.
    """
    for keys in (root, before or root):
        _check_signed(root, (keys.signed,))


def check_served(metadata: Metadata[Any], roots: Sequence[Root]) -> None:
    """Check that what is served is signed by the keys of the latest root, or of the one before.

    Raises:
        BuildError: it is not.
    """
    _check_signed(metadata, roots)


def _check_signed(metadata: Metadata[Any], roots: Sequence[Root]) -> None:
    signed = metadata.signed
    for root in roots:
        try:
            root.verify_delegate(signed.type, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError:
            continue
        return
    raise BuildError(
        f"{signed.version}.{signed.type}.json: served, and not signed by those whose keys count",
        hint="somebody changed the directory: put back your own copy of it",
    )


def _check_version(role: str, version: int, served: Root | Targets | None) -> None:
    expected = 1 if served is None else served.version + 1
    if version != expected:
        raise _refusal(role, f"version {expected}, got {version}")


def _check_end(role: str, signed: Root | Targets, days: int, now: int) -> None:
    # a day more: whoever staged it may have another clock
    if signed.expires.timestamp() > now + (days + 1) * DAY_S:
        raise _refusal(role, f"{days} days at most, got until {signed.expires.isoformat()}")


def _check_target(name: str, entry: TargetFile) -> None:
    # names are shown on a terminal, hashes become paths
    if not is_safe_target(name):
        raise _refusal("targets", f"names below the directory, got {name[:80]!a}")
    hashes = entry.hashes
    if set(hashes) != {"sha256"} or not _SHA256.fullmatch(str(hashes["sha256"])):
        raise _refusal("targets", f"SHA-256 of {name} and no other hash")
    custom = entry.custom
    if set(entry.unrecognized_fields) - {"custom"} or not (custom is None or _is_custom(custom)):
        raise _refusal("targets", f"{name} with product, channel and sequence, got other fields")
    release = release_of(name)
    meant = None if release is None else (release.product, release.channel, release.sequence)
    if meant is not None and (custom is None or tuple(custom[key] for key in _CUSTOM) != meant):
        raise _refusal("targets", f"{name} with its own product, channel and sequence, got others")


def _is_custom(custom: object) -> bool:
    return (
        isinstance(custom, dict)
        and custom.keys() == _CUSTOM.keys()
        and all(type(custom[key]) is kind for key, kind in _CUSTOM.items())
    )


def _refusal(role: str, expected: str) -> BuildError:
    return BuildError(f"staged {role}.json: expected {expected}", hint=_HINT)
