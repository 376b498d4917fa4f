"""A `tpm_policy` of keylime: for each register, the values that its verifier lets pass.

Source: keylime 7.14.3, keylime/tpm/tpm_util.py (readPolicy) and keylime/tpm/tpm_main.py (check_pcrs).
"""

from __future__ import annotations

from blindbuild.errors import UsageError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.measure.classification import Unconstrained
from blindbuild.publish.exporters import Exported, ExportRequest
from blindbuild.publish.reference_values import NOT_A_VERDICT, allowed_values, left_out, registers_of

IMA_REGISTER = 10  # keylime judges it by its own list of measurements, and refuses it in a policy
DATA_REGISTER = 16  # keylime binds its data by extending it, and refuses it in a policy
_NO_REFERENCE_STATE = (
    "there is no measured-boot reference state: keylime's example policy wants shim and GRUB, which a "
    "unified kernel image boots without"
)
_KEPT_BY_KEYLIME = (IMA_REGISTER, DATA_REGISTER)


def export(request: ExportRequest) -> Exported:
    """Return a policy for `keylime_tenant --tpm_policy`.

    Raises:
        UsageError: the platform has no registers of a TPM in this bank, or none that keylime judges.
    """
    rules = registers_of(request)
    policy: dict[str, JsonValue] = {
        str(allowed.name): [value.hex for value in allowed.values]
        for allowed in allowed_values(request)
        if allowed.name not in _KEPT_BY_KEYLIME
    }
    if not policy:
        raise UsageError("expected a register that keylime judges by a policy, got none")
    notes = (
        *left_out(rules, Unconstrained),
        f"keylime takes no values for registers {IMA_REGISTER} and {DATA_REGISTER}, which it uses itself",
        f"keylime must be told to ask for {request.bank.value}: a policy does not name its bank",
        _NO_REFERENCE_STATE,
        NOT_A_VERDICT,
    )
    return Exported(
        f"{request.release.statement.name}.tpm_policy.json", canonical_bytes(policy) + b"\n", notes
    )
