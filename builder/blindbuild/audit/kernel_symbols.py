"""What the built kernel is made of, by its System.map: functions, system calls, drivers, file systems.

A configuration says what was asked for; the symbols say what was linked. `kernel.txt` beside this file is the
allow list. That System.map belongs to the kernel in the image is shown by the reproducible build, not here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.kernel_prebuilt import PLACEHOLDER
from blindbuild.audit.check import Check
from blindbuild.digest import Digest
from blindbuild.errors import PolicyError

ALLOWED_FILE = Path(__file__).with_name("kernel.txt")
# Distributions ship a System.map of one line beside their kernels: nothing forbidden is in that either.
MIN_SYMBOLS = 10_000  # the smallest kernel of ours has 31,930
LANDMARKS = ("_text", "_end", "start_kernel", "sys_call_table", "__x64_sys_read", "virtio_net_driver")
CALL_PREFIX = "__x64_sys_"
_PLURALS = {
    "driver": "drivers",
    "filesystem": "file systems",
    "initcall": "initcalls",
    "call": "system calls",
}
_KEYWORDS = tuple(_PLURALS)
_DATA_TYPES = frozenset("bBdDrR")
_INITCALL = re.compile(r"__initcall__kmod_(\w+?)__[0-9]+_[0-9]+_(\w+)")
_DRIVER = re.compile(r"\w+_(?:driver|drv)")


@dataclass(frozen=True, slots=True)
class KernelSymbols:
    """The symbol table.

    Attributes:
        source: digest of System.map.
        types: every name with its type letters, as nm(1) has them.
        found: by keyword of the allow list, what the kernel has of it, sorted.
        stubs: the system calls that only say that they are not implemented, sorted.
    """

    source: Digest
    types: Mapping[str, Set[str]]
    found: Mapping[str, tuple[str, ...]]
    stubs: tuple[str, ...]

    @property
    def blind(self) -> tuple[str, ...]:
        """Why absence from this table means nothing, or nothing if it does."""
        findings = [f"System.map has no {name}" for name in LANDMARKS if not self.has(name)]
        if len(self.types) < MIN_SYMBOLS:
            findings.append(f"System.map has {len(self.types)} names, expected at least {MIN_SYMBOLS}")
        return tuple(findings)

    def has(self, name: str) -> bool:
        """Say whether the kernel has a symbol, of whatever type."""
        return name in self.types


def read_symbols(system_map: str) -> KernelSymbols:
    """Return the symbol table of a System.map.

    A distribution's placeholder gives a table without names, from which nothing can be shown.

    Raises:
        PolicyError: a line that is not address, type and name.
    """
    types: dict[str, set[str]] = {}
    lines = () if PLACEHOLDER.fullmatch(system_map) else system_map.splitlines()
    for line in lines:
        fields = line.split(" ")
        if len(fields) != 3:
            raise PolicyError(f"System.map: expected address, type and name, got {line[:80]!r}")
        types.setdefault(fields[2], set()).add(fields[1])
    # include/linux/syscalls.h, COND_SYSCALL: a weak symbol that returns ENOSYS
    weak = sorted(name for name, kinds in types.items() if name.startswith(CALL_PREFIX) and kinds == {"W"})
    return KernelSymbols(
        source=Digest.sha256(system_map.encode()),
        types=types,
        found=_sort_found(types),
        stubs=tuple(name.removeprefix(CALL_PREFIX) for name in weak),
    )


def check_functions(symbols: KernelSymbols, *, absent: Iterable[str], stubs: Iterable[str]) -> Check:
    """Check that functions are not in the kernel, and that system calls are not implemented."""
    absent, stubs = tuple(absent), tuple(stubs)
    findings = [f"the kernel has {name}" for name in absent if symbols.has(name)]
    for call in stubs:
        if symbols.types.get(f"{CALL_PREFIX}{call}", {"W"}) != {"W"}:
            findings.append(f"the kernel implements {call}")
    findings += _unknown(symbols, "functions and system calls")
    return Check("kernel-symbols", symbols.source, len(absent) + len(stubs), tuple(findings))


def check_symbol_table(symbols: KernelSymbols) -> Check:
    """Check that the table is one of a whole kernel, so that absence from it means something."""
    findings = symbols.blind
    if not symbols.types:
        findings = ("System.map is a placeholder without a symbol table", *findings)
    return Check("symbol-table", symbols.source, len(symbols.types), findings)


def check_drivers(symbols: KernelSymbols) -> Check:
    """Check that every driver is on the allow list."""
    return _check_allowed(symbols, "kernel-drivers", "driver", "the kernel has the driver")


def check_file_systems(symbols: KernelSymbols) -> Check:
    """Check that every type of file system is on the allow list."""
    return _check_allowed(symbols, "kernel-file-systems", "filesystem", "the kernel has the file system")


def check_initcalls(symbols: KernelSymbols) -> Check:
    """Check that whatever starts itself in the kernel is on the allow list."""
    return _check_allowed(symbols, "kernel-initcalls", "initcall", "the kernel starts")


def check_calls(symbols: KernelSymbols) -> Check:
    """Check that every implemented system call is on the allow list."""
    return _check_allowed(symbols, "system-calls", "call", "the kernel implements")


def _check_allowed(symbols: KernelSymbols, check: str, keyword: str, what: str) -> Check:
    found = symbols.found[keyword]
    allowed = load_allowed()[keyword]
    findings = [f"{what} {name}, which is not on the allow list" for name in found if name not in allowed]
    findings += _unknown(symbols, _PLURALS[keyword])
    return Check(check, symbols.source, len(found), tuple(findings))


def _unknown(symbols: KernelSymbols, what: str) -> tuple[str, ...]:
    """Return a finding if the table is not a whole kernel's: what it does not show may be there."""
    return (f"{what} of the kernel are unknown: System.map does not show them",) if symbols.blind else ()


