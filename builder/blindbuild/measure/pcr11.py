"""PCR 11: the sections of the UKI, measured by systemd-stub.

Source: systemd src/boot/stub.c, measure_sections; src/fundamental/uki.c for the order, which is not that of
the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from blindbuild.errors import MeasureError
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import Digests, PredictedEvent, measured_event
from blindbuild.measure.stub import StubRules


def predict_pcr11(sections: Mapping[str, Digests], rules: StubRules) -> tuple[PredictedEvent, ...]:
    """Return two events for each measured section: its name with NUL, then its data.

    Args:
        sections: digests over VirtualSize bytes by name, of the sections that are there and not empty.
        rules: those of the UKI's stub.

    Raises:
        MeasureError: there is no `.linux`, or a section that this stub would not measure.
    """
    if ".linux" not in sections:
        raise MeasureError("expected a section .linux, got none")
    strange = set(sections).difference(rules.measured_sections)
    if strange:
        raise MeasureError(f"systemd-stub {rules.version} does not measure {', '.join(sorted(strange))}")
    events: list[PredictedEvent] = []
    for name in rules.measured_sections:
        if name in sections:
            events += _section_events(name, sections[name])
    return tuple(events)


def _section_events(name: str, digests: Digests) -> tuple[PredictedEvent, PredictedEvent]:
    data = (name + "\0").encode("utf-16-le")
    measured = name.encode("ascii") + b"\0"
    return (
        measured_event(11, EventType.EV_IPL, measured, f"name {name}", algorithms=tuple(digests), data=data),
        PredictedEvent(11, EventType.EV_IPL, digests, data, f"content of {name}"),
    )
