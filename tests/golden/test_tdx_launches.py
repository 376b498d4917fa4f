"""RTMR0, RTMR1 and RTMR2 as TDX hardware signed them, from memory size, firmware and what was booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.ccel import replay_cc
from blindbuild.measure.boot import BootPath, UefiBoot, boot_events
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.kernel import MeasuredKernel
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.tdx_registers import (
    TdxLaunch,
    TdxPrediction,
    acpi_data,
    predict_tdx_launch,
    predicted_cc_log,
)
from tests.fakes.ovmf_image import OvmfImage

SHA384 = HashAlgorithm.SHA384
LAUNCHES = json.loads((Path(__file__).parent / "tdx" / "launches.json").read_text())
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


def _events(launch: dict) -> tuple[PredictedEvent, ...]:
    """What the same direct boot measures on a machine with a TPM."""
    logged = launch["logged"]
    kernel = MeasuredKernel({SHA384: _digest(logged["kernel"])}, b"x", {SHA384: _digest(logged["initrd"])})
    boot = UefiBoot(platform=find_platform("qemu-q35-ovmf-2025.02"), path=BootPath.DIRECT)
    events = boot_events(kernel, boot)
    (options,) = (event for event in events if event.what == "command line")
    index = events.index(options)
    recorded = PredictedEvent(
        9, options.event_type, {SHA384: _digest(logged["load_options"])}, options.data, options.what
    )
    return (*events[:index], recorded, *events[index + 1 :])


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
