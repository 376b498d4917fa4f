"""What the operator can do to a machine that serves: through QEMU's monitor, before it, or instead of it.

Source: QEMU docs/interop/qemu-qmp-ref (the commands named below); GDB manual, "Remote Protocol".
"""

from __future__ import annotations

import contextlib
import mmap
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping

from blindbuild.client.http1 import write_request
from blindbuild.errors import MachineError
from blindbuild.machine.attack_model import Outcome, RunningAttack, Seen, Stage
from blindbuild.machine.config import HOST_ADDRESS
from blindbuild.machine.qmp import QmpConnection
from blindbuild.verify import RecordedSession

CANARY = b"blindbuild-canary-3f9c1e7a5d"
SETTLE_S = 1.0  # for the guest to notice what was done to it
PAUSE_S = 5.0
RESTART_LIMIT_S = 240.0  # as for any boot
# The ports that things are plugged into, and a processor socket that is empty; no attack by themselves
STAGE_DEVICES = (
    *("-device", "pcie-root-port,id=port1,chassis=1,slot=1"),
    *("-device", "pcie-root-port,id=port2,chassis=2,slot=2"),
    *("-device", "pcie-root-port,id=port3,chassis=3,slot=3"),
    *("-device", "qemu-xhci,id=usb", "-smp", "1,maxcpus=2"),
)
_EMPTY_CAPTURE = 24  # bytes: a pcap file's header and no frame
_LOW_MEMORY_MIB = 2048  # what QEMU's q35 has below the hole for devices
_KEYS = (("ctrl", "alt", "delete"), ("alt", "sysrq", "b"), ("ctrl", "alt", "f2"), ("ret",))


def _press_keys(stage: Stage) -> None:
    for combination in _KEYS:
        keys = [{"type": "qcode", "data": key} for key in combination]
        stage.machine.qmp.execute("send-key", {"keys": keys})
    time.sleep(SETTLE_S)


def _inject_nmi(stage: Stage) -> None:
    stage.machine.qmp.execute("inject-nmi")
    time.sleep(SETTLE_S)


def _press_power_button(stage: Stage) -> None:
    stage.machine.qmp.execute("system_powerdown")
    time.sleep(SETTLE_S)


def _pause(stage: Stage) -> None:
    stage.machine.qmp.execute("stop")
    time.sleep(PAUSE_S)
    stage.machine.qmp.execute("cont")


def _reset_machine(stage: Stage) -> None:
    """Reset the machine, which then boots again; the client must find another key."""
    stage.machine.qmp.execute("set-action", {"reboot": "reset"})
    stage.machine.qmp.execute("system_reset")
    stage.serial_may_grow = True  # the firmware speaks anew
    _wait_for_new_key(stage)

    def compare(session: RecordedSession | None) -> str | None:
        same = session is not None and session.spki == stage.session.spki
        return "the TLS key is the one from before the reset" if same else None

    stage.watch.append(compare)


def _wait_for_new_key(stage: Stage) -> None:
    """Wait until the gate of the next boot answers; the old one may still do so for a moment."""
    time.sleep(SETTLE_S)
    stage.machine.wait_until_ready(stage.ready, RESTART_LIMIT_S)


def _plug_in_network_card(stage: Stage) -> None:
    capture = stage.directory / "hot-nic.pcap"
    dump = {"qom-type": "filter-dump", "id": "hot-dump", "netdev": "hot-net", "file": str(capture)}
    device = {"driver": "virtio-net-pci", "netdev": "hot-net", "bus": "port1", "id": "hot-nic"}
    qmp = stage.machine.qmp
    qmp.execute("netdev_add", {"type": "user", "id": "hot-net", "restrict": True})
    qmp.execute("object-add", dump)
    qmp.execute("device_add", device)
    time.sleep(SETTLE_S)

    def look(_: RecordedSession | None) -> str | None:
        size = capture.stat().st_size
        return f"{size - _EMPTY_CAPTURE} bytes of frames on the new card" if size > _EMPTY_CAPTURE else None

    stage.watch.append(look)


