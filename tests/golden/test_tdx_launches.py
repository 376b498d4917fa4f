"""RTMR0, RTMR1 and RTMR2 as TDX hardware signed them, from memory size, firmware and what was booted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.ccel import replay_cc
from blindbuild.measure.boot import BootPath, UefiBoot, boot_events
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.kernel import MeasuredKernel
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.tdx_registers import (
    TdxLaunch,
    TdxPrediction,
    acpi_data,
    predict_tdx_launch,
    predicted_cc_log,
)
from blindbuild.measure.uki import MeasuredUki
from tests.fakes.ovmf_image import OvmfImage

SHA384 = HashAlgorithm.SHA384
GOLDEN = Path(__file__).parent / "tdx"
LAUNCHES = json.loads((GOLDEN / "launches.json").read_text())
UKIS = json.loads((GOLDEN / "ukis.json").read_text())
VARIABLE_STORE = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
# edk2's own application for boot options, in its own volume: attributes, length, name, device path
BOOT0000 = bytes.fromhex(
    "09010000 2c00 550069004100700070000000"
    "04071400 c9bdb87cebf8344faaea3ee4af6516a1"
    "04061400 21aa2c4614760345836e8ab6f4662331"
    "7fff0400"
)

needs_variables = pytest.mark.skipif(
    not VARIABLE_STORE.exists(), reason="Debian's package ovmf is not installed"
)


def _digest(text: str) -> Digest:
    return Digest.from_hex(SHA384, text)


def _firmware(store: bytes) -> bytes:
    """An image of the build's size and layout with this variable store; its code is not the build's."""
    image = OvmfImage(pages=1024, variable_pages=0x84).build()
    return store + image[len(store) :]


def _recorded(events: Sequence[PredictedEvent], what: str, digest: str) -> tuple[PredictedEvent, ...]:
    """The events with the logged digest in one of them, whose input is not public."""
    assert [event.what for event in events].count(what) == 1
    digests = {SHA384: _digest(digest)}
    return tuple(replace(event, digests=digests) if event.what == what else event for event in events)


def _events(launch: dict) -> tuple[PredictedEvent, ...]:
    """What the same direct boot measures on a machine with a TPM."""
    logged = launch["logged"]
    kernel = MeasuredKernel({SHA384: _digest(logged["kernel"])}, b"x", {SHA384: _digest(logged["initrd"])})
    boot = UefiBoot(platform=find_platform("qemu-q35-ovmf-2025.02"), path=BootPath.DIRECT)
    events = boot_events(kernel, boot)
    return _recorded(events, "command line", logged["load_options"])


def _predict(launch: dict, store: bytes) -> TdxPrediction:
    loader, rsdp, tables = (_digest(text) for text in launch["logged"]["acpi"])
    inputs = TdxLaunch(
        firmware=_firmware(store),
        memory_bytes=launch["memory_bytes"],
        platform=acpi_data(loader=loader, rsdp=rsdp, tables=tables),
        boot_variables=(("BootOrder", b"\0\0"), ("Boot0000", BOOT0000)),
    )
    return predict_tdx_launch(inputs, _events(launch))


@needs_variables
@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"qemu-{launch['qemu']}")
def test_the_registers_are_those_of_the_quote(launch: dict) -> None:
    prediction = _predict(launch, VARIABLE_STORE.read_bytes())
    values = {value.name: value.digest.hex for value in prediction.measurements}
    for name in ("RTMR0", "RTMR1", "RTMR2"):
        assert values[name] == launch["quote"][name]
    assert not prediction.unpredicted


@needs_variables
@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"qemu-{launch['qemu']}")
def test_the_predicted_log_replays_to_the_quote(launch: dict) -> None:
    prediction = _predict(launch, VARIABLE_STORE.read_bytes())
    replayed = replay_cc(predicted_cc_log(prediction))
    for register, name in ((1, "RTMR0"), (2, "RTMR1"), (3, "RTMR2")):
        assert replayed.values[register].hex == launch["quote"][name]


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"qemu-{launch['qemu']}")
def test_the_list_of_memory_is_the_logged_one(launch: dict) -> None:
    prediction = _predict(launch, bytes(0x84000))
    assert prediction.events[0].digests[SHA384].hex == launch["logged"]["td_hob"]


@needs_variables
def test_the_variable_store_is_the_logged_one() -> None:
    prediction = _predict(LAUNCHES[0], VARIABLE_STORE.read_bytes())
    assert prediction.events[1].digests[SHA384].hex == LAUNCHES[0]["logged"]["cfv"]


@pytest.mark.parametrize(("uki", "stub"), list(zip(UKIS, (257, 255), strict=True)), ids=("257", "255"))
def test_the_events_of_a_uki_are_the_logged_ones_in_their_order(uki: dict, stub: int) -> None:
    logged = uki["logged"]
    sections = {name: {SHA384: _digest(text)} for name, text in logged["sections"].items()}
    measured = MeasuredUki(
        rules=stub_rules(stub),
        authenticode={SHA384: _digest(logged["image"])},
        kernel_authenticode={SHA384: _digest(logged["kernel"])},
        sections=sections or {".linux": {SHA384: Digest.zero(SHA384)}},
        load_options=b"x",
        initrd=None,
    )
    boot = UefiBoot(platform=find_platform("qemu-q35-ovmf-2022.11"), partition_table=b"GPT")
    events = _recorded(boot_events(measured, boot), "partition table", logged["gpt"])
    # Neither kernel measured its command line into RTMR2.
    launch = TdxLaunch(firmware=_firmware(b""), stub_version=stub, kernel_reports=False)
    prediction = predict_tdx_launch(launch, events)
    assert {value.name for value in prediction.measurements} == {"MRTD", "RTMR1", "RTMR2", "RTMR3"}
    assert [
        [event.register, int(event.event_type), event.digests[SHA384].hex[:16]] for event in prediction.events
    ] == uki["order"]
