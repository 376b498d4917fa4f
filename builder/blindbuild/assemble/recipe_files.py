"""The local files of a recipe: directories walked, permissions made independent of the umask, all hashed."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blindbuild.digest import Digest
from blindbuild.errors import RecipeError
from blindbuild.host.files import hash_file

MAX_LOCAL_FILES = (
    65536  # an application has hundreds; ends the walk through a home directory named by mistake
)

Mistake = Callable[..., RecipeError]
Naming = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A local file or directory to ship; `mode` is None where each file's own permission decides."""

    source: str
    target: str
    mode: int | None


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """A C source file, and the path of the program made of it."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class TreeRequest:
    """What the workload's root file system is made of."""

    debian: tuple[str, ...]
    wheels: tuple[str, ...]
    files: tuple[FileRequest, ...]
    compile: tuple[CompileRequest, ...]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file that goes into the image, or is compiled for it.

    Attributes:
        source: its path relative to the recipe's directory, with `/`.
        target: its path (or its program's) in the workload's root.
        mode: permissions in the image.
        size: in bytes.
        digest: SHA-256 of its content.
        compiled: whether it is a source file to compile.
    """

    source: str
    target: str
    mode: int
    size: int
    digest: Digest
    compiled: bool


def find_local_files(
    tree: TreeRequest, directory: Path, naming: Naming, mistake: Mistake
) -> tuple[LocalFile, ...]:
    """Return all local files a recipe names, sorted by target.

    Args:
        tree: the requests.
        directory: what their sources are relative to.
        naming: gives, for the keys that lead to a source, the directory of the recipe file that names it; a
            recipe ships what lies there, never what else its user can read.
        mistake: makes the error from a message and the keys that lead to its place in the recipe.

    Raises:
        RecipeError: a file is missing, not a plain one or outside of its recipe's directory, or two would be
            at the same place.
    """
    found: dict[str, LocalFile] = {}
    for keys, file in _all_files(tree, directory, naming, mistake):
        if (other := found.get(file.target)) is not None:
            raise mistake(f"{_dotted(keys)}.to: {file.target} is made of {other.source} already", *keys, "to")
        if len(found) >= MAX_LOCAL_FILES:
            raise mistake(f"{_dotted(keys)}.from: expected at most {MAX_LOCAL_FILES} files", *keys, "from")
        found[file.target] = file
    _check_nesting(found, mistake)
    return tuple(found[target] for target in sorted(found))


def _all_files(
    tree: TreeRequest, directory: Path, naming: Naming, mistake: Mistake
) -> Iterator[tuple[tuple[str | int, ...], LocalFile]]:
    for index, shipped in enumerate(tree.files):
        keys = ("tree", "files", index)
        _check_inside(directory / shipped.source, naming(*keys, "from"), keys, mistake)
        for file in _expand(shipped, directory, keys, mistake):
            yield keys, file
    for index, program in enumerate(tree.compile):
        keys = ("tree", "compile", index)
        path = directory / program.source
        _check_inside(path, naming(*keys, "from"), keys, mistake)
        if not path.is_file():
            raise mistake(f"{_dotted(keys)}.from: there is no file {path}", *keys, "from")
        yield keys, _local(path, program.source, program.target, 0o555, compiled=True)


def _check_inside(path: Path, base: Path, keys: tuple[str | int, ...], mistake: Mistake) -> None:
    try:
        inside = path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise mistake(
            f"{_dotted(keys)}.from: expected something in {base}, where this recipe file is, got {path}",
            *keys,
            "from",
            hint="copy it there; links do not lead out of it either",
        )


def _expand(
    request: FileRequest, directory: Path, keys: tuple[str | int, ...], mistake: Mistake
) -> Iterator[LocalFile]:
    top = directory / request.source
    if not top.exists():
        raise mistake(f"{_dotted(keys)}.from: there is no file or directory {top}", *keys, "from")
    for path in _files_below(top):
        inner = "" if path == top else "/" + path.relative_to(top).as_posix()
        if path.is_symlink() or not path.is_file() or re.fullmatch("[!-~]*", inner) is None:
            raise mistake(
                f"{_dotted(keys)}.from: expected regular files with plain ASCII names, got {path}",
                *keys,
                "from",
                hint="name the files to ship one by one",
            )
        mode = request.mode if request.mode is not None else _mode(path)
        yield _local(path, request.source + inner, request.target + inner, mode, compiled=False)


def _mode(path: Path) -> int:
    # Only whether it is executable: everything else depends on the umask of whoever checked it out.
    return 0o555 if path.stat().st_mode & 0o100 else 0o444


def _check_nesting(found: Mapping[str, LocalFile], mistake: Mistake) -> None:
    for target in found:
        parent = posixpath.dirname(target)
        while parent != "/":
            if parent in found:
                raise mistake(f"tree: {parent} cannot be a file, because {target} is below it", "tree")
            parent = posixpath.dirname(parent)


def _files_below(top: Path) -> list[Path]:
    if not top.is_dir():
        return [top]
    found: list[Path] = []
    for directory, directories, files in os.walk(top):
        found += [Path(directory, name) for name in files]
        found += [path for name in directories if (path := Path(directory, name)).is_symlink()]
    return sorted(found, key=os.fsencode)


def _local(path: Path, source: str, target: str, mode: int, *, compiled: bool) -> LocalFile:
    size, digest = hash_file(path)
    return LocalFile(source, target, mode, size, digest, compiled)


def _dotted(keys: tuple[str | int, ...]) -> str:
    return f"{keys[0]}.{keys[1]}[{keys[2]}]"