def _plug_in_disk(stage: Stage) -> None:
    _add_disk(stage, "hot-disk", {"driver": "virtio-blk-pci", "bus": "port2"})


def _plug_in_usb(stage: Stage) -> None:
    stage.machine.qmp.execute("device_add", {"driver": "usb-kbd", "bus": "usb.0", "id": "hot-keyboard"})
    _add_disk(stage, "hot-stick", {"driver": "usb-storage", "bus": "usb.0"})
    _press_keys(stage)


def _add_disk(stage: Stage, name: str, device: Mapping[str, object]) -> None:
    path = stage.directory / f"{name}.raw"
    path.write_bytes(bytes(1 << 20))
    file = {"driver": "file", "filename": str(path)}
    stage.machine.qmp.execute("blockdev-add", {"driver": "raw", "node-name": name, "file": file})
    stage.machine.qmp.execute("device_add", {**device, "drive": name, "id": f"{name}-device"})
    time.sleep(SETTLE_S)
    stage.watch.append(lambda _: _disk_use(stage.machine.qmp, name))


def _disk_use(qmp: QmpConnection, name: str) -> str | None:
    (stats,) = (entry["stats"] for entry in qmp.execute("query-blockstats") if entry.get("node-name") == name)
    reads, writes = stats["rd_operations"], stats["wr_operations"]
    return f"{reads} reads and {writes} writes on the new disk" if reads or writes else None


def _plug_in_serial_port(stage: Stage) -> None:
    log = stage.directory / "hot-serial.log"
    backend = {"type": "file", "data": {"out": str(log)}}
    stage.machine.qmp.execute("chardev-add", {"id": "hot-serial", "backend": backend})
    device = {"driver": "pci-serial", "chardev": "hot-serial", "bus": "port3", "id": "hot-port"}
    stage.machine.qmp.execute("device_add", device)
    time.sleep(SETTLE_S)

    def look(_: RecordedSession | None) -> str | None:
        said = log.read_bytes() if log.exists() else b""
        return f"{len(said)} bytes on the new serial port" if said else None

    stage.watch.append(look)


def _change_processors(stage: Stage) -> None:
    """Plug a second processor in, and pull it out again."""
    slots = stage.machine.qmp.execute("query-hotpluggable-cpus")
    free = next((slot for slot in slots if "qom-path" not in slot), None)
    if free is None:
        raise MachineError("expected a machine with an empty processor socket")
    stage.machine.qmp.execute("device_add", {"driver": free["type"], "id": "hot-cpu", **free["props"]})
    time.sleep(SETTLE_S)
    stage.machine.qmp.execute("device_del", {"id": "hot-cpu"})
    time.sleep(SETTLE_S)


def _dump_memory(stage: Stage) -> Seen | None:
    with _half_a_request(stage), _memory_of(stage) as memory:
        found = [match.start() for match in re.finditer(re.escape(CANARY), memory)]
    if not found:
        return None
    return Seen(Outcome.SUCCEEDS, f"the dump of RAM has a client's request in the clear, {len(found)} times")


def _debug(stage: Stage) -> Seen | None:
    """Attach a debugger to the machine, and read a request at the place where a dump has shown it."""
    with _half_a_request(stage):
        with _memory_of(stage) as memory:
            address = memory.find(CANARY)
        read = _read_by_debugger(stage, max(address, 0), len(CANARY))
    if address < 0 or read != CANARY:
        return None
    return Seen(Outcome.SUCCEEDS, "the debugger stops the machine and shows a client's request in the clear")


@contextlib.contextmanager
def _half_a_request(stage: Stage) -> Iterator[None]:
    """A client's request that is on its way: the gate has all of it but the last byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what the client would find was judged before
    message = write_request(
        "POST", stage.route, host="guest", body=CANARY + b".", content_type="application/octet-stream"
    )
    with socket.create_connection((HOST_ADDRESS, stage.machine.port), RESTART_LIMIT_S) as plain:
        with context.wrap_socket(plain) as stream:
            stream.sendall(message[:-1])
            time.sleep(SETTLE_S)
            yield
            stream.sendall(message[-1:])
            stream.recv(1)


@contextlib.contextmanager
def _memory_of(stage: Stage) -> Iterator[mmap.mmap]:
    """A copy of the guest's RAM."""
    path = stage.directory / "memory.bin"
    size = min(stage.config.memory_mib, _LOW_MEMORY_MIB) << 20
    stage.machine.qmp.execute("pmemsave", {"val": 0, "size": size, "filename": str(path)})
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            yield memory
    finally:
        path.unlink()


