"""Step A10: is this one of the machines that the relying party named?

A genuine TPM somewhere else has the right registers too; whoever runs few machines can name them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blindbuild.errors import FormatError
from blindbuild.formats.tpmkey import PublicArea, parse_sized_public
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import AllowedMachines, Basis
from blindbuild.verify.session import RecordedSession

if TYPE_CHECKING:
    from blindbuild.formats.certificate import Certificate


@dataclass(frozen=True, slots=True)
class ShownMachine:
    """What the other steps A looked at.

    Attributes:
        public: the attestation key, or None when it could not be read.
        certificate: the one that A4 and A9 judge, or None where a key is pinned or there is none.
        certified: the trust file wants a certificate.
        by_credential: of the endorsement key, with a credential.
    """

    public: PublicArea | None
    certificate: Certificate | None = None
    certified: bool = False
    by_credential: bool = False


def judge_machine_list(steps: Checklist, session: RecordedSession, basis: Basis, shown: ShownMachine) -> None:
    """Run step A10 after the other steps A."""
    allowed = basis.policy.machines
    if allowed is None:
        steps.skip("A10", "any machine that the trust file believes")
        return
    needs = ["A1", "A2", "A5"]
    if shown.certified:
        needs += ["A6", "A9", "A4"]
    if shown.by_credential:
        needs.append("A8")  # only a credential shows that this very TPM has the endorsement key
    steps.run("A10", lambda: _check(allowed, session, shown), needs=needs)


def _check(allowed: AllowedMachines, session: RecordedSession, shown: ShownMachine) -> tuple[None, str]:
    if allowed == AllowedMachines():
        raise refuse("A10", "machine-not-allowed", "expected at least one machine to be named, got none")
    found_names = []
    if allowed.attestation_keys:
        name = found(shown.public).name().hex()
        found_names.append(_require("attestation key", name, allowed.attestation_keys))
    if allowed.endorsement_keys:
        if not shown.by_credential:
            raise refuse(
                "A10",
                "machine-not-shown",
                "expected a TPM that shows its endorsement key, got a way to believe it without one",
                hint="name attestation keys instead",
            )
        found_names.append(_require("endorsement key", _endorsement_name(session), allowed.endorsement_keys))
    if allowed.instances:
        found_names.append(_require("certified machine", _instance(shown.certificate), allowed.instances))
    return None, ", ".join(found_names)


def _require(what: str, name: str, names: frozenset[str]) -> str:
    if name not in names:
        raise refuse(
            "A10",
            "machine-not-allowed",
            f"expected one of {len(names)} that the policy names as {what}, got {name}",
            hint="if this machine is yours, add it to the policy's `machines`",
        )
    return f"{what} {name}"


def _endorsement_name(session: RecordedSession) -> str:
    return parse_sized_public(session.endorsement.ek_public).name().hex()


def _instance(certificate: Certificate | None) -> str:
    from blindbuild.formats.gce import instance_name

    try:
        name = None if certificate is None else instance_name(certificate)
    except FormatError as error:
        raise refuse("A10", "machine-not-shown", error.message) from error
    if name is None:
        raise refuse("A10", "machine-not-shown", "expected a certificate that names the machine, got none")
    return name
