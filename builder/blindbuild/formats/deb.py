"""Debian binary packages as data: control fields and files; maintainer scripts are never looked at.

Source: deb(5), deb-control(5); Debian Policy 5.6.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from blindbuild.errors import ArchiveError
from blindbuild.formats.ar import ArMember, read_ar
from blindbuild.formats.tar import EntryKind, TarEntry, read_tar

MAX_UNPACKED = 4 << 30  # bytes a package may unpack to; the largest one in use here has 400 MB
MAX_CONTROL = 1 << 20  # bytes of the control file; real ones have < 10 kB
XZ_MEMORY_LIMIT = 256 << 20  # bytes; `xz -9` needs 65 MiB to unpack
_CHUNK = 1 << 20  # bytes handed to and asked from a decompressor at once

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~-]*")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]*")
_FIELD_NAME = re.compile(r"[!-,./-9;-~][!-9;-~]*")


@dataclass(frozen=True, slots=True)
class DebPackage:
    """A package: its control fields, and its content, still packed, to be iterated over by `entries`."""

    control: Mapping[str, str]
    data_member: ArMember

    @property
    def package(self) -> str:
        """Its name."""
        return self.control["Package"]

    @property
    def version(self) -> str:
        """Its version with epoch and revision."""
        return self.control["Version"]

    @property
    def architecture(self) -> str:
        """Its architecture: `amd64`, `all`, …"""
        return self.control["Architecture"]

    @property
    def entries(self) -> Iterator[TarEntry]:
        """A new iterator over the files, in package order; one entry's content is held at a time.

        The guarantees and errors are those of `formats.tar.read_tar`.
        """
        where = f"{self.package} {self.version}: {self.data_member.name}"
        return read_tar(_open_member(self.data_member, where), where=where)


def read_deb(data: bytes | memoryview) -> DebPackage:
    """Return the package in `data`: control fields parsed, content to be read by `entries`.

    Args:
        data: the whole `.deb`; it is referenced, not copied.

    Raises:
        ArchiveError: not the three members of format 2.0, a compression other than xz, gzip or none, or a
        control
            file that is malformed or lacks Package, Version or Architecture.

    Source: deb(5).
    """
    members = read_ar(data)
    names = [member.name for member in members]
    if len(members) != 3 or names[0] != "debian-binary" or bytes(members[0].data) != b"2.0\n":
        raise ArchiveError(f"deb: expected format 2.0 with debian-binary, control.tar, data.tar, got {names}")
    for member, stem in zip(members[1:], ("control.tar", "data.tar"), strict=True):
        if member.name != stem and not member.name.startswith(f"{stem}."):
            raise ArchiveError(f"deb: expected member {stem}, got {member.name}")
        _check_compression(member.name)
    return DebPackage(control=_read_control(members[1]), data_member=members[2])


def _check_compression(name: str) -> None:
    suffix = name.partition(".tar")[2]
    if suffix == ".zst":
        raise ArchiveError(
            f"deb: {name}: packages compressed with zstd are not supported",
            hint="Debian's own packages use xz; repack a foreign one with `dpkg-deb -Zxz`",
        )
    if suffix not in ("", ".gz", ".xz"):
        raise ArchiveError(f"deb: {name}: expected no compression, .gz or .xz")


def _read_control(member: ArMember) -> Mapping[str, str]:
    """Return the fields of the file `control` in the control member."""
    where = f"deb: {member.name}"
    content: bytes | None = None
    for entry in read_tar(_open_member(member, where), where=where):
        if entry.path == b"control" and entry.kind is EntryKind.FILE:
            content = entry.data
    if content is None:
        raise ArchiveError(f"{where}: expected a file control, got none")
    if len(content) > MAX_CONTROL:
        raise ArchiveError(f"{where}: control: expected at most {MAX_CONTROL} bytes, got {len(content)}")
    fields = parse_control(content)
    for name, pattern in (("Package", _PACKAGE), ("Version", _VERSION), ("Architecture", _ARCHITECTURE)):
        if not pattern.fullmatch(fields.get(name, "")):
            raise ArchiveError(f"{where}: control: expected a valid {name}, got {fields.get(name)!r}")
    return fields


def parse_control(content: bytes) -> Mapping[str, str]:
    """Return the fields of a control file of one paragraph; continuation lines stay joined by newlines.

    Raises:
        ArchiveError: not UTF-8, a line that is neither field nor continuation, or a field given twice.

    Source: deb822(5).
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"control: expected UTF-8, got {error.reason} at byte {error.start}") from error
    fields: dict[str, str] = {}
    last = ""
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if line[:1] in (" ", "\t") and last:
            fields[last] += "\n" + line
            continue
        last, colon, value = line.partition(":")
        if not colon or not _FIELD_NAME.fullmatch(last):
            raise ArchiveError(f"control: line {number}: expected `Field: value`, got {line[:80]!r}")
        if last in fields:
            raise ArchiveError(f"control: line {number}: field {last} is given twice")
        fields[last] = value.strip(" \t")
    return MappingProxyType(fields)


