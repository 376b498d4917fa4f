"""Step P5: a policy asks for a probe, and takes none that says less, or of whom nobody vouches for."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blindbuild.client import Expectation
from blindbuild.client.tuf import TufRepository
from blindbuild.errors import EnvelopeError, ManifestError
from blindbuild.machine.probe.checks import CHECKS as CARRIED_OUT
from blindbuild.manifest import parse_trust
from blindbuild.publish import TrustContent, add_signature, cosign_probe, generate_key, make_trust
from blindbuild.verify import Appraisal, Policy, check_publication
from blindbuild.verify.checklist import Outcome
from blindbuild.verify.probe import CHECKS, OPEN_CHECKS
from tests.bad_inputs import refused
from tests.fakes.channels import _STATES
from tests.fakes.damage import bit_flips, truncations
from tests.fakes.probed import LEAKY, NAMES, check, check_of, probe_envelope, probe_value
from tests.fakes.published import NOW, RELEASE_TYPE, STATEMENT_TYPE, Publisher
from tests.fakes.tuf_world import TufWorld
from tests.fakes.world import TEST_POLICY, authority, judge, pinned_trust, publisher, session

ASKING = dataclasses.replace(TEST_POLICY, require_probe=True)
PAGE = (Path(__file__).parents[2] / "docs" / "spec" / "probe.md").read_text()
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


def judged(probe: bytes | None, **changes) -> Appraisal:
    return judge.but(**{"policy": ASKING, "probe": probe, **changes})(session())


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = copy.deepcopy(probe_value())
    change(value)
    return probe_envelope(value)


def step(appraisal: Appraisal, identifier: str = "P5"):
    return next((found for found in appraisal.steps if found.id == identifier), None)


def test_an_image_whose_machine_was_seen_to_be_closed_is_accepted() -> None:
    appraisal = judged(probe_envelope())
    appraisal.accepted()
    found = step(appraisal)
    assert found.outcome is Outcome.OK
    assert found.detail == "16 checks shown (tcg); memory open; neighbour open; not looked at: vsock"


def test_who_asks_for_no_probe_has_no_such_step() -> None:
    for probe in (None, b"rubbish", probe_envelope()):
        appraisal = judged(probe, policy=TEST_POLICY)
        appraisal.accepted()
        assert step(appraisal) is None


def test_without_a_probe_no_server_is_asked() -> None:
    refused(judged(None), "P5:probe-missing")
    published = check_publication(
        publisher().envelope, release=publisher().release, trust=pinned_trust(), now=NOW, policy=ASKING
    )
    assert published.reasons == {"P5:probe-missing"}


def test_a_file_that_nobody_asked_for_makes_no_server_prove_itself_again() -> None:
    def expecting(policy: Policy, probe: bytes | None) -> Expectation:
        return Expectation(publisher().envelope, publisher().release, pinned_trust(), policy, probe=probe)

    assert expecting(TEST_POLICY, None).same_basis(expecting(TEST_POLICY, b"junk"))
    assert not expecting(ASKING, probe_envelope()).same_basis(expecting(ASKING, b"junk"))


# --- who says so


def test_a_probe_that_a_stranger_signed_is_refused() -> None:
    refused(judged(probe_envelope(key=generate_key())), "P5:probe-refused")


def test_a_probe_needs_as_many_keys_as_a_statement() -> None:
    by, second, stranger = publisher(), generate_key(), generate_key()
    keys = [by.key.public, second.public]
    two = parse_trust(make_trust(TrustContent(product="hello", release_keys=keys, threshold=2, **ROOTS)))
    ask = judge.but(
        trust=two,
        policy=ASKING,
        envelope=add_signature(second, by.envelope, STATEMENT_TYPE),
        release=add_signature(second, by.release, RELEASE_TYPE),
    )
    alone = probe_envelope()
    twice = json.loads(alone)
    twice["signatures"] *= 2
    for probe in (alone, json.dumps(twice).encode(), cosign_probe(stranger, alone)):
        refused(ask.but(probe=probe)(session()), "P5:probe-refused")
    ask.but(probe=cosign_probe(second, alone))(session()).accepted()


def test_the_keys_that_count_are_those_of_the_repository() -> None:
    world = TufWorld(publisher())
    files = world.files()
    view = TufRepository(
        world.trust(), "here", clock=lambda: float(NOW), read=lambda path, _limit: files.get(path)
    ).refresh()
    stale = dataclasses.replace(world.trust(), release_keys=(generate_key().public,), threshold=1)
    for trust in (world.trust(), stale):
        for probe, reasons in ((probe_envelope(), set()), (probe_envelope(key=generate_key()), {"refused"})):
            appraisal = check_publication(
                world.publisher.envelope,
                release=None,
                trust=trust,
                now=NOW,
                policy=ASKING,
                current=view,
                probe=probe,
            )
            assert {reason.removeprefix("P5:probe-") for reason in appraisal.reasons} == reasons


def retyped(payload_type: str) -> bytes:
    return json.dumps(json.loads(probe_envelope()) | {"payloadType": payload_type}).encode()


def repacked(payload: bytes) -> bytes:
    signed = json.loads(probe_envelope())
    return json.dumps(signed | {"payload": base64.b64encode(payload).decode()}).encode()


NOT_SIGNED = {
    "nothing": b"",
    "no envelope": b"{}",
    "a probe without an envelope": base64.b64decode(json.loads(probe_envelope())["payload"]),
    "another type": retyped("application/vnd.blindbuild.release+json"),
    "another payload under the signature": repacked(b"{}"),
    "no signature": json.dumps(json.loads(probe_envelope()) | {"signatures": []}).encode(),
    "too long": b" " * (1 << 22),
}


@pytest.mark.parametrize("name", NOT_SIGNED)
def test_what_is_no_signed_probe_is_refused(name: str) -> None:
    refused(judged(NOT_SIGNED[name]), "P5:probe-refused")


def test_another_document_of_the_release_keys_does_not_pass_for_a_probe() -> None:
    refused(judged(publisher().envelope), "P5:probe-malformed", saying="predicateType")
    refused(judged(publisher().release), "P5:probe-refused")
    refused(judged(changed(lambda v: v["predicate"].update(time=1))), "P5:probe-malformed", saying="unknown")
    told = changed(lambda v: check_of(v, "disks").update(findings=["written"]))
    refused(judged(told), "P5:probe-malformed", saying="expected open, got shown")


def test_a_damaged_probe_never_helps() -> None:
    honest = probe_envelope()
    for data in (*truncations(honest, step=211), *bit_flips(honest, step=97)):
        appraisal = judged(data)
        # a flipped bit in a name of the envelope or a key id changes nothing that is signed
        assert appraisal.reasons in ({"P5:probe-refused"}, frozenset())
        if not appraisal.reasons:
            assert json.loads(data)["payload"] == json.loads(honest)["payload"]
    for data in truncations(honest, step=211):
        refused(judged(data), "P5:probe-refused")


# --- about what


def test_a_probe_of_another_release_is_refused() -> None:
    later = publisher().but(sequence=43)
    refused(judged(probe_envelope(probe_value(later))), "P5:probe-of-other-statement")
    both = judge.but(published=later, policy=ASKING, probe=probe_envelope(probe_value(later)))
    both(session(statement=later.statement)).accepted()


DISAGREES = {
    "another product": lambda v: v["predicate"].update(name="other"),
    "another version": lambda v: v["predicate"].update(version="1.0.1"),
    "a debug image": lambda v: v["predicate"].update(debug=True),
    "another ledger": lambda v: v["predicate"].update(ledger={"sha256": "00" * 32}),
    "another image": lambda v: v["subject"][0]["digest"].update(sha256="00" * 32),
    "another file": lambda v: v["subject"][0].update(name="other.efi"),
    "the image as its own hostile control": lambda v: v["predicate"]["images"][0].update(
        digest=v["subject"][0]["digest"]
    ),
    "one image in two roles": lambda v: v["predicate"]["images"][0].update(digest={"sha256": LEAKY}),
    "no hostile image": lambda v: v["predicate"]["images"].pop(0),
    "no machine of the image": lambda v: v["predicate"]["phases"].pop(0),
    "no hostile machine": lambda v: v["predicate"]["phases"].pop(1),
    "no leaky machine": lambda v: v["predicate"]["phases"].pop(2),
}


@pytest.mark.parametrize("name", DISAGREES)
def test_a_probe_that_contradicts_the_statement_is_refused(name: str) -> None:
    refused(judged(changed(DISAGREES[name])), "P5:probe-disagrees")


def test_another_file_of_the_image_is_no_control_either() -> None:
    disk = {"name": "hello.raw", "digest": {"sha256": LEAKY}}
    both = Publisher(
        publisher().key, publisher().value | {"subject": [*publisher().value["subject"], disk]}, {}
    )
    honest = probe_value(both)
    honest["subject"] = honest["subject"][:1]
    ask = judge.but(published=both, policy=ASKING, probe=probe_envelope(honest))
    refused(ask(session(statement=both.statement)), "P5:probe-disagrees", saying="other images")


# --- what it says


@pytest.mark.parametrize("name", NAMES)
def test_every_check_must_be_there(name: str) -> None:
    without = changed(lambda v: v["predicate"]["checks"].remove(check_of(v, name)))
    refused(judged(without), "P5:check-missing", saying=f"{name} is not in the probe")


NOT_SHOWN: dict[str, tuple[dict[str, Any], str]] = {
    "a finding": ({"findings": ["seen"], "verdict": "open"}, "is open"),
    "a control that saw nothing": (
        {
            "control": check("disks")["control"] | {"caught": False, "saw": []},
            "verdict": "not-proven",
            "reasons": ["the leaky image was not caught"],
        },
        "is not-proven",
    ),
    "nothing looked at": (
        {
            "lookedAt": [{"what": "things", "count": 0}],
            "verdict": "not-proven",
            "reasons": ["looked at no things"],
        },
        "looked at no things",
    ),
}


@pytest.mark.parametrize("how", NOT_SHOWN)
@pytest.mark.parametrize("name", NAMES[2:])
def test_every_check_that_an_image_can_satisfy_must_be_shown(name: str, how: str) -> None:
    change, said = NOT_SHOWN[how]
    probe = changed(lambda v: check_of(v, name).update(change))
    refused(judged(probe), "P5:check-not-shown", saying=said)
    assert f"{name} is " in step(judged(probe)).detail


def test_a_check_without_its_control_is_not_shown() -> None:
    def alone(value: dict[str, Any]) -> None:
        found = check_of(value, "disks")
        del found["control"]
        found.update(verdict="not-proven", reasons=["no leaky image was run"])

    refused(judged(changed(alone)), "P5:check-not-shown", saying="no leaky image was run")


@pytest.mark.parametrize("findings", [["used"], []])
def test_a_probe_cannot_say_itself_that_a_check_may_be_open(findings: list[str]) -> None:
    def excused(value: dict[str, Any]) -> None:
        checks = value["predicate"]["checks"]
        found = check_of(value, "disks")
        reasons = [] if findings else ["nothing was found, which does not show that there is nothing"]
        verdict = "open" if findings else "not-proven"
        found.update(closable=False, findings=findings, verdict=verdict, reasons=reasons)
        checks.remove(found)
        checks.insert(0, found)

    refused(judged(changed(excused)), "P5:check-not-shown", saying="disks is")


def test_a_check_that_this_client_does_not_know_must_be_shown_too() -> None:
    judged(changed(lambda v: v["predicate"]["checks"].append(check("later")))).accepted()
    opened = check("later") | {"findings": ["seen"], "verdict": "open"}
    refused(judged(changed(lambda v: v["predicate"]["checks"].append(opened))), "P5:check-not-shown")


def test_all_that_is_lacking_is_said() -> None:
    def change(value: dict[str, Any]) -> None:
        value["predicate"]["checks"].remove(check_of(value, "scan"))
        for name in ("disks", "frames"):
            check_of(value, name).update(findings=["seen"], verdict="open")

    appraisal = judged(changed(change))
    refused(appraisal, "P5:check-missing")
    for said in ("scan is not in the probe", "disks is open", "frames is open"):
        assert said in step(appraisal).detail


# --- the checks


def test_what_is_asked_for_is_what_a_probe_carries_out_and_its_page_lists() -> None:
    assert {each.name for each in CARRIED_OUT if each.closable} == CHECKS
    assert {each.name for each in CARRIED_OUT if not each.closable} == OPEN_CHECKS
    listed = PAGE.split("\n## Checks\n")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", listed, re.MULTILINE)) == NAMES
    assert set(NAMES) == CHECKS | OPEN_CHECKS


def test_a_required_probe_covers_what_the_ledger_can_only_state() -> None:
    # docs/spec/ledger.md, "What it does not show", names the rows; no static check shows them
    stated = {"standard-streams", "icmp-resets", "dhcp", "debug-endpoints", "crash-reports"}
    stated |= {"tls-side-channels"}
    covered = {channel for each in CARRIED_OUT if each.closable for channel in each.channels}
    assert stated <= covered
    assert {name for name, state in _STATES.items() if state == "stated"} <= stated


# --- a second signature


def test_a_signature_that_makes_an_envelope_unreadable_is_not_put_under_it() -> None:
    def full(envelope: bytes) -> bytes:
        value = json.loads(envelope)
        return json.dumps(value | {"signatures": value["signatures"] * 16}).encode()

    with pytest.raises(EnvelopeError, match="a list of 1 to 16"):
        cosign_probe(generate_key(), full(probe_envelope()))
    with pytest.raises(EnvelopeError, match="a list of 1 to 16"):
        add_signature(generate_key(), full(publisher().envelope), STATEMENT_TYPE)


def test_a_second_signature_is_only_put_under_a_probe() -> None:
    for envelope, error in (
        (publisher().envelope, ManifestError),
        (publisher().release, EnvelopeError),
        (probe_envelope(), EnvelopeError),
    ):
        with pytest.raises(error):
            cosign_probe(publisher().key, envelope)
