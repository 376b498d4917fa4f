"""An in-toto bundle: attestations, one envelope a line, for readers that know no format of ours.

Source: in-toto attestation framework, spec/v1/bundle.md and envelope.md.
"""

from __future__ import annotations

from blindbuild.formats.dsse import Signature, UnverifiedEnvelope, write_envelope
from blindbuild.manifest import STATEMENT_PAYLOAD_TYPE
from blindbuild.publish.exporters import Exported, ExportRequest


def export(request: ExportRequest) -> Exported:
    """Return a bundle of one envelope: the statement, with the signatures that count and no others."""
    release = request.release
    signatures = tuple(Signature(counted.key.key_id, counted.value) for counted in release.signatures)
    envelope = write_envelope(UnverifiedEnvelope(STATEMENT_PAYLOAD_TYPE, release.payload, signatures))
    return Exported(
        f"{release.statement.name}.intoto.jsonl",
        envelope + b"\n",
        ("a bundle is not signed as a whole: whoever passes it on can leave lines out",),
    )
