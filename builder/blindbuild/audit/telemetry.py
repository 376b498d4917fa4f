"""Packages that are known to report home, if they are in an image: how that shows, and what turns it off.

Informative: no row of the ledger is opened or closed by it. What stops such a package is that no process can
make a socket; a variable that turns it off is a request. The rules are `telemetry.txt` beside this file.
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.audit.image import UnpackedImage
from blindbuild.audit.programs import FORBIDDEN_IMPORTS, Program
from blindbuild.errors import PolicyError

RULES_FILE = Path(__file__).with_name("telemetry.txt")
PACKAGE_PLACES = ("dist-packages/", "site-packages/")  # Debian Python Policy, 2.5; Python's site(3)
MAX_WORD_FILES = 16  # named for one word; a word of a library may be in each of its copies

_RULE = re.compile(
    r"(?P<package>[a-z0-9][a-z0-9.-]*)  (?P<signs>(?:module|word)=\S+(?: (?:module|word)=\S+)*)  "
    r"off(?P<off>(?: [A-Z][A-Z0-9_]*=\S+)*)  # \S.*, 20[0-9]{2}-[0-9]{2}-[0-9]{2}"
)


@dataclass(frozen=True, slots=True)
class TelemetryRule:
    """How a package shows, and the variables that its makers say turn it off."""

    package: str
    modules: tuple[str, ...]
    words: tuple[str, ...]
    off: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A package that was found.

    Attributes:
        package: its name in the package index.
        signs: what it was known by, and where.
        imports: what its ELF files ask the network for; none says nothing about Python.
        off: variables that turn it off, if the workload sets them.
    """

    package: str
    signs: tuple[str, ...]
    imports: tuple[str, ...]
    off: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def load_telemetry_rules() -> tuple[TelemetryRule, ...]:
    """Return the rules that come with blindbuild."""
    return parse_telemetry_rules(RULES_FILE.read_text("ascii"))


def parse_telemetry_rules(text: str) -> tuple[TelemetryRule, ...]:
    """Return rules, one from each line.

    Raises:
        PolicyError: a malformed line, one without source and date, a package twice, or no rule at all.
    """
    rules: dict[str, TelemetryRule] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        match = _RULE.fullmatch(line)
        if match is None or match["package"] in rules:
            raise PolicyError(
                f"telemetry.txt:{number}: expected a new package, signs, `off` and `# source, date`, "
                f"got {line[:80]!r}"
            )
        signs = [sign.partition("=") for sign in match["signs"].split(" ")]
        rules[match["package"]] = TelemetryRule(
            package=match["package"],
            modules=tuple(value for kind, _, value in signs if kind == "module"),
            words=tuple(value for kind, _, value in signs if kind == "word"),
            off=tuple(match["off"].split()),
        )
    if not rules:
        raise PolicyError("telemetry.txt: expected at least one rule, got none")
    return tuple(rules.values())


def find_telemetry(image: UnpackedImage, programs: Sequence[Program]) -> tuple[Telemetry, ...]:
    """Return the packages of the rules that an image has, in the order of the rules."""
    modules, words = _find_modules(image), _find_words(image)
    return tuple(_judge(load_telemetry_rules(), modules, words, programs))


def _judge(
    rules: Sequence[TelemetryRule],
    modules: Mapping[str, str],
    words: Mapping[str, list[str]],
    programs: Sequence[Program],
) -> Iterator[Telemetry]:
    for rule in rules:
        places = [modules[name] for name in rule.modules if name in modules]
        bearers = {word: words[word] for word in rule.words if word in words}
        if not places and not bearers:
            continue
        files = {path for paths in bearers.values() for path in paths}
        named = [f"{word} in {path}" for word, paths in bearers.items() for path in paths[:MAX_WORD_FILES]]
        yield Telemetry(rule.package, (*places, *named), _network_imports(programs, places, files), rule.off)


def _network_imports(programs: Sequence[Program], places: Sequence[str], files: set[str]) -> tuple[str, ...]:
    asked = {
        name
        for program in programs
        if program.elf and (program.path in files or program.path.startswith(tuple(f"{p}/" for p in places)))
        for name in program.elf.imports
    }
    return tuple(name for name in FORBIDDEN_IMPORTS["network"] if name in asked)


def _find_modules(image: UnpackedImage) -> dict[str, str]:
    """Return where each module or package of the rules is, by its name; the first place counts."""
    wanted = {name for rule in load_telemetry_rules() for name in rule.modules}
    deepest = 1 + max((name.count("/") for name in wanted), default=0)
    found: dict[str, str] = {}
    for entry in image.entries:
        path = entry.path.decode("ascii", "backslashreplace")
        for place in PACKAGE_PLACES:
            before, _, inside = path.partition(f"/{place}")
            parts = inside.split("/")
            for depth in range(1, min(len(parts), deepest) + 1):
                name = "/".join(parts[:depth])
                if name.removesuffix(".py") in wanted:
                    found.setdefault(name.removesuffix(".py"), f"{before}/{place}{name}")
    return found


def _find_words(image: UnpackedImage) -> dict[str, list[str]]:
    """Return the files that have each word of the rules."""
    wanted = {word.encode("ascii"): word for rule in load_telemetry_rules() for word in rule.words}
    found: dict[str, list[str]] = {}
    for entry in image.entries:
        if stat.S_ISREG(entry.mode):
            for raw, word in wanted.items():
                if raw in entry.data:
                    found.setdefault(word, []).append(entry.path.decode("ascii", "backslashreplace"))
    return found
