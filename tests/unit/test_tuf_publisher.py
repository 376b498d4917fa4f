"""A publisher's repository: staged, signed by several people, published whole, and read by a client."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from blindbuild.client.published import Published
from blindbuild.client.tuf import TufRepository
from blindbuild.client.tuf_memory import TufMemory
from blindbuild.errors import BlindbuildError, BuildError, UsageError, VerificationError
from blindbuild.formats.fields import encode_base64
from blindbuild.manifest import parse_trust
from blindbuild.publish import SigningKey, generate_key, sign_payload, tuf_files
from blindbuild.publish.sign import add_signature, cosign_probe
from blindbuild.publish.signers import KeyKind, generate_release_key
from blindbuild.publish.tuf_content import Content, NewRelease, release_named, withdrawn_name
from blindbuild.publish.tuf_metadata import DAY_S, Days, RoleKeys, RootPlan, sign
from blindbuild.publish.tuf_publisher import Outcome, TufPublisher
from tests.fakes.probed import probe_envelope, probe_value
from tests.fakes.published import NOW, STATEMENT_TYPE, Publisher
from tests.fakes.tuf_world import TufWorld
from tests.fakes.world import authority

HELLO = release_named("hello/stable/42")


class House:
    """A publisher with three root keys, two release keys and one online machine."""

    def __init__(self, path: Path, *, root_threshold: int = 2, threshold: int = 1) -> None:
        self.path = path
        self.roots = [generate_key() for _ in range(3)]
        self.releases = [generate_key(), generate_release_key(KeyKind.P256)]
        self.online = generate_key()
        self.plan = RootPlan(
            root=RoleKeys(tuple(key.public for key in self.roots), root_threshold),
            targets=RoleKeys(tuple(key.public for key in self.releases), threshold),
            snapshot=RoleKeys((self.online.public,)),
            timestamp=RoleKeys((self.online.public,)),
        )
        self.now = NOW

    @property
    def repository(self) -> Path:
        return self.path / "repo"

    @property
    def publisher(self) -> TufPublisher:
        return TufPublisher(self.repository, now=self.now)

    @property
    def everybody(self) -> list:
        return [*self.roots, *self.releases, self.online]

    def begin(self) -> House:
        assert self.publisher.init(self.plan, self.everybody).published
        return self

    def release(self, sequence: int = 42, keys: list | None = None, **predicate: object) -> NewRelease:
        made = Publisher(self.releases[0]).but(sequence=sequence, **predicate)
        first, *more = self.releases[:1] if keys is None else keys
        envelope = sign_payload(first, STATEMENT_TYPE, made.statement)
        for key in more:
            envelope = add_signature(key, envelope, STATEMENT_TYPE)
        return NewRelease(Published(envelope, None, b"ledger", None, (), "here"))

    def add(self, sequence: int = 42, *, signers: list | None = None, **options: object) -> Outcome:
        return self.publisher.add(
            [self.release(sequence)],
            self.everybody if signers is None else signers,
            channel="stable",
            **options,  # type: ignore[arg-type]
        )

    def client(self, name: str = "client") -> TufRepository:
        trust = TufWorld().trust_value() | {
            "tuf": {"root": encode_base64((self.repository / "metadata" / "1.root.json").read_bytes())}
        }
        return TufRepository(
            parse_trust(json.dumps(trust).encode()),
            str(self.repository),
            TufMemory(self.path / name),
            clock=lambda: self.now,
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path).begin()


def test_a_release_that_was_added_is_what_clients_get(house: House) -> None:
    outcome = house.add()
    assert outcome.published
    assert set(outcome.changes) == {
        "manifests/hello/stable/42.dsse.json: new",
        "ledgers/hello/stable/42.json: new",
    }
    followed = house.client().follow()
    assert followed.name == HELLO
    assert followed.published.ledger == b"ledger"
    assert followed.view.issued == NOW
    assert {name: state.expires - NOW for name, state in followed.view.roles.items()} == {
        "root": 365 * DAY_S,
        "targets": 90 * DAY_S,
        "snapshot": 7 * DAY_S,
        "timestamp": DAY_S,
    }


def test_a_later_release_takes_the_place_of_earlier_ones_unless_they_are_kept(house: House) -> None:
    house.add(42)
    house.add(43)
    assert house.publisher.releases() == ("hello/stable/43",)
    house.add(44, keep_older=True)
    assert house.publisher.releases() == ("hello/stable/43", "hello/stable/44")
    assert house.client().follow().name.sequence == 44


def test_channels_are_apart(house: House) -> None:
    house.add(42)
    house.publisher.add([house.release(7)], house.everybody, channel="nightly")
    assert house.publisher.releases() == ("hello/nightly/7", "hello/stable/42")


def test_a_sequence_is_never_used_for_two_statements_or_gone_back(house: House) -> None:
    house.add(42)
    other = house.release(42, version="1.0.1")
    with pytest.raises(UsageError, match="another"):
        house.publisher.add([other], house.everybody, channel="stable")
    with pytest.raises(UsageError, match="after those that clients have seen, 42"):
        house.add(41)
    house.add(42)  # the same again, for other signatures
    house.publisher.withdraw(HELLO, house.everybody, reason="vulnerable")
    with pytest.raises(UsageError, match="was withdrawn"):
        house.add(42)
    with pytest.raises(UsageError, match="after those that clients have seen, 42"):
        house.add(41)
    assert house.add(43).published


def test_a_withdrawal_is_seen_by_a_client(house: House) -> None:
    house.add()
    client = house.client()
    assert client.follow().name == HELLO
    outcome = house.publisher.withdraw(HELLO, house.everybody, reason="vulnerable")
    assert "revoked.json: changed" in outcome.changes
    with pytest.raises(VerificationError) as caught:
        client.follow()
    assert caught.value.reason == "no-release"
    (entry,) = client.refresh().revoked
    assert (entry.sequence, entry.reason, entry.withdrawn) == (42, "vulnerable", NOW)


def test_a_release_that_is_no_longer_listed_can_be_withdrawn_by_its_manifest(house: House) -> None:
    house.add(42)
    first = house.release(42).published.envelope
    house.add(43)
    with pytest.raises(UsageError, match="not listed"):
        house.publisher.withdraw(HELLO, house.everybody, reason="retired")
    name, statement = withdrawn_name(first, "stable", [root.signed for root in house.publisher.files.roots()])
    house.publisher.withdraw(name, house.everybody, reason="retired", statement=statement)
    assert [entry.statement for entry in house.client().refresh().revoked] == [statement]
    with pytest.raises(UsageError, match="withdrawn before"):
        house.publisher.withdraw(name, house.everybody, reason="retired", statement=statement)


def test_what_was_withdrawn_stays_withdrawn_whatever_is_staged(house: House) -> None:
    house.add()
    house.publisher.withdraw(HELLO, house.everybody, reason="vulnerable")
    house.add(43, signers=[])
    files = house.publisher.files
    staged = files.staged(Targets)
    assert staged is not None
    Content(staged.signed, files).begin()  # somebody who can write to the directory empties the list
    files.stage(staged)
    outcome = house.publisher.sign(house.everybody)
    assert not outcome.published
    assert any("expected hello 42 to stay withdrawn" in line for line in outcome.waiting)
    assert len(house.client().refresh().revoked) == 1


def test_files_that_do_not_belong_together_are_not_listed(house: House) -> None:
    release = house.release()
    broken = NewRelease(Published(release.published.envelope, None, b"another ledger", None, (), "here"))
    with pytest.raises(BuildError, match=r"channels\.json"):
        house.publisher.add([broken], house.everybody, channel="stable")


def test_a_probe_is_listed_with_its_release_and_no_other(house: House) -> None:
    made = Publisher(house.releases[0])
    probe = probe_envelope(probe_value(made), house.releases[0])
    release = NewRelease(Published(made.envelope, None, None, None, (), "here", probe))
    outcome = house.publisher.add([release], house.everybody, channel="stable")
    assert "probes/hello/stable/42.dsse.json: new" in outcome.changes
    assert house.client().follow().published.probe == probe
    later = house.release(43)
    stale = NewRelease(replace(later.published, ledger=None, probe=probe))
    with pytest.raises(BuildError, match=r"probe\.dsse\.json: expected sha256:") as caught:
        house.publisher.add([stale], house.everybody, channel="stable")
    assert "probe the image again" in str(caught.value.hint)
    outcome = house.publisher.add([later], house.everybody, channel="stable")
    assert "probes/hello/stable/42.dsse.json: no longer listed" in outcome.changes
    assert house.client().follow().published.probe is None


def test_a_probe_that_clients_would_refuse_is_not_put_out(tmp_path: Path) -> None:
    house = House(tmp_path, threshold=2).begin()
    release = house.release(keys=house.releases)
    made = Publisher(house.releases[0])
    alone = probe_envelope(probe_value(made), house.releases[0])
    unlike = probe_value(made)
    unlike["predicate"]["ledger"] = {"sha256": "00" * 32}
    contradicts = cosign_probe(house.releases[1], probe_envelope(unlike, house.releases[0]))
    with pytest.raises(BuildError, match=r"probe\.dsse\.json: .*beside ledger"):
        house.publisher.add(
            [NewRelease(replace(release.published, ledger=None, probe=contradicts))],
            house.everybody,
            channel="stable",
        )
    listed = NewRelease(replace(release.published, ledger=None, probe=alone))
    outcome = house.publisher.add([listed], house.everybody, channel="stable")
    assert not outcome.published
    assert any(line.startswith("probes/hello/stable/42.dsse.json: ") for line in outcome.waiting)
    both = NewRelease(replace(release.published, ledger=None, probe=cosign_probe(house.releases[1], alone)))
    assert house.publisher.add([both], house.everybody, channel="stable").published


def test_a_release_that_was_signed_for_another_channel_is_not_listed(house: House) -> None:
    made = Publisher(house.releases[0])
    published = Published(made.envelope, made.release, None, None, (), "here")
    with pytest.raises(UsageError, match="signed for channel nightly, got one for stable"):
        house.publisher.add([NewRelease(published)], house.everybody, channel="nightly")
    assert house.publisher.add([NewRelease(published)], house.everybody, channel="stable").published


def test_two_of_two_release_keys_sign_one_after_the_other(tmp_path: Path) -> None:
    house = House(tmp_path, threshold=2).begin()
    client = house.client()
    release = house.release(keys=house.releases)
    first = house.publisher.add([release], [house.releases[0], house.online], channel="stable")
    assert not first.published
    assert any("targets 2: 1 of 2 signatures" in line for line in first.waiting)
    with pytest.raises(VerificationError):
        client.follow()
    second = house.publisher.sign([house.releases[1]])
    assert not second.published  # the online key is elsewhere
    assert any("timestamp" in line for line in second.waiting)
    assert house.publisher.refresh([house.online]).published
    assert client.follow().name == HELLO
    assert [key.key_id for key in client.refresh().release_keys] == [
        key.public.key_id for key in house.releases
    ]


def test_a_thief_of_one_of_two_release_keys_publishes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, threshold=2).begin()
    house.publisher.add([house.release(keys=house.releases)], house.everybody, channel="stable")
    client = house.client()
    client.follow()
    stolen = [house.releases[0], house.online]
    bad = house.release(43, keys=[house.releases[0]])
    outcome = house.publisher.add([bad], stolen, channel="stable")
    assert not outcome.published
    assert client.follow().name.sequence == 42
    # nor does he get the other one to list a manifest that clients would not take
    house.publisher.sign([house.releases[1]])
    outcome = house.publisher.refresh([house.online])
    assert any(
        "43.dsse.json: expected signatures by 2 trusted keys, got 1" in line for line in outcome.waiting
    )
    assert client.follow().name.sequence == 42


def test_a_change_drops_the_signatures_of_what_was_staged_before(tmp_path: Path) -> None:
    house = House(tmp_path, threshold=2).begin()
    house.publisher.add([house.release(keys=house.releases)], [house.releases[0]], channel="stable")
    house.publisher.sign([house.releases[1]])
    outcome = house.publisher.add(
        [house.release(43, keys=house.releases)], [house.releases[1]], channel="stable"
    )
    assert any("targets 2: 1 of 2 signatures" in line for line in outcome.waiting)
    assert "manifests/hello/stable/43.dsse.json: new" in outcome.changes


def test_what_is_staged_for_an_earlier_state_is_dropped(house: House) -> None:
    house.add(42, signers=house.releases)  # complete, but for the online key
    staged = house.repository / "staged" / "targets.json"
    earlier = staged.read_bytes()
    house.publisher.refresh([house.online])
    house.add(43)
    staged.write_bytes(earlier)  # from somebody's older copy
    outcome = house.publisher.refresh([house.online])
    assert (outcome.changes, outcome.waiting) == ((), ())
    assert not staged.exists()
    assert house.publisher.releases() == ("hello/stable/43",)


def test_nobody_signs_what_is_not_staged_or_not_his(house: House) -> None:
    with pytest.raises(UsageError, match="got nothing"):
        house.publisher.sign([house.releases[0]])
    house.add(signers=[])
    with pytest.raises(UsageError, match="got nothing"):
        house.publisher.sign([house.online, generate_key()])


def test_a_repository_can_be_begun_by_people_who_never_meet(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert not house.publisher.init(house.plan, [house.roots[0]]).published
    with pytest.raises(UsageError, match="nothing is published yet"):
        house.add()
    assert not house.publisher.sign([house.roots[2]]).published
    assert not house.publisher.sign([house.releases[1]]).published
    assert house.publisher.roles() == {}
    assert house.publisher.refresh([house.online]).published
    assert set(house.publisher.roles()) == {"root", "targets", "snapshot", "timestamp"}
    assert house.publisher.waiting() == house.publisher.staged_changes() == ()
    house.client().refresh()


def test_a_new_repository_needs_an_empty_directory_and_roles_that_can_sign(tmp_path: Path) -> None:
    house = House(tmp_path, root_threshold=4)
    with pytest.raises(UsageError, match="root: expected a threshold of 1 to 3, got 4"):
        house.publisher.init(house.plan, house.everybody)
    twice = RootPlan(RoleKeys((house.roots[0].public,) * 2), house.plan.targets, *(house.plan.snapshot,) * 2)
    with pytest.raises(UsageError, match="root: expected different keys"):
        house.publisher.init(twice, house.everybody)
    with pytest.raises(UsageError, match="no TUF repository there"):
        house.publisher.refresh([house.online])
    house.repository.mkdir()
    (house.repository / "file").touch()
    with pytest.raises(UsageError, match="expected an empty directory"):
        House(tmp_path).publisher.init(House(tmp_path).plan, [])


def test_a_refresh_signs_a_timestamp_and_only_sometimes_a_snapshot(house: House) -> None:
    house.add()
    client = house.client()
    before = client.refresh().roles
    house.now += DAY_S // 2
    house.publisher.refresh([house.online])
    daily = client.refresh().roles
    assert daily["timestamp"].version == before["timestamp"].version + 1
    assert daily["timestamp"].expires == house.now + DAY_S
    assert daily["snapshot"] == before["snapshot"]
    house.now += 4 * DAY_S
    house.publisher.refresh([house.online])
    weekly = client.refresh().roles
    assert weekly["snapshot"].version == before["snapshot"].version + 1
    assert weekly["targets"] == before["targets"]


def test_a_refresh_needs_the_online_key(house: House) -> None:
    with pytest.raises(UsageError, match="timestamp 2: 0 of 1 signatures"):
        house.publisher.refresh([house.releases[0]])


def test_targets_are_renewed_by_a_release_key(house: House) -> None:
    house.add()
    house.now += 80 * DAY_S
    assert house.publisher.renew([house.releases[0], house.online]).published
    assert house.client().refresh().roles["targets"].expires == house.now + 90 * DAY_S


def test_days_are_kept_in_the_root(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.plan = RootPlan(
        house.plan.root, house.plan.targets, house.plan.snapshot, house.plan.timestamp, Days(30, 20, 10, 5)
    )
    house.begin()
    roles = house.client().refresh().roles
    assert {name: (state.expires - NOW) // DAY_S for name, state in roles.items()} == {
        "root": 30,
        "targets": 20,
        "snapshot": 10,
        "timestamp": 5,
    }


def replaced(house: House, **roles: RoleKeys) -> Callable[[RootPlan], RootPlan]:
    return lambda plan: replace(plan, **roles)


def test_an_old_client_follows_a_rotated_root(house: House) -> None:
    house.add()
    client = house.client()
    client.follow()
    new = [generate_key() for _ in range(3)]
    plan = replaced(house, root=RoleKeys(tuple(key.public for key in new), 2))
    staged = house.publisher.rotate(plan, [house.roots[0], new[0], house.online])
    assert not staged.published
    assert all(line.startswith("root 2") for line in staged.waiting)
    assert len(staged.waiting) == 2  # one old and one new signature are missing
    house.publisher.sign([house.roots[1]])
    assert house.publisher.refresh([house.online]).waiting
    house.publisher.sign([new[2]])
    assert house.publisher.refresh([house.online]).published
    assert client.follow().view.roles["root"].version == 2
    assert house.client("a later client").follow().view.roles["root"].version == 2


def test_a_root_is_renewed_without_a_change(house: House) -> None:
    house.now += 300 * DAY_S
    house.publisher.renew([house.releases[0], house.online])
    assert house.publisher.rotate(lambda plan: plan, [*house.roots[:2], house.online]).published
    assert house.client().refresh().roles["root"].expires == house.now + 365 * DAY_S


def test_after_release_keys_change_the_manifests_are_signed_anew_before_anything_is_published(
    house: House,
) -> None:
    house.add()
    client = house.client()
    client.follow()
    new = generate_key()
    plan = replaced(house, targets=RoleKeys((new.public,)))
    outcome = house.publisher.rotate(plan, [*house.roots, new, house.online])
    assert not outcome.published
    assert any(
        "42.dsse.json: expected signatures by 1 trusted keys, got 0" in line for line in outcome.waiting
    )
    assert client.follow().view.roles["root"].version == 1
    signed = house.release(keys=[new])
    assert house.publisher.add([signed], [new, house.online], channel="stable").published
    followed = client.follow()
    assert followed.view.roles["root"].version == 2
    assert [key.key_id for key in followed.view.release_keys] == [new.public.key_id]
    assert followed.published.envelope == signed.published.envelope


def test_a_stolen_online_key_is_rotated_and_its_versions_are_forgotten(house: House) -> None:
    house.add()
    client = house.client()
    client.follow()
    thief = TufPublisher(house.repository, now=house.now)
    honest = {path: path.read_bytes() for path in house.repository.rglob("*") if path.is_file()}
    state = thief.files.state()
    assert state is not None
    timestamp = state.timestamp
    timestamp.signed.version = 2**31 - 1
    timestamp.signatures.clear()
    sign(timestamp, [house.online], [state.root.signed])
    thief.files.write_timestamp(timestamp)
    client.refresh()
    for path, data in honest.items():
        path.write_bytes(data)
    with pytest.raises(VerificationError) as caught:
        client.refresh()
    assert caught.value.reason == "rollback"
    new = generate_key()
    plan = replaced(house, snapshot=RoleKeys((new.public,)), timestamp=RoleKeys((new.public,)))
    assert house.publisher.rotate(plan, [*house.roots, new]).published
    assert client.follow().view.roles["timestamp"].version == 3


def test_versions_that_a_thief_used_up_in_the_repository_itself_begin_anew(house: House) -> None:
    house.add()
    client = house.client()
    files = house.publisher.files
    state = files.state()
    assert state is not None
    state.timestamp.signed.version = 2**31 - 1
    state.timestamp.signatures.clear()
    sign(state.timestamp, [house.online], [state.root.signed])
    files.write_timestamp(state.timestamp)
    client.refresh()
    new = generate_key()
    plan = replaced(house, snapshot=RoleKeys((new.public,)), timestamp=RoleKeys((new.public,)))
    assert house.publisher.rotate(plan, [*house.roots, new]).published
    assert client.follow().view.roles["timestamp"].version == 1


def test_a_file_that_another_tool_wrote_is_refused(house: House) -> None:
    path = house.repository / "metadata" / "1.targets.json"
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode())
    with pytest.raises(BuildError, match="another layout"):
        house.add()


def test_p256_signatures_are_those_that_tuf_asks_for(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.releases.reverse()
    house.begin()
    house.publisher.renew([house.releases[0], house.online])
    house.client().refresh()


def test_what_a_key_id_is_follows_the_specification(house: House) -> None:
    root = Metadata[Root].from_file(str(house.repository / "metadata" / "1.root.json")).signed
    for keyid, key in root.keys.items():
        assert re.fullmatch("[0-9a-f]{64}", keyid)
        assert key.keytype in ("ed25519", "ecdsa")
    assert authority()  # the trust files of these tests believe it


class KilledError(Exception):
    """The process was killed."""


def killing(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """Let a run be killed at its n-th change of the directory; return how many there were."""
    seen = 0
    write = tuf_files.write_atomically
    unlink = Path.unlink

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen > after:
            raise KilledError

    def counted(path: Path, data: bytes, mode: int = 0o644) -> None:
        count()
        write(path, data, mode)

    def removed(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == "staged":
            count()
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(tuf_files, "write_atomically", counted)
    monkeypatch.setattr(Path, "unlink", removed)
    return lambda: seen


def publish_at_once(house: House) -> None:
    house.add(43)


def rotate_online_with_both_keys(house: House) -> None:
    new = house.new_online  # type: ignore[attr-defined]
    plan = replaced(house, snapshot=RoleKeys((new.public,)), timestamp=RoleKeys((new.public,)))
    house.publisher.rotate(plan, [*house.everybody, new])


def withdraw(house: House) -> None:
    house.publisher.withdraw(HELLO, house.everybody, reason="broken")


def refresh(house: House) -> None:
    house.now += 5 * DAY_S
    house.publisher.refresh([house.online])


@pytest.mark.parametrize("change", [publish_at_once, withdraw, refresh, rotate_online_with_both_keys])
def test_killed_at_any_write_the_repository_is_one_state_or_the_other(
    tmp_path: Path, change: Callable[[House], None]
) -> None:
    number, finished = 0, False
    while not finished:
        house = House(tmp_path / str(number)).begin()
        house.new_online = generate_key()  # type: ignore[attr-defined]
        house.add(42)
        client = house.client()
        before = client.follow().view.roles
        with pytest.MonkeyPatch.context() as patch:
            writes = killing(patch, number)
            try:
                change(house)
                finished = True
            except KilledError:
                pass
        # whoever asks now, with or without a past, is served one of the two states
        house.now = min(house.now, NOW + DAY_S - 1)
        seen = client.refresh().roles
        assert house.client("newcomer").refresh().roles == seen
        assert seen["timestamp"].version in (before["timestamp"].version, before["timestamp"].version + 1)
        # and the next run ends what this one began
        house.publisher.refresh([house.online, house.new_online])  # type: ignore[attr-defined]
        assert house.publisher.staged_changes() == ()
        client.refresh()
        number += 1
    assert writes() == number - 1 >= 2


def reason_of(client: TufRepository) -> str:
    try:
        client.refresh()
    except VerificationError as error:
        return error.reason
    return ""


def test_killed_while_a_lost_key_is_replaced_clients_are_refused_until_the_next_refresh(
    tmp_path: Path,
) -> None:
    reasons = []
    for number in range(5):
        house = House(tmp_path / str(number)).begin()
        client = house.client()
        client.refresh()
        new = generate_key()
        plan = replaced(house, snapshot=RoleKeys((new.public,)), timestamp=RoleKeys((new.public,)))
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, number)
            with contextlib.suppress(KilledError):
                house.publisher.rotate(plan, [*house.roots, new])
        reasons.append(reason_of(client))
        house.publisher.refresh([house.online, new])
        assert client.refresh().roles["root"].version in (1, 2)
    assert sorted(reasons) == ["", "", "", "", "not-signed"]


def test_a_repository_whose_timestamp_names_what_is_not_there_is_not_built_upon(house: House) -> None:
    (house.repository / "metadata" / "1.snapshot.json").unlink()
    with pytest.raises(BuildError, match="cannot read"):
        house.add()


def test_our_errors_are_the_only_ones(house: House) -> None:
    (house.repository / "metadata" / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(BlindbuildError):
        house.add()
    assert isinstance(house.releases[0], SigningKey)
