"""Step A10: is this one of the machines that the relying party named?

A genuine TPM somewhere else has the right registers too; whoever runs few machines can name them.
"""

from __future__ import annotations

from blindbuild.errors import FormatError
from blindbuild.formats.tpmkey import PublicArea, parse_sized_public
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import AllowedMachines, Basis
from blindbuild.verify.session import RecordedSession


def judge_machine_list(
    steps: Checklist, session: RecordedSession, basis: Basis, public: PublicArea | None
) -> None:
    """Run step A10 after the other steps A."""
    allowed = basis.policy.machines
    if allowed is None:
        steps.skip("A10", "any machine that the trust file believes")
        return
    needs = ["A1", "A2", "A5"]
    if allowed.endorsement_keys:
        needs.append("A8")  # only a credential shows that this very TPM has the endorsement key
    if allowed.instances:
        needs += ["A6", "A9", "A4"]
    steps.run("A10", lambda: _check(allowed, session, found(public)), needs=needs)


def _check(allowed: AllowedMachines, session: RecordedSession, public: PublicArea) -> tuple[None, str]:
    if not (allowed.attestation_keys or allowed.endorsement_keys or allowed.instances):
        raise refuse("A10", "machine-not-allowed", "expected at least one machine to be named, got none")
    shown = []
    if allowed.attestation_keys:
        shown.append(_require("attestation key", public.name().hex(), allowed.attestation_keys))
    if allowed.endorsement_keys:
        shown.append(_require("endorsement key", _endorsement_name(session), allowed.endorsement_keys))
    if allowed.instances:
        shown.append(_require("certified machine", _instance(session), allowed.instances))
    return None, ", ".join(shown)


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


def _instance(session: RecordedSession) -> str:
    from blindbuild.formats.certificate import parse_certificate, trim_padding
    from blindbuild.formats.gce import instance_name

    stored = session.endorsement.ak_certificate
    if stored is None:
        raise refuse("A10", "machine-not-shown", "expected a certificate that names the machine, got none")
    try:
        name = instance_name(parse_certificate(trim_padding(stored)))
    except FormatError as error:
        raise refuse("A10", "machine-not-shown", error.message) from error
    if name is None:
        raise refuse("A10", "machine-not-shown", "expected a certificate that names the machine, got another")
    return name
