"""Somebody who can write to a repository's directory, and has no key: what he gets people to sign."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Delegations, Metadata, Root, Targets

from blindbuild.client.published import Published
from blindbuild.client.tuf_keys import release_keys
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, BuildError, UsageError
from blindbuild.manifest.tuf import hashed_path
from blindbuild.publish import generate_key
from blindbuild.publish.tuf_content import NewRelease, release_named, withdrawn_name
from blindbuild.publish.tuf_metadata import Days, RoleKeys, expiry, make_root, plan_of, to_bytes
from blindbuild.publish.tuf_publisher import TufPublisher
from tests.fakes.published import Publisher
from tests.unit.test_tuf_publisher import HELLO, House


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path).begin()
    made.add(42)
    return made


def stage_root(house: House, change: Callable[[Root], None] = lambda root: None) -> Metadata[Root]:
    state = house.publisher.files.state()
    assert state is not None
    root = make_root(plan_of(state.root.signed), version=2, now=house.now)
    change(root.signed)
    house.publisher.files.stage(root)
    return root


def stage_targets(house: House, change: Callable[[Targets], None]) -> None:
    state = house.publisher.files.state()
    assert state is not None
    targets = Metadata(state.targets.signed)
    targets.signed.version += 1
    change(targets.signed)
    house.publisher.files.stage(targets)


def swap_release_key(root: Root) -> None:
    """Put the thief's key where a release key was, under the key id that people know."""
    keyid = root.roles["targets"].keyids[0]
    assert root.keys[keyid].keytype == "ed25519"
    root.keys[keyid].keyval["public"] = generate_key().public.spki[-32:].hex()


def ten_thousand_years(signed: Any) -> None:
    signed.expires = signed.expires.replace(year=9998)


def use_versions_up(signed: Any) -> None:
    signed.version = 2**31 - 1


def inconsistent(root: Root) -> None:
    root.consistent_snapshot = False


def unknown_field(signed: Any) -> None:
    signed.unrecognized_fields["x-more"] = 1


@pytest.mark.parametrize(
    "change", [swap_release_key, ten_thousand_years, use_versions_up, inconsistent, unknown_field]
)
def test_a_root_that_blindbuild_would_not_write_is_neither_shown_nor_signed(
    house: House, change: Callable[[Root], None]
) -> None:
    stage_root(house, change)
    before = (house.repository / "staged" / "root.json").read_bytes()
    for ask in (lambda: house.publisher.sign(house.everybody), lambda: house.publisher.review()):
        with pytest.raises(BuildError, match=r"staged root\.json"):
            ask()
    assert (house.repository / "staged" / "root.json").read_bytes() == before
    house.client().refresh()


@pytest.mark.parametrize("days", [5, "five", {"targets": "x"}, {"targets": 10**12}, {"root": True}])
def test_days_that_are_none_are_our_error(house: House, days: object) -> None:
    stage_root(house, lambda root: root.unrecognized_fields.update({"x-blindbuild-days": days}))
    with pytest.raises(BuildError):
        house.publisher.sign(house.everybody)


def test_who_signs_a_root_is_told_of_days_and_of_its_end(house: House) -> None:
    stage_root(house)
    plan = plan_of(stage_root(house).signed)
    root = make_root(
        type(plan)(plan.root, plan.targets, plan.snapshot, plan.timestamp, Days(timestamp=3000)),
        version=2,
        now=house.now,
    )
    house.publisher.files.stage(root)
    lines = house.publisher.review().lines
    assert "timestamp: signed for 3000 days, not 1" in lines
    assert any(line.startswith("root 2, until 2") and "sha256:" in line for line in lines)


def delegate(targets: Targets) -> None:
    targets.delegations = Delegations({}, {})


def hide_a_line(targets: Targets) -> None:
    targets.targets["x\x1b[1A\x1b[2K"] = next(iter(targets.targets.values()))


def other_hash(targets: Targets) -> None:
    next(iter(targets.targets.values())).hashes = {"sha512": "00" * 64}


def path_for_hash(targets: Targets) -> None:
    targets.targets[HELLO.manifest].hashes = {"sha256": "../../../../../../etc/passwd"}


def mislabel(targets: Targets) -> None:
    targets.targets[HELLO.manifest].unrecognized_fields["custom"] = {"product": "other"}


