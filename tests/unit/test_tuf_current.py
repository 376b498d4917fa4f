"""Steps M1, M3, M9 and M11: what a client makes of a refresh, without any input or output."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.digest import Digest
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.manifest.revoked import Revocation
from blindbuild.verify import Appraisal, History, appraise, check_publication
from blindbuild.verify.current import CURRENT_TITLES, CurrentView, RoleState, Target
from tests.bad_inputs import refused
from tests.fakes.published import NOW
from tests.fakes.tuf_world import DAY, MANIFEST, TufWorld
from tests.fakes.world import TEST_POLICY, pinned_trust, publisher, session

WORLD = TufWorld(publisher=publisher())
TRUST = WORLD.trust()
STATEMENT = Digest.sha256(publisher().statement)
CODE = Path(__file__).resolve().parents[2] / "builder" / "blindbuild"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "spec" / "publication.md"


def view(**changes: object) -> CurrentView:
    envelope = publisher().envelope
    made = CurrentView(
        pinned=Digest.sha256(WORLD.roots[0]),
        channel="stable",
        refreshed=NOW,
        issued=NOW - 3600,
        roles={
            "root": RoleState(3, NOW + 300 * DAY),
            "timestamp": RoleState(812, NOW + DAY),
            "snapshot": RoleState(40, NOW + 7 * DAY),
            "targets": RoleState(12, NOW + 90 * DAY),
        },
        release_keys=(publisher().key.public,),
        threshold=1,
        targets={MANIFEST: Target(len(envelope), Digest.sha256(envelope))},
        revoked=(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(
    current: CurrentView | None,
    *,
    trust: TrustRoots = TRUST,
    envelope: bytes | None = None,
    release: bytes | None = None,
    now: int = NOW,
    history: History | None = None,
    **policy: object,
) -> Appraisal:
    return appraise(
        session(),
        envelope=envelope or publisher().envelope,
        release=release,
        trust=trust,
        now=now,
        policy=replace(TEST_POLICY, **policy),  # type: ignore[arg-type]
        history=history,
        current=current,
    )


def withdrawn(statement: Digest = STATEMENT, reason: str = "vulnerable") -> Revocation:
    return Revocation(statement, "hello", "stable", 42, reason, NOW - 60)


def detail(appraisal: Appraisal, step: str) -> str:
    (found,) = [s.detail for s in appraisal.steps if s.id == step]
    return found


def test_a_listed_release_is_accepted_without_a_signed_release_beside_it() -> None:
    appraisal = judged(view())
    accepted = appraisal.accepted()
    assert accepted.sequence == 42
    assert detail(appraisal, "M1") == "root 3, timestamp 812, snapshot 40, targets 12"
    assert {"M1", "M3", "M9", "M11"} <= {step.id for step in appraisal.steps}


def test_a_verdict_ends_with_the_first_role_that_expires() -> None:
    soon = {**view().roles, "snapshot": RoleState(40, NOW + 100)}
    assert judged(view(roles=soon)).accepted().expires == NOW + 100
    assert judged(view()).accepted().expires == NOW + TEST_POLICY.session_s


def test_who_pins_a_root_accepts_nothing_without_a_refresh() -> None:
    # not even with everything that was enough before: the envelope and a signed release
    refused(judged(None, release=publisher().release), "M1:not-refreshed")


def test_a_view_without_a_pinned_root_is_refused() -> None:
    refused(judged(view(), trust=pinned_trust(), release=publisher().release), "M1:no-pinned-root")


def test_a_view_of_another_repository_is_refused() -> None:
    refused(judged(view(pinned=Digest.sha256(b"another root"))), "M1:other-root")


def test_a_view_of_another_channel_is_refused() -> None:
    refused(judged(view(), channel="nightly"), "M1:other-channel")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_view_that_has_expired_is_refused(role: str) -> None:
    roles = {**view().roles, role: RoleState(1, NOW)}
    appraisal = judged(view(roles=roles))
    refused(appraisal, "M1:expired", saying=f"{role}.json")
    roles[role] = RoleState(1, NOW + 1)
    assert judged(view(roles=roles)).accepted().expires == NOW + 1


def test_a_view_without_one_of_the_roles_is_refused() -> None:
    roles = {name: state for name, state in view().roles.items() if name != "snapshot"}
    refused(judged(view(roles=roles)), "M1:role-missing")


def test_the_keys_that_count_are_those_of_the_repository() -> None:
    other = TufWorld().publisher.key.public
    refused(judged(view(release_keys=(other,))), "M4:envelope-refused")
    both = (publisher().key.public, other)
    refused(judged(view(release_keys=both, threshold=2)), "M4:envelope-refused")
    assert judged(view(release_keys=both)).accepted()


@pytest.mark.parametrize(
    "changes",
    [
        {"release_keys": (publisher().key.public,) * 2},
        {"release_keys": (publisher().key.public,), "threshold": 2},
        {"release_keys": (), "threshold": 0},
    ],
)
def test_keys_that_are_not_enough_are_refused(changes: dict) -> None:
    refused(judged(view(**changes)), "M2:keys-not-unique")


def test_a_manifest_that_is_not_listed_is_refused() -> None:
    appraisal = judged(view(targets={"revoked.json": Target(1, STATEMENT)}))
    refused(appraisal, "M3:not-a-target", saying="got none")
    newer = MANIFEST.replace("42", "43")
    appraisal = judged(view(targets={newer: Target(1, STATEMENT)}))
    refused(appraisal, "M3:not-a-target", saying="sequence 43")


@pytest.mark.parametrize(
    "listed",
    [
        Target(len(publisher().envelope), Digest.sha256(b"other")),
        Target(len(publisher().envelope) + 1, Digest.sha256(publisher().envelope)),
    ],
)
def test_a_manifest_that_is_listed_with_other_bytes_is_refused(listed: Target) -> None:
    refused(judged(view(targets={MANIFEST: listed})), "M3:other-manifest")


@pytest.mark.parametrize(
    "name", ["manifests/hello/nightly/42.dsse.json", "manifests/other/stable/42.dsse.json"]
)
def test_a_manifest_that_is_listed_elsewhere_is_refused(name: str) -> None:
    refused(judged(view(targets={name: view().targets[MANIFEST]})), "M3:not-a-target")


@pytest.mark.bad_input(62)
def test_a_revoked_manifest_that_is_still_in_a_cache_is_refused() -> None:
    appraisal = judged(view(revoked=(withdrawn(),)))
    refused(appraisal, "M11:withdrawn")
    assert "it has a known vulnerability" in appraisal.failed[0].detail
    gone = judged(view(revoked=(withdrawn(),), targets={}))
    refused(gone, "M3:not-a-target", "M11:withdrawn")


def test_a_release_of_which_another_one_was_withdrawn_is_accepted() -> None:
    appraisal = judged(view(revoked=(withdrawn(Digest.sha256(b"another")),)))
    assert appraisal.accepted()
    assert detail(appraisal, "M11") == "1 withdrawn, this one not"


@pytest.mark.bad_input(63)
@pytest.mark.parametrize("seen", ["refreshed", "issued"])
def test_a_clock_before_what_the_repository_said_is_refused(seen: str) -> None:
    assert judged(view(**{seen: NOW + 60})).accepted()
    refused(judged(view(**{seen: NOW + 61})), "M9:clock-went-back")


@pytest.mark.bad_input(63)
def test_a_clock_before_the_last_accepted_session_is_refused() -> None:
    refused(judged(view(), history=History(42, STATEMENT, NOW + 61)), "M9:clock-went-back")


def test_rollback_is_refused_although_the_older_release_is_listed() -> None:
    history = History(43, Digest.sha256(b"newer"), NOW - 1)
    refused(judged(view(), history=history), "M10:rollback")


@pytest.mark.parametrize("issued", [None, NOW - 3601])
def test_a_repository_that_is_silent_for_longer_than_the_policy_allows_is_refused(issued: int | None) -> None:
    refused(judged(view(issued=issued), release_age_s=3600), "M9:release-too-old")
    assert judged(view(issued=NOW - 3600), release_age_s=3600).accepted()
    assert judged(view(issued=NOW - 3500), release_age_s=3600).accepted().expires == NOW + 101


def test_what_was_published_is_judged_by_the_view_before_a_server_is_asked() -> None:
    published = publisher()
    kept = {"release": None, "trust": TRUST, "now": NOW, "policy": TEST_POLICY}
    assert not check_publication(published.envelope, current=view(), **kept).failed
    gone = check_publication(published.envelope, current=view(revoked=(withdrawn(),)), **kept)
    assert gone.reasons == {"M11:withdrawn"}


def test_the_same_repository_a_minute_later_means_the_same() -> None:
    later = view(
        refreshed=NOW + 60, issued=NOW, roles={**view().roles, "timestamp": RoleState(813, NOW + DAY)}
    )
    assert later.meaning == view().meaning
    assert view(revoked=(withdrawn(),)).meaning != view().meaning
    assert view(threshold=2).meaning != view().meaning


def test_what_was_accepted_is_remembered_under_the_pinned_root_not_its_keys() -> None:
    assert TRUST.domain != parse_trust(json.dumps(TufWorld().trust_value()).encode()).domain
    assert TRUST.domain == WORLD.trust(repository="https://elsewhere.example.org").domain
    other = parse_trust(json.dumps(WORLD.trust_value() | {"product": "other"}).encode())
    assert TRUST.domain != other.domain


def test_the_page_lists_the_steps_and_every_reason() -> None:
    text = PAGE.read_text()
    listed = dict(re.findall(r"^\| (M\d+) \| ([^|]+) \|", text, re.MULTILINE))
    assert {step: title.strip() for step, title in listed.items()} == CURRENT_TITLES
    sources = "".join(
        path.read_text()
        for path in [
            *(CODE / "client").glob("tuf*.py"),
            CODE / "verify" / "current.py",
        ]
    )
    reasons = set(re.findall(r'reason="([a-z0-9-]+)"', sources))
    reasons |= {word for _step, word in re.findall(r'refuse\(\s*"(M\d+)",\s*"([a-z0-9-]+)"', sources)}
    reasons |= set(re.findall(r'reason, message = "([a-z-]+)"', sources)) | {"rollback", "other-version"}
    assert len(reasons) > 20
    assert {reason for reason in reasons if f"`{reason}`" not in text} == set()
