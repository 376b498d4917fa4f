"""Python wheels: resolved and downloaded by pip as the machine has it configured; pinned by hash in the lock.

pip is told which Python and which C library the wheels are for, because the image's are not the builder's. It
evaluates environment markers for the Python it runs on, though: a dependency that only the image's newer
Python needs must be named in the recipe.

Source: pip 23 documentation, `pip install --report`, `pip download --require-hashes`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from blindbuild.assemble.lock import LockedWheel
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FetchError, FormatError, LockError, ToolError
from blindbuild.host.files import hash_file, temporary_directory, write_atomically
from blindbuild.host.process import Tool, run
from blindbuild.host.urls import file_path, last_part, scheme_of

PIP_TIMEOUT_S = 1800.0
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
    with temporary_directory() as directory:
        constraints = "".join(f"{wheel.name}=={wheel.version}\n" for wheel in keep)
        write_atomically(directory / "constraints.txt", constraints.encode())
        report = directory / "report.json"
        arguments = [
            *("install", "--dry-run", "--ignore-installed", "--quiet", "--target", str(directory / "none")),
            *("--report", str(report), "--constraint", str(directory / "constraints.txt")),
            *_platform(suite),
            *requirements,
        ]
        try:
            _pip(arguments, directory, environ)
        except ToolError as error:
            raise LockError(
                f"wheels for Python {PYTHONS[suite]}: {_told(error)}",
                hint="check names and versions, and that there are wheels for Linux on x86-64",
            ) from error
        wheels = _read_report(report.read_bytes())
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


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


def _read_report(data: bytes) -> list[LockedWheel]:
    try:
        return [_read_wheel(item) for item in json.loads(data)["install"]]
    except (ValueError, KeyError, TypeError, FormatError) as error:
        raise LockError(f"pip's report is not as expected: {error!r}") from error


def _read_wheel(item: Mapping[str, Mapping[str, object]]) -> LockedWheel:
    metadata = item["metadata"]
    name, version = str(metadata["name"]), str(metadata["version"])
    url = str(item["download_info"]["url"])
    filename = last_part(url)
    if not filename.endswith(".whl"):
        raise LockError(f"{name} {version}: expected a wheel, got {filename}")
    archive = cast(Mapping[str, object], item["download_info"].get("archive_info", {}))
    hashes = cast(Mapping[str, str], archive.get("hashes") or {})
    pinned = hashes.get("sha256") or str(archive.get("hash", "")).removeprefix("sha256=")
    if pinned:
        digest = Digest.from_hex(HashAlgorithm.SHA256, pinned)
    elif scheme_of(url) == "file":
        digest = hash_file(Path(file_path(url)))[1]
    else:
        raise LockError(f"{name} {version}: the package index gives no sha256 for {filename}")
    return LockedWheel(re.sub(r"[-_.]+", "-", name).lower(), version, filename, digest)


def _told(error: ToolError) -> str:
    """Return pip's own complaints from a failed run, on one line."""
    lines = [line[7:] for line in error.message.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(lines) or error.message
