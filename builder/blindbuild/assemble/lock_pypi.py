"""Python wheels: resolved and downloaded by pip as the machine has it configured; pinned by hash in the lock.

pip is told which Python and which C library the wheels are for, because the image's are not the builder's. It
never follows dependencies: one that names an address would be built here, that is, its code would run. They
are read from pip's report, and pip is asked again with those that are allowed, until no new ones come. What
was once required stays required, so this ends; if it ends in a conflict, another version in the recipe helps.

Source: pip 23 documentation, `pip install --report`, `pip download --require-hashes`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from blindbuild.assemble.lock import LockedWheel
from blindbuild.assemble.requirement import ProjectRequirement, parse_requirement, wheel_identity
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FetchError, FormatError, LockError, ToolError
from blindbuild.host.files import hash_file, read_bytes, temporary_directory, write_atomically
from blindbuild.host.process import Tool, run
from blindbuild.host.urls import file_path, last_part, scheme_of

PIP_TIMEOUT_S = 1800.0
MAX_ROUNDS = 32  # real trees are less than 10 deep; ends one that is made to go on for ever
MAX_REPORT_BYTES = 64 << 20  # the largest metadata are about 100 KB a wheel; bounds memory
PYTHONS = {"trixie": "3.13", "bookworm": "3.11"}  # what the suite's python3 is
_LIBC_MINORS = {"trixie": 41, "bookworm": 36}  # glibc 2.N of the suite
_MANYLINUX = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 38, 39, 41)  # PEP 600 names in use
_CONFIGURING = re.compile(
    r"PIP_\w+|HOME|XDG_CONFIG_(HOME|DIRS)|(https?|all|no)_proxy|(REQUESTS|CURL)_CA_BUNDLE|SSL_CERT_(FILE|DIR)",
    re.IGNORECASE,
)


def resolve_wheels(
    requirements: Sequence[str], suite: str, *, keep: Sequence[LockedWheel], environ: Mapping[str, str]
) -> tuple[LockedWheel, ...]:
    """Return the wheels that the requirements need, with all they depend on, sorted by name.

    Args:
        requirements: `name==version` each.
        suite: whose Python and C library they are for.
        keep: versions to keep where they still fit.
        environ: the user's environment, for pip's configuration.

    Raises:
        LockError: something has no wheel for this platform, or no known hash.
    """
    if not requirements:
        return ()
    python = PYTHONS[suite]
    roots = [parse_requirement(text, wanted_by="the recipe", python=python) for text in requirements]
    wanted = {root for root in roots if root is not None}
    with temporary_directory() as directory:
        constraints = "".join(f"{wheel.name}=={wheel.version}\n" for wheel in keep)
        write_atomically(directory / "constraints.txt", constraints.encode())
        for _ in range(MAX_ROUNDS):
            chosen = _choose(wanted, suite, directory, environ)
            found = {item for wheel in chosen for item in _dependencies(wheel, wanted, python)}
            if found <= wanted:
                return tuple(sorted((item.wheel for item in chosen), key=lambda wheel: wheel.name))
            wanted |= found
    raise LockError(
        f"expected wheels to depend on each other at most {MAX_ROUNDS} deep, got more",
        hint="name other versions in the recipe",
    )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A wheel that pip chose, and its `Requires-Dist`."""

    wheel: LockedWheel
    requires: tuple[str, ...]


def _choose(
    wanted: Collection[ProjectRequirement], suite: str, directory: Path, environ: Mapping[str, str]
) -> list[_Chosen]:
    """Let pip choose one wheel for each project that is named, and nothing else."""
    report = directory / "report.json"
    arguments = [
        *("install", "--dry-run", "--ignore-installed", "--quiet", "--no-deps"),
        *("--target", str(directory / "none"), "--report", str(report)),
        *("--constraint", str(directory / "constraints.txt")),
        *_platform(suite),
        *sorted({str(item) for item in wanted}),
    ]
    try:
        _pip(arguments, directory, environ)
    except ToolError as error:
        raise LockError(
            f"wheels for Python {PYTHONS[suite]}: {_told(error)}",
            hint="check names and versions, and that there are wheels for Linux on x86-64",
        ) from error
    return _read_report(read_bytes(report, error=LockError, limit_bytes=MAX_REPORT_BYTES))


