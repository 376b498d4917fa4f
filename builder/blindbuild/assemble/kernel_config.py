"""Kernel configurations as values: fragments that ask, and the resolved configuration that answers.

Source: Linux Documentation/kbuild/kconfig.rst; `.config` as scripts/kconfig/confdata.c writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from blindbuild.errors import BuildError

FRAGMENT_DIRECTORY = Path(__file__).resolve().parents[1] / "guest" / "kernel"
OFF = "n"
MAX_COMMAND_LINE = 2047  # COMMAND_LINE_SIZE of x86 is 2048, with the NUL
DEBUG_FRAGMENT = "90-debug"
LEAKY_FRAGMENT = "95-leaky"
_CONTRADICTING = (DEBUG_FRAGMENT, LEAKY_FRAGMENT)

_ASSIGNMENT = re.compile(r'CONFIG_([A-Za-z0-9_]+)=("(?:[^"\\]|\\.)*"|-?[0-9A-Za-z]+)')
_NOT_SET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
_COMMAND_LINE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")


@dataclass(frozen=True, slots=True)
class Fragment:
    """Lines of a configuration about one topic; the name orders them."""

    name: str
    text: str


def load_fragments(*, debug: bool, leaky: bool = False) -> tuple[Fragment, ...]:
    """Return the fragments that come with blindbuild, in order.

    Args:
        debug: also the one for a console.
        leaky: also the one that opens every door, for the kernel on which checks are seen to fire.
    """
    left_out = {DEBUG_FRAGMENT: not debug, LEAKY_FRAGMENT: not leaky}
    paths = sorted(FRAGMENT_DIRECTORY.glob("*.config"))
    return tuple(
        Fragment(path.stem, path.read_text("ascii")) for path in paths if not left_out.get(path.stem, False)
    )


def parse_config(text: str, *, where: str) -> Mapping[str, str]:
    """Return symbols, without `CONFIG_`, and their values as written; `n` for `is not set`.

    Args:
        text: a fragment or a `.config`.
        where: what it is called in errors.

    Raises:
        BuildError: a line that is neither assignment, comment nor empty, or a symbol that is there twice.
    """
    config: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _ASSIGNMENT.fullmatch(line):
            symbol, value = match[1], match[2]
        elif match := _NOT_SET.fullmatch(line):
            symbol, value = match[1], OFF
        elif not line or line.startswith("#"):
            continue
        else:
            raise BuildError(f"{where}:{number}: expected CONFIG_NAME=value or a comment, got {line[:80]!r}")
        if symbol in config:
            raise BuildError(f"{where}:{number}: CONFIG_{symbol} is set twice")
        config[symbol] = value
    return MappingProxyType(config)


def merge_fragments(fragments: Iterable[Fragment]) -> Mapping[str, str]:
    """Return what all fragments together ask for, sorted by symbol.

    Raises:
        BuildError: a malformed line, no symbol at all, or one symbol in two fragments; only the debug and
            the leaky fragment may say otherwise than another.
    """
    merged: dict[str, str] = {}
    for fragment in sorted(fragments, key=lambda fragment: fragment.name):
        asked = parse_config(fragment.text, where=f"{fragment.name}.config")
        for symbol in sorted(asked.keys() & merged.keys()):
            if fragment.name not in _CONTRADICTING:
                raise BuildError(f"{fragment.name}.config: CONFIG_{symbol} is set by another fragment too")
        merged |= asked
    if not merged:
        raise BuildError("kernel: expected fragments that set at least one symbol, got none")
    return MappingProxyType(dict(sorted(merged.items())))


def with_command_line(asked: Mapping[str, str], command_line: str) -> Mapping[str, str]:
    """Return the request with this built-in command line.

    Raises:
        BuildError: it is empty, too long, has characters that need quoting, or would disable the initramfs.
    """
    if not _COMMAND_LINE.fullmatch(command_line) or len(command_line) > MAX_COMMAND_LINE:
        raise BuildError(
            f"kernel command line: expected 1 to {MAX_COMMAND_LINE} printable ASCII characters without quotes"
            f" and backslashes, words separated by one space, got {command_line[:80]!r}"
        )
    if "noinitrd" in command_line.split(" "):
        raise BuildError("kernel command line: noinitrd disables the measured initramfs too")
    return MappingProxyType(dict(sorted((dict(asked) | {"CMDLINE": f'"{command_line}"'}).items())))


def render_config(config: Mapping[str, str]) -> str:
    """Return the text that `parse_config` reads, in the order of the mapping."""
    lines = (
        f"# CONFIG_{symbol} is not set\n" if value == OFF else f"CONFIG_{symbol}={value}\n"
        for symbol, value in config.items()
    )
    return "".join(lines)
