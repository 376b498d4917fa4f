"""A TUF repository made from plain dictionaries, hashlib and Ed25519; the code under test writes none of it.

Source: TUF specification 1.0.33, 4 (file formats): OLPC canonical JSON is what is signed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client.tuf import TufRepository
from blindbuild.client.tuf_memory import TufMemory
from blindbuild.formats.fields import encode_base64
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.publish import SigningKey
from tests.fakes.published import NOW, Publisher
from tests.fakes.world import authority

DAY = 86400
MANIFEST = "manifests/hello/stable/42.dsse.json"
NOTHING_REVOKED = b'{"_type":"urn:blindbuild:revoked:v1","revoked":[]}'


def canonical(value: Any) -> bytes:
    """OLPC canonical JSON; of text without quotes it is this: only quotes and backslashes are escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("\\n", "\n").encode()


def at(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class TufKey:
    """An Ed25519 key as TUF has it."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def value(self) -> dict[str, Any]:
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": raw.hex()}}

    @property
    def id(self) -> str:
        return hashlib.sha256(canonical(self.value)).hexdigest()

    def signature(self, signed: dict[str, Any]) -> dict[str, str]:
        return {"keyid": self.id, "sig": self.private.sign(canonical(signed)).hex()}


def file_of(signed: dict[str, Any], keys: Iterable[TufKey]) -> bytes:
    """A metadata file; Python's own layout, so that nothing depends on ours."""
    return json.dumps({"signatures": [key.signature(signed) for key in keys], "signed": signed}).encode()


def hashes(data: bytes) -> dict[str, Any]:
    return {"length": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}


def prefixed(name: str, data: bytes) -> str:
    folder, slash, last = name.rpartition("/")
    return f"targets/{folder}{slash}{hashlib.sha256(data).hexdigest()}.{last}"


@dataclass
class TufWorld:
    """A publisher's keys and what he lists; a test changes a dictionary and calls `files()`."""

    publisher: Publisher = field(default_factory=Publisher)
    root_keys: list[TufKey] = field(default_factory=lambda: [TufKey(), TufKey(), TufKey()])
    online: TufKey = field(default_factory=TufKey)
    roots: list[bytes] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=lambda: {"timestamp": 1, "snapshot": 1, "targets": 1})
    expires: dict[str, int] = field(default_factory=dict)
    listed: dict[str, bytes] = field(default_factory=dict)
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.release_key = TufKey(self.publisher.key._key)
        self.listed |= {MANIFEST: self.publisher.envelope, "revoked.json": NOTHING_REVOKED}
        if not self.roots:
            self.add_root(self.root_value(1))

    def root_value(self, version: int) -> dict[str, Any]:
        keys = [*self.root_keys, self.release_key, self.online]
        return {
            "_type": "root",
            "spec_version": "1.0.33",
            "version": version,
            "expires": at(self.expires.get("root", NOW + 365 * DAY)),
            "consistent_snapshot": True,
            "keys": {key.id: key.value for key in keys},
            "roles": {
                "root": {"keyids": [key.id for key in self.root_keys], "threshold": 2},
                "targets": {"keyids": [self.release_key.id], "threshold": 1},
                "snapshot": {"keyids": [self.online.id], "threshold": 1},
                "timestamp": {"keyids": [self.online.id], "threshold": 1},
            },
        }

    def add_root(self, value: dict[str, Any], keys: Iterable[TufKey] | None = None) -> None:
        self.roots.append(file_of(value, self.root_keys[:2] if keys is None else keys))

    def role(self, name: str, body: dict[str, Any], days: int) -> dict[str, Any]:
        return {
            "_type": name,
            "spec_version": "1.0.33",
            "version": self.versions[name],
            "expires": at(self.expires.get(name, NOW + days * DAY)),
            **body,
            **self.extra.get(name, {}),
        }

    def files(self) -> dict[str, bytes]:
        """Everything that is served, by path."""
        entries = {name: hashes(data) for name, data in self.listed.items()}
        targets = file_of(self.role("targets", {"targets": entries}, 90), [self.release_key])
        listed = {"targets.json": {"version": self.versions["targets"], **hashes(targets)}}
        snapshot = file_of(self.role("snapshot", {"meta": listed}, 7), [self.online])
        described = {"snapshot.json": {"version": self.versions["snapshot"], **hashes(snapshot)}}
        timestamp = file_of(self.role("timestamp", {"meta": described}, 1), [self.online])
        return {
            **{f"metadata/{number}.root.json": data for number, data in enumerate(self.roots, 1)},
            "metadata/timestamp.json": timestamp,
            f"metadata/{self.versions['snapshot']}.snapshot.json": snapshot,
            f"metadata/{self.versions['targets']}.targets.json": targets,
            **{prefixed(name, data): data for name, data in self.listed.items()},
        }

    def later(self, *roles: str) -> TufWorld:
        """The same repository, with the versions of these roles one higher."""
        after = copy.copy(self)
        after.versions = {
            name: number + (name in roles or not roles) for name, number in self.versions.items()
        }
        after.roots, after.listed, after.extra = list(self.roots), dict(self.listed), dict(self.extra)
        after.expires = dict(self.expires)
        return after

    def rotated(self, *, online: TufKey | None = None, root_keys: list[TufKey] | None = None) -> TufWorld:
        """The same repository after a root that old and new root keys signed."""
        after = self.later()
        signers = list(self.root_keys[:2])
        after.online = online or self.online
        after.root_keys = root_keys or self.root_keys
        signers += [key for key in after.root_keys[:2] if key not in signers]
        after.add_root(after.root_value(len(self.roots) + 1), signers)
        return after

    def trust(self, **more: Any) -> TrustRoots:
        """A trust file that pins the first root."""
        return parse_trust(json.dumps(self.trust_value(**more)).encode())

    def trust_value(self, **more: Any) -> dict[str, Any]:
        return {
            "version": 1,
            "product": "hello",
            "tuf": {"root": encode_base64(self.roots[0]), **more},
            "testTpmRoots": [authority().root_pem],
            "testTpmIntermediates": [authority().issuer_pem],
        }


def write(files: dict[str, bytes], place: Path) -> Path:
    """Serve exactly these files from a directory."""
    for path in [path for path in place.rglob("*") if path.is_file()]:
        path.unlink()
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


@dataclass
class Client:
    """One client with its memory, and the directory that it is served."""

    path: Path
    trust: TrustRoots
    now: int = NOW
    remember: bool = True

    def repository(self) -> TufRepository:
        return TufRepository(
            self.trust,
            str(self.path / "served"),
            TufMemory(self.path / "memory"),
            clock=lambda: self.now,
            remember=self.remember,
        )

    def sees(self, files: dict[str, bytes] | TufWorld) -> TufRepository:
        """Serve it these files from now on."""
        served = files.files() if isinstance(files, TufWorld) else files
        write(served, self.path / "served")
        return self.repository()

    def memory(self) -> Path:
        (folder,) = [path for path in (self.path / "memory").iterdir() if path.is_dir()]
        return folder


def signing_key(key: TufKey) -> SigningKey:
    return SigningKey(key.private)