def _read_by_debugger(stage: Stage, address: int, size: int) -> bytes:
    """Read physical memory through QEMU's gdb stub, then detach."""
    path = stage.machine.files.sockets / "gdb"
    stage.machine.qmp.monitor(f"gdbserver unix:{path},server=on,wait=off")
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(RESTART_LIMIT_S)
            stream.connect(str(path))
            _ask_debugger(stream, b"Qqemu.PhyMemMode:1")
            answer = _ask_debugger(stream, b"m%x,%x" % (address, size))
            _ask_debugger(stream, b"D")
    finally:
        stage.machine.qmp.monitor("gdbserver none")
        stage.machine.qmp.execute("cont")
    return bytes.fromhex(answer.decode("ascii"))


def _ask_debugger(stream: socket.socket, command: bytes) -> bytes:
    """Send one packet; return the content of the answer to it."""
    stream.sendall(b"$" + command + b"#%02x" % (sum(command) & 0xFF))
    data = b""
    while (found := re.search(rb"\+\$([^#]*)#[0-9a-f]{2}", data)) is None:
        more = stream.recv(4096)
        if not more:
            raise MachineError("the debugger's connection was closed")
        data += more
    stream.sendall(b"+")
    return found[1]


RUNNING_ATTACKS: tuple[RunningAttack, ...] = (
    RunningAttack(
        name="keys",
        summary="presses Ctrl-Alt-Delete, SysRq, console and other keys",
        outcome=Outcome.NO_EFFECT,
        play=_press_keys,
    ),
    RunningAttack(
        name="nmi",
        summary="injects a non-maskable interrupt",
        outcome=Outcome.NO_EFFECT,
        play=_inject_nmi,
    ),
    RunningAttack(
        name="power-button",
        summary="presses the power button",
        outcome=Outcome.NO_EFFECT,
        play=_press_power_button,
    ),
    RunningAttack(
        name="pause",
        summary=f"stops the processors for {PAUSE_S:.0f} seconds",
        outcome=Outcome.NO_EFFECT,
        play=_pause,
    ),
    RunningAttack(
        name="memory-dump",
        summary="writes the guest's RAM to a file while a request is being received",
        outcome=Outcome.SUCCEEDS,
        play=_dump_memory,
    ),
    RunningAttack(
        name="debugger",
        summary="attaches a debugger to the virtual processor and reads a request",
        outcome=Outcome.SUCCEEDS,
        play=_debug,
    ),
    RunningAttack(
        name="reset",
        summary="resets the machine while it serves",
        outcome=Outcome.NO_EFFECT,
        play=_reset_machine,
    ),
)
PLUGGING_ATTACKS: tuple[RunningAttack, ...] = (
    RunningAttack(
        name="hot-nic",
        summary="plugs a second network card in while the machine serves",
        outcome=Outcome.NO_EFFECT,
        play=_plug_in_network_card,
    ),
    RunningAttack(
        name="hot-disk",
        summary="plugs a disk in while the machine serves",
        outcome=Outcome.NO_EFFECT,
        play=_plug_in_disk,
    ),
    RunningAttack(
        name="hot-serial",
        summary="plugs a serial port in while the machine serves",
        outcome=Outcome.NO_EFFECT,
        play=_plug_in_serial_port,
    ),
    RunningAttack(
        name="hot-usb",
        summary="plugs a USB keyboard and a USB disk in while the machine serves, and types",
        outcome=Outcome.NO_EFFECT,
        play=_plug_in_usb,
    ),
    RunningAttack(
        name="hot-cpu",
        summary="plugs a processor in while the machine serves, and pulls it out",
        outcome=Outcome.NO_EFFECT,
        play=_change_processors,
    ),
)
