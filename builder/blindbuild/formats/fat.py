"""FAT16 file systems: a writer that fills an image once, and a strict reader.

FAT16 alone serves every image size in use: firmware has to read it, clusters of 512 bytes to 32 KiB cover 2
MB to 2 GB, and one path is better tested than two. Names are plain 8.3 names in upper case; long names are
refused.

Source: Microsoft "FAT: General Overview of On-Disk Format", version 1.03; UEFI specification 2.10, 13.3.
"""

from __future__ import annotations

import array
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blindbuild.errors import ArchiveError

SECTOR = 512
ENTRY_SIZE = 32
ROOT_ENTRIES = 512  # what the specification recommends for FAT16
MAX_FILES = 64  # one is enough to boot; bounds the root directory
MAX_DEPTH = 16  # directories below each other; bounds the recursion on a hostile image
IMAGE_STEP = 1 << 20  # image sizes are multiples of 1 MiB
# A volume is FAT16 by its cluster count alone (specification: 4085 to 65524); drivers are known to be off
# by up to 16 at both ends, and the specification says to stay away from them.
MIN_CLUSTERS = 4085 + 16
MAX_CLUSTERS = 65524 - 16
MAX_SECTORS_PER_CLUSTER = 64

_RESERVED_SECTORS = 1
_FATS = 2
_MEDIA = 0xF8  # fixed disk
_END_OF_CHAIN = 0xFFFF
_FIRST_CLUSTER = 2
_DATE = (1980 - 1980) << 9 | 1 << 5 | 1  # 1980-01-01, the first date there is
_DIRECTORY = 0x10
_ARCHIVE = 0x20
_VOLUME_ID = 0x08

