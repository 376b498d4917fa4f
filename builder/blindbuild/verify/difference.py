"""What is said about a register that differs. `explain`, which finds it out, is loaded when one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blindbuild.verify.explain_align import Step


@dataclass(frozen=True, slots=True)
class Difference:
    """Where one register leaves what was expected.

    Attributes:
        position: the number of the first differing event in its register, from 0; None if it is not known.
        expected: what should be measured there; empty if nothing more.
        got: what was measured there; empty if nothing more.
        cause: what the difference means, most important first.
        action: what to do about it.
        steps: every event of both sides, aligned; empty if the expected events are not known.
    """

    register: int
    position: int | None
    expected: str
    got: str
    cause: str
    action: str = ""
    steps: tuple[Step, ...] = ()