@pytest.mark.parametrize(
    "change",
    [
        *(ten_thousand_years, use_versions_up, unknown_field),
        *(delegate, hide_a_line, other_hash, path_for_hash, mislabel),
    ],
)
def test_targets_that_blindbuild_would_not_write_are_neither_shown_nor_signed(
    house: House, change: Callable[[Targets], None]
) -> None:
    stage_targets(house, change)
    before = (house.repository / "staged" / "targets.json").read_bytes()
    for ask in (
        lambda: house.publisher.sign(house.everybody),
        lambda: house.publisher.review(),
        lambda: house.publisher.renew(house.everybody),
    ):
        with pytest.raises(BuildError, match=r"staged targets\.json"):
            ask()
    assert (house.repository / "staged" / "targets.json").read_bytes() == before
    house.client().refresh()


def test_what_is_signed_is_what_was_shown(house: House) -> None:
    house.add(43, signers=[])
    shown = house.publisher.review()
    assert "manifests/hello/stable/43.dsse.json: new" in shown.lines
    house.add(44, signers=[])  # between the reading and the PIN
    with pytest.raises(UsageError, match="changed since it was shown"):
        house.publisher.sign(house.everybody, shown)
    shown = house.publisher.review()
    assert house.publisher.sign(house.everybody, shown).published


@pytest.mark.parametrize("verb", ["add", "withdraw", "renew"])
def test_nobody_signs_what_others_staged_without_having_been_shown_it(house: House, verb: str) -> None:
    def list_an_old_one(targets: Targets) -> None:
        targets.targets["images/00.efi"] = targets.targets["revoked.json"]

    stage_targets(house, list_an_old_one)
    publisher = house.publisher
    ask: Callable[[], object] = {
        "add": lambda: house.add(43),
        "withdraw": lambda: publisher.withdraw(HELLO, house.everybody, reason="broken"),
        "renew": lambda: publisher.renew(house.everybody),
    }[verb]
    with pytest.raises(UsageError, match="staged by somebody else"):
        ask()
    assert house.publisher.releases() == ("hello/stable/42",)


def test_a_withdrawal_is_told_to_who_signs_it(house: House) -> None:
    house.publisher.withdraw(HELLO, [], reason="vulnerable")
    assert "revoked.json: withdraws hello/stable/42: vulnerable" in house.publisher.review().lines


def test_targets_that_nobody_signed_are_not_what_changes_begin_with(house: House) -> None:
    files = house.publisher.files
    state = files.state()
    assert state is not None
    state.targets.signed.expires = expiry(house.now, 3000)
    files.write(state.targets)  # under the version that is served; its signatures no longer fit
    for ask in (lambda: house.publisher.renew(house.everybody), lambda: house.publisher.review()):
        with pytest.raises(BuildError, match=r"targets\.json.*not signed"):
            ask()


def test_a_root_that_the_one_before_did_not_sign_is_not_what_a_rotation_begins_with(house: House) -> None:
    thief = generate_key()
    state = house.publisher.files.state()
    assert state is not None
    plan = plan_of(state.root.signed)
    mine = RoleKeys((thief.public,))
    root = make_root(type(plan)(mine, mine, mine, mine), version=2, now=house.now)
    (house.repository / "metadata" / "2.root.json").write_bytes(to_bytes(root))
    with pytest.raises(BuildError, match=r"2\.root\.json.*not signed"):
        house.publisher.rotate(lambda plan: plan, house.everybody)


def test_a_repository_of_another_beginning_is_not_signed_for(house: House, tmp_path: Path) -> None:
    mine = (house.repository / "metadata" / "1.root.json").read_bytes()
    other = House(tmp_path / "other").begin()
    assert TufPublisher(house.repository, now=house.now, pinned=mine).renew(house.everybody).published
    with pytest.raises(BuildError, match="begins with another root"):
        TufPublisher(other.repository, now=house.now, pinned=mine).renew(other.everybody)
    unpublished = House(tmp_path / "third")
    unpublished.publisher.init(unpublished.plan, [])
    with pytest.raises(BuildError, match="begins with another root"):
        TufPublisher(unpublished.repository, now=house.now, pinned=mine).sign(unpublished.everybody)


