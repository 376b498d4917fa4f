"""The cpio archives that systemd-stub makes for the initrd.

Source: systemd src/boot/cpio.c (before 257 in src/boot/efi), the same in 252, 254, 257 and 262: format newc
with lower-case digits, inode numbers from 1, one link, no owner and no time; the trailer has an upper-case B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.formats.streams import Piece, Stream, stream_size
from blindbuild.measure.stub_inputs import NamedFiles

ALIGNMENT = 4  # of newc, and of the initrds that the stub joins
MAX_NAME = 255  # characters; the stub leaves out files with longer names

_FORBIDDEN = frozenset('"*/:<>?\\|')  # FAT specification, "Long File Name": no part of a name

_TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!"
_PARENT_MODE = 0o555
_DIRECTORY = 0o040000
_REGULAR = 0o100000


@dataclass(frozen=True, slots=True)
class Folder:
    """Where in the initrd files go, and with which permissions."""

    path: str
    directory_mode: int
    file_mode: int


META = Folder(".extra", 0o555, 0o444)


def pack_files(folder: Folder, files: Sequence[tuple[str, Sequence[Piece]]]) -> Stream:
    """Return the archive of these files, in the given order."""
    parents = folder.path.split("/")
    pieces: list[Piece] = []
    inode = 1
    for depth in range(1, len(parents) + 1):
        mode = folder.directory_mode if depth == len(parents) else _PARENT_MODE
        pieces.append(_header(inode, _DIRECTORY | mode, "/".join(parents[:depth]), 0))
        inode += 1
    for name, content in files:
        size = stream_size(content)
        pieces.append(_header(inode, _REGULAR | folder.file_mode, f"{folder.path}/{name}", size))
        pieces += [*content, bytes(-size % ALIGNMENT)]
        inode += 1
    return (*pieces, _TRAILER + bytes(ALIGNMENT))


def pack_named_files(folder: Folder, files: NamedFiles, suffix: str, *, but_not: str = "") -> bytes:
    """Return the archive that the stub makes of a directory, empty if there is no file.

    Args:
        folder: where they go.
        files: name and content.
        suffix: what the stub looks for, in any case.
        but_not: a suffix that it leaves out; empty for none.

    Raises:
        MeasureError: a name that the stub would leave out, or one that is there twice.
    """
    if not files:
        return b""
    for name, _ in files:
        check_name(name, suffix)
        if but_not and name.lower().endswith(but_not):
            raise MeasureError(f"{name}: expected a file without {but_not}, which goes elsewhere")
    _check_unique([name for name, _ in files])
    packed = pack_files(folder, [(name, (content,)) for name, content in sorted(files)])
    return b"".join(piece for piece in packed if isinstance(piece, bytes))


def check_name(name: str, suffix: str) -> None:
    """Refuse the name of a file that the stub would leave out.

    Raises:
        MeasureError: it is not ASCII, too long, hidden, of another kind, or no name that a FAT file system
            can hold.
    """
    plain = name.isascii() and name.isprintable() and not name.startswith(".") and not _FORBIDDEN & set(name)
    if not plain or len(name) > MAX_NAME or not name.lower().endswith(suffix):
        raise MeasureError(
            f"expected the name of a file *{suffix} in ASCII of at most {MAX_NAME} characters, "
            f"got {name[:MAX_NAME]!r}"
        )


def _check_unique(names: Sequence[str]) -> None:
    # FAT does not tell upper from lower case.
    if len({name.lower() for name in names}) != len(names):
        raise MeasureError(f"expected files of different names, got {', '.join(sorted(names))}")


def _header(inode: int, mode: int, path: str, size: int) -> bytes:
    name = path.encode("ascii") + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return header + bytes(-len(header) % ALIGNMENT)
