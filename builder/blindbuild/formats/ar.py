"""The `ar` archive: a strict reader for the common subset that Debian packages use.

Source: deb(5) "FORMAT" and ar(5): an 8-byte magic, then members with a 60-byte ASCII header, each padded to
an even offset with one newline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import ArchiveError

MAGIC = b"!<arch>\n"
HEADER_SIZE = 60
MAX_MEMBERS = 64  # a Debian package has 3; bounds the work on a hostile file

# the fields of a header; numbers are left-justified and padded with spaces
_FIELDS = (
    ("name", 0, 16),
    ("mtime", 16, 28),
    ("uid", 28, 34),
    ("gid", 34, 40),
    ("mode", 40, 48),
    ("size", 48, 58),
)
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._+-]*/?")
_DECIMAL = re.compile(rb"0|[1-9][0-9]*")
_OCTAL = re.compile(rb"[0-7]+")


@dataclass(frozen=True, slots=True)
class ArMember:
    """One member: its name without padding, and a read-only view of its content (no copy)."""

    name: str
    data: memoryview


def read_ar(data: bytes | memoryview) -> tuple[ArMember, ...]:
    """Return the members of an `ar` archive in file order.

    Args:
        data: the whole archive; the members' `data` are views into it.

    Returns:
        At least one member; names are unique.

    Raises:
        ArchiveError: wrong magic, a malformed header, a member that is cut off, bad padding, or GNU/BSD name
            extensions (which no Debian package uses).

    Source: deb(5), ar(5).
    """
    view = memoryview(data).toreadonly()
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise ArchiveError(f"ar: expected magic {MAGIC!r}, got {bytes(view[: len(MAGIC)])!r}")
    members: dict[str, ArMember] = {}
    offset = len(MAGIC)
    while offset < len(view):
        if len(members) == MAX_MEMBERS:
            raise ArchiveError(f"ar: expected at most {MAX_MEMBERS} members")
        member, offset = _read_member(view, offset)
        if member.name in members:
            raise ArchiveError(f"ar: member {member.name!r} occurs twice")
        members[member.name] = member
    if not members:
        raise ArchiveError("ar: expected at least one member, got none")
    return tuple(members.values())


def _read_member(view: memoryview, offset: int) -> tuple[ArMember, int]:
    """Return the member whose header starts at `offset`, and the offset of the next header."""
    name, size = _parse_header(bytes(view[offset : offset + HEADER_SIZE]), offset)
    start = offset + HEADER_SIZE
    end = start + size
    if end > len(view):
        raise ArchiveError(f"ar: {name}: expected {size} bytes, got {len(view) - start}")
    if size % 2:
        if bytes(view[end : end + 1]) != b"\n":
            raise ArchiveError(f"ar: {name}: expected a newline as padding at offset {end}")
        end += 1
    return ArMember(name=name, data=view[start : start + size]), end


def _parse_header(header: bytes, offset: int) -> tuple[str, int]:
    """Return name and size of a 60-byte member header."""
    if len(header) != HEADER_SIZE:
        raise ArchiveError(
            f"ar: expected a {HEADER_SIZE}-byte header at offset {offset}, got {len(header)} bytes"
        )
    if header[58:] != b"`\n":
        raise ArchiveError(f"ar: expected the end of a header at offset {offset + 58}, got {header[58:]!r}")
    fields = {name: header[start:end].rstrip(b" ") for name, start, end in _FIELDS}
    for name, pattern in (
        ("mtime", _DECIMAL),
        ("uid", _DECIMAL),
        ("gid", _DECIMAL),
        ("mode", _OCTAL),
        ("size", _DECIMAL),
    ):
        if not pattern.fullmatch(fields[name]):
            raise ArchiveError(f"ar: malformed {name} {fields[name]!r} in the header at offset {offset}")
    if not _NAME.fullmatch(fields["name"]):
        raise ArchiveError(f"ar: expected a plain member name at offset {offset}, got {fields['name']!r}")
    return fields["name"].removesuffix(b"/").decode("ascii"), int(fields["size"])
