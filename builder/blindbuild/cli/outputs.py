"""What is in images/NAME/VERSION/, read and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BuildError, UsageError
from blindbuild.host.files import read_bytes

SUMS = "SHA256SUMS"
MANIFEST, RELEASE, STATEMENT = "manifest.dsse.json", "release.dsse.json", "statement.json"
LEDGER = "channels.json"
PROBE, PROBE_ENVELOPE = "probe.json", "probe.dsse.json"
REBUILDS = "rebuilds"  # directory of rebuild records, one a rebuilder
MAX_SUMS = 1 << 16  # bytes; an image has half a dozen files
_FILES = (LEDGER, "kernel.config", "System.map", STATEMENT)  # beside NAME.efi and NAME.raw
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+-]*)")


def read_sums(place: Path) -> dict[str, Digest]:
    """Return the digests an image directory promises, by file name."""
    hint = "name an image directory"
    data = read_bytes(place / SUMS, error=UsageError, hint=hint, limit_bytes=MAX_SUMS)
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{place / SUMS}: expected ASCII text, got other bytes", hint=hint) from error
    sums = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{place / SUMS}: expected a digest and a name, got {line[:80]!r}")
        sums[match[2]] = Digest.from_hex(HashAlgorithm.SHA256, match[1])
    return sums


def check_image(place: Path) -> Mapping[str, bytes]:
    """Return every file that SHA256SUMS names, by name: the very bytes that were hashed.

    Raises:
        UsageError: not an image directory.
        BuildError: a file is not what SHA256SUMS says, or it leaves one out that an image has.
    """
    sums = read_sums(place)
    _check_complete(place, sums)
    files = {}
    for name, digest in sums.items():
        files[name] = read_bytes(place / name, error=BuildError)
        if not Digest.sha256(files[name]).equals(digest):
            raise BuildError(f"{place / name}: not the file that {SUMS} names", hint="build the image again")
    return files


def _check_complete(place: Path, names: Collection[str]) -> None:
    images = [name for name in names if name.endswith(".efi")]
    if len(images) != 1:
        raise BuildError(
            f"{place / SUMS}: expected one NAME.efi, got {len(images)}", hint="build the image again"
        )
    missing = sorted({*_FILES, f"{images[0].removesuffix('.efi')}.raw"} - set(names))
    if missing:
        raise BuildError(f"{place / SUMS}: expected {', '.join(missing)} too", hint="build the image again")


def find_manifest(path: Path) -> tuple[Path, Path]:
    """Return the files of manifest and release for an image directory or a manifest file."""
    manifest = path / MANIFEST if path.is_dir() else path
    if not manifest.is_file():
        raise UsageError(
            f"{manifest}: not there", hint=f"sign the image first: blindbuild sign {path} --key KEY"
        )
    return manifest, manifest.with_name(RELEASE)
