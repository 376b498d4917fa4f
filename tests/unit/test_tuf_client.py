"""What a client believes of a TUF repository: bad inputs 47 to 63, and what python-tuf leaves out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client.tuf import TufRepository
from blindbuild.errors import BlindbuildError, ChannelError, ToolError, UsageError, VerificationError
from tests.bad_inputs import ACCEPTED, record, refusing
from tests.fakes.published import NOW
from tests.fakes.tuf_world import (
    DAY,
    MANIFEST,
    Client,
    TufKey,
    TufWorld,
    at,
    canonical,
    file_of,
    hashes,
)

TIMESTAMP, SNAPSHOT, TARGETS = (
    "metadata/timestamp.json",
    "metadata/1.snapshot.json",
    "metadata/1.targets.json",
)


WEAK_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505  it is to be refused
OTHER_CURVE = ec.generate_private_key(ec.SECP256K1())


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def world() -> TufWorld:
    return TufWorld()


@pytest.fixture
def client(tmp_path: Path, world: TufWorld) -> Client:
    return Client(tmp_path, world.trust())


def signed_of(data: bytes) -> dict[str, Any]:
    return json.loads(data)["signed"]


def test_the_current_release_is_followed_with_what_is_beside_it(client: Client, world: TufWorld) -> None:
    more = world.later()
    more.listed |= {
        "ledgers/hello/stable/42.json": b"ledger",
        "log/hello/stable/42.tlog-proof": b"proof",
        "probes/hello/stable/42.dsse.json": b"probe",
        "probes/hello/stable/41.dsse.json": b"an older one",
        "rebuilds/hello/stable/42/1.dsse.json": b"one",
        "rebuilds/hello/stable/42/2.dsse.json": b"two",
        "manifests/hello/stable/41.dsse.json": b"older",
        "manifests/hello/nightly/43.dsse.json": b"another line",
        "manifests/other/stable/44.dsse.json": b"another product",
    }
    followed = client.sees(more).follow()
    assert followed.name.sequence == 42
    published = followed.published
    assert (published.envelope, published.release) == (world.publisher.envelope, None)
    assert (published.ledger, published.log_proof, published.rebuilds) == (
        b"ledger",
        b"proof",
        (b"one", b"two"),
    )
    assert published.probe == b"probe"
    assert followed.view.roles["timestamp"].version == 2
    assert followed.view.expires == NOW + DAY
    assert [key.spki for key in followed.view.release_keys] == [world.publisher.key.public.spki]
    assert followed.view.threshold == 1


@pytest.mark.bad_input(47)
def test_an_expired_timestamp_is_refused(client: Client, world: TufWorld) -> None:
    repository = client.sees(world)
    client.now = NOW + DAY - 1
    client.repository().refresh()
    client.now = NOW + DAY
    with refusing("M1:expired") as caught:
        client.repository().refresh()
    assert "timestamp.json" in caught.value.message
    assert at(NOW + DAY) in caught.value.message
    assert "check this computer's clock" in str(caught.value.hint)
    assert repository.trust is client.trust


@pytest.mark.bad_input(48)
@pytest.mark.parametrize("role", ["snapshot", "targets", "root"])
def test_an_expired_role_is_refused(tmp_path: Path, role: str) -> None:
    world = TufWorld(expires={role: NOW - 1})
    with refusing("M1:expired") as caught:
        Client(tmp_path, world.trust()).sees(world).refresh()
    assert f"expected {role}.json to be valid" in caught.value.message


@pytest.mark.bad_input(49)
def test_a_timestamp_that_goes_back_is_refused(client: Client, world: TufWorld) -> None:
    client.sees(world.later("timestamp")).refresh()
    with refusing("M1:rollback") as caught:
        client.sees(world).refresh()
    assert "of version 2 or later, as seen before, got 1" in caught.value.message


@pytest.mark.bad_input(50)
def test_a_snapshot_that_goes_back_is_refused(client: Client, world: TufWorld) -> None:
    client.sees(world.later("timestamp", "snapshot")).refresh()
    back = world.later("timestamp").later("timestamp")
    with refusing("M1:rollback"):
        client.sees(back).refresh()


@pytest.mark.bad_input(50)
def test_targets_that_go_back_in_a_later_snapshot_are_refused(client: Client, world: TufWorld) -> None:
    client.sees(world.later("timestamp", "snapshot", "targets")).refresh()
    back = world.later("timestamp", "snapshot").later("timestamp", "snapshot")
    with refusing("M1:rollback"):
        client.sees(back).refresh()


@pytest.mark.bad_input(51)
@pytest.mark.parametrize("listed", [{}, {"other.json": {"version": 1}}])
def test_a_snapshot_without_targets_is_refused(client: Client, world: TufWorld, listed: dict) -> None:
    without = world.later()
    without.extra["snapshot"] = {"meta": listed}
    with refusing("M1:targets-missing"):
        client.sees(without).refresh()


@pytest.mark.bad_input(52)
def test_a_root_two_versions_later_is_refused(client: Client, world: TufWorld) -> None:
    files = world.files()
    files["metadata/2.root.json"] = file_of(world.root_value(3), world.root_keys)
    with refusing("M1:other-version"):
        client.sees(files).refresh()


@pytest.mark.bad_input(52)
def test_a_root_behind_a_missing_one_is_not_reached(client: Client, world: TufWorld) -> None:
    after = world.rotated(online=TufKey()).rotated(online=TufKey())
    files = after.files()
    del files["metadata/2.root.json"]
    with refusing("M1:not-signed"):
        client.sees(files).refresh()


@pytest.mark.bad_input(53)
@pytest.mark.parametrize("who", ["old", "new", "one of the old", "one of the new"])
def test_a_root_signed_by_one_side_only_is_refused(client: Client, world: TufWorld, who: str) -> None:
    after = world.later()
    after.root_keys = [TufKey(), TufKey(), TufKey()]
    signers = {
        "old": world.root_keys[:2],
        "new": after.root_keys[:2],
        "one of the old": [world.root_keys[0], *after.root_keys],
        "one of the new": [*world.root_keys, after.root_keys[0]],
    }
    after.add_root(after.root_value(2), signers[who])
    with refusing("M1:not-signed"):
        client.sees(after).refresh()


def test_a_root_signed_by_both_sides_is_followed_and_kept(client: Client, world: TufWorld) -> None:
    new = [TufKey(), TufKey(), TufKey()]
    client.sees(world.rotated(root_keys=new)).refresh()
    assert client.sees(world.rotated(root_keys=new)).refresh().roles["root"].version == 2
    # what was verified cannot be hidden again: the old keys do not count any more
    with pytest.raises(VerificationError) as caught:
        client.sees(world.later().rotated(online=TufKey())).refresh()
    assert caught.value.reason == "not-signed"


@pytest.mark.bad_input(54)
def test_a_threshold_met_by_one_signature_twice_is_refused(client: Client, world: TufWorld) -> None:
    after = world.later()
    after.add_root(after.root_value(2), [world.root_keys[0], world.root_keys[0]])
    with refusing("M1:malformed"):
        client.sees(after).refresh()


@pytest.mark.bad_input(54)
@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_threshold_met_by_one_key_under_two_ids_is_refused(tmp_path: Path, role: str) -> None:
    world = TufWorld()
    value = world.root_value(1)
    keyid = value["roles"][role]["keyids"][0]
    again = dict(value["keys"][keyid], **{"x-comment": "the same key, so another key id"})
    other = "f" * 64
    value["keys"][other] = again
    value["roles"][role]["keyids"].append(other)
    world.roots = [file_of(value, world.root_keys[:2])]
    with refusing("M2:keys-not-unique") as caught:
        Client(tmp_path, world.trust()).sees(world).refresh()
    assert role in caught.value.message


@pytest.mark.parametrize(
    ("keyval", "why"),
    [
        ({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "01" + "00" * 31}}, "small order"),
        ({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}}, "can be read"),
        ({"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "no key"}}, "can be read"),
        (
            {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": pem_of(WEAK_RSA)}},
            "RSA of 2048 bits",
        ),
        (
            {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": pem_of(OTHER_CURVE)}},
            "NIST curve, got secp256k1",
        ),
    ],
)
def test_keys_that_prove_nothing_are_refused(tmp_path: Path, keyval: dict, why: str) -> None:
    world = TufWorld()
    value = world.root_value(1)
    value["keys"]["a" * 64] = keyval
    value["roles"]["snapshot"]["keyids"].append("a" * 64)
    world.roots = [file_of(value, world.root_keys[:2])]
    with pytest.raises(VerificationError) as caught:
        Client(tmp_path, world.trust()).sees(world).refresh()
    assert (caught.value.step, caught.value.reason) == ("M2", "key-unusable")
    assert why in caught.value.message


def test_a_threshold_that_no_keys_can_meet_is_refused(tmp_path: Path) -> None:
    world = TufWorld()
    value = world.root_value(1)
    value["roles"]["targets"]["threshold"] = 2
    world.roots = [file_of(value, world.root_keys[:2])]
    with pytest.raises(VerificationError) as caught:
        Client(tmp_path, world.trust()).sees(world).refresh()
    assert (caught.value.step, caught.value.reason) == ("M2", "keys-not-unique")
    assert "threshold of 1 to 1, got 2" in caught.value.message


@pytest.mark.bad_input(55)
@pytest.mark.parametrize("place", [SNAPSHOT, TARGETS])
def test_metadata_with_another_hash_is_refused(client: Client, world: TufWorld, place: str) -> None:
    files = world.files()
    files[place] = files[place].replace(b'"signatures": ', b'"signatures" :', 1)
    with refusing("M1:hash-mismatch"):
        client.sees(files).refresh()


@pytest.mark.bad_input(55)
def test_a_target_with_another_hash_is_refused(client: Client, world: TufWorld) -> None:
    files = world.files()
    (place,) = [name for name in files if name.endswith(".42.dsse.json")]
    files[place] = files[place][:-1] + b" "
    with refusing("M3:other-content"):
        client.sees(files).follow()


@pytest.mark.bad_input(56)
@pytest.mark.parametrize("place", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_a_file_that_is_too_long_is_refused(client: Client, world: TufWorld, place: str) -> None:
    files = world.files()
    files[place] += b" " * (1 << 17)
    with refusing("expected at most", BlindbuildError):
        client.sees(files).refresh()


@pytest.mark.bad_input(56)
def test_a_target_that_is_listed_too_long_is_not_read(client: Client, world: TufWorld) -> None:
    after = world.later()
    after.listed["revoked.json"] = b" " * ((1 << 20) + 1)
    files = after.files()
    files = {name: data for name, data in files.items() if not name.endswith(".revoked.json")}
    with refusing("M3:too-long"):
        client.sees(files).refresh()


@pytest.mark.bad_input(57)
@pytest.mark.parametrize("place", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_a_file_of_another_role_is_refused(client: Client, world: TufWorld, place: str) -> None:
    files = world.files()
    role = signed_of(files[place])["_type"].encode()
    files[place] = files[place].replace(b'"_type": "' + role, b'"_type": "root')
    with refusing("M1:other-role"):
        client.sees(files).refresh()


@pytest.mark.bad_input(57)
def test_a_snapshot_in_place_of_the_timestamp_is_refused(client: Client, world: TufWorld) -> None:
    files = world.files()
    with refusing("M1:other-role"):
        client.sees(files | {TIMESTAMP: files[SNAPSHOT]}).refresh()


@pytest.mark.bad_input(58)
@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "a/../b",
        "/absolute",
        ".hidden",
        "a//b",
        "a/",
        "a\\b",
        "a b",
        "a%2e%2e",
        "",
        "x" * 200,
    ],
)
def test_a_target_name_that_leads_elsewhere_is_refused(client: Client, world: TufWorld, name: str) -> None:
    after = world.later()
    files = after.files()
    after.extra["targets"] = {
        "targets": {
            **signed_of(files["metadata/2.targets.json"])["targets"],
            name: hashes(b"x"),
        }
    }
    with refusing("M3:target-name"):
        client.sees(after).refresh()


@pytest.mark.bad_input(59)
@pytest.mark.parametrize("place", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_files_of_another_repository_are_refused(client: Client, world: TufWorld, place: str) -> None:
    with pytest.raises(VerificationError) as caught:
        client.sees(world.files() | {place: TufWorld().files()[place]}).refresh()
    expected = "not-signed" if place == TIMESTAMP else "hash-mismatch"
    assert (caught.value.step, caught.value.reason) == ("M1", expected)
    record(f"M1:{expected}")


@pytest.mark.bad_input(59)
def test_files_of_two_states_are_refused(client: Client, world: TufWorld) -> None:
    older = world.files()
    after = world.later()
    after.listed["log/policy.txt"] = b"another state"
    files = after.files()
    files["metadata/2.targets.json"] = older[TARGETS]
    with refusing("M1:hash-mismatch"):
        client.sees(files).refresh()


@pytest.mark.bad_input(60)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_version_of_2_to_the_31_is_refused(client: Client, world: TufWorld, role: str) -> None:
    forward = world.later()
    forward.versions[role] = 2**31
    with refusing("M1:version-too-large"):
        client.sees(forward).refresh()
    client.sees(world.later().later()).refresh()  # nothing of it is remembered


@pytest.mark.bad_input(60)
def test_after_a_fast_forward_only_a_rotated_key_helps(client: Client, world: TufWorld) -> None:
    thief = world.later()
    thief.versions |= {"timestamp": 2**31 - 1, "snapshot": 2**31 - 1}
    client.sees(thief).refresh()
    with refusing("M1:rollback"):
        client.sees(world.later()).refresh()
    assert client.sees(world.rotated(online=TufKey())).refresh().roles["timestamp"].version == 2
    record(ACCEPTED)


@pytest.mark.bad_input(61)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_one_version_with_two_contents_is_a_fork_and_both_are_kept(
    client: Client, world: TufWorld, role: str
) -> None:
    client.sees(world).refresh()
    other = world.later()
    # its own version stays, and those of the files that name it go on
    order = ["targets", "snapshot", "timestamp"]
    other.versions |= dict.fromkeys(order[: order.index(role) + 1], 1)
    other.extra[role] = {"x-for": "you alone"}
    with refusing("M1:fork") as caught:
        client.sees(other).refresh()
    kept = sorted(client.memory().glob("conflict-*"))
    assert len(kept) == 2
    assert all(str(path) in str(caught.value.hint) for path in kept)
    # and it stays refused: the other content was never remembered
    with pytest.raises(VerificationError) as again:
        client.sees(other).refresh()
    assert again.value.reason == "fork"
    client.sees(world).refresh()


def test_the_same_content_signed_again_is_no_fork(client: Client, world: TufWorld) -> None:
    client.sees(world).refresh()
    files = world.files()
    again = json.dumps(json.loads(files[TIMESTAMP]), indent=2).encode()
    client.sees(files | {TIMESTAMP: again}).refresh()


@pytest.mark.bad_input(63)
def test_a_clock_before_the_last_refresh_is_refused(client: Client, world: TufWorld) -> None:
    client.sees(world).refresh()
    client.now = NOW - 60
    client.repository().refresh()  # clocks are a little apart
    client.now = NOW - 61
    with refusing("M9:clock-went-back") as caught:
        client.repository().refresh()
    assert at(NOW) in caught.value.message


def test_a_clock_that_went_back_lets_no_expired_copy_in(client: Client, world: TufWorld) -> None:
    late = world.later()
    late.expires = {"timestamp": NOW + 9 * DAY, "snapshot": NOW + 9 * DAY}
    client.now = NOW + 8 * DAY
    client.sees(late).refresh()
    client.now = NOW
    with pytest.raises(VerificationError) as caught:
        client.sees(world).refresh()
    assert caught.value.reason == "clock-went-back"


@pytest.mark.parametrize(
    "delegations",
    [
        {
            "keys": {},
            "roles": [{"name": "x", "keyids": [], "threshold": 1, "terminating": True, "paths": ["*"]}],
        },
        {"keys": {"a" * 64: TufKey().value}, "roles": []},
    ],
)
def test_delegations_are_refused(client: Client, world: TufWorld, delegations: dict) -> None:
    other = world.later()
    other.extra["targets"] = {"delegations": delegations}
    with pytest.raises(VerificationError) as caught:
        client.sees(other).refresh()
    assert (caught.value.step, caught.value.reason) == ("M1", "delegations")


def test_a_repository_that_says_nothing_about_withdrawals_is_refused(client: Client, world: TufWorld) -> None:
    other = world.later()
    del other.listed["revoked.json"]
    with pytest.raises(VerificationError) as caught:
        client.sees(other).refresh()
    assert (caught.value.step, caught.value.reason) == ("M3", "target-missing")


def test_a_list_of_withdrawals_that_cannot_be_read_is_refused(client: Client, world: TufWorld) -> None:
    other = world.later()
    other.listed["revoked.json"] = b'{"_type":"urn:blindbuild:revoked:v2","revoked":[]}'
    with pytest.raises(VerificationError) as caught:
        client.sees(other).refresh()
    assert (caught.value.step, caught.value.reason) == ("M11", "malformed")


def test_a_product_without_a_release_is_refused(client: Client, world: TufWorld) -> None:
    other = world.later()
    del other.listed[MANIFEST]
    with pytest.raises(VerificationError) as caught:
        client.sees(other).follow()
    assert (caught.value.step, caught.value.reason) == ("M3", "no-release")


def test_a_target_that_is_listed_and_not_served_is_no_verdict(client: Client, world: TufWorld) -> None:
    files = {name: data for name, data in world.files().items() if not name.endswith("42.dsse.json")}
    with pytest.raises(ChannelError, match="expected what the repository lists"):
        client.sees(files).follow()


def test_a_target_without_sha256_is_refused(client: Client, world: TufWorld) -> None:
    other = world.later()
    entry = {"length": 1, "hashes": {"sha512": "00" * 64}}
    listed = signed_of(world.files()[TARGETS])["targets"]
    other.extra["targets"] = {"targets": {**listed, "x": entry}}
    with pytest.raises(VerificationError) as caught:
        client.sees(other).refresh()
    assert (caught.value.step, caught.value.reason) == ("M3", "target-hash")


def test_a_repository_without_consistent_snapshots_is_refused(tmp_path: Path) -> None:
    world = TufWorld()
    value = world.root_value(1) | {"consistent_snapshot": False}
    world.roots = [file_of(value, world.root_keys[:2])]
    files = world.files()
    files |= {"metadata/snapshot.json": files[SNAPSHOT], "metadata/targets.json": files[TARGETS]}
    with pytest.raises(VerificationError) as caught:
        Client(tmp_path, world.trust()).sees(files).refresh()
    assert caught.value.reason == "not-consistent"


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data.replace(b'"version": 1', b'"version": 1, "version": 1', 1), "malformed"),
        (lambda data: data.replace(b'"version": 1', b'"version": 1.0', 1), "malformed"),
        (lambda data: data.replace(b'"version": 1', b'"version": true', 1), "malformed"),
        (lambda data: data.replace(b'"version": 1', b'"version": 0', 1), "malformed"),
        (lambda data: b"\xef\xbb\xbf" + data, "malformed"),
        (lambda data: b"[]", "other-role"),
        (lambda data: b"", "malformed"),
        (lambda data: b"[" * 10_000, "malformed"),
        (lambda data: data.replace(b"1.0.33", b"2.0.0"), "malformed"),
        (lambda data: data.replace(b'"sig": "', b'"sig": "zz', 1), "not-signed"),
        (lambda data: b'{"signed": {"_type": "timestamp", "version": 1}}', "malformed"),
        (lambda data: b'{"signatures": [{}], "signed": {"_type": "timestamp", "version": 1}}', "malformed"),
    ],
)
def test_metadata_that_is_no_metadata_is_refused(
    client: Client, world: TufWorld, damage: Callable[[bytes], bytes], reason: str, seen: bool
) -> None:
    files = world.files()
    if seen:
        client.sees(files).refresh()
    damaged = damage(files[TIMESTAMP])
    assert damaged != files[TIMESTAMP]
    with pytest.raises(VerificationError) as caught:
        client.sees(files | {TIMESTAMP: damaged}).refresh()
    assert (caught.value.step, caught.value.reason) == ("M1", reason)


def test_when_a_timestamp_was_signed_is_read_and_must_be_a_time(client: Client, world: TufWorld) -> None:
    other = world.later("timestamp")
    other.extra["timestamp"] = {"x-blindbuild-issued": at(NOW - 5)}
    assert client.sees(other).refresh().issued == NOW - 5
    assert client.sees(world.later("timestamp").later("timestamp")).refresh().issued is None
    bad = other.later("timestamp").later("timestamp").later("timestamp")
    bad.extra["timestamp"] = {"x-blindbuild-issued": "yesterday"}
    with pytest.raises(VerificationError) as caught:
        client.sees(bad).refresh()
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}", b'{"signed":{}}', b'{"signed":{"_type":"x"}}'])
@pytest.mark.parametrize("place", ["timestamp.json", "seen.json", "root_history/2.root.json"])
def test_damaged_memory_is_never_first_use(
    client: Client, world: TufWorld, place: str, damaged: bytes
) -> None:
    client.sees(world.rotated()).refresh()
    (client.memory() / place).write_bytes(damaged)
    with pytest.raises(BlindbuildError, match=place) as caught:
        client.repository().refresh()
    assert not isinstance(caught.value, VerificationError)


@pytest.mark.parametrize(
    "place", ["timestamp.json", "snapshot.json", "targets.json", "root_history/9.root.json"]
)
def test_memory_that_is_half_damaged_is_never_first_use(client: Client, world: TufWorld, place: str) -> None:
    client.sees(world).refresh()
    role = place.split(".")[-2].rpartition("/")[2].encode()
    (client.memory() / place).write_bytes(b'{"signed":{"_type":"%b","version":1}}' % role)
    with pytest.raises(BlindbuildError, match="no TUF metadata any more"):
        client.sees(world.later()).refresh()


def test_a_snapshot_of_a_rotated_key_is_no_side_of_a_fork(client: Client, world: TufWorld) -> None:
    client.sees(world).refresh()
    after = world.rotated(online=TufKey())
    after.versions |= {"snapshot": 1, "timestamp": 1}  # as after a thief who used the versions up
    files = after.files()
    snapshot = files.pop("metadata/1.snapshot.json")
    with pytest.raises(ChannelError, match="got nothing there"):
        client.sees(files).refresh()
    assert (
        client.sees(files | {"metadata/1.snapshot.json": snapshot}).refresh().roles["snapshot"].version == 1
    )


def test_who_remembers_nothing_still_holds_what_was_seen_against_it(client: Client, world: TufWorld) -> None:
    client.sees(world.later()).refresh()
    client.remember = False
    client.sees(world.later().later()).refresh()
    client.remember = True
    assert client.sees(world.later()).refresh().roles["timestamp"].version == 2
    client.remember = False
    with pytest.raises(VerificationError) as caught:
        client.sees(world).refresh()
    assert caught.value.reason == "rollback"


def test_without_memory_every_refresh_is_the_first(client: Client, world: TufWorld) -> None:
    client.sees(world.later()).refresh()
    forgetful = replace(client.sees(world), memory=None)
    assert forgetful.refresh().roles["timestamp"].version == 1


def test_a_rotation_is_kept_when_the_rest_of_the_refresh_fails(client: Client, world: TufWorld) -> None:
    after = world.rotated(online=TufKey())
    files = after.files()
    del files["metadata/timestamp.json"]
    with pytest.raises(ChannelError, match="got nothing there"):
        client.sees(files).refresh()
    with pytest.raises(VerificationError) as caught:
        client.sees(world).refresh()  # the stolen key does not count any more
    assert caught.value.reason == "not-signed"
    client.sees(after).refresh()


def test_the_pinned_root_must_be_signed_by_itself(tmp_path: Path) -> None:
    world = TufWorld()
    world.roots = [file_of(world.root_value(1), world.root_keys[:1])]
    with pytest.raises(VerificationError) as caught:
        Client(tmp_path, world.trust()).sees(world).refresh()
    assert caught.value.reason == "not-signed"


def test_who_pins_no_root_or_names_no_place_uses_it_wrongly(client: Client) -> None:
    with pytest.raises(UsageError, match="place of the TUF repository") as caught:
        TufRepository(client.trust).follow()
    assert "--tuf" in str(caught.value.hint)
    plain = replace(client.trust, tuf_root=None)
    with pytest.raises(UsageError, match="pins a TUF root"):
        TufRepository(plain, str(client.path)).refresh()


def test_a_client_without_the_library_says_what_to_install(
    client: Client, world: TufWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "blindbuild.client.tuf_refresh", None)
    with pytest.raises(ToolError) as caught:
        client.sees(world).refresh()
    assert caught.value.hint == "pip install 'blindbuild[tuf]'"


def test_the_place_may_stand_in_the_trust_file(world: TufWorld) -> None:
    trust = world.trust(repository="https://releases.example.org/tuf")
    assert trust.tuf_repository == "https://releases.example.org/tuf"


def test_the_canonical_form_of_the_fake_is_that_of_the_library() -> None:
    from securesystemslib.formats import encode_canonical

    value = TufWorld().root_value(1) | {"more": pem_of(WEAK_RSA)}
    assert encode_canonical(value).encode() == canonical(value)
