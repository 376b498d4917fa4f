"""UEFI device paths and load options as text, for people who look for the cause of a difference.

All of it comes from event data that nobody vouches for: the text is for reading, never for deciding, and
whoever shows it must make it safe for a terminal (`printable.visible`).

Sources: UEFI 2.10, 10.3 (nodes), 10.6.1.6 (text representation), 3.1.3 (EFI_LOAD_OPTION); PFP 1.06, 10.2.3
(UEFI_IMAGE_LOAD_EVENT).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from blindbuild.errors import FormatError

MAX_NODES = 64  # real paths have fewer than 12; bounds the text
MAX_URI = 1024  # characters of a URI node that are shown
_NODE = struct.Struct("<BBH")
_LOAD_OPTION = struct.Struct("<IH")
_IMAGE_LOAD = struct.Struct("<QQQQ")
_END, _END_ENTIRE = 0x7F, 0xFF
_PCI_ROOTS = {0x0A0341D0: "PciRoot", 0x0A0841D0: "PcieRoot"}  # EISA ids PNP0A03 and PNP0A08


@dataclass(frozen=True, slots=True)
class LoadOption:
    """EFI_LOAD_OPTION: one entry of the boot menu.

    Attributes:
        path: the first device path, as text.
        optional_data: what the started image gets as its LoadOptions.
    """

    attributes: int
    description: str
    path: str
    optional_data: bytes


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT: where an image was loaded from; `path` is text, empty if there is none."""

    address: int
    size: int
    path: str


def parse_load_option(data: bytes) -> LoadOption:
    """Parse the data of a Boot#### variable.

    Raises:
        FormatError: cut off, a description that does not end, or a malformed device path.
    """
    if len(data) < _LOAD_OPTION.size:
        raise FormatError(f"load option: expected at least {_LOAD_OPTION.size} bytes, got {len(data)}")
    attributes, path_size = _LOAD_OPTION.unpack_from(data)
    end = next((i for i in range(_LOAD_OPTION.size, len(data) - 1, 2) if data[i : i + 2] == b"\0\0"), None)
    if end is None:
        raise FormatError("load option: the description has no end")
    description = data[_LOAD_OPTION.size : end].decode("utf-16-le", "replace")
    start = end + 2
    if start + path_size > len(data):
        raise FormatError(f"load option: expected {path_size} bytes of device path, got {len(data) - start}")
    # a list of paths, of which firmware boots the first
    nodes = _nodes(data[start : start + path_size], allow_more=True)
    path = "/".join(_node_text(*node) for node in nodes)
    return LoadOption(attributes, description, path, data[start + path_size :])


def parse_image_load(data: bytes) -> ImageLoad:
    """Parse the event data of a started image.

    Raises:
        FormatError: cut off, or a malformed device path.
    """
    if len(data) < _IMAGE_LOAD.size:
        raise FormatError(f"image load event: expected at least {_IMAGE_LOAD.size} bytes, got {len(data)}")
    address, size, _link_time, path_size = _IMAGE_LOAD.unpack_from(data)
    if _IMAGE_LOAD.size + path_size != len(data):
        raise FormatError(
            f"image load event: expected {_IMAGE_LOAD.size + path_size} bytes in all, got {len(data)}"
        )
    return ImageLoad(address, size, device_path_text(data[_IMAGE_LOAD.size :]))


def device_path_text(data: bytes) -> str:
    r"""Return a device path as text, such as `PciRoot(0x0)/Pci(0x2,0x0)/\EFI\BOOT\BOOTX64.EFI`.

    Raises:
        FormatError: a node whose length does not fit, no end, bytes after the end, or too many nodes.
    """
    if not data:
        return ""
    return "/".join(_node_text(*node) for node in _nodes(data))