def _open_member(member: ArMember, where: str) -> Callable[[int], bytes]:
    """Return a function that reads the unpacked content of a tar member piece by piece."""
    if member.name.endswith(".xz"):
        return _ChunkReader(_unpack_xz(member.data, where), where).read
    if member.name.endswith(".gz"):
        return _ChunkReader(_unpack_gzip(member.data, where), where).read
    return _ChunkReader(_slices(member.data), where).read


def _slices(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


def _unpack_xz(data: memoryview, where: str) -> Iterator[bytes]:
    """Yield the content of exactly one .xz stream; liblzma verifies its integrity check."""
    stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT)
    try:
        for piece in _slices(data):
            if stream.eof:
                break
            yield stream.decompress(piece, _CHUNK)
            while not (stream.needs_input or stream.eof):
                yield stream.decompress(b"", _CHUNK)
    except lzma.LZMAError as error:
        raise ArchiveError(f"{where}: {error}") from error
    _check_stream_end(data, stream.eof, len(stream.unused_data), where)


def _unpack_gzip(data: memoryview, where: str) -> Iterator[bytes]:
    """Yield the content of exactly one gzip member; zlib verifies its CRC and length."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        for piece in _slices(data):
            if stream.eof:
                break
            yield stream.decompress(piece, _CHUNK)
            while stream.unconsumed_tail:
                yield stream.decompress(stream.unconsumed_tail, _CHUNK)
    except zlib.error as error:
        raise ArchiveError(f"{where}: {error}") from error
    _check_stream_end(data, stream.eof, len(stream.unused_data), where)


def _check_stream_end(data: memoryview, ended: bool, unused: int, where: str) -> None:
    if not ended:
        raise ArchiveError(f"{where}: cut off: the compressed stream of {len(data)} bytes has no end")
    if unused:
        raise ArchiveError(f"{where}: {unused} bytes are left over after the compressed stream")


class _ChunkReader:
    """Reads exact lengths from an iterator of pieces, without joining more than was asked for."""

    def __init__(self, chunks: Iterator[bytes] | Iterator[memoryview], where: str) -> None:
        self._chunks = chunks
        self._where = where
        self._rest = memoryview(b"")
        self._total = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the stream."""
        parts: list[memoryview] = []
        missing = size
        while missing:
            if not self._rest and not self._advance():
                break
            part = self._rest[:missing]
            self._rest = self._rest[len(part) :]
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _advance(self) -> bool:
        """Take the next piece; False at the end of the stream."""
        for chunk in self._chunks:
            self._total += len(chunk)
            if self._total > MAX_UNPACKED:
                raise ArchiveError(f"{self._where}: expected at most {MAX_UNPACKED} unpacked bytes")
            if len(chunk):
                self._rest = memoryview(chunk)
                return True
        return False
