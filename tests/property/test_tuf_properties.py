"""Whatever is changed in a served repository, a client sees the honest state or refuses in our words."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.client import tuf
from blindbuild.client.tuf import Followed, TufRepository
from blindbuild.client.tuf_memory import TufFolder, TufMemory
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, ManifestError
from blindbuild.formats.tlog_tiles import ReadFile
from blindbuild.manifest.revoked import REASONS, Revocation, parse_revoked, revoked_bytes
from tests.fakes.published import NOW, Publisher
from tests.fakes.tuf_world import TufKey, TufWorld, signing_key


def key(number: int) -> TufKey:
    # the same in every run, so that the examples are
    return TufKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


@cache
def honest() -> TufWorld:
    publisher = Publisher(signing_key(key(1)))
    world = TufWorld(publisher, [key(2), key(3), key(4)], key(5)).rotated(online=key(6))
    world.listed["ledgers/hello/stable/42.json"] = b"ledger"
    return world


@cache
def files() -> dict[str, bytes]:
    return honest().files()


NAMES = sorted(files())


def follow(served: dict[str, bytes], memory: TufMemory | None = None) -> Followed:
    def read(path: str, limit_bytes: int) -> bytes | None:
        data = served.get(path)
        if data is not None and len(data) > limit_bytes:
            raise BlindbuildError("too long")
        return data

    def opened(_place: str) -> ReadFile:
        return read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuf, "open_repository", opened)
        return TufRepository(honest().trust(), "served", memory, clock=lambda: NOW).follow()


@cache
def expected() -> Followed:
    return follow(files())


def honest_or_refused(served: dict[str, bytes]) -> None:
    for memory in (None, FromHonest()):
        try:
            found = follow(served, memory)
        except BlindbuildError:
            continue
        assert found.view.meaning == expected().view.meaning
        assert found.published == expected().published


class FromHonest(TufMemory):
    """The memory of who has seen the honest state; it takes no disk."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))

    @contextlib.contextmanager
    def opened(self, _pinned: Digest) -> Iterator[TufFolder]:
        yield HonestFolder(Path("/nowhere"))


class HonestFolder(TufFolder):
    def read(self) -> dict[str, bytes]:
        kept = {"timestamp.json": "timestamp", "snapshot.json": "2.snapshot", "targets.json": "2.targets"}
        roles = {place: files()[f"metadata/{name}.json"] for place, name in kept.items()}
        return roles | {f"root_history/{n}.root.json": files()[f"metadata/{n}.root.json"] for n in (1, 2)}

    def seen(self) -> int:
        return NOW

    def record(self, _files: object) -> None: ...

    def record_time(self, _now: int) -> None: ...

    def keep_conflict(self, _name: str, _versions: object) -> tuple[Path, ...]:
        return ()


@given(st.sampled_from(NAMES), st.data())
def test_a_changed_byte_gives_the_honest_state_or_a_refusal(name: str, data: st.DataObject) -> None:
    content = bytearray(files()[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    honest_or_refused(files() | {name: bytes(content)})


@given(st.sampled_from(NAMES), st.data())
def test_a_file_that_is_cut_or_continued_gives_the_honest_state_or_a_refusal(
    name: str, data: st.DataObject
) -> None:
    content = files()[name]
    cut = content[: data.draw(st.integers(0, len(content)))]
    honest_or_refused(files() | {name: cut + data.draw(st.binary(max_size=20))})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("root"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("_type", "version", "expires", "meta", "keys", "roles", "targets", "signatures", "signed"),
    *("spec_version", "consistent_snapshot", "snapshot.json", "targets.json", "keyids", "threshold", "sig"),
    *("keyid", "hashes", "length", "delegations", "sha256", "keyval", "public", "keytype", "scheme"),
]


def replaced(value: object, key: str, by: object) -> object:
    if isinstance(value, dict):
        return {name: by if name == key else replaced(inner, key, by) for name, inner in value.items()}
    return [replaced(inner, key, by) for inner in value] if isinstance(value, list) else value


@given(st.sampled_from([name for name in NAMES if name.startswith("metadata/")]), st.sampled_from(KEYS), JSON)
def test_a_changed_field_gives_the_honest_state_or_a_refusal(name: str, key: str, by: object) -> None:
    changed = json.dumps(replaced(json.loads(files()[name]), key, by)).encode()
    honest_or_refused(files() | {name: changed})


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), st.sampled_from(NAMES))
def test_files_in_each_others_places_give_the_honest_state_or_a_refusal(names: list[str], other: str) -> None:
    honest_or_refused(files() | {name: files()[other] for name in names})


def test_a_file_that_is_missing_gives_a_refusal_or_no_verdict() -> None:
    for name in NAMES:
        if name == "metadata/1.root.json":
            continue  # it is in the trust file
        left = {path: data for path, data in files().items() if path != name}
        with pytest.raises(BlindbuildError):
            follow(left)


@given(
    st.dictionaries(
        st.binary(max_size=4),
        st.tuples(
            st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
            st.integers(0, 2**53 - 1),
            st.sampled_from(sorted(REASONS)),
            st.integers(0, 253402300799),
        ),
        max_size=5,
    )
)
def test_a_list_of_withdrawals_is_read_as_it_was_written(entries: dict) -> None:
    listed = [
        Revocation(Digest.sha256(seed), name, name, sequence, reason, time)
        for seed, (name, sequence, reason, time) in entries.items()
    ]
    assert sorted(parse_revoked(revoked_bytes(listed)), key=str) == sorted(listed, key=str)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_list_of_withdrawals_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_revoked(data)
