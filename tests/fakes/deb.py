"""Debian packages made without the code under test: `ar` by hand, the rest by the standard library."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping

CONTROL = b"""Package: hello
Version: 1:2.10-3
Architecture: amd64
Maintainer: Somebody <somebody@example.org>
Description: example
 with a second line
"""


def make_ar(members: Mapping[str, bytes], *, suffix: str = "") -> bytes:
    """Return an archive as deb(5) shows it; GNU ar ends names with a slash."""
    output = b"!<arch>\n"
    for name, data in members.items():
        output += f"{name + suffix:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        output += data + b"\n" * (len(data) % 2)
    return output


def make_tar(
    entries: Iterable[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]], *, pax: bool = False
) -> bytes:
    """Return a tar archive in GNU format, as dpkg-deb writes it."""
    output = io.BytesIO()
    tar_format = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=output, mode="w", format=tar_format) as archive:
        for entry in entries:
            info, data = entry if isinstance(entry, tuple) else (entry, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def tar_file(path: str, data: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """Return a regular file."""
    info = tarfile.TarInfo(path)
    info.mode = mode
    return info, data


def tar_other(path: str, kind: bytes, *, target: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    """Return an entry without content."""
    info = tarfile.TarInfo(path)
    info.type = kind
    info.linkname = target
    info.mode = mode
    return info


def compress(data: bytes, suffix: str) -> bytes:
    """Compress as the suffix of the member's name says."""
    if suffix == ".xz":
        return lzma.compress(data, preset=0)
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    return data


def make_deb(data_tar: bytes, *, control: bytes = CONTROL, suffix: str = ".xz") -> bytes:
    """Return a package with this content."""
    control_tar = make_tar([tar_other("./", tarfile.DIRTYPE), tar_file("./control", control)])
    return make_ar(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{suffix}": compress(control_tar, suffix),
            f"data.tar{suffix}": compress(data_tar, suffix),
        }
    )
