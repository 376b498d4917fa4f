"""Firmware volumes: from an OVMF code flash file to the volume of its DXE phase, as firmware measures it.

The file holds a volume with one file whose GUIDed section, packed with LZMA, holds two more volumes: that of
the PEI phase and that of the DXE phase. Firmware unpacks both into memory and measures them into PCR 0; only
the second one is still as it was in the file by then.

Source: UEFI Platform Initialization Specification 1.8, volume 3: 3.2.1 (volume header), 3.2.3 (file header)
and 3.2.5 (sections); edk2 MdeModulePkg/Library/LzmaCustomDecompressLib (an LZMA "alone" stream).
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable, Iterator
from uuid import UUID

from blindbuild.errors import FormatError

LZMA_SECTION = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
MAX_FIRMWARE = 1 << 26  # bytes; OVMF has 4 MiB, flash of real machines 32
MAX_UNPACKED = 1 << 26  # bytes; OVMF unpacks to 16 MiB; bounds memory on a hostile file
MAX_VOLUMES = 64  # in one flash file; OVMF has three
MAX_CANDIDATES = 1024  # places in a flash file that look like a volume; bounds the checksums computed
MAX_FILES = 4096  # in one volume; the DXE volume of OVMF has some 100
MAX_SECTIONS = 4096  # in all files of a flash file, or packed in one; OVMF has some ten and four

_MAX_LZMA_MEMORY = 1 << 28  # the stream names its own dictionary size; bounds what it may ask for
_VOLUME = struct.Struct("<16s16sQ4sIHHHBB")
_FILE = struct.Struct("<16sHBB3sB")
_GUIDED = struct.Struct("<16sHH")
_SECTION_HEADER = 4
_MAX_SIZE_24 = 0xFFFFFF  # then a longer header with a larger size field follows
_FILE_ALIGNMENT = 8
_SECTION_ALIGNMENT = 4
_GUID_DEFINED = 0x02
_VOLUME_IMAGE = 0x17
_PAD_FILE = 0xF0
_LARGE_FILE = 0x01
_PROCESSING_REQUIRED = 0x01


def find_dxe_volume(flash: bytes) -> bytes:
    """Return the DXE volume of an OVMF code file, unpacked.

    Raises:
        FormatError: no such volume, more than one candidate, or anything malformed on the way to it.
    """
    if len(flash) > MAX_FIRMWARE:
        raise FormatError(f"firmware: expected at most {MAX_FIRMWARE} bytes, got {len(flash)}")
    contents = (content for volume in _volumes(flash) for content in _files(volume))
    packed = [
        payload
        for kind, payload in _limited(section for content in contents for section in _sections(content))
        if kind == _GUID_DEFINED and UUID(bytes_le=payload[:16]) == LZMA_SECTION
    ]
    if len(packed) != 1:
        raise FormatError(f"firmware: expected one section packed with LZMA, got {len(packed)}")
    unpacked = _limited(_sections(_unpack(packed[0])))
    images = [payload for kind, payload in unpacked if kind == _VOLUME_IMAGE]
    if len(images) != 2:
        raise FormatError(
            f"firmware: expected two volumes, of the PEI and the DXE phase, in the packed section, "
            f"got {len(images)}"
        )
    volume = images[1]
    if _volume_length(volume, 0) != len(volume):
        raise FormatError("firmware: the volume of the DXE phase does not fill its section")
    return volume


def _volumes(flash: bytes) -> Iterator[bytes]:
    """Yield the volumes of a flash file; code that is no volume (the reset vector's) is passed over."""
    position = count = 0
    for _ in range(MAX_CANDIDATES):
        found = flash.find(b"_FVH", position)
        if found < 0:
            return
        start = found - 40
        if start < 0 or not _is_volume(flash, start):
            position = found + 4
            continue
        count += 1
        if count > MAX_VOLUMES:
            raise FormatError(f"firmware: expected at most {MAX_VOLUMES} volumes")
        length = _volume_length(flash, start)
        yield flash[start : start + length]
        position = start + length
    raise FormatError(f"firmware: expected at most {MAX_CANDIDATES} places that look like a volume")


def _is_volume(flash: bytes, start: int) -> bool:
    try:
        _volume_length(flash, start)
    except FormatError:
        return False
    return True


def _volume_length(data: bytes, start: int) -> int:
    """Return the length of the volume at `start` after checking its header."""
    if len(data) - start < _VOLUME.size:
        raise FormatError(f"firmware volume at {start}: cut off")
    fields = _VOLUME.unpack_from(data, start)
    length, signature, header_size = int(fields[2]), fields[3], int(fields[5])
    if signature != b"_FVH":
        raise FormatError(f"firmware volume at {start}: expected signature '_FVH', got {signature!r}")
    if header_size % 2 or not _VOLUME.size <= header_size <= length <= len(data) - start:
        raise FormatError(f"firmware volume at {start}: {length} bytes with a header of {header_size}")
    if sum(struct.unpack_from(f"<{header_size // 2}H", data, start)) & 0xFFFF:
        raise FormatError(f"firmware volume at {start}: checksum of the header is wrong")
    return length


def _files(volume: bytes) -> Iterator[bytes]:
    """Yield the content of each file of a volume that has sections; padding is passed over."""
    header_size, extended = struct.unpack_from("<HxxH", volume, 48)
    position = header_size
    if extended:
        if extended + 20 > len(volume):
            raise FormatError(f"firmware volume: extended header at {extended} of {len(volume)} bytes")
        position = extended + struct.unpack_from("<I", volume, extended + 16)[0]
    for _ in range(MAX_FILES):
        position += -position % _FILE_ALIGNMENT
        header = volume[position : position + _FILE.size]
        if len(header) < _FILE.size or header.strip(b"\xff") == b"":
            return
        size, start, kind = _file_header(volume, position)
        if kind != _PAD_FILE:
            yield volume[position + start : position + size]
        position += size
    raise FormatError(f"firmware volume: expected at most {MAX_FILES} files")


def _file_header(volume: bytes, position: int) -> tuple[int, int, int]:
    """Return size, size of the header and type of the file at `position`."""
    _, _, kind, attributes, raw_size, _ = _FILE.unpack_from(volume, position)
    size, start = int.from_bytes(raw_size, "little"), _FILE.size
    if attributes & _LARGE_FILE:
        start += 8
        size = int.from_bytes(volume[position + _FILE.size : position + start], "little")
    if not start <= size <= len(volume) - position:
        raise FormatError(f"firmware file at {position}: {size} bytes in a volume of {len(volume)}")
    return size, start, kind


def _sections(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each section; a GUIDed one's payload starts with its GUID."""
    position = 0
    while len(content) - position >= _SECTION_HEADER:
        size = int.from_bytes(content[position : position + 3], "little")
        kind, start = content[position + 3], _SECTION_HEADER
        if size == _MAX_SIZE_24:
            start += 4
            size = int.from_bytes(content[position + 4 : position + 8], "little")
        if not start <= size <= len(content) - position:
            raise FormatError(f"firmware section at {position}: {size} bytes of {len(content)}")
        if kind == _GUID_DEFINED and size < start + _GUIDED.size:
            raise FormatError(f"firmware section at {position}: no room for its GUID in {size} bytes")
        if kind == _GUID_DEFINED:
            yield kind, _guided_payload(content[position : position + size], start)
        else:
            yield kind, content[position + start : position + size]
        position += size + -size % _SECTION_ALIGNMENT


def _limited(sections: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield the sections; FormatError after too many, which a small packed file could unpack to."""
    for count, section in enumerate(sections, start=1):
        if count > MAX_SECTIONS:
            raise FormatError(f"firmware: expected at most {MAX_SECTIONS} sections")
        yield section


def _guided_payload(section: bytes, start: int) -> bytes:
    """Return GUID and data of a GUIDed section, without what is between them."""
    guid, data_offset, attributes = _GUIDED.unpack_from(section, start)
    if not start + _GUIDED.size <= data_offset <= len(section):
        raise FormatError(f"firmware section: data at {data_offset} of {len(section)} bytes")
    if UUID(bytes_le=guid) == LZMA_SECTION and not attributes & _PROCESSING_REQUIRED:
        raise FormatError("firmware section: packed with LZMA, but not marked as such")
    return bytes(guid) + section[data_offset:]


def _unpack(payload: bytes) -> bytes:
    """Unpack an LZMA section's payload; its header says how long the result is."""
    stream = payload[16:]
    if len(stream) < 13:
        raise FormatError(f"firmware: expected an LZMA stream, got {len(stream)} bytes")
    size = int.from_bytes(stream[5:13], "little")
    if size > MAX_UNPACKED:
        raise FormatError(f"firmware: expected at most {MAX_UNPACKED} unpacked bytes, got {size}")
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_LZMA_MEMORY)
        data = decompressor.decompress(stream, max_length=size + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise FormatError("firmware: the LZMA stream is damaged") from error
    if len(data) != size:
        raise FormatError(f"firmware: expected {size} unpacked bytes, got {len(data)}")
    return data
