"""systemd's .pcrlock files: the events behind each register, for systemd-pcrlock to find in an event log.

One file for each register, in a tar archive. systemd-pcrlock looks for the records of a file one after the
other, whatever their register, and a statement has no order between registers; files it looks for one by one.

Source: systemd.pcrlock(5) and systemd-pcrlock(8) of systemd 257.
"""

from __future__ import annotations

import io
import tarfile

from blindbuild.errors import UsageError
from blindbuild.formats.canonical import canonical_bytes
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained
from blindbuild.publish.exporters import Exported, ExportRequest
from blindbuild.publish.reference_values import NOT_A_VERDICT, left_out, registers_of


def export(request: ExportRequest) -> Exported:
    """Return an archive of files for a directory that `systemd-pcrlock --components=` reads.

    Raises:
        UsageError: the platform has no registers of a TPM in this bank, or none with events.
    """
    rules = registers_of(request)
    name = request.release.statement.name
    files = {
        f"500-{name}-pcr{register:02}.pcrlock": _records(register, rule)
        for register, rule in enumerate(rules)
        if isinstance(rule, Exact) and rule.events
    }
    if not files:
        raise UsageError("expected a register whose events are stated, got none")
    notes = (
        *left_out(rules, OneOf, Initial, Unconstrained),
        "systemd's own files in /usr/lib/pcrlock.d have some of the same events: use --components=",
        NOT_A_VERDICT,
    )
    return Exported(f"{name}.pcrlock.tar", _archive(files), notes)


def _records(register: int, rule: Exact) -> bytes:
    return (
        canonical_bytes(
            {
                "records": [
                    {
                        "pcr": register,
                        "digests": [{"hashAlg": event.digest.algorithm.value, "digest": event.digest.hex}],
                    }
                    for event in rule.events
                ]
            }
        )
        + b"\n"
    )


def _archive(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)  # mode 0644, and zero for owner and time
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()
