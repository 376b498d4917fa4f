"""Trust domains: MRTD computed a second time from the module's rules, the RTMRs, and what stays open."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.formats.ccel import parse_cc_event_log, write_cc_event_log
from blindbuild.formats.ovmf import GuestArea
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.tdx import PageOrder, predict_mrtd, tdx_sections
from blindbuild.measure.tdx_hob import qemu_memory, write_td_hob
from blindbuild.measure.tdx_registers import (
    PlatformData,
    TdxLaunch,
    TdxPrediction,
    acpi_data,
    predict_tdx_launch,
    predicted_cc_log,
)
from tests.fakes.ovmf_image import TDX_MEMORY_SECTIONS, OvmfImage

SHA384 = HashAlgorithm.SHA384
BANKS = (SHA384,)
IMAGE = OvmfImage()
FIRMWARE = IMAGE.build()
DEBIAN_FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")
SEPARATOR = bytes(4)


def _module_mrtd(steps: list[tuple[str, int, bytes]]) -> str:
    """The TDX module's MRTD after these calls, by the text of its ABI specification.

    TDH.MEM.PAGE.ADD extends by 128 bytes: the name, zeros up to byte 16, the address in 8 bytes, zeros.
    TDH.MR.EXTEND extends by three times 128 bytes: the same with its own name, then 256 bytes of the page.
    """
    stream = bytearray()
    for name, address, content in steps:
        buffer = bytearray(128)
        buffer[: len(name)] = name.encode()
        buffer[16:24] = address.to_bytes(8, "little")
        stream += buffer + content
    assert len(stream) % 128 == 0
    return hashlib.sha384(stream).hexdigest()


def _calls(image: OvmfImage, firmware: bytes, *, two_pass: bool) -> list[tuple[str, int, bytes]]:
    """The calls of a VMM, from the layout that the image was built with (not from its parsed metadata)."""
    size, variables = image.pages * 4096, image.variable_pages * 4096
    base = (1 << 32) - size
    rows = [(base + variables, size - variables, True), (base, variables, False)]
    rows += [(address, length, False) for address, length, _ in image.memory]
    calls: list[tuple[str, int, bytes]] = []
    for address, length, measured in rows:
        pages = list(range(address, address + length, 4096))
        adds = {page: ("MEM.PAGE.ADD", page, b"") for page in pages}
        extends: dict[int, list] = {page: [] for page in pages}
        for page in pages if measured else ():
            for chunk in range(page, page + 4096, 256):
                extends[page].append(("MR.EXTEND", chunk, firmware[chunk - base : chunk - base + 256]))
        if two_pass:
            calls += adds.values()
            calls += [call for page in pages for call in extends[page]]
        else:
            calls += [call for page in pages for call in (adds[page], *extends[page])]
    return calls


@pytest.mark.parametrize("order", PageOrder)
def test_mrtd_is_what_the_module_computes(order: PageOrder) -> None:
    calls = _calls(IMAGE, FIRMWARE, two_pass=order is PageOrder.TWO_PASS)
    assert predict_mrtd(FIRMWARE, order=order).digest.hex == _module_mrtd(calls)


@pytest.mark.skipif(not DEBIAN_FIRMWARE.exists(), reason="Debian's package ovmf is not installed")
@pytest.mark.parametrize("order", PageOrder)
def test_mrtd_of_debians_image_is_what_the_module_computes(order: PageOrder) -> None:
    firmware = DEBIAN_FIRMWARE.read_bytes()
    variables = {2 << 20: 0x20, 4 << 20: 0x84}[len(firmware)]  # pages, as the package's VARS file
    image = OvmfImage(pages=len(firmware) // 4096, variable_pages=variables)
    memory = [(s.area.address, s.area.size, int(s.kind)) for s in tdx_sections(firmware)[2:]]
    assert sorted(area[0] for area in memory)[0] == 0x800000
    calls = _calls(replace(image, memory=memory), firmware, two_pass=order is PageOrder.TWO_PASS)
    assert predict_mrtd(firmware, order=order).digest.hex == _module_mrtd(calls)


def test_the_two_orders_and_any_change_of_the_code_differ() -> None:
    changed = FIRMWARE[:-5] + b"!" + FIRMWARE[-4:]
    values = {predict_mrtd(data, order=order).digest for data in (FIRMWARE, changed) for order in PageOrder}
    assert len(values) == 4


def test_the_variable_store_is_not_in_mrtd() -> None:
    assert predict_mrtd(b"!" + FIRMWARE[1:]).digest == predict_mrtd(FIRMWARE).digest


@pytest.mark.parametrize("order", PageOrder)
def test_pages_of_zeros_are_measured_where_the_image_asks_for_it(order: PageOrder) -> None:
    image = OvmfImage(memory_is_extended=True, memory=((0x800000, 0x2000, 2),))
    calls = _calls(replace(image, memory=()), image.build(), two_pass=order is PageOrder.TWO_PASS)
    adds = [("MEM.PAGE.ADD", page, b"") for page in (0x800000, 0x801000)]
    extends = [
        [("MR.EXTEND", chunk, bytes(256)) for chunk in range(page, page + 0x1000, 256)]
        for page in (0x800000, 0x801000)
    ]
    if order is PageOrder.TWO_PASS:
        calls += [*adds, *extends[0], *extends[1]]
    else:
        calls += [adds[0], *extends[0], adds[1], *extends[1]]
    assert predict_mrtd(image.build(), order=order).digest.hex == _module_mrtd(calls)


def test_code_that_is_not_measured_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"got a BFV without MR\.EXTEND"):
        predict_mrtd(OvmfImage(code_is_extended=False).build())


def test_a_first_instruction_that_is_not_measured_is_refused() -> None:
    data = bytearray(FIRMWARE)
    start = data.rindex(b"TDVF") + 16
    for offset in (0, 8):  # code from one page lower, so that the last page is in no section
        data[start + offset : start + offset + 4] = (
            int.from_bytes(data[start + offset : start + offset + 4], "little") - 0x1000
        ).to_bytes(4, "little")
    second = start + 32
    data[second + 4 : second + 8] = (0x1000).to_bytes(4, "little")
    data[second + 16 : second + 24] = (0x1000).to_bytes(8, "little")
    with pytest.raises(MeasureError, match="page of the first instruction to be measured, got none"):
        predict_mrtd(bytes(data))


def test_firmware_for_something_else_is_refused() -> None:
    with pytest.raises(FormatError):
        predict_mrtd(bytes(4096))


def _resources(hob: bytes) -> list[tuple[int, int, int]]:
    rows = [hob[offset : offset + 48] for offset in range(56, len(hob), 48)]
    assert all(row[:8] == bytes((3, 0, 48, 0, 0, 0, 0, 0)) for row in rows)
    assert all(row[28:32] == bytes((7, 0, 0, 0)) for row in rows)
    return [(row[24], *(int.from_bytes(row[at : at + 8], "little") for at in (32, 40))) for row in rows]


def test_the_list_of_memory_covers_all_of_it_once() -> None:
    for size in (1 << 30, 0xB0000000 - 4096, 0xB0000000, 1 << 36):
        hob = write_td_hob(tdx_sections(FIRMWARE), qemu_memory(size))
        rows = _resources(hob)
        assert sum(length for _, _, length in rows) == size
        assert all(start + length <= after for (_, start, length), (_, after, _) in pairwise(rows))
        added = {(start, length) for kind, start, length in rows if kind == 0}
        assert added == {(start, length) for start, length, _ in TDX_MEMORY_SECTIONS}
        assert int.from_bytes(hob[48:56], "little") == 0x809000 + len(hob) + 8


def test_memory_is_split_below_four_gib() -> None:
    assert qemu_memory(0xB0000000 - 4096) == (GuestArea(0, 0xB0000000 - 4096),)
    assert qemu_memory(0xB0000000) == (GuestArea(0, 0x80000000), GuestArea(1 << 32, 0x30000000))


@pytest.mark.parametrize("size", [0, -4096, 4097, (1 << 46) + 4096])
def test_a_memory_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(MeasureError, match="expected whole pages of memory"):
        qemu_memory(size)


def test_firmware_without_a_place_for_the_list_is_refused() -> None:
    with pytest.raises(MeasureError, match="expected firmware with a place for it, got none"):
        write_td_hob(tdx_sections(FIRMWARE)[:2], qemu_memory(1 << 30))


def test_too_little_memory_for_the_firmware_is_refused() -> None:
    with pytest.raises(MeasureError, match="inside the guest's memory"):
        write_td_hob(tdx_sections(FIRMWARE), qemu_memory(8 << 20))


def _event(register: int, kind: EventType, data: bytes, what: str = "something") -> PredictedEvent:
    return measured_event(register, kind, data, what, algorithms=BANKS)


EVENTS = (
    _event(0, EventType.EV_S_CRTM_VERSION, b"\0\0"),
    _event(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, b"keys", "keys"),
    _event(7, EventType.EV_SEPARATOR, SEPARATOR),
    _event(4, EventType.EV_EFI_ACTION, b"Calling EFI Application from Boot Option", "call"),
    *(_event(register, EventType.EV_SEPARATOR, SEPARATOR) for register in range(7)),
    _event(5, EventType.EV_EFI_GPT_EVENT, b"gpt", "gpt"),
    _event(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"image", "image"),
    _event(11, EventType.EV_IPL, b"section", "section"),
    _event(9, EventType.EV_EVENT_TAG, b"initrd", "initrd"),
    _event(5, EventType.EV_EFI_ACTION, b"exit", "exit"),
)
LAUNCH = TdxLaunch(
    firmware=FIRMWARE,
    memory_bytes=2 << 30,
    platform=acpi_data(loader=b"l", rsdp=b"r", tables=b"t"),
    boot_variables=(("BootOrder", b"\0\0"), ("Boot0000", b"option")),
    stub_version=257,
)


def _value(*measured: bytes) -> str:
    value = bytes(48)
    for data in measured:
        value = hashlib.sha384(value + hashlib.sha384(data).digest()).digest()
    return value.hex()


def _values(prediction: TdxPrediction) -> dict[str, str]:
    return {measurement.name: measurement.digest.hex for measurement in prediction.measurements}


def _open(prediction: TdxPrediction) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.needs for entry in prediction.unpredicted}


def test_each_register_holds_what_maps_to_it() -> None:
    hob = write_td_hob(tdx_sections(FIRMWARE), qemu_memory(2 << 30))
    store = FIRMWARE[: IMAGE.variable_pages * 4096]
    values = _values(predict_tdx_launch(LAUNCH, EVENTS))
    calling = b"Calling EFI Application from Boot Option"
    assert values == {
        "MRTD": predict_mrtd(FIRMWARE).digest.hex,
        "RTMR0": _value(hob, store, b"keys", SEPARATOR, b"l", b"r", b"t", b"\0\0", b"option"),
        "RTMR1": _value(calling, SEPARATOR, b"gpt", b"image", b"exit"),
        "RTMR2": _value(b"section", b"initrd"),
        "RTMR3": bytes(48).hex(),
    }


def test_older_firmware_puts_the_separator_into_rtmr0() -> None:
    values = _values(predict_tdx_launch(replace(LAUNCH, separator_in_rtmr1=False), EVENTS))
    assert values["RTMR1"] == _value(b"Calling EFI Application from Boot Option", b"gpt", b"image", b"exit")
    assert values["RTMR0"] != _values(predict_tdx_launch(LAUNCH, EVENTS))["RTMR0"]


def test_older_stubs_and_kernels_measure_nothing_into_rtmr2() -> None:
    old_stub = predict_tdx_launch(replace(LAUNCH, stub_version=255), EVENTS)
    assert _values(old_stub)["RTMR2"] == _value(b"initrd")
    old_kernel = predict_tdx_launch(replace(LAUNCH, stub_version=255, kernel_reports=False), EVENTS)
    assert _values(old_kernel)["RTMR2"] == bytes(48).hex()


def test_a_digest_from_a_log_stands_for_what_it_was_made_of() -> None:
    recorded = acpi_data(
        loader=Digest.of(SHA384, b"l"), rsdp=Digest.of(SHA384, b"r"), tables=Digest.of(SHA384, b"t")
    )
    hob = Digest.of(SHA384, write_td_hob(tdx_sections(FIRMWARE), qemu_memory(2 << 30)))
    launch = replace(LAUNCH, memory_bytes=None, td_hob=hob, platform=recorded)
    assert _values(predict_tdx_launch(launch, EVENTS)) == _values(predict_tdx_launch(LAUNCH, EVENTS))


def test_what_is_missing_for_rtmr0_is_named() -> None:
    launch = replace(LAUNCH, memory_bytes=None, platform=None, boot_variables=None)
    prediction = predict_tdx_launch(launch, EVENTS)
    assert set(_values(prediction)) == {"MRTD", "RTMR1", "RTMR2", "RTMR3"}
    ((name, needs),) = _open(prediction).items()
    assert name == "RTMR0"
    assert [need.split()[0] for need in needs] == ["memory", "ACPI", "BootOrder"]
    assert {event.register for event in prediction.events} == {2, 3}


def test_without_a_boot_only_the_launch_itself_is_known() -> None:
    prediction = predict_tdx_launch(LAUNCH)
    assert set(_values(prediction)) == {"MRTD", "RTMR3"}
    assert set(_open(prediction)) == {"RTMR0", "RTMR1", "RTMR2"}


def test_tagged_events_of_a_stub_leave_rtmr2_open() -> None:
    tagged = (*EVENTS, _event(12, EventType.EV_EVENT_TAG, b"addon"))
    assert "RTMR2" in _open(predict_tdx_launch(LAUNCH, tagged))
    assert "RTMR2" not in _open(predict_tdx_launch(replace(LAUNCH, stub_version=255), tagged))


def test_a_stub_whose_version_is_not_given_is_refused() -> None:
    with pytest.raises(MeasureError, match="expected the version of systemd-stub beside its events"):
        predict_tdx_launch(replace(LAUNCH, stub_version=None), EVENTS)


def test_events_without_sha384_are_refused() -> None:
    other = measured_event(5, EventType.EV_EFI_ACTION, b"x", "exit", algorithms=(HashAlgorithm.SHA256,))
    with pytest.raises(MeasureError, match="expected sha384 digests, got an event without one: exit"):
        predict_tdx_launch(LAUNCH, (*EVENTS, other))


def test_a_size_and_another_digest_of_the_memory_are_refused() -> None:
    launch = replace(LAUNCH, td_hob=Digest.zero(SHA384))
    with pytest.raises(MeasureError, match="expected the memory's size or the digest of its list, got both"):
        predict_tdx_launch(launch, EVENTS)


def test_an_image_without_a_variable_store_leaves_rtmr0_open() -> None:
    launch = replace(LAUNCH, firmware=OvmfImage(variable_pages=0).build())
    assert _open(predict_tdx_launch(launch, EVENTS)) == {"RTMR0": ("an image with a variable store (CFV)",)}


def test_what_ima_measures_is_in_no_register() -> None:
    events = (*EVENTS, _event(10, EventType.EV_IPL, b"boot_aggregate"))
    assert _values(predict_tdx_launch(LAUNCH, events)) == _values(predict_tdx_launch(LAUNCH, EVENTS))


@pytest.mark.parametrize("register", [4, 7])
def test_a_boot_without_its_separators_is_refused(register: int) -> None:
    events = [
        event for event in EVENTS if (event.register, event.event_type) != (register, EventType.EV_SEPARATOR)
    ]
    with pytest.raises(MeasureError, match=f"expected one separator in PCR {register}, got 0"):
        predict_tdx_launch(LAUNCH, events)


def test_a_digest_of_another_algorithm_is_refused() -> None:
    launch = replace(LAUNCH, early=(PlatformData("bootorder", Digest.sha256(b"")),))
    with pytest.raises(MeasureError, match="bootorder: expected sha384, got sha256"):
        predict_tdx_launch(launch, EVENTS)


def test_the_predicted_log_is_one_that_parses_and_replays() -> None:
    prediction = predict_tdx_launch(LAUNCH, EVENTS)
    data = write_cc_event_log(predicted_cc_log(prediction))
    log = parse_cc_event_log(data).log
    values = {register: bytes(48) for register in range(1, 5)}
    for event in log.events:
        digest = event.digests[SHA384].value
        values[event.register] = hashlib.sha384(values[event.register] + digest).digest()
    assert {f"RTMR{register - 1}": value.hex() for register, value in values.items()} == {
        name: value for name, value in _values(prediction).items() if name != "MRTD"
    }


def test_inputs_of_each_value_are_listed() -> None:
    needs = {value.name: value.needs for value in predict_tdx_launch(LAUNCH, EVENTS).measurements}
    assert needs["MRTD"] == ("firmware image (32768 bytes)", "page order of the VMM: interleaved")
    assert "memory: 2147483648 bytes, QEMU q35" in needs["RTMR0"]
    assert needs["RTMR2"] == ("section", "initrd")
    assert needs["RTMR3"] == ()
