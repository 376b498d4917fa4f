"""The parts of channels.json as JSON values.

Source: docs/spec/ledger.md.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

from blindbuild.assemble.kernel_policy import Judgement
from blindbuild.audit import files, kernel_symbols, programs
from blindbuild.audit.filters import EVERYBODY, Reach
from blindbuild.audit.image import Waiver
from blindbuild.audit.ledger import Row
from blindbuild.audit.telemetry import Telemetry
from blindbuild.digest import Digest
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.cpio import CpioEntry

_FORBIDDEN = {name for names in programs.FORBIDDEN_IMPORTS.values() for name in names}


def render_row(row: Row) -> dict[str, JsonValue]:
    """Return a channel; `allowedByRecipe` is there only where it is true."""
    return {
        **({"allowedByRecipe": True} if row.allowed else {}),
        "number": row.rule.number,
        "id": row.rule.identifier,
        "claim": row.rule.claim,
        "closable": row.rule.closable,
        "state": row.state.value,
        "controls": [
            {"what": control.what, "shownBy": list(control.shown_by), "secondLayer": control.second}
            for control in row.rule.controls
        ],
        "checks": [
            {
                "name": check.name,
                "sourceSha256": check.source.hex,
                "lookedAt": check.looked_at,
                "findings": list(check.findings),
            }
            for check in row.checks
        ],
    }


def render_waiver(waiver: Waiver) -> dict[str, JsonValue]:
    """Return what the recipe declares about one file."""
    return {"path": waiver.path, "what": waiver.what, "control": waiver.control}


def render_file(entry: CpioEntry) -> dict[str, JsonValue]:
    """Return an entry of the initramfs; directories and devices have no digest."""
    path = entry.path.decode("ascii", "backslashreplace")
    hashed = stat.S_ISREG(entry.mode) or stat.S_ISLNK(entry.mode)
    return {
        "path": path,
        "mode": f"{entry.mode:07o}",
        "owner": f"{entry.uid}:{entry.gid}",
        "size": len(entry.data),
        "device": f"{entry.rdev[0]}:{entry.rdev[1]}" if entry.rdev != (0, 0) else "",
        "sha256": Digest.sha256(entry.data).hex if hashed else "",
        "whyIn": files.why_in(path),
    }


def render_program(program: programs.Program) -> dict[str, JsonValue]:
    """Return an ELF file, with those of its imports that are looked for."""
    elf = program.elf
    static = elf is not None and elf.is_static
    needs, imports = (elf.needed, sorted(set(elf.imports) & _FORBIDDEN)) if elf else ((), [])
    return {
        "path": program.path,
        "role": files.why_in(program.path),
        "linkage": "static" if static else "dynamic" if elf else "unreadable",
        "importsSay": "nothing: a static program brings its own" if static else "what it loads from others",
        "needs": [*needs],
        "imports": [*imports],
    }


def render_reaches(reaches: Sequence[Reach]) -> dict[str, JsonValue]:
    """Return by role and by name of a system call with what arguments it can be made; none stands for any."""
    return {
        reach.role: {name: [form for form in forms if form] for name, forms in reach.calls.items()}
        for reach in reaches
        if reach.role not in EVERYBODY
    }


def render_telemetry(found: Telemetry) -> dict[str, JsonValue]:
    """Return a package that is known to report home."""
    return {
        "package": found.package,
        "signs": list(found.signs),
        "imports": list(found.imports),
        "off": list(found.off),
    }


def render_kernel(
    symbols: kernel_symbols.KernelSymbols, judgements: Sequence[Judgement], config: Mapping[str, str]
) -> dict[str, JsonValue]:
    """Return what the kernel is made of, and every rule of the kernel policy that it breaks.

    Rules that belong to no channel are among them: they are of no row, and a kernel that somebody else built
    was never held against them.
    """
    found, allowed = symbols.found, kernel_symbols.load_allowed()
    return {
        "drivers": list(found["driver"]),
        "fileSystems": list(found["filesystem"]),
        "initcalls": len(found["initcall"]),
        "implementedCalls": list(found["call"]),
        "stubCalls": list(symbols.stubs),
        "policy": {
            "rules": len(judgements),
            "broken": [
                f"{violation} ({judgement.rule.reason})"
                for judgement in judgements
                for violation in judgement.violations
            ],
            "modules": sum(value == "m" for value in config.values()),
        },
        "allowed": {keyword: len(names) for keyword, names in allowed.items()},
    }
