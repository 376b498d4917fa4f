"""probe.json: what is written is read, and nothing that says more, less or something else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, ManifestError
from blindbuild.formats.dsse import parse_envelope, verify_envelope
from blindbuild.machine.probe.judge import Observations, judge_all
from blindbuild.manifest import STATEMENT_PAYLOAD_TYPE, parse_statement
from blindbuild.manifest.probe import (
    MAX_PROBE,
    PhaseReport,
    Probe,
    ProbedMachine,
    parse_probe,
    probe_bytes,
)
from blindbuild.publish import add_signature, generate_key, sign_probe, sign_statement
from tests.fakes.probe_world import LEAKS, good
from tests.fakes.published import statement_value

LEAKY = Digest.sha256(b"leaky")


def probe() -> Probe:
    product = LEAKS["memory"][0][1](good())
    leaky = LEAKS["disks"][0][1](good(b"leaky"))
    seen = Observations(product=product, hostile=good(b"hostile"), leaky=leaky)
    return Probe(
        subject=("hello.efi", Digest.sha256(b"product")),
        name="hello",
        version="1.0.0",
        debug=False,
        statement=Digest.sha256(b"statement"),
        ledger=Digest.sha256(b"ledger"),
        tool=("blindbuild", "0.1.0"),
        machine=ProbedMachine("tcg", "7.2.22 (Debian 1:7.2)", 256),
        images=(("hostile", Digest.sha256(b"hostile")), ("leaky", LEAKY)),
        phases=(PhaseReport("product", "boot", 11500), PhaseReport("leaky", "crash", 0)),
        checks=judge_all(seen),
        not_looked_at=(("vsock", "this host has no /dev/vhost-vsock"),),
    )


DATA = probe_bytes(probe())
VALUE: dict[str, Any] = json.loads(DATA)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = copy.deepcopy(VALUE)
    change(value)
    return rfc8785.dumps(value)


def check_of(value: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (check for check in value["predicate"]["checks"] if check["name"] == name)
    return found


def refused(data: bytes) -> str:
    with pytest.raises(ManifestError) as error:
        parse_probe(data)
    return error.value.message


def test_what_was_written_is_read_back() -> None:
    assert parse_probe(DATA) == probe()
    verdicts = {check.name: check.verdict.value for check in parse_probe(DATA).checks}
    assert (verdicts["memory"], verdicts["disks"], verdicts["tpm"]) == ("open", "shown", "not-proven")


def test_the_bytes_are_an_in_toto_statement_in_canonical_form() -> None:
    assert rfc8785.dumps(VALUE) == DATA
    assert VALUE["_type"] == "https://in-toto.io/Statement/v1"
    assert VALUE["predicateType"] == "urn:blindbuild:channel-probe:v1"
    assert VALUE["subject"] == [{"name": "hello.efi", "digest": {"sha256": Digest.sha256(b"product").hex}}]


def test_every_truncation_is_refused() -> None:
    for end in range(0, len(DATA), 7):
        assert refused(DATA[:end]).startswith("probe: ")


@given(at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_read_as_what_it_now_says(at: int, bit: int) -> None:
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    try:
        parsed = parse_probe(bytes(data))
    except ManifestError:
        return
    assert parsed != probe()
    assert probe_bytes(parsed) == bytes(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(more=1), "unknown 'more'"),
        (lambda v: v["predicate"].update(time=1), "predicate: unknown 'time'"),
        (lambda v: v["predicate"].pop("images"), "missing images"),
        (lambda v: v["predicate"]["machine"].update(host="x"), "unknown 'host'"),
        (lambda v: check_of(v, "disks").update(note="x"), "unknown 'note'"),
        (lambda v: check_of(v, "disks")["control"].pop("saw"), "missing saw"),
        (lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"), "probe._type"),
        (lambda v: v.update(predicateType="urn:blindbuild:reference-measurements:v1"), "predicateType"),
        (lambda v: v["subject"].append(v["subject"][0]), "expected 1 to 1 entries"),
        (lambda v: v["subject"].clear(), "expected 1 to 1 entries"),
        (lambda v: v["predicate"]["machine"].update(accelerator="xen"), "expected kvm or tcg"),
        (lambda v: v["predicate"]["phases"][0].update(role="other"), "phases[0].role"),
        (lambda v: v["predicate"]["phases"][0].update(milliseconds=-1), "expected 0 to"),
        (lambda v: v["predicate"]["images"].reverse(), "sorted and unique"),
        (lambda v: v["predicate"]["checks"].clear(), "expected 1 to 64 entries"),
        (lambda v: check_of(v, "disks").update(channels=[]), "expected 1 to"),
        (lambda v: check_of(v, "disks").update(channels=["a", "a"]), "each once"),
        (lambda v: check_of(v, "disks").update(claim="\x1b[2J"), "printable"),
        (lambda v: check_of(v, "memory").update(findings=["\x1b[2J"]), "printable"),
    ],
)
def test_what_the_format_does_not_know_is_refused(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    assert words in refused(changed(change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # an open check that calls itself shown
        (lambda v: check_of(v, "memory").update(verdict="shown"), "expected open, got shown"),
        (lambda v: check_of(v, "disks").update(findings=["used"]), "expected open, got shown"),
        # one without a control, or whose control saw nothing
        (lambda v: check_of(v, "disks").pop("control"), "expected not-proven, got shown"),
        (
            lambda v: check_of(v, "disks")["control"].update(saw=[], caught=False),
            "expected not-proven, got shown",
        ),
        (lambda v: check_of(v, "tpm").update(verdict="shown"), "expected not-proven, got shown"),
        # one that looked at nothing
        (lambda v: check_of(v, "disks")["lookedAt"][0].update(count=0), "expected not-proven, got shown"),
        (lambda v: check_of(v, "disks").update(lookedAt=[]), "expected not-proven, got shown"),
        # what no image can close
        (lambda v: check_of(v, "memory").update(findings=[], verdict="shown"), "expected not-proven"),
        (lambda v: check_of(v, "tpm").update(reasons=[]), "expected the leaky image was not caught"),
        (lambda v: check_of(v, "disks")["control"].update(caught=False), "whether anything was seen"),
        (
            lambda v: check_of(v, "disks")["control"]["image"].update(sha256="00" * 32),
            "a control that is not the leaky image",
        ),
        (lambda v: v["predicate"]["images"].pop(), "a control that is not the leaky image"),
        (lambda v: v["predicate"]["checks"].reverse(), "expected those first that no image can close"),
        (lambda v: v["predicate"]["checks"].append(v["predicate"]["checks"][-1]), "each name once"),
    ],
)
def test_a_verdict_that_its_check_does_not_bear_out_is_refused(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    assert words in refused(changed(change))


def test_a_probe_that_is_not_canonical_or_too_long_is_refused() -> None:
    assert "RFC 8785" in refused(json.dumps(VALUE, indent=1).encode())
    assert f"at most {MAX_PROBE} bytes" in refused(DATA + b" " * MAX_PROBE)


def test_a_probe_that_no_reader_would_accept_is_not_written() -> None:
    with pytest.raises(ManifestError, match="expected those first"):
        probe_bytes(replace(probe(), checks=probe().checks[::-1]))


def test_the_envelope_is_of_the_release_key_and_over_these_bytes() -> None:
    key = generate_key()
    envelope = parse_envelope(sign_probe(key, DATA))
    assert [signature.key_id for signature in envelope.signatures] == [key.public.key_id]
    verified = verify_envelope(envelope, keys=(key.public,), threshold=1, payload_type=STATEMENT_PAYLOAD_TYPE)
    assert verified.payload == DATA


def test_an_envelope_over_a_probe_cannot_pass_for_one_over_a_statement() -> None:
    with pytest.raises(ManifestError, match="predicateType"):
        parse_statement(parse_envelope(sign_probe(generate_key(), DATA)).payload)
    with pytest.raises(ManifestError):
        sign_statement(generate_key(), DATA)


def test_a_statement_cannot_be_signed_as_a_probe() -> None:
    with pytest.raises(ManifestError, match="predicateType"):
        sign_probe(generate_key(), rfc8785.dumps(statement_value()))


def test_a_probe_cannot_get_a_second_signature_as_a_statement() -> None:
    with pytest.raises((ManifestError, EnvelopeError)):
        add_signature(generate_key(), sign_probe(generate_key(), DATA), STATEMENT_PAYLOAD_TYPE)
