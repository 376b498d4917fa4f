"""Addresses taken apart and put together."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

__all__ = ["escape_path", "file_path", "last_part", "scheme_of", "unquote"]


def scheme_of(url: str) -> str:
    """Return `http`, `https`, `file` and so on, in lower case; empty if there is none."""
    return urlsplit(url).scheme


def file_path(url: str) -> str:
    """Return the path in an address, unescaped."""
    return unquote(urlsplit(url).path)


def last_part(url: str) -> str:
    """Return the file name in an address, unescaped."""
    return file_path(url).rsplit("/", 1)[-1]


def escape_path(path: str) -> str:
    """Return a path as it stands in an address; `+` is escaped, as some servers read it as a space."""
    return quote(path, safe="/~:_.-")
