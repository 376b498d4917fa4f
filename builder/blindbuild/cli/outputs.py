"""What is in images/NAME/VERSION/, read and checked."""

from __future__ import annotations

import re
from pathlib import Path

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BuildError, UsageError
from blindbuild.host.files import read_bytes

SUMS = "SHA256SUMS"
MANIFEST, RELEASE, STATEMENT = "manifest.dsse.json", "release.dsse.json", "statement.json"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+-]*)")


def read_sums(place: Path) -> dict[str, Digest]:
    """Return the digests an image directory promises, by file name."""
    sums = {}
    for line in (
        read_bytes(place / SUMS, error=UsageError, hint="name an image directory").decode().splitlines()
    ):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{place / SUMS}: expected a digest and a name, got {line[:80]!r}")
        sums[match[2]] = Digest.from_hex(HashAlgorithm.SHA256, match[1])
    return sums


def check_image(place: Path) -> dict[str, Digest]:
    """Return `read_sums` after hashing every file.

    Raises:
        BuildError: a file is not what SHA256SUMS says.
    """
    sums = read_sums(place)
    for name, digest in sums.items():
        if not Digest.sha256(read_bytes(place / name, error=BuildError)).equals(digest):
            raise BuildError(f"{place / name}: not the file that {SUMS} names", hint="build the image again")
    return sums


def find_manifest(path: Path) -> tuple[Path, Path]:
    """Return the files of manifest and release for an image directory or a manifest file."""
    manifest = path / MANIFEST if path.is_dir() else path
    if not manifest.is_file():
        raise UsageError(
            f"{manifest}: not there", hint=f"sign the image first: blindbuild sign {path} --key KEY"
        )
    return manifest, manifest.with_name(RELEASE)
