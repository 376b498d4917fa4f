"""recipe.lock: every input of a build by name, version, size and SHA-256, as values and as text.

The text is JSON with one input a line and everything sorted, so that a diff reads well. It holds no time and
no host name. What is read is written back and compared, so that there is exactly one spelling of a lock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from blindbuild.assemble.requirement import wheel_identity
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, LockError
from blindbuild.host.files import read_bytes

if TYPE_CHECKING:
    from blindbuild.assemble.recipe import Recipe

LOCK_VERSION = 1
MAX_LOCK_BYTES = 16 << 20  # 65536 local files at 200 bytes a line; bounds memory
MAX_INPUT_BYTES = 1 << 40

ARCHIVES = ("debian", "debian-security")
GROUPS = ("toolchain", "kernel-source", "stub", "firmware", "tree")

# What compiles kernel and guest programs (ARCHITECTURE.md, fact 7), always from TOOLCHAIN_SUITE.
TOOLCHAIN_SUITE = "trixie"
TOOLCHAIN = (
    "bc binutils bison coreutils dash diffutils findutils flex gawk gcc golang-1.24-go grep gzip libc6-dev "
    "libelf-dev linux-libc-dev make musl-tools perl-base rsync sed tar xz-utils zstd"
)
STUB = "systemd-boot-efi"
FIRMWARE = "ovmf"

_VALUE = re.compile(r"[!-~]{1,512}")
_PATH = re.compile(r"(?:pool(?:/(?!\.{1,2}/)[A-Za-z0-9.+~_:-]+)+)\.deb")

T = TypeVar("T")
Raw = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A Debian package.

    Attributes:
        name: of the binary package.
        version: with epoch, as in its control file.
        architecture: `amd64` or `all`.
        archive: `debian` or `debian-security`.
        path: in that archive, from `pool/` on.
        size: in bytes.
        digest: SHA-256 from the archive's signed index.
    """

    name: str
    version: str
    architecture: str
    archive: str
    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """A Python wheel from the package index."""

    name: str
    version: str
    filename: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A local file; `source` is relative to the recipe's directory."""

    source: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Lock:
    """All inputs of a recipe.

    Attributes:
        suite: Debian suite of the group `tree`.
        recipe_checksum: `deep_checksum` of the recipe it was made for.
        request_checksum: `request_checksum` of it: what a package resolution depends on.
        groups: locked packages sorted by name, for each of `GROUPS`.
        wheels: sorted by name.
        files: sorted by source.
    """

    suite: str
    recipe_checksum: Digest
    request_checksum: Digest
    groups: Mapping[str, tuple[LockedPackage, ...]]
    wheels: tuple[LockedWheel, ...]
    files: tuple[LockedFile, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One group's wish: these packages of a suite, with or without what they depend on."""

    group: str
    suite: str
    names: tuple[str, ...]
    with_dependencies: bool


def requests_of(recipe: Recipe) -> tuple[Request, ...]:
    """Return what must be resolved for a recipe, in the order of `GROUPS`."""
    return (
        Request("toolchain", TOOLCHAIN_SUITE, tuple(TOOLCHAIN.split()), True),
        Request("kernel-source", TOOLCHAIN_SUITE, (recipe.kernel.source,), False),
        Request("stub", recipe.stub_suite, (STUB,), False),
        Request("firmware", recipe.firmware_suite, (FIRMWARE,), False),
        Request("tree", recipe.suite, tuple(sorted(recipe.tree.debian)), True),
    )


def request_checksum(recipe: Recipe) -> Digest:
    """Return the digest of everything that package resolution depends on; local files do not count."""
    lines = []
    for item in requests_of(recipe):
        depth = "closure" if item.with_dependencies else "alone"
        lines.append(f"{item.group} {item.suite} {depth} {' '.join(item.names)}\n")
    lines.append(f"wheels {recipe.suite} {' '.join(sorted(recipe.tree.wheels))}\n")
    return Digest.sha256(f"blindbuild-requests {LOCK_VERSION}\n{''.join(lines)}".encode())


def deep_checksum(recipe: Recipe) -> Digest:
    """Return the digest of everything a lock depends on: recipe, what it extends, local files, requests."""
    text = f"blindbuild-lock {LOCK_VERSION}\n{recipe.checksum}\n{request_checksum(recipe)}\n"
    return Digest.sha256(text.encode())


def lock_path(recipe: Recipe, *, local: bool = False) -> Path:
    """Return where a recipe's lock is; `local` for the one beside it that is not tracked."""
    return recipe.path.with_suffix(".local.lock" if local else ".lock")


def check_lock(recipe: Recipe, lock: Lock) -> None:
    """Check that a lock was made for the recipe as it is now.

    Raises:
        LockError: something changed since; the hint says what to run.
    """
    if lock.recipe_checksum.equals(deep_checksum(recipe)):
        return
    raise LockError(
        f"{recipe.path}: {_what_changed(recipe, lock)} changed since it was locked",
        hint=f"run `blindbuild lock {recipe.path}`, and look at the difference",
    )


def _what_changed(recipe: Recipe, lock: Lock) -> str:
    then = {file.source: file.digest for file in lock.files}
    now = {file.source: file.digest for file in recipe.local_files}
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if not changed:
        asked = lock.request_checksum.equals(request_checksum(recipe))
        return "the recipe" if asked else "what it needs from Debian and PyPI"
    return changed[0] if len(changed) == 1 else f"{changed[0]} (and {len(changed) - 1} more)"


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        LockError: it is not there, or not exactly what `render_lock` writes.
    """
    hint = "run `blindbuild lock` for the recipe"
    return parse_lock(read_bytes(path, error=LockError, hint=hint, limit_bytes=MAX_LOCK_BYTES), str(path))


def load_lock(recipe: Recipe, *, local: bool = False) -> Lock:
    """Read the lock beside a recipe and check that it was made for the recipe as it is now.

    Raises:
        LockError: as `read_lock` and `check_lock`.
    """
    lock = read_lock(lock_path(recipe, local=local))
    check_lock(recipe, lock)
    return lock


def render_lock(lock: Lock) -> bytes:
    """Return the one textual form of a lock."""
    groups = ",\n".join(
        f"    {json.dumps(name)}: {_rows([_package_row(item) for item in lock.groups[name]], 4)}"
        for name in sorted(lock.groups)
    )
    wheels = [
        {"name": item.name, "version": item.version, "filename": item.filename, "sha256": item.digest.hex}
        for item in lock.wheels
    ]
    files = [{"source": item.source, "size": item.size, "sha256": item.digest.hex} for item in lock.files]
    return (
        f'{{\n  "version": {LOCK_VERSION},\n  "suite": {json.dumps(lock.suite)},\n'
        f'  "recipe": "{lock.recipe_checksum}",\n  "requests": "{lock.request_checksum}",\n'
        f'  "groups": {{\n{groups}\n  }},\n'
        f'  "wheels": {_rows(wheels, 2)},\n  "files": {_rows(files, 2)}\n}}\n'
    ).encode()


def parse_lock(data: bytes, name: str) -> Lock:
    """Parse a lock strictly.

    Args:
        data: what `render_lock` gave.
        name: how errors call it.

    Raises:
        LockError: anything else; the message says where it differs as far as that is known.
    """
    reader = _Reader(name)
    lock = reader.lock(reader.json(data))
    if render_lock(lock) != data:
        raise reader.error("expected the form that `blindbuild lock` writes, got another spelling or order")
    return lock


def _package_row(item: LockedPackage) -> Raw:
    return {
        "name": item.name,
        "version": item.version,
        "architecture": item.architecture,
        "archive": item.archive,
        "path": item.path,
        "size": item.size,
        "sha256": item.digest.hex,
    }


def _rows(rows: Sequence[Raw], indent: int) -> str:
    if not rows:
        return "[]"
    inner = " " * (indent + 2)
    lines = ",\n".join(inner + json.dumps(row, ensure_ascii=True) for row in rows)
    return f"[\n{lines}\n{' ' * indent}]"


class _Reader:
    """Checks shapes; the order and the spelling are checked by writing the lock back."""

    def __init__(self, name: str) -> None:
        self._name = name

    def error(self, message: str) -> LockError:
        return LockError(
            f"{self._name}: {message}",
            hint="`blindbuild lock` writes this file: run it, or restore the file from version control",
        )

    def json(self, data: bytes) -> Raw:
        if data.count(b"\n<<<<<<< ") or data.startswith(b"<<<<<<< "):
            raise self.error("expected a lock, got one with unresolved merge conflicts")
        try:
            value = json.loads(data.decode("ascii"), parse_float=self._no_float)
        except (ValueError, RecursionError) as error:
            raise self.error(f"not valid JSON: {error}") from error
        return self._record(value, "the lock", "version suite recipe requests groups wheels files")

    def lock(self, raw: Raw) -> Lock:
        if raw["version"] != LOCK_VERSION:
            raise self.error(f"expected version {LOCK_VERSION}, got {raw['version']!r}")
        groups = self._record(raw["groups"], "groups", " ".join(GROUPS))
        return Lock(
            suite=self._text(raw["suite"], "suite"),
            recipe_checksum=self._checksum(raw["recipe"], "recipe"),
            request_checksum=self._checksum(raw["requests"], "requests"),
            groups={name: self._list(groups[name], name, self._package, _name) for name in GROUPS},
            wheels=self._list(raw["wheels"], "wheels", self._wheel, _name),
            files=self._list(raw["files"], "files", self._file, lambda file: file.source),
        )

    def _no_float(self, text: str) -> float:
        raise ValueError(f"expected whole numbers only, got {text}")

    def _record(self, value: object, what: str, names: str) -> Raw:
        if not isinstance(value, dict) or set(value) != set(names.split()):
            got = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
            raise self.error(f"{what}: expected {', '.join(sorted(names.split()))}, got {got}")
        return cast(Raw, value)

    def _list(
        self, value: object, what: str, read: Callable[[object, str], T], key: Callable[[T], str]
    ) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise self.error(f"{what}: expected a list, got {type(value).__name__}")
        items = tuple(read(item, f"{what}[{index}]") for index, item in enumerate(value))
        keys = [key(item) for item in items]
        if keys != sorted(set(keys)):
            raise self.error(f"{what}: expected distinct entries in order")
        return items

    def _package(self, value: object, what: str) -> LockedPackage:
        raw = self._record(value, what, "name version architecture archive path size sha256")
        archive, path = self._text(raw["archive"], what), self._text(raw["path"], what)
        architecture = self._text(raw["architecture"], what)
        if archive not in ARCHIVES or architecture not in ("amd64", "all") or not _PATH.fullmatch(path):
            raise self.error(
                f"{what}: expected archive, architecture and path of a Debian package, got {path}"
            )
        return LockedPackage(
            name=self._text(raw["name"], what),
            version=self._text(raw["version"], what),
            architecture=architecture,
            archive=archive,
            path=path,
            size=self._size(raw["size"], what),
            digest=self._digest(raw["sha256"], what),
        )

    def _wheel(self, value: object, what: str) -> LockedWheel:
        raw = self._record(value, what, "name version filename sha256")
        filename = self._text(raw["filename"], what)
        name, version = self._text(raw["name"], what), self._text(raw["version"], what)
        try:
            said = wheel_identity(filename)
        except FormatError as error:
            raise self.error(f"{what}: {error.message}") from error
        if (name, version) != said:  # pip is told both: nothing but a project's name and version may be here
            raise self.error(f"{what}: expected {' '.join(said)} as its file name says, got {name} {version}")
        return LockedWheel(name, version, filename, self._digest(raw["sha256"], what))

    def _file(self, value: object, what: str) -> LockedFile:
        raw = self._record(value, what, "source size sha256")
        source = raw["source"]
        if not isinstance(source, str) or not re.fullmatch("(?!/)[ -~]{1,4096}", source):
            raise self.error(f"{what}: expected a relative path")
        return LockedFile(source, self._size(raw["size"], what), self._digest(raw["sha256"], what))

    def _text(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise self.error(f"{what}: expected a word, got {value!r:.60}")
        return value

    def _size(self, value: object, what: str) -> int:
        if type(value) is not int or not 0 <= value <= MAX_INPUT_BYTES:
            raise self.error(f"{what}: expected a size in bytes, got {value!r:.60}")
        return value

    def _digest(self, value: object, what: str) -> Digest:
        try:
            return Digest.from_hex(HashAlgorithm.SHA256, self._text(value, what))
        except FormatError as error:
            raise self.error(f"{what}: {error.message}") from error

    def _checksum(self, value: object, what: str) -> Digest:
        return self._digest(self._text(value, what).removeprefix("sha256:"), what)


def _name(item: LockedPackage | LockedWheel) -> str:
    return item.name
