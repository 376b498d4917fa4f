"""Step E11: did the firmware say, in the quoted register 7, that Secure Boot was on?

The statement's values for register 7 already decide which state is accepted; this is for a relying party that
wants to see it said, whatever the signers of the statement accept.

Source: TCG PC Client Platform Firmware Profile 1.06, 3.3.4.8: the variable SecureBoot is measured first.
"""

from __future__ import annotations

from blindbuild.digest import Digest
from blindbuild.errors import FormatError
from blindbuild.formats.tcgevent import EFI_GLOBAL_VARIABLE, EventType, VariableData, parse_variable_data
from blindbuild.formats.tcglog import ReplayedLog
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import Policy

SECURE_BOOT_REGISTER = 7
_ON = b"\x01"


def judge_secure_boot(steps: Checklist, policy: Policy, log: ReplayedLog | None) -> None:
    """Run step E11, after the log was found to lead to the quoted values."""
    if not policy.require_secure_boot:
        steps.skip("E11", "it is not asked for")
        return
    steps.run("E11", lambda: _check(found(log)), needs=("E1", "E3"))


def _check(log: ReplayedLog) -> tuple[None, str]:
    # Types and data are only claims: what counts is that the first extend of the register was the digest of
    # "SecureBoot is 1". A later event cannot take that place, whatever it is called.
    events = log.events_of(SECURE_BOOT_REGISTER)
    variable = _variable(events[0].data) if events else None
    if variable is None or (variable.vendor, variable.name) != (EFI_GLOBAL_VARIABLE, "SecureBoot"):
        raise refuse(
            "E11", "secure-boot-unknown", "expected SecureBoot as the first event of PCR 7, got another"
        )
    first = events[0]
    if first.event_type != EventType.EV_EFI_VARIABLE_DRIVER_CONFIG or first.digests[
        log.algorithm
    ] != Digest.of(log.algorithm, first.data):
        raise refuse(
            "E11", "secure-boot-unknown", "expected the variable SecureBoot, got data that was not measured"
        )
    if variable.data != _ON:
        raise refuse(
            "E11",
            "secure-boot-off",
            f"expected Secure Boot on, got SecureBoot {variable.data.hex()[:16] or 'empty'}",
            hint="enrol the keys and turn Secure Boot on, or do not ask for it",
        )
    return None, "on, by the first event of PCR 7"


def _variable(data: bytes) -> VariableData | None:
    try:
        return parse_variable_data(data)
    except (FormatError, UnicodeDecodeError):
        return None
