"""What code of the operator's could do inside: the test image whose gate tries to turn its sockets elsewhere.

The operator gets there only through a fault of gate or workload; the test image starts with one. Its
measurements are not the product's, and a client refuses it.

Source: docs/spec/guest-abi.md, the probe image.
"""

from __future__ import annotations

import errno
import json

from blindbuild.client import Connection
from blindbuild.errors import MachineError
from blindbuild.machine.attack_model import HostileAttack, Outcome, Seen
from blindbuild.machine.machine import Machine

PROBE_ROUTE = "/.well-known/blindbuild/probe"
LEAST_ATTEMPTS = 20  # on listener and accepted connection together
TIMEOUT_S = 60.0  # an emulated machine on a busy host

_MAX_REPORT = 1 << 20  # bytes; a report has 60 kB
_KINDS = ("listener: ", "accepted: ")


def _turn_sockets(machine: Machine) -> Seen:
    """Have the gate try to disconnect, connect and bind its sockets anew while another connection is open."""
    with (
        Connection.open(machine.url, timeout_s=TIMEOUT_S),
        Connection.open(machine.url, timeout_s=TIMEOUT_S) as asking,
    ):
        answer = asking.request("GET", PROBE_ROUTE, content_type="text/plain", max_body=_MAX_REPORT)
    return judge_report(answer.body)


def judge_report(body: bytes) -> Seen:
    """Return what a probing gate's report of its sockets amounts to.

    Raises:
        MachineError: it is none, or tries too little to say anything.
    """
    try:
        found = {entry["attempt"]: entry["errno"] for entry in json.loads(body)}
    except (ValueError, KeyError, TypeError) as error:
        raise MachineError("expected the report of a probing gate", hint="boot a probe image") from error
    tried = {name: code for name, code in found.items() if name.startswith(_KINDS)}
    if len(tried) < LEAST_ATTEMPTS:
        raise MachineError(f"expected at least {LEAST_ATTEMPTS} attempts on sockets, got {len(tried)}")
    worked = sorted(name for name, code in tried.items() if code != errno.EPERM)
    if worked:
        return Seen(Outcome.SUCCEEDS, f"not refused: {', '.join(worked)}")
    return Seen(
        Outcome.NO_EFFECT, f"{len(tried)} attempts on the listener and an accepted connection, all refused"
    )


HOSTILE_ATTACKS: tuple[HostileAttack, ...] = (
    HostileAttack(
        name="accepted-socket",
        summary="runs code in the gate that turns its listener and an accepted connection elsewhere",
        outcome=Outcome.NO_EFFECT,
        play=_turn_sockets,
    ),
)
