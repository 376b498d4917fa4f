"""Which Python files of an image import what speaks to a network, by their syntax trees.

Informative, and no part of channels.json: what a syntax tree is depends on the version of Python that reads
it, and a ledger may not. A module that is imported need not be used, and one can be imported under a name
that is made while the program runs.
"""

from __future__ import annotations

import ast
import io
import re
import stat
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from blindbuild.audit.image import UnpackedImage

# Of the standard library, and the clients of the package index that most others are built on.
NETWORK_MODULES = frozenset(
    {
        *(
            "socket",
            "socketserver",
            "ssl",
            "http",
            "urllib.request",
            "ftplib",
            "smtplib",
            "poplib",
            "imaplib",
        ),
        *("nntplib", "telnetlib", "xmlrpc", "asyncio.streams", "requests", "urllib3", "httpx", "httpcore"),
        *("aiohttp", "websockets", "websocket", "grpc", "zmq", "paramiko", "pycurl", "botocore", "dns"),
        *("posthog", "sentry_sdk", "opentelemetry"),
    }
)
# The longest of the standard library has 250 KB; the parser takes up to 900 bytes of memory for each byte.
MAX_SOURCE_BYTES = 1 << 20
# Others take time by the square of the length, or hide words from a search of bytes.
ENCODINGS = frozenset({"utf-8", "utf-8-sig", "iso-8859-1", "ascii", "us-ascii"})

_ROOTS = "|".join(sorted({re.escape(name.partition(".")[0]) for name in NETWORK_MODULES}))
_WORDS = re.compile(rf"\b(?:{_ROOTS})\b".encode())


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A Python file; `imports` are its network modules, and `readable` says whether it could be parsed."""

    path: str
    imports: tuple[str, ...]
    readable: bool


def find_network_imports(image: UnpackedImage) -> tuple[PythonFile, ...]:
    """Return the Python files that import a network module, and those that could not be looked into."""
    return tuple(_find(image))


def _find(image: UnpackedImage) -> Iterator[PythonFile]:
    for entry in image.entries:
        # most files are done here: parsing one takes a hundred times as long as searching it
        if not (stat.S_ISREG(entry.mode) and entry.path.endswith(b".py") and _WORDS.search(entry.data)):
            continue
        path = entry.path.decode("ascii", "backslashreplace")
        tree = _parse(entry.data) if len(entry.data) <= MAX_SOURCE_BYTES else None
        if tree is None:
            yield PythonFile(path, (), readable=False)
        elif imports := tuple(sorted(set(_imports(tree)))):
            yield PythonFile(path, imports, readable=True)


def _parse(source: bytes) -> ast.Module | None:
    try:
        if tokenize.detect_encoding(io.BytesIO(source).readline)[0] not in ENCODINGS:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from (module for module in NETWORK_MODULES if f"{name}.".startswith(f"{module}."))
