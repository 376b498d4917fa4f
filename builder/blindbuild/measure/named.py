"""A measurement of a root of trust that does not have 24 registers: a launch digest, MRTD, an EIF's PCR0."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest


@dataclass(frozen=True, slots=True)
class NamedMeasurement:
    """One value, by the name that the platform's own papers use for it.

    Attributes:
        name: such as `LAUNCH_DIGEST`, `MRTD`, `RTMR2` or `PCR0`.
        digest: what the hardware reports after a launch of these inputs.
        what: a phrase for people that says what it covers.
        needs: every input that the value depends on, with its value where that is short.
    """

    name: str
    digest: Digest
    what: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnpredictedMeasurement:
    """One value that these inputs do not determine.

    Attributes:
        name: as of `NamedMeasurement`.
        reason: why there is no value, for people.
        needs: the inputs that would determine it and were not given; empty if nothing could.
    """

    name: str
    reason: str
    needs: tuple[str, ...] = ()