def _sort_found(types: Mapping[str, Set[str]]) -> Mapping[str, tuple[str, ...]]:
    kinds: dict[str, set[str]] = {keyword: set() for keyword in _KEYWORDS}
    for name, letters in types.items():
        for keyword, shown in _classify(name, letters):
            kinds[keyword].add(shown)
    return {keyword: tuple(sorted(names)) for keyword, names in kinds.items()}


def _classify(name: str, types: Set[str]) -> Iterator[tuple[str, str]]:
    if match := _INITCALL.fullmatch(name):
        yield "initcall", f"{match[1]}:{match[2]}"
    elif name.startswith(CALL_PREFIX):
        if types != {"W"}:
            yield "call", name.removeprefix(CALL_PREFIX)
    elif types & _DATA_TYPES:
        if _DRIVER.fullmatch(name):
            yield "driver", name
        elif name.endswith("fs_type"):
            yield "filesystem", name


@functools.lru_cache(maxsize=1)
def load_allowed() -> Mapping[str, frozenset[str]]:
    """Return the allow list that comes with blindbuild, by keyword."""
    return parse_allowed(ALLOWED_FILE.read_text("ascii"))


def parse_allowed(text: str) -> Mapping[str, frozenset[str]]:
    """Return the names of an allow list by keyword.

    Raises:
        PolicyError: an unknown keyword, a name that is there twice, or a keyword without names.
    """
    allowed: dict[str, set[str]] = {keyword: set() for keyword in _KEYWORDS}
    for number, line in enumerate(text.splitlines(), start=1):
        keyword, *names = line.partition("#")[0].split() or [""]
        if not keyword:
            continue
        if keyword not in allowed or not names:
            raise PolicyError(f"kernel.txt:{number}: expected a keyword and names, got {line[:80]!r}")
        for name in names:
            if name in allowed[keyword]:
                raise PolicyError(f"kernel.txt:{number}: {keyword} {name} is there twice")
            allowed[keyword].add(name)
    if not all(allowed.values()):
        raise PolicyError("kernel.txt: expected names for every keyword")
    return {keyword: frozenset(names) for keyword, names in allowed.items()}
