"""Reference values for trustee's Reference Value Provider Service.

A message of type `sample`: a JSON object of names and values, in base64. Names are `rvps:///` with the
product, platform and bank, and the version as their tag.

Source: confidential-containers/trustee, rvps/src/lib.rs (Message), rvps/src/extractors/sample/mod.rs and
rvps/docs/reference-value-uri.md, commit 78962cd4.
"""

from __future__ import annotations

from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.formats.fields import encode_base64
from blindbuild.publish.exporters import Exported, ExportRequest
from blindbuild.publish.reference_values import NOT_A_VERDICT, AllowedValues, allowed_values

MESSAGE_VERSION = "0.1.0"


def export(request: ExportRequest) -> Exported:
    """Return a message that registers one list of values for each register or measurement.

    Raises:
        UsageError: the platform or bank is not in the statement.
    """
    values: dict[str, JsonValue] = {
        _name(request, allowed): [value.hex for value in allowed.values]
        for allowed in allowed_values(request)
    }
    message: dict[str, JsonValue] = {
        "version": MESSAGE_VERSION,
        "type": "sample",
        "payload": encode_base64(canonical_bytes(values)),
    }
    notes = (
        "a message of type sample is not signed: whoever can send one to the RVPS can replace the values",
        "trustee keeps values for 12 months from when it gets them, however long the release is valid",
        "trustee compares nothing by itself: its policy must ask for every name",
        NOT_A_VERDICT,
    )
    return Exported(f"{request.release.statement.name}.rvps.json", canonical_bytes(message) + b"\n", notes)


def _name(request: ExportRequest, allowed: AllowedValues) -> str:
    statement = request.release.statement
    algorithm = allowed.values[0].algorithm.value
    last = f"pcr{allowed.name:02}" if isinstance(allowed.name, int) else allowed.name.lower()
    platform = request.chosen_platform().identifier
    return f"rvps:///{statement.name}/{platform}/{algorithm}/{last}:{statement.version}"
