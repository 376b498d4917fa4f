"""Predictions against boots of our own: from the bytes of the sections to the registers of the TPM.

Provenance: boots/README.md. The kernel is not there; its digests are, and each image's Authenticode digest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcglog import data_mismatches, parse_event_log, replay
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained, initial_value
from blindbuild.measure.event import Digests, hash_in_banks
from blindbuild.measure.pcr09 import combine_initrds, initrd_parts, load_options
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.reference import predict_events, predict_platform
from blindbuild.measure.stub import parse_stub_magic
from blindbuild.measure.uki import MeasuredUki

BOOTS = Path(__file__).parent / "boots"
BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
CASES: list[dict[str, Any]] = json.loads((BOOTS / "boots.json").read_bytes())
NAMES = [case["name"] for case in CASES]


def measured(image: dict[str, Any]) -> MeasuredUki:
    """Return what `measure_uki` would, with the kernel's digests in place of its bytes."""
    sections = {name: text.encode("latin-1") for name, text in image["sections"].items()}
    rules = parse_stub_magic(image["stubMagic"].encode())
    hashed: dict[str, Digests] = {
        name: hash_in_banks((data,), BANKS)
        for name, data in sections.items()
        if name in rules.measured_sections
    }
    return MeasuredUki(
        rules=rules,
        authenticode=digests(image["authenticode"]),
        kernel_authenticode=digests(image["linuxAuthenticode"]),
        sections={**hashed, ".linux": digests(image["linux"])},
        load_options=load_options(sections[".cmdline"], rules),
        initrd=hash_in_banks(combine_initrds(initrd_parts(sections, rules)), BANKS),
    )


def digests(values: dict[str, str]) -> Digests:
    """Turn the file's form into ours."""
    return {algorithm: Digest.from_hex(algorithm, values[algorithm.value]) for algorithm in BANKS}


@pytest.mark.parametrize("algorithm", BANKS)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_register_held_what_was_predicted(case: dict[str, Any], algorithm: HashAlgorithm) -> None:
    platform = find_platform(case["platform"])
    firmware = Digest.from_hex(HashAlgorithm.SHA256, case["firmware"])
    reference = predict_platform(measured(case["image"]), platform=platform, firmware=firmware)
    held = [Digest.from_hex(algorithm, text) for text in case["registers"][algorithm.value]]
    for register, classified in enumerate(reference.banks[algorithm]):
        match classified:
            case Exact(value=value):
                assert held[register] == value, register
            case OneOf(values=values):
                assert held[register] in values, register
            case Initial():
                assert held[register] == initial_value(register, algorithm), register
            case Unconstrained():
                assert register in (1, 16, 23)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "eventLog" in case], ids=lambda case: case["name"]
)
def test_every_predicted_event_was_logged_as_predicted(case: dict[str, Any]) -> None:
    log = parse_event_log((BOOTS / case["eventLog"]).read_bytes())
    assert log.algorithms == BANKS
    events = predict_events(measured(case["image"]), find_platform(case["platform"]))
    for algorithm in BANKS:
        assert data_mismatches(log, algorithm) == ()
        replayed = replay(log, algorithm)
        assert [value.hex for value in replayed.values] == case["registers"][algorithm.value]
        assert replayed.touched == {0, 1, *events}
        for register, predicted in events.items():
            logged = replayed.events_of(register)
            assert [item.digests[algorithm] for item in predicted] == [
                item.digests[algorithm] for item in logged
            ]
            assert [item.event_type for item in predicted] == [item.event_type for item in logged]
            for ours, theirs in zip(predicted, logged, strict=True):
                assert ours.data is None or ours.data == theirs.data