def _nodes(data: bytes, *, allow_more: bool = False) -> Iterator[tuple[int, int, bytes]]:
    position = 0
    for _ in range(MAX_NODES):
        if position + _NODE.size > len(data):
            raise FormatError(f"device path: no end after {position} bytes")
        kind, subtype, size = _NODE.unpack_from(data, position)
        if not _NODE.size <= size <= len(data) - position:
            raise FormatError(f"device path at {position}: a node of {size} bytes does not fit")
        body = data[position + _NODE.size : position + size]
        position += size
        if kind == _END and subtype == _END_ENTIRE:
            if position != len(data) and not allow_more:
                raise FormatError(f"device path: {len(data) - position} bytes after its end")
            return
        yield kind, subtype, body
    raise FormatError(f"device path: expected at most {MAX_NODES} nodes")


def _node_text(kind: int, subtype: int, body: bytes) -> str:
    render = _RENDERERS.get((kind, subtype))
    text = None if render is None else render(body)
    return f"Path({kind},{subtype},{body[:32].hex()})" if text is None else text


def _pci(body: bytes) -> str | None:
    return f"Pci({body[1]:#x},{body[0]:#x})" if len(body) == 2 else None


def _acpi(body: bytes) -> str | None:
    if len(body) != 8:
        return None
    hid, uid = struct.unpack("<II", body)
    name = _PCI_ROOTS.get(hid)
    return f"Acpi({hid:#x},{uid:#x})" if name is None else f"{name}({uid:#x})"


def _numbers(name: str, layout: str) -> Callable[[bytes], str | None]:
    form = struct.Struct(layout)

    def render(body: bytes) -> str | None:
        if len(body) < form.size:
            return None
        return f"{name}({','.join(f'{number:#x}' for number in form.unpack_from(body))})"

    return render


def _guid(name: str) -> Callable[[bytes], str | None]:
    def render(body: bytes) -> str | None:
        return f"{name}({UUID(bytes_le=body[:16])})" if len(body) >= 16 else None

    return render


def _mac(body: bytes) -> str | None:
    return f"MAC({body[:6].hex()})" if len(body) == 33 else None


def _name_only(name: str) -> Callable[[bytes], str | None]:
    return lambda _body: name


def _uri(body: bytes) -> str | None:
    return f"Uri({body[:MAX_URI].decode('ascii', 'replace')})"


def _hard_drive(body: bytes) -> str | None:
    if len(body) != 38:
        return None
    number, start, size, signature, _style, kind = struct.unpack("<IQQ16sBB", body)
    if kind == 2:  # a GPT partition, by its GUID
        return f"HD({number},GPT,{UUID(bytes_le=signature)},{start:#x},{size:#x})"
    return f"HD({number},{'MBR' if kind == 1 else kind},{signature[:4].hex()},{start:#x},{size:#x})"


def _file_path(body: bytes) -> str | None:
    if len(body) % 2:
        return None
    return body.decode("utf-16-le", "replace").rstrip("\0")


_RENDERERS: dict[tuple[int, int], Callable[[bytes], str | None]] = {
    (1, 1): _pci,
    (1, 3): _numbers("MemoryMapped", "<IQQ"),
    (1, 4): _guid("VenHw"),
    (2, 1): _acpi,
    (3, 2): _numbers("Scsi", "<HH"),
    (3, 5): _numbers("USB", "<BB"),
    (3, 10): _guid("VenMsg"),
    (3, 11): _mac,
    (3, 12): _name_only("IPv4"),
    (3, 13): _name_only("IPv6"),
    (3, 18): _numbers("Sata", "<HHH"),
    (3, 23): _numbers("NVMe", "<IQ"),
    (3, 24): _uri,
    (4, 1): _hard_drive,
    (4, 2): _numbers("CDROM", "<IQQ"),
    (4, 3): _guid("VenMedia"),
    (4, 4): _file_path,
    (4, 6): _guid("FvFile"),
    (4, 7): _guid("Fv"),
    (4, 8): _numbers("Offset", "<4xQQ"),
}
