"""What `blindbuild channels` has to say beside the ledger: packages that report home, Python's imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blindbuild.audit.ledger import Ledger
from blindbuild.audit.python_imports import PythonFile
from blindbuild.audit.telemetry import Telemetry
from blindbuild.formats.canonical import JsonValue

TELEMETRY_ROW = "package-telemetry"
SHOWN_FILES = 20  # of Python, in a terminal; `--json` has them all


def telemetry_remarks(found: Sequence[Telemetry], ledger: Ledger) -> Iterator[str]:
    """Yield a line for each package: what it asks for, what turns it off, and what stops it anyway."""
    row = next(row for row in ledger.rows if row.rule.identifier == TELEMETRY_ROW)
    stops = "; ".join(control.what for control in row.rule.controls if not control.second)
    for one in found:
        asks = f"its libraries ask for {', '.join(one.imports)}" if one.imports else "no library of it asks"
        off = f"{' '.join(one.off)} would ask it not to" if one.off else "nothing is known to turn it off"
        yield (
            f"{one.package} reports home ({one.signs[0]}): {asks}; {off}. "
            f"Row {row.rule.number} {TELEMETRY_ROW} is {row.state.value}: {stops}"
        )


def python_remarks(files: Sequence[PythonFile]) -> Iterator[str]:
    """Yield a line for each file, and one for those that are left out."""
    for file in files[:SHOWN_FILES]:
        yield f"{file.path}: " + (f"imports {', '.join(file.imports)}" if file.readable else "unreadable")
    if len(files) > SHOWN_FILES:
        yield f"and {len(files) - SHOWN_FILES} more files; --json has them all"


def python_json(files: Sequence[PythonFile]) -> list[JsonValue]:
    """Return the files as JSON values."""
    return [{"path": file.path, "imports": list(file.imports), "readable": file.readable} for file in files]
