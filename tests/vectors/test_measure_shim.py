"""shim's events against logs of other people's machines.

Provenance: vectors/README.md, tpm2-tools/ (RHEL, and Ubuntu on GCE) and keylime/ (Fedora, and RHEL with a
vendor_db). From the logs come the inputs: authorities and the text of SbatLevel. The order of events, the
dummy MokListX, MokListTrusted and, where shim has one certificate, MokList are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import EventType, parse_variable_data
from blindbuild.formats.tcglog import LogEvent, parse_event_log
from blindbuild.measure.shim import MokVariable, Shim, ShimAuthority, mok_variables, predict_shim

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs the vectors beside the repository")
AUTHORITY = EventType.EV_EFI_VARIABLE_AUTHORITY


@dataclass(frozen=True, slots=True)
class Machine:
    """A log, and what is known of the shim that it is of."""

    log: str
    vendor_is_known: bool = False
    trust_in_pcr07: bool = False
    trusts: bool = True


MACHINES = {
    "rhel": Machine("tpm2-tools/event-moklisttrusted.bin", vendor_is_known=True, trust_in_pcr07=True),
    "ubuntu": Machine("tpm2-tools/event-gce-ubuntu-2104-log.bin", trusts=False),
    "fedora": Machine("keylime/binary_bios_measurements"),
    "rhel-vendor-db": Machine("keylime/binary_bios_measurements-secureboot"),
}


def shim_events(machine: Machine) -> tuple[tuple[HashAlgorithm, ...], list[LogEvent]]:
    """Return the banks of a log, and its events from shim's own to the second stage's."""
    log = parse_event_log((VECTORS / machine.log).read_bytes())
    images = [
        index
        for index, event in enumerate(log.events)
        if event.register == 4 and event.event_type == EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    ]
    first = next(i for i, event in enumerate(log.events) if event.register == 14)
    second = next(i for i in images if i > first)
    return log.algorithms, [e for e in log.events[first:second] if e.register in (7, 14)]


def authorities(events: list[LogEvent]) -> dict[str, bytes]:
    """Return the data of PCR 7's events by the names they were measured under."""
    found = [parse_variable_data(event.data) for event in events if event.event_type == AUTHORITY]
    return {variable.name: variable.data for variable in found}


@pytest.mark.parametrize("name", MACHINES)
def test_shims_events_are_those_of_a_real_boot(name: str) -> None:
    machine = MACHINES[name]
    banks, events = shim_events(machine)
    named = authorities(events)
    stage = next((n for n in ("Shim", "vendor_db", "db") if n in named), None)
    variables = mok_variables(
        sbat_level=named["SbatLevel"],
        vendor=named["Shim"] if machine.vendor_is_known else b"",
        trusts_mok_list=machine.trusts,
    )
    shim = Shim(
        authenticode={},
        variables=variables,
        authority=None if stage is None else ShimAuthority(stage, named[stage]),
        trust_in_pcr07=machine.trust_in_pcr07,
    )
    ours = predict_shim(shim, banks)
    assert [(e.register, int(e.event_type), e.data) for e in ours] == [
        (e.register, e.event_type, e.data) for e in events
    ]
    known = [i for i, event in enumerate(events) if machine.vendor_is_known or event.data != b"MokList\0"]
    for index in known:
        if name != "ubuntu" or events[index].register == 7:  # Ubuntu's shim has a vendor_dbx of its own
            assert dict(ours[index].digests) == dict(events[index].digests), events[index].data


def test_an_unknown_list_is_the_only_thing_that_was_not_predicted() -> None:
    banks, events = shim_events(MACHINES["fedora"])
    level = authorities(events)["SbatLevel"]
    ours = predict_shim(
        Shim(
            authenticode={},
            variables=(MokVariable("SbatLevel", level), MokVariable("MokListTrusted", b"\x01")),
        ),
        banks,
    )
    logged = [dict(event.digests) for event in events]
    assert all(dict(event.digests) in logged for event in ours)
