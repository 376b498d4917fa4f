"""The file's name before what is wrong with it: a verb reads several, a parser knows no names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from blindbuild.errors import FormatError, ManifestError


@contextlib.contextmanager
def reading(path: Path, *, hint: str | None = None) -> Iterator[None]:
    """Name the file in every error about its content.

    Args:
        path: the file whose bytes are parsed inside.
        hint: what would have been a right file, for errors that have no hint of their own.

    Raises:
        FormatError, ManifestError: what was raised inside, of the same class.
    """
    try:
        yield
    except (FormatError, ManifestError) as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint or hint) from error
