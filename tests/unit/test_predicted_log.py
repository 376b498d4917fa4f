"""The predicted log: what is in it, what is left out, and that it replays to the reference values."""

from __future__ import annotations

import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import data_mismatches, parse_event_log, replay, write_event_log
from blindbuild.measure.boot import UefiBoot, boot_events
from blindbuild.measure.classification import Exact, Initial, OneOf, initial_value
from blindbuild.measure.event import measured_event
from blindbuild.measure.kernel import MeasuredKernel, measure_kernel
from blindbuild.measure.log import predicted_log
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.reference import predict_platform
from tests.fakes.pe_image import make_pe

BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384)
PLATFORM = find_platform("qemu-q35-ovmf-2025.02")
BOOT = UefiBoot(platform=PLATFORM, partition_table=b"table")


def kernel() -> MeasuredKernel:
    return measure_kernel(make_pe(), BANKS)


def test_the_log_replays_to_every_value_that_is_promised() -> None:
    log = parse_event_log(write_event_log(predicted_log(boot_events(kernel(), BOOT), BANKS)))
    reference = predict_platform(kernel(), platform=PLATFORM, firmware=Digest.sha256(b""), boot=BOOT)
    for algorithm in BANKS:
        values = replay(log, algorithm).values
        for register, rule in enumerate(reference.banks[algorithm]):
            match rule:
                case Exact(value=value):
                    assert values[register] == value
                case OneOf(values=allowed):
                    assert values[register] in allowed
                case Initial():
                    assert values[register] == initial_value(register, algorithm)
        assert data_mismatches(log, algorithm) == ()


def test_registers_whose_events_are_not_all_known_are_absent() -> None:
    version = measured_event(0, EventType.EV_S_CRTM_VERSION, b"\0\0", "version", algorithms=BANKS)
    events = boot_events(kernel(), UefiBoot(platform=PLATFORM, firmware=(version,)))
    assert {event.register for event in events} == set(range(8))
    assert {event.register for event in predicted_log(events, BANKS).events} == set(range(2, 8))
    left = predicted_log(events, BANKS, leave_out={0, 1, 7})
    assert {event.register for event in left.events} == set(range(2, 7))


def test_an_image_is_logged_without_address_or_device() -> None:
    log = predicted_log(boot_events(kernel(), BOOT), BANKS)
    (image,) = (e for e in log.events if e.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION)
    assert image.data == struct.pack("<QQQQ", 0, 0, 0, 0)
    assert image.digests == kernel().authenticode


def test_only_the_banks_asked_for_are_logged() -> None:
    log = predicted_log(boot_events(kernel(), BOOT), BANKS[1:])
    assert log.algorithms == (HashAlgorithm.SHA384,)
    assert all(set(event.digests) == {HashAlgorithm.SHA384} for event in log.events)


def test_a_bank_that_was_not_predicted_is_refused() -> None:
    events = boot_events(kernel(), BOOT)
    with pytest.raises(MeasureError, match="expected at least one bank"):
        predicted_log(events, ())
    with pytest.raises(MeasureError, match="register 7: expected digests of sha512, got none"):
        predicted_log(events, (HashAlgorithm.SHA512,))
