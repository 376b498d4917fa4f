"""The measurements of an enclave image, as `nitro-cli describe-eif` prints them.

Source: aws/aws-nitro-enclaves-cli, docs/image_signing.md (what it prints) and src/utils/mod.rs.
"""

from __future__ import annotations

from blindbuild.errors import UsageError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.measure.launch_kinds import KIND_NITRO
from blindbuild.publish.exporters import Exported, ExportRequest
from blindbuild.publish.reference_values import allowed_values

_OF_IMAGE = ("PCR0", "PCR1", "PCR2", "PCR8")  # PCR3 and PCR4 are of the parent instance, and not in an image
_HASH = "Sha384 { ... }"  # how the tool prints the only hash it has


def export(request: ExportRequest) -> Exported:
    """Return PCR0 to PCR2, and PCR8 of an image that AWS checks a signature of.

    Raises:
        UsageError: the platform is no Nitro enclave, or a register may have several values.
    """
    platform = request.chosen_platform()
    if platform.kind != KIND_NITRO:
        raise UsageError(
            f"{platform.identifier}: expected a platform of kind {KIND_NITRO}, got {platform.kind}: "
            "the statement has no measurements of an enclave image for it"
        )
    measurements: dict[str, JsonValue] = {"HashAlgorithm": _HASH}
    for allowed in allowed_values(request):
        if allowed.name not in _OF_IMAGE:
            continue
        if len(allowed.values) != 1:
            raise UsageError(f"nitro: expected one value of {allowed.name}, got {len(allowed.values)}")
        measurements[str(allowed.name)] = allowed.values[0].hex
    notes = (
        "PCR3 and PCR4 are of the parent instance: nothing is said about it here",
        "that an attestation document is fresh, and signed below AWS's root, its reader must see to",
    )
    data = canonical_bytes({"Measurements": measurements}) + b"\n"
    return Exported(f"{request.release.statement.name}.nitro.json", data, notes)