_BOOT = struct.Struct("<3s8sHBHBHHBHHHII")  # up to BPB_TotSec32
_EXTENDED = struct.Struct("<BBBI11s8s")  # the FAT12/FAT16 continuation at offset 36
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_NAME = re.compile(r"([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?")
_RAW_NAME = re.compile(rb"([A-Z0-9_-]{1,8}) *")
_RAW_EXTENSION = re.compile(rb"([A-Z0-9_-]{0,3}) *")
_LABEL = re.compile(r"[A-Z0-9_-]{1,11}")


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where things are; all numbers are sectors or clusters."""

    sectors: int
    sectors_per_cluster: int
    fat_sectors: int
    root_entries: int
    reserved: int
    fats: int

    @property
    def root_start(self) -> int:
        return self.reserved + self.fats * self.fat_sectors

    @property
    def data_start(self) -> int:
        return self.root_start + self.root_entries * ENTRY_SIZE // SECTOR

    @property
    def clusters(self) -> int:
        return (self.sectors - self.data_start) // self.sectors_per_cluster

    @property
    def cluster_size(self) -> int:
        return self.sectors_per_cluster * SECTOR


@dataclass(frozen=True, slots=True)
class _Node:
    """A file or directory that is to be written; `children` is None for a file."""

    name: bytes
    data: bytes = b""
    children: tuple[_Node, ...] | None = None

    def size(self, cluster_size: int) -> int:
        """Number of clusters for the node itself."""
        if self.children is None:
            return -(-len(self.data) // cluster_size)
        return -(-(len(self.children) + 2) * ENTRY_SIZE // cluster_size)

    def walk(self) -> Iterator[_Node]:
        """This node and everything below it."""
        yield self
        for child in self.children or ():
            yield from child.walk()


def write_fat(files: Mapping[str, bytes], *, volume_id: int, label: str) -> bytes:
    """Return an unpartitioned FAT16 image with these files, the smallest multiple of 1 MiB that holds them.

    Times are 1980-01-01, directory entries are sorted, every file is contiguous: equal input gives equal
    bytes.

    Args:
        files: content by path, such as `EFI/BOOT/BOOTX64.EFI`; parents are made.
        volume_id: 32-bit serial number.
        label: 1 to 11 characters of A-Z 0-9 _ -.

    Raises:
        ArchiveError: a name that is not plain 8.3, a path that is file and directory, or too much content.
    """
    if not _LABEL.fullmatch(label) or not 0 <= volume_id <= 0xFFFF_FFFF:
        raise ArchiveError(f"fat: expected a plain label and a 32-bit volume id, got {label!r}, {volume_id}")
    if not 1 <= len(files) <= MAX_FILES:
        raise ArchiveError(f"fat: expected 1 to {MAX_FILES} files, got {len(files)}")
    if any(path.count("/") > MAX_DEPTH for path in files):
        raise ArchiveError(f"fat: expected at most {MAX_DEPTH} directories below each other")
    nodes = _make_nodes({tuple(path.split("/")): data for path, data in files.items()})
    geometry = _choose_geometry(nodes)
    fat = array.array("H", [0xFF00 | _MEDIA, _END_OF_CHAIN])
    area = bytearray()
    root = _ENTRY.pack(label.encode().ljust(11), _VOLUME_ID, 0, 0, 0, 0, _DATE, 0, 0, _DATE, 0, 0)
    root += _write_nodes(nodes, 0, geometry.cluster_size, fat, area)
    image = bytearray(_render_boot_sector(geometry, volume_id, label))
    if sys.byteorder == "big":
        fat.byteswap()
    image += _FATS * fat.tobytes().ljust(geometry.fat_sectors * SECTOR, b"\0")
    image += root.ljust(ROOT_ENTRIES * ENTRY_SIZE, b"\0")
    image += area
    return bytes(image.ljust(geometry.sectors * SECTOR, b"\0"))


def read_fat(data: bytes) -> dict[str, bytes]:
    """Return the files of a FAT16 image by path, in directory order.

    Raises:
        ArchiveError: not FAT16, copies of the table that differ, long names, deleted entries, chains that
        leave the
            volume, end early or late, cross or belong to nothing.
    """
    geometry = _read_geometry(data)
    fat = _read_table(data, geometry)
    volume = _Volume(data, geometry, fat)
    root = data[geometry.root_start * SECTOR : geometry.data_start * SECTOR]
    files = dict(volume.read_directory(root, "", 0, 0))
    volume.check_no_lost_clusters()
    return files


def _make_nodes(files: Mapping[tuple[str, ...], bytes]) -> tuple[_Node, ...]:
    """Return the tree of files below one directory, sorted by raw name."""
    nodes = []
    for name in sorted({path[0] for path in files}):
        below = {path[1:]: data for path, data in files.items() if path[0] == name}
        if () not in below:
            nodes.append(_Node(_pack_name(name), children=_make_nodes(below)))
        elif len(below) == 1:
            nodes.append(_Node(_pack_name(name), data=below[()]))
        else:
            raise ArchiveError(f"fat: {name} is given as a file and as a directory")
    return tuple(sorted(nodes, key=lambda node: node.name))


def _pack_name(name: str) -> bytes:
    match = _NAME.fullmatch(name)
    if not match:
        raise ArchiveError(f"fat: expected a plain 8.3 name in upper case, got {name!r}")
    return match[1].encode().ljust(8) + (match[2] or "").encode().ljust(3)


def _choose_geometry(nodes: tuple[_Node, ...]) -> _Geometry:
    """Return the smallest clusters, and then the smallest image, that hold the nodes."""
    sectors_per_cluster = 1
    while sectors_per_cluster <= MAX_SECTORS_PER_CLUSTER:
        cluster_size = sectors_per_cluster * SECTOR
        used = sum(node.size(cluster_size) for top in nodes for node in top.walk())
        wanted = max(used, MIN_CLUSTERS)
        overhead = _RESERVED_SECTORS + ROOT_ENTRIES * ENTRY_SIZE // SECTOR
        # The table for one step more of clusters than wanted, as the image is rounded up by less than a step.
        fat_sectors = -(-(wanted + IMAGE_STEP // cluster_size + _FIRST_CLUSTER) * 2 // SECTOR)
        sectors = overhead + _FATS * fat_sectors + wanted * sectors_per_cluster
        sectors += -sectors % (IMAGE_STEP // SECTOR)
        geometry = _Geometry(
            sectors, sectors_per_cluster, fat_sectors, ROOT_ENTRIES, _RESERVED_SECTORS, _FATS
        )
        if geometry.clusters <= MAX_CLUSTERS:
            return geometry
        sectors_per_cluster *= 2
    raise ArchiveError(f"fat: expected at most {MAX_CLUSTERS} clusters of 32 KiB, got more content")


def _write_nodes(
    nodes: tuple[_Node, ...], parent: int, cluster_size: int, fat: array.array[int], area: bytearray
) -> bytes:
    """Append the content of the nodes to `fat` and `area`; return their directory entries."""
    entries = b""
    for node in nodes:
        count = node.size(cluster_size)
        first = len(fat) if count else 0
        fat.extend(range(first + 1, first + count))
        if count:
            fat.append(_END_OF_CHAIN)
        start = len(area)
        area += node.data.ljust(count * cluster_size, b"\0")
        if node.children is None:
            entries += _render_entry(node.name, _ARCHIVE, first, len(node.data))
            continue
        entries += _render_entry(node.name, _DIRECTORY, first, 0)
        content = _render_entry(b".".ljust(11), _DIRECTORY, first, 0)
        content += _render_entry(b"..".ljust(11), _DIRECTORY, parent, 0)
        content += _write_nodes(node.children, first, cluster_size, fat, area)
        area[start : start + len(content)] = content
    return entries


def _render_entry(name: bytes, attributes: int, first: int, size: int) -> bytes:
    return _ENTRY.pack(name, attributes, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, first, size)


def _render_boot_sector(geometry: _Geometry, volume_id: int, label: str) -> bytes:
    """Return the first sector; its code area is empty, as firmware does not run it."""
    small = geometry.sectors if geometry.sectors < 0x1_0000 else 0
    boot = _BOOT.pack(
        *(b"\xeb\x3c\x90", b"blindbld", SECTOR, geometry.sectors_per_cluster, geometry.reserved),
        *(geometry.fats, geometry.root_entries, small, _MEDIA, geometry.fat_sectors),
        *(32, 64, 0, 0 if small else geometry.sectors),  # sectors per track, heads: any, nothing uses them
    )
    boot += _EXTENDED.pack(0x80, 0, 0x29, volume_id, label.encode().ljust(11), b"FAT16   ")
    return boot.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _read_geometry(data: bytes) -> _Geometry:
    """Return the geometry in the boot sector, whose cluster count has to be that of FAT16."""
    if len(data) < SECTOR or data[SECTOR - 2 : SECTOR] != b"\x55\xaa":
        raise ArchiveError("fat: expected a boot sector with its signature")
    fields = _BOOT.unpack_from(data)
    sector, per_cluster, reserved, fats, root_entries, small, media, fat_sectors = fields[2:10]
    sectors = small or fields[13]
    if sector != SECTOR or sectors * SECTOR != len(data):
        raise ArchiveError(
            f"fat: expected sectors of {SECTOR} bytes up to {len(data)}, got {sectors} of {sector}"
        )
    if per_cluster not in (1, 2, 4, 8, 16, 32, 64) or not reserved or fats != _FATS or media != _MEDIA:
        raise ArchiveError(
            f"fat: expected a fixed disk with {_FATS} tables, got {per_cluster} sectors a cluster,"
            f" {reserved} reserved, {fats} tables, media {media:#x}"
        )
    geometry = _Geometry(sectors, per_cluster, fat_sectors, root_entries, reserved, fats)
    if not root_entries or root_entries * ENTRY_SIZE % SECTOR or geometry.data_start >= sectors:
        raise ArchiveError(f"fat: {root_entries} root entries and tables of {fat_sectors} sectors do not fit")
    if not 4085 <= geometry.clusters <= 65524 or (geometry.clusters + 2) * 2 > fat_sectors * SECTOR:
        raise ArchiveError(f"fat: {geometry.clusters} clusters, tables of {fat_sectors} sectors: not FAT16")
    return geometry


def _read_table(data: bytes, geometry: _Geometry) -> array.array[int]:
    """Return the allocation table, of which both copies have to be equal."""
    start, size = geometry.reserved * SECTOR, geometry.fat_sectors * SECTOR
    first, second = data[start : start + size], data[start + size : start + 2 * size]
    if first != second:
        raise ArchiveError("fat: the two copies of the allocation table differ")
    fat = array.array("H", first)
    if sys.byteorder == "big":
        fat.byteswap()
    if (fat[0], fat[1]) != (0xFF00 | _MEDIA, _END_OF_CHAIN):
        raise ArchiveError(
            f"fat: expected the table to start with media and end mark, got {fat[0]:x} {fat[1]:x}"
        )
    return fat


class _Volume:
    """One reading of a volume: keeps which clusters have an owner."""

    def __init__(self, data: bytes, geometry: _Geometry, fat: array.array[int]) -> None:
        self._data = data
        self._geometry = geometry
        self._fat = fat
        self._used: set[int] = set()

    def read_directory(self, content: bytes, path: str, own: int, parent: int) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of every file in a directory and below it."""
        names: set[bytes] = set()
        for offset in range(0, len(content), ENTRY_SIZE):
            name, attributes, reserved, *_, high, _, _, first, size = _ENTRY.unpack_from(content, offset)
            if name[0] == 0:
                _check_rest(content[offset:], path)
                break
            if own and offset < 2 * ENTRY_SIZE:
                _check_dot(name, attributes, first, offset, own if offset == 0 else parent, path)
                continue
            if name in names or reserved or high:
                raise ArchiveError(f"fat: {path}{name!r}: a duplicate, or reserved bits are set")
            names.add(name)
            if attributes != _VOLUME_ID or own:
                yield from self._read_entry(path + _unpack_name(name), attributes, first, size, own)

    def _read_entry(
        self, path: str, attributes: int, first: int, size: int, parent: int
    ) -> Iterator[tuple[str, bytes]]:
        """Yield a file, or the files of a subdirectory."""
        if path.count("/") > MAX_DEPTH:
            raise ArchiveError(f"fat: {path}: expected at most {MAX_DEPTH} directories below each other")
        content = self._read_chain(first, path)
        if attributes == _DIRECTORY and size == 0 and content:
            yield from self.read_directory(content, f"{path}/", first, parent)
        elif attributes in (0, _ARCHIVE):
            clusters = -(-size // self._geometry.cluster_size)
            if len(content) != clusters * self._geometry.cluster_size:
                raise ArchiveError(f"fat: {path}: {size} bytes do not fit a chain of {len(content)} bytes")
            yield path, content[:size]
        else:
            raise ArchiveError(f"fat: {path}: expected a file or directory, got attributes {attributes:#04x}")

    def _read_chain(self, first: int, path: str) -> bytes:
        """Return the clusters of a chain; each has one owner."""
        parts: list[bytes] = []
        cluster = first
        while cluster != (0 if not parts else _END_OF_CHAIN):
            if (
                not _FIRST_CLUSTER <= cluster < _FIRST_CLUSTER + self._geometry.clusters
                or cluster in self._used
            ):
                raise ArchiveError(
                    f"fat: {path}: cluster {cluster} is outside the volume or has another owner"
                )
            self._used.add(cluster)
            start = (self._geometry.data_start * SECTOR) + (
                cluster - _FIRST_CLUSTER
            ) * self._geometry.cluster_size
            parts.append(self._data[start : start + self._geometry.cluster_size])
            cluster = self._fat[cluster]
        return b"".join(parts)

    def check_no_lost_clusters(self) -> None:
        """Check that every cluster with an entry in the table belongs to a file or directory."""
        for cluster in range(_FIRST_CLUSTER, len(self._fat)):
            if self._fat[cluster] and cluster not in self._used:
                raise ArchiveError(f"fat: cluster {cluster} is allocated and belongs to nothing")


def _check_rest(rest: bytes, path: str) -> None:
    if rest.strip(b"\0"):
        raise ArchiveError(f"fat: /{path}: expected zero bytes after the last directory entry")


def _check_dot(name: bytes, attributes: int, first: int, offset: int, target: int, path: str) -> None:
    """Check the first two entries of a subdirectory."""
    expected = (b".", b"..")[offset // ENTRY_SIZE].ljust(11)
    if (name, attributes, first) != (expected, _DIRECTORY, target):
        raise ArchiveError(
            f"fat: /{path}: expected entry {expected!r} for cluster {target}, got {name!r}, {first}"
        )


def _unpack_name(raw: bytes) -> str:
    """Return a raw 8.3 name as text; long-name and deleted entries do not match."""
    name, extension = _RAW_NAME.fullmatch(raw[:8]), _RAW_EXTENSION.fullmatch(raw[8:])
    if not name or not extension:
        raise ArchiveError(f"fat: expected a plain 8.3 name in upper case, got {raw!r}")
    return ".".join(part.decode() for part in (name[1], extension[1]) if part)
