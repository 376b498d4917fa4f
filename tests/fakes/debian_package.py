"""Write a Debian package with nothing but the standard library: an oracle for what blindbuild reads.

Source: deb(5).
"""

import io
import tarfile
from collections.abc import Mapping

from blindbuild.assemble.lock import LockedPackage
from blindbuild.digest import Digest


def write_deb(
    package: str, version: str, files: Mapping[str, bytes | str | None], *, mode: int = 0o644
) -> bytes:
    """Return a package with these paths: bytes are a file, text is a symbolic link, None is a directory.

    Files whose path has `bin/` in it are executable.
    """
    control = f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n".encode()
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", _write_tar({"control": control}, mode)),
        ("data.tar.xz", _write_tar(files, mode)),
    )
    return b"!<arch>\n" + b"".join(_write_member(name, data) for name, data in members)


def lock_deb(package: str, version: str, data: bytes) -> LockedPackage:
    """Return the lock entry of a package."""
    path = f"pool/main/x/{package}_{version}_amd64.deb"
    return LockedPackage(package, version, "amd64", "debian", path, len(data), Digest.sha256(data))


def _write_member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode("ascii")
    return header + data + b"\n" * (len(data) % 2)


def _write_tar(files: Mapping[str, bytes | str | None], mode: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", format=tarfile.GNU_FORMAT) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.mode = 0o755 if "bin/" in path or content is None else mode
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return stream.getvalue()
