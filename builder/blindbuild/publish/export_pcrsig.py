"""systemd's signed PCR policy: what is sealed to the key opens where the registers have these values.

Source: systemd 257, src/measure/measure.c (verb_sign) and src/shared/tpm2-util.c (find_signature).
"""

from __future__ import annotations

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.formats.fields import encode_base64
from blindbuild.formats.tpm_policy import pcr_policy_digest
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.publish.exporters import Exported, ExportRequest
from blindbuild.publish.reference_values import allowed_values, left_out, registers_of


def export(request: ExportRequest) -> Exported:
    """Return one signed policy over every register that has one allowed value.

    One, and the strictest: a secret that is sealed to the key opens by any policy that the key has signed.

    Raises:
        UsageError: no RSA key, another bank than SHA-256, or no register of a single value.
    """
    if request.policy_key is None:
        raise UsageError("pcrsig: expected an RSA key to sign with, got none")
    if request.bank is not HashAlgorithm.SHA256:
        raise UsageError(
            f"pcrsig: expected --bank sha256, got {request.bank.value}: for other banks systemd signs "
            "with hashes that it does not check"
        )
    rules = registers_of(request)
    values = {
        int(allowed.name): allowed.values[0]
        for allowed in allowed_values(request)
        if len(allowed.values) == 1
    }
    if not values:
        raise UsageError("pcrsig: expected a register with one allowed value, got none")
    policy = pcr_policy_digest(request.bank, values)
    registers: list[JsonValue] = [*sorted(values)]
    entry: dict[str, JsonValue] = {
        "pcrs": registers,
        "pkfp": request.policy_key.fingerprint.hex,
        "pol": policy.hex,
        "sig": encode_base64(request.policy_key.sign(policy.value)),
    }
    enrolled = "+".join(map(str, registers))
    notes = (
        *left_out(rules, Unconstrained),
        *_several(request),
        f"secrets must be sealed with --tpm2-public-key-pcrs={enrolled}",
        "every release signed with the same key opens them, also an expired or a withdrawn one",
    )
    data = canonical_bytes({request.bank.value: [entry]}) + b"\n"
    return Exported(f"{request.release.statement.name}.tpm2-pcr-signature.json", data, notes)


def _several(request: ExportRequest) -> tuple[str, ...]:
    numbers = [
        str(register)
        for register, rule in enumerate(registers_of(request))
        if isinstance(rule, OneOf) and len(rule.values) > 1
    ]
    return (f"left out, for having several values: registers {', '.join(numbers)}",) if numbers else ()
