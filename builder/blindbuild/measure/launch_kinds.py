"""The roots of trust that report a few named values instead of 24 registers of a TPM."""

from __future__ import annotations

from dataclasses import dataclass

KIND_SEV_SNP = "sev-snp"
KIND_TDX = "tdx"
KIND_NITRO = "nitro-enclave"


@dataclass(frozen=True, slots=True)
class LaunchKind:
    """Which values a platform of this kind reports; all are SHA-384.

    Attributes:
        fixed: must have values in a statement: without them something else than the image could run.
        named: must be there, with values or with a reason why there are none.
        optional: may be there.
    """

    identifier: str
    fixed: tuple[str, ...]
    named: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The names that a statement always has."""
        return (*self.fixed, *self.named)


# docs/platforms/{sev-snp,tdx,nitro-eif}.md say why these and not fewer
LAUNCH_KINDS = {
    kind.identifier: kind
    for kind in (
        LaunchKind(KIND_SEV_SNP, fixed=("LAUNCH_DIGEST",)),
        LaunchKind(KIND_TDX, fixed=("MRTD", "RTMR1", "RTMR2"), named=("RTMR0", "RTMR3")),
        LaunchKind(KIND_NITRO, fixed=("PCR0", "PCR1", "PCR2"), optional=("PCR3", "PCR4", "PCR8")),
    )
}
