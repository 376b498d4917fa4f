"""The separator that firmware extends into registers 0 to 7 before the first boot attempt.

Registers 2, 3 and 6 hold nothing else on a machine without option ROMs: code, configuration and vendor
events only come from add-in cards.
"""

from __future__ import annotations

from collections.abc import Iterable

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import PredictedEvent, measured_event

SEPARATOR_DATA = bytes(4)  # PFP 10.4.1, EV_SEPARATOR: zero, or one after an error


def predict_separator(register: int, algorithms: Iterable[HashAlgorithm]) -> PredictedEvent:
    """Return the separator of one register.

    Source: PFP 3.3.4.11 and 10.4.1 EV_SEPARATOR; edk2 Tcg2Dxe.c, MeasureSeparatorEvent.
    """
    return measured_event(
        register, EventType.EV_SEPARATOR, SEPARATOR_DATA, "separator", algorithms=algorithms
    )