def _dependencies(
    chosen: _Chosen, wanted: Collection[ProjectRequirement], python: str
) -> Iterator[ProjectRequirement]:
    name = chosen.wheel.name
    extras = {extra for item in wanted if item.name == name for extra in item.extras}
    for text in chosen.requires:
        found = parse_requirement(text, wanted_by=name, extras=extras, python=python)
        if found is not None:
            yield found


def download_wheels(
    wheels: Sequence[LockedWheel], suite: str, directory: Path, environ: Mapping[str, str]
) -> None:
    """Download wheels into a directory under their own names; pip compares their hashes.

    Raises:
        FetchError: a wheel is gone, or is not the locked one.
    """
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.digest.hex}\n" for wheel in wheels]
    listed = directory / "requirements.txt"
    write_atomically(listed, "".join(lines).encode())
    arguments = ["download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(directory)]
    try:
        _pip([*arguments, *_platform(suite), "--requirement", str(listed)], directory, environ)
    except ToolError as error:
        names = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)
        raise FetchError(
            f"wheels {names}: {_told(error)}",
            hint="if a version is gone, change it in the recipe and run `blindbuild lock`",
        ) from error


def _platform(suite: str) -> list[str]:
    version, newest = PYTHONS[suite], _LIBC_MINORS[suite]
    tag = version.replace(".", "")
    names = [f"manylinux_2_{minor}_x86_64" for minor in reversed(_MANYLINUX) if minor <= newest]
    platforms = [word for name in (*names, "linux_x86_64") for word in ("--platform", name)]
    return [
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", version, "--abi", f"cp{tag}"),
        *platforms,
    ]


def _pip(arguments: Sequence[str], directory: Path, environ: Mapping[str, str]) -> None:
    settings = [(key, value) for key, value in environ.items() if _CONFIGURING.fullmatch(key)]
    python = Tool(sys.executable, "python3-venv")
    words = ["-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    run(python, words, cwd=directory, extra_env=settings, timeout_s=PIP_TIMEOUT_S)


def _read_report(data: bytes) -> list[_Chosen]:
    try:
        return [_read_chosen(item) for item in json.loads(data)["install"]]
    except (ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
        raise LockError(f"pip's report is not as expected: {error!r}") from error


def _read_chosen(item: Mapping[str, Mapping[str, object]]) -> _Chosen:
    requires = cast(Sequence[object], item["metadata"].get("requires_dist") or ())
    return _Chosen(_read_wheel(item), tuple(str(text) for text in requires))


def _read_wheel(item: Mapping[str, Mapping[str, object]]) -> LockedWheel:
    url = str(item["download_info"]["url"])
    filename = last_part(url)
    name, version = wheel_identity(filename)
    archive = cast(Mapping[str, object], item["download_info"].get("archive_info", {}))
    hashes = cast(Mapping[str, str], archive.get("hashes") or {})
    pinned = hashes.get("sha256") or str(archive.get("hash", "")).removeprefix("sha256=")
    if pinned:
        digest = Digest.from_hex(HashAlgorithm.SHA256, pinned)
    elif scheme_of(url) == "file":
        digest = hash_file(Path(file_path(url)))[1]
    else:
        raise LockError(f"{name} {version}: the package index gives no sha256 for {filename}")
    return LockedWheel(name, version, filename, digest)


def _told(error: ToolError) -> str:
    """Return pip's own complaints from a failed run, on one line."""
    lines = [line[7:] for line in error.message.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(lines) or error.message