def test_who_signs_the_first_root_is_told_of_days_that_are_not_the_usual_ones(tmp_path: Path) -> None:
    house = House(tmp_path)
    plan = house.plan
    house.plan = type(plan)(plan.root, plan.targets, plan.snapshot, plan.timestamp, Days(timestamp=900))
    house.publisher.init(house.plan, [])
    lines = house.publisher.review().lines
    assert "timestamp: signed for 900 days, not 1" in lines
    assert sum(line.startswith("root: key ") for line in lines) == 3


def test_a_manifest_under_another_name_is_not_published(house: House) -> None:
    def as_a_later_one(targets: Targets) -> None:
        entry = targets.targets[HELLO.manifest]
        custom = {"product": "hello", "channel": "stable", "sequence": 43}
        entry.unrecognized_fields["custom"] = custom
        later = release_named("hello/stable/43").manifest
        entry.path = later
        targets.targets = {**targets.targets, later: entry}
        house.publisher.files.write_target(later, house.release(42).published.envelope)
        del targets.targets[HELLO.manifest]

    stage_targets(house, as_a_later_one)
    outcome = house.publisher.sign(house.everybody)
    assert not outcome.published
    assert any("expected the manifest of hello 43, got hello 42" in line for line in outcome.waiting)


def test_a_lock_that_cannot_be_opened_is_our_error(house: House) -> None:
    lock = house.repository / ".lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to("/nowhere")
    with pytest.raises(BlindbuildError, match="lock"):
        house.publisher.renew(house.everybody)


def test_a_target_that_somebody_damaged_in_advance_is_written_again(house: House) -> None:
    release = house.release(43)
    name = release_named("hello/stable/43").manifest
    place = hashed_path(name, Digest.sha256(release.published.envelope).hex)
    (house.repository / "targets" / place).write_bytes(b"damaged")
    assert house.publisher.add([release], house.everybody, channel="stable").published
    assert house.client().follow().name.sequence == 43


def test_the_swap_of_a_key_under_its_id_is_one(house: House) -> None:
    stage_root(house, swap_release_key)
    staged = json.loads((house.repository / "staged" / "root.json").read_bytes())
    root = Metadata[Root].from_dict(staged).signed
    known = {key.public.spki for key in house.releases}
    assert {key.spki for key in release_keys(root)[0]} != known


def test_a_registry_does_not_say_for_which_channel_a_release_was_signed(house: House) -> None:
    made = Publisher(house.releases[0])  # signed for stable
    thief = generate_key()
    forged = Publisher(thief).release  # if a stranger's word counted
    state = house.publisher.files.state()
    assert state is not None
    plan = replace(plan_of(state.root.signed), targets=RoleKeys((thief.public,)))
    house.publisher.files.stage(make_root(plan, version=2, now=house.now))  # signed by nobody
    for release, message in ((None, "expected release.dsse.json"), (forged, "trusted keys, got 0")):
        published = Published(made.envelope, release, None, None, (), "oci://registry.example/hello:1")
        with pytest.raises(UsageError, match=message):
            house.publisher.add([NewRelease(published)], house.everybody, channel="nightly")
    assert house.publisher.releases() == ("hello/stable/42",)


def test_a_strangers_manifest_is_not_withdrawn_and_uses_no_sequences_up(house: House) -> None:
    roots = [root.signed for root in house.publisher.files.roots()]
    bad = Publisher(generate_key()).but(sequence=2**53 - 1).envelope
    with pytest.raises(BuildError, match="that a release key signed"):
        withdrawn_name(bad, "stable", roots)
    with pytest.raises(BuildError, match="that a release key signed"):
        withdrawn_name(b"{}", "stable", roots)
    # one that a key of earlier days signed may have been accepted
    new = generate_key()
    plan = lambda plan: replace(plan, targets=RoleKeys((new.public,)))  # noqa: E731
    house.publisher.withdraw(HELLO, house.everybody, reason="retired")
    assert house.publisher.rotate(plan, [*house.everybody, new]).published
    roots = [root.signed for root in house.publisher.files.roots()]
    assert len(roots) == 2
    old = house.release(41).published.envelope
    assert withdrawn_name(old, "stable", roots)[0].sequence == 41
