"""Cloud profiles against logs and quotes of Google's virtual machines.

Provenance: vectors/README.md, `quotes/gce` (Container-Optimized OS on SEV, three quoted banks) and
`tpm2-tools/event-gce-ubuntu-2104-log.bin` (Ubuntu without memory protection). Both boot through shim and
GRUB, so of registers 4, 7, 8, 9 and 14 only the firmware's part is the profile's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import LogEvent, UnverifiedLog, parse_event_log, replay
from blindbuild.measure.bank import extend_all
from blindbuild.measure.classification import Exact, Initial, OneOf, initial_value
from blindbuild.measure.pcr04 import predict_calling
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.pcr07 import predict_pcr07
from blindbuild.measure.profiles import GCP, GceTechnology, predict_gce_firmware, predict_profile
from blindbuild.measure.secure_boot import SecureBootState
from blindbuild.measure.separator import predict_separator
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.uki import MeasuredUki

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs the vectors beside the repository")

BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
QUOTED = "quotes/gce/nonce9009.eventlog.bin"
CASES = {
    QUOTED: GceTechnology.SEV,
    "tpm2-tools/event-gce-ubuntu-2104-log.bin": GceTechnology.NONE,
}


def log_of(case: str) -> UnverifiedLog:
    return parse_event_log((VECTORS / case).read_bytes())


def events_of(case: str, register: int) -> tuple[LogEvent, ...]:
    return replay(log_of(case), HashAlgorithm.SHA256).events_of(register)


def quoted(algorithm: HashAlgorithm) -> dict[int, Digest]:
    path = VECTORS / "quotes" / "gce" / f"nonce9009.{algorithm.value}.pcrs.json"
    pcrs = json.loads(path.read_bytes())["pcrs"]
    return {int(index): Digest.from_hex(algorithm, text) for index, text in pcrs.items()}


def held(case: str, algorithm: HashAlgorithm) -> dict[int, Digest]:
    """Return what the TPM held: as quoted where there is a quote, else as the log replays."""
    if case == QUOTED:
        return quoted(algorithm)
    return dict(enumerate(replay(log_of(case), algorithm).values))


def table(case: str) -> bytes:
    (event,) = [item for item in log_of(case).events if item.event_type == EventType.EV_EFI_GPT_EVENT]
    return bytes(event.data)


def some_uki() -> MeasuredUki:
    """Return an image that was not booted: the registers that are compared do not depend on it."""
    some = {algorithm: Digest.of(algorithm, b"image") for algorithm in BANKS}
    return MeasuredUki(
        rules=stub_rules(257),
        authenticode=some,
        kernel_authenticode=some,
        sections={".linux": some},
        load_options=b"",
        initrd=None,
    )


def variables(case: str) -> dict[str, bytes]:
    """Return the Secure Boot variables as the firmware measured them, taken apart by hand."""
    found = {}
    for event in events_of(case, 7):
        if event.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG:
            data = bytes(event.data)
            end = 32 + 2 * int.from_bytes(data[16:24], "little")
            found[data[32:end].decode("utf-16-le")] = data[end:]
    return found


@pytest.mark.parametrize("algorithm", BANKS)
@pytest.mark.parametrize("case", CASES)
def test_the_registers_that_no_image_decides_are_as_the_profile_says(
    case: str, algorithm: HashAlgorithm
) -> None:
    reference = predict_profile(
        some_uki(),
        GCP,
        secure_boot=SecureBootState(),
        partition_table=table(case),
        technology=CASES[case],
    )
    values = held(case, algorithm)
    for register in (0, 2, 3, 5, 6, 12, 13, 15, *range(17, 23)):
        match reference.banks[algorithm][register]:
            case Exact(value=value):
                assert values[register] == value, register
            case OneOf(values=several):
                assert values[register] in several, register
            case Initial():
                assert values[register] == initial_value(register, algorithm), register
            case other:
                pytest.fail(f"register {register}: {other}")


@pytest.mark.parametrize("algorithm", BANKS)
def test_the_quoted_register_0_is_two_names_and_a_separator(algorithm: HashAlgorithm) -> None:
    events = predict_gce_firmware((algorithm,), version=1, technology=GceTechnology.SEV)
    assert extend_all(0, events, algorithm) == quoted(algorithm)[0]
    for ours, theirs in zip(events, events_of(QUOTED, 0), strict=True):
        assert (ours.event_type, ours.data) == (theirs.event_type, theirs.data)


@pytest.mark.parametrize("algorithm", BANKS)
def test_another_memory_protection_or_firmware_is_another_register_0(algorithm: HashAlgorithm) -> None:
    for version, technology in ((2, GceTechnology.SEV), (1, GceTechnology.NONE), (1, GceTechnology.SEV_SNP)):
        events = predict_gce_firmware((algorithm,), version=version, technology=technology)
        assert extend_all(0, events, algorithm) != quoted(algorithm)[0]


@pytest.mark.parametrize("case", CASES)
def test_register_7_begins_with_the_policy_of_the_keys(case: str) -> None:
    found = variables(case)
    state = SecureBootState(
        enabled=found["SecureBoot"] == b"\x01",
        pk=found["PK"],
        kek=found["KEK"],
        db=found["db"],
        dbx=found["dbx"],
    )
    predicted = predict_pcr07(BANKS, secure_boot_data=found["SecureBoot"], state=state)
    logged = events_of(case, 7)
    assert [dict(item.digests) for item in predicted] == [
        dict(item.digests) for item in logged[: len(predicted)]
    ]
    rest = {item.event_type for item in logged[len(predicted) :]}
    assert rest == {EventType.EV_EFI_VARIABLE_AUTHORITY}


@pytest.mark.parametrize("case", CASES)
def test_register_4_begins_as_everywhere_and_then_has_images_only(case: str) -> None:
    first = [dict(item.digests) for item in (predict_calling(BANKS), predict_separator(4, BANKS))]
    logged = events_of(case, 4)
    assert [dict(item.digests) for item in logged[:2]] == first
    assert {item.event_type for item in logged[2:]} == {EventType.EV_EFI_BOOT_SERVICES_APPLICATION}


@pytest.mark.parametrize("case", CASES)
def test_register_5_has_the_events_of_the_model_in_its_order(case: str) -> None:
    predicted = predict_pcr05(BANKS, partition_table=table(case))
    assert [dict(item.digests) for item in predicted] == [dict(item.digests) for item in events_of(case, 5)]


@pytest.mark.parametrize("case", CASES)
def test_registers_8_9_and_14_are_grubs_and_shims(case: str) -> None:
    for register in (8, 9, 14):
        assert {item.event_type for item in events_of(case, register)} <= {EventType.EV_IPL}


def test_register_10_of_a_distributions_kernel_has_a_value_and_no_event() -> None:
    assert events_of(QUOTED, 10) == ()
    assert quoted(HashAlgorithm.SHA256)[10] != Digest.zero(HashAlgorithm.SHA256)
