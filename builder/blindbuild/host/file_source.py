"""A file of this machine as a `Source`: read where it is asked for, never as a whole."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from blindbuild.errors import FormatError
from blindbuild.formats.source import check_range


class FileSource:
    """A regular file, open from `__init__` until `close` or the end of the `with` block.

    Raises:
        FormatError: it cannot be opened, or is not a regular file.
    """

    __slots__ = ("_descriptor", "_path", "_size")

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Non-blocking, so that a named pipe is refused rather than waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise FormatError(f"{path}: expected a file to read, got {error.strerror}") from error
        except ValueError as error:
            raise FormatError(f"expected the path of a file, got {str(path)!r}") from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FormatError(f"{path}: expected a regular file, got something else")
        self._size = status.st_size

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on.

        Raises:
            FormatError: the range is not inside the file, which may have become shorter since.
        """
        check_range(self, offset, size)
        parts: list[bytes] = []
        end = offset + size
        while offset < end:
            try:
                part = os.pread(self._descriptor, end - offset, offset)
            except OSError as error:
                raise FormatError(f"{self._path}: cannot be read at {offset}: {error.strerror}") from error
            if not part:
                raise FormatError(f"{self._path}: expected {end} bytes, got {offset}: it became shorter")
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
