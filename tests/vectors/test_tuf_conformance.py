"""Repositories of other people's software: tuf-conformance's static data.

Provenance: shared vectors, trust/theupdateframework+tuf-conformance (MIT): `sigstore-root-signing`, a copy of
Sigstore's repository, and `tuf-on-ci-0.11`, one made with tuf-on-ci. `faketime` says when they were current,
`targetpath` which target they have.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from blindbuild.client.tuf import TufRepository, open_repository, read_target
from blindbuild.client.tuf_keys import check_unique_keys
from blindbuild.client.tuf_memory import workplace
from blindbuild.client.tuf_refresh import Refresh, Refreshed
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import VerificationError
from blindbuild.verify.current import Target
from tests.fakes.tuf_world import TufWorld

FOLDER = "theupdateframework+tuf-conformance/tuf_conformance/static_data"
DATA = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "trust" / FOLDER
DAY_S = 86400

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared vectors are not there")


def when(name: str) -> int:
    return int(datetime.fromisoformat((DATA / name / "faketime").read_text().strip()).timestamp())


def refresh(name: str, *, now: int | None = None, root: bytes | None = None) -> Refreshed:
    pinned = (DATA / name / "initial_root.json").read_bytes() if root is None else root
    with workplace({}) as work:
        run = Refresh(pinned, open_repository(str(DATA / name)), {}, work, now=now or when(name))
        run.run()
        run.verified()
        return run.result()


@pytest.mark.parametrize(
    ("name", "versions"),
    [("sigstore-root-signing", (12, 272, 159, 11)), ("tuf-on-ci-0.11", (1, 2, 2, 1))],
)
def test_a_repository_of_another_implementation_is_refreshed(
    name: str, versions: tuple[int, int, int, int]
) -> None:
    found = refresh(name)
    roles = (found.root, found.timestamp, found.snapshot, found.targets)
    assert tuple(role.version for role in roles) == versions
    check_unique_keys(found.root)


def test_a_target_of_another_implementation_is_read() -> None:
    name = "sigstore-root-signing"
    path = (DATA / name / "targetpath").read_text().strip()
    entry = refresh(name).targets.targets[path]
    target = Target(entry.length, Digest.from_hex(HashAlgorithm.SHA256, entry.hashes["sha256"]))
    data = read_target(open_repository(str(DATA / name)), path, target, 1 << 20)
    assert b"certificateAuthorities" in data


def test_a_copy_is_refused_when_its_time_is_over() -> None:
    name = "sigstore-root-signing"
    with pytest.raises(VerificationError) as caught:
        refresh(name, now=when(name) + 8 * DAY_S)
    assert (caught.value.step, caught.value.reason) == ("M1", "expired")
    # the other one was made to last
    assert refresh("tuf-on-ci-0.11", now=when("tuf-on-ci-0.11") + 3650 * DAY_S)


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        # its second root has keys of a type that is no longer read
        ("sigstore-root-signing", "tuf-on-ci-0.11", "malformed"),
        ("tuf-on-ci-0.11", "sigstore-root-signing", "not-signed"),
    ],
)
def test_one_repository_is_not_believed_by_the_root_of_the_other(name: str, other: str, reason: str) -> None:
    with pytest.raises(VerificationError) as caught:
        refresh(name, root=(DATA / other / "initial_root.json").read_bytes())
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["sigstore-root-signing", "tuf-on-ci-0.11"])
def test_their_delegations_are_not_for_our_releases(name: str) -> None:
    pinned = (DATA / name / "initial_root.json").read_bytes()
    trust = replace(TufWorld().trust(), tuf_root=pinned)
    repository = TufRepository(trust, str(DATA / name), clock=lambda: when(name))
    with pytest.raises(VerificationError) as caught:
        repository.follow()
    assert (caught.value.step, caught.value.reason) == ("M1", "delegations")
