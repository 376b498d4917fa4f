"""Trust files: one file that tells a client whom to believe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindbuild.errors import UsageError
from blindbuild.formats.canonical import JsonValue, parse_json
from blindbuild.formats.dsse import SignerKey
from blindbuild.formats.fields import encode_base64
from blindbuild.manifest import parse_trust
from blindbuild.manifest.trust import MAX_TRUST

_RELEASES = ("releaseKeys", "threshold", "tuf")


@dataclass(frozen=True, slots=True)
class TrustContent:
    """What goes into a trust file: PEM certificates, keys as TPM2B_PUBLIC.

    Attributes:
        threshold: how many release keys must have signed; None for one.
        rebuilders_needed: how many rebuilders must have found the same; None for all of them.
        tuf_root: root metadata of a TUF repository, which then says which release keys count.
        tuf_repository: the address of that repository.
    """

    product: str
    release_keys: Sequence[SignerKey] = ()
    threshold: int | None = None
    tpm_roots: Sequence[str] = ()
    tpm_intermediates: Sequence[str] = ()
    test_tpm_roots: Sequence[str] = ()
    test_tpm_intermediates: Sequence[str] = ()
    attestation_keys: Sequence[bytes] = ()
    ak_roots: Sequence[str] = ()
    ak_intermediates: Sequence[str] = ()
    rebuilders: Sequence[SignerKey] = ()
    rebuilders_needed: int | None = None
    tuf_root: bytes | None = None
    tuf_repository: str | None = None


def make_trust(content: TrustContent) -> bytes:
    """Return the bytes of a trust file, laid out for people.

    Raises:
        ManifestError: no client would accept it.
    """
    needed = {"threshold": 1} if content.release_keys else {}
    return _write(
        {
            "version": 1,
            "product": content.product,
            **needed,
            **_releases(content),
            **_machines(content),
            **_rebuilders(content, {}),
        }
    )


def replace_trust(old: bytes, content: TrustContent) -> bytes:
    """Return a trust file that takes the place of another one, without its clients forgetting anything.

    What they have accepted is remembered under the domain of the old file, which goes into the new one: an
    older release that enough of the new keys signed as well is still refused.

    Args:
        old: the trust file that clients have.
        content: what changes. Release keys, ways to believe a TPM, and rebuilders are each taken from the
            old file where nothing of them is given.

    Raises:
        ManifestError: the old file is malformed, or no client would accept the new one.
        UsageError: the old file is about another product.
    """
    before = parse_trust(old)
    if content.product != before.product:
        raise UsageError(f"expected a trust file for {content.product}, got one for {before.product}")
    value = parse_json(old, max_bytes=MAX_TRUST)
    if not isinstance(value, dict):
        raise TypeError("a trust file that was parsed is an object")
    releases, machines = _releases(content), _machines(content)
    rebuilders = _rebuilders(content, value)
    if "tuf" in releases or "releaseKeys" in releases:
        # who may release is said in one way; the number needed outlives the keys unless it is given anew
        kept = () if "tuf" in releases else ("threshold",)
        value = {name: field for name, field in value.items() if name not in _RELEASES or name in kept}
    if "releaseKeys" in releases and "threshold" not in value:
        value["threshold"] = 1
    if machines:
        value = {name: field for name, field in value.items() if name not in _MACHINES}
    return _write({**value, **releases, **machines, **rebuilders, "domain": before.domain.hex})


def _releases(content: TrustContent) -> dict[str, JsonValue]:
    value: dict[str, JsonValue] = {}
    if content.release_keys:
        value["releaseKeys"] = _keys(content.release_keys)
    if content.threshold is not None:
        value["threshold"] = content.threshold
    if content.tuf_root is not None:
        repository = {} if content.tuf_repository is None else {"repository": content.tuf_repository}
        value["tuf"] = {"root": encode_base64(content.tuf_root), **repository}
    return value


def _machines(content: TrustContent) -> dict[str, JsonValue]:
    lists: dict[str, list[JsonValue]] = {
        "tpmRoots": list(content.tpm_roots),
        "tpmIntermediates": list(content.tpm_intermediates),
        "testTpmRoots": list(content.test_tpm_roots),
        "testTpmIntermediates": list(content.test_tpm_intermediates),
        "akRoots": list(content.ak_roots),
        "akIntermediates": list(content.ak_intermediates),
        "attestationKeys": [encode_base64(key) for key in content.attestation_keys],
    }
    return {name: values for name, values in lists.items() if values}


_MACHINES = (
    *("tpmRoots", "tpmIntermediates", "testTpmRoots", "testTpmIntermediates"),
    *("akRoots", "akIntermediates", "attestationKeys"),
)


def _rebuilders(content: TrustContent, before: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    if not content.rebuilders and content.rebuilders_needed is None:
        return {}
    old = before.get("rebuilders")
    keys: JsonValue = _keys(content.rebuilders)
    needed = len(content.rebuilders)
    if not content.rebuilders and isinstance(old, dict):
        keys = old["keys"]
    if content.rebuilders_needed is not None:
        needed = content.rebuilders_needed
    return {"rebuilders": {"keys": keys, "threshold": needed}}


def _keys(keys: Sequence[SignerKey]) -> list[JsonValue]:
    return [{"public": encode_base64(key.spki)} for key in keys]


def _write(value: Mapping[str, JsonValue]) -> bytes:
    data = json.dumps(value, indent=1).encode("ascii") + b"\n"
    parse_trust(data)
    return data
