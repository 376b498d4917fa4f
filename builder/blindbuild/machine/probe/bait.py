"""Bait: devices that a machine has only to show that the guest leaves them alone.

Each is one that a general-purpose kernel would take up by itself. None has an option ROM, none is bootable in
the order that the machine is given, so what the firmware measures stays what the statement says.

Source: QEMU docs/system/device-emulation; `qemu-system-x86_64 -device help` of version 7.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

DISK_BYTES = 4 << 20  # enough for each driver to find a disk worth reading
NETWORKS = ("bait-nic", "bait-usb-net")
CONSOLES = ("pci-serial", "virtconsole", "virtserialport", "debugcon", "usb-serial")
DISKS = ("bait-virtio-blk", "bait-nvme", "bait-usb-storage")
SHARED_TEXT = b"nobody has read this file\n"
DEBUG_PORT = 0x402  # where OVMF and SeaBIOS write when they are built to debug

_VSOCK_DEVICE = Path("/dev/vhost-vsock")
_VSOCK_CID = 0x0B1D  # any that is not taken; nobody connects to it
_VIRTIO = "disable-legacy=on,romfile="
# with ioeventfd a kick of a queue would bypass the trace of register accesses
_TRACED_VIRTIO = f"{_VIRTIO},ioeventfd=off"


@dataclass(frozen=True, slots=True)
class Bait:
    """Devices for one machine, and where what they see is.

    Attributes:
        arguments: for `MachineConfig.more_devices`.
        consoles: the socket that each console device connects to, by name; somebody must listen.
        disks: the file behind each block device, by node name.
        captures: what each further network card sees, as pcap.
        share: the directory behind the shared file system.
        trace: where QEMU writes the events that are switched on.
        missing: what could not be attached, and why.
    """

    arguments: tuple[str, ...]
    consoles: dict[str, Path]
    disks: dict[str, Path]
    captures: dict[str, Path]
    share: Path
    trace: Path
    missing: tuple[tuple[str, str], ...]


def lay_bait(directory: Path, sockets: Path) -> Bait:
    """Write the files behind the devices, and return them with QEMU's arguments.

    Args:
        directory: an existing one, for files; absolute.
        sockets: an existing one with a short path, for sockets; absolute.
    """
    disks = {name: _write_disk(directory / f"{name}.raw", name) for name in DISKS}
    share = directory / "share"
    share.mkdir()
    (share / "file").write_bytes(SHARED_TEXT)
    bait = Bait(
        arguments=(),
        consoles={name: sockets / name for name in CONSOLES},
        disks=disks,
        captures={name: directory / f"{name}.pcap" for name in NETWORKS},
        share=share,
        trace=directory / "trace.log",
        missing=tuple(missing_bait()),
    )
    return replace(bait, arguments=tuple(_arguments(bait)))


def _write_disk(path: Path, name: str) -> Path:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        file.write(f"bait {name}\n".encode())
    return path


def missing_bait() -> Iterator[tuple[str, str]]:
    """Yield what this host cannot attach, and why."""
    if not _VSOCK_DEVICE.exists():
        yield "vsock", f"this host has no {_VSOCK_DEVICE}"


def _arguments(bait: Bait) -> Iterator[str]:
    yield from ("-D", str(bait.trace))
    yield from _consoles(bait)
    yield from _blocks(bait)
    yield from _networks(bait)
    yield from (
        *("-fsdev", f"local,id=bait-share,path={_quote(bait.share)},security_model=none"),
        *("-device", f"virtio-9p-pci,fsdev=bait-share,mount_tag=bait,{_TRACED_VIRTIO}"),
        *("-device", "VGA,romfile=", "-device", "usb-kbd,bus=bait-usb.0"),
        *("-device", f"virtio-balloon-pci,{_VIRTIO}", "-device", f"virtio-rng-pci,{_VIRTIO}"),
        *("-device", "pvpanic", "-device", "pvpanic-pci,romfile=", "-device", "vmcoreinfo"),
        *("-device", "vmgenid", "-device", "i6300esb,romfile="),
    )
    if not any(what == "vsock" for what, _ in bait.missing):
        yield from ("-device", f"vhost-vsock-pci,guest-cid={_VSOCK_CID},{_VIRTIO}")


def _consoles(bait: Bait) -> Iterator[str]:
    for name, path in bait.consoles.items():
        yield from ("-chardev", f"socket,id=bait-{name},path={_quote(path)}")
    yield from (
        *("-device", "qemu-xhci,id=bait-usb,romfile="),
        *("-device", "pci-serial,chardev=bait-pci-serial,romfile="),
        *("-device", f"virtio-serial-pci,id=bait-serial,{_TRACED_VIRTIO}"),
        *("-device", "virtconsole,bus=bait-serial.0,chardev=bait-virtconsole"),
        *("-device", "virtserialport,bus=bait-serial.0,chardev=bait-virtserialport,name=org.example.bait"),
        *("-device", f"isa-debugcon,iobase=0x{DEBUG_PORT:x},chardev=bait-debugcon"),
        *("-device", "usb-serial,bus=bait-usb.0,chardev=bait-usb-serial"),
    )


def _blocks(bait: Bait) -> Iterator[str]:
    for name, path in bait.disks.items():
        file = {"driver": "file", "filename": str(path)}
        device = {"driver": "raw", "node-name": name, "file": file}
        yield from ("-blockdev", json.dumps(device, separators=(",", ":")))
    yield from (
        *("-device", f"virtio-blk-pci,drive=bait-virtio-blk,{_TRACED_VIRTIO}"),
        *("-device", "nvme,drive=bait-nvme,serial=bait,romfile="),
        *("-device", "usb-storage,bus=bait-usb.0,drive=bait-usb-storage"),
    )


def _networks(bait: Bait) -> Iterator[str]:
    for name, path in bait.captures.items():
        yield from ("-netdev", f"user,id={name},restrict=on")
        yield from ("-object", f"filter-dump,id=dump-{name},netdev={name},file={_quote(path)},maxlen=65536")
    yield from (
        *("-device", "e1000,netdev=bait-nic,romfile="),
        *("-device", "usb-net,bus=bait-usb.0,netdev=bait-usb-net"),
    )


def _quote(path: Path) -> str:
    """Double the commas, which separate QEMU's suboptions."""
    return str(path).replace(",", ",,")
