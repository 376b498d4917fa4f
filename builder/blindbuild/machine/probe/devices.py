"""How a guest has used the machine's devices, asked of QEMU and read from its trace.

Source: QEMU docs/devel/tracing; softmmu/trace-events and hw/pci/trace-events of version 7.2 for the lines.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.printable import visible
from blindbuild.host.process import run
from blindbuild.machine.accelerator import QEMU
from blindbuild.machine.machine import Machine

TRACED = ("memory_region_ops_read", "memory_region_ops_write", "pci_cfg_read", "pci_cfg_write")
KEYS = ("ret", "esc", "f12", "ctrl-c", "alt-sysrq-h", "alt-f2", "shift-pgup", "ctrl-alt-delete")
MAX_TRACE_LINES = 50_000_000  # a machine that serves for a minute has some 20,000; bounds time
RAM_BELOW_GAP_MIB = 2048  # QEMU hw/i386/pc_q35.c: a q35 machine's RAM is in one piece up to here

VERSION_LIMIT_S = 30.0
MAX_VERSION = 200  # characters

_REGION = re.compile(rb"^memory_region_ops_(?:read|write) cpu [0-9]+ .* name '([^']*)'")
_CONFIGURATION = re.compile(rb"^pci_cfg_(?:read|write) (\S+) ")


def qemu_version() -> str:
    """Return what QEMU calls its version.

    Raises:
        ToolError: it is missing.
    """
    return parse_qemu_version(run(QEMU, ["--version"], timeout_s=VERSION_LIMIT_S).stdout)


def parse_qemu_version(output: bytes) -> str:
    """Return the version from what `--version` prints, with what the distribution says behind it."""
    first = visible(output.decode("utf-8", "replace").split("\n")[0])
    return first.partition(" version ")[2][:MAX_VERSION] or "unknown"


def trace_touches(machine: Machine) -> None:
    """Have QEMU write down every access to a device's registers, from now on."""
    for name in TRACED:
        machine.qmp.execute("trace-event-set-state", {"name": name, "enable": True})


def read_touches(trace: Path) -> Counter[str]:
    """Return how often each block of registers was accessed; PCI configuration as `pci-config DEVICE`."""
    touches: Counter[str] = Counter()
    if not trace.exists():
        return touches
    with trace.open("rb") as lines:
        for _, line in zip(range(MAX_TRACE_LINES), lines, strict=False):
            if (region := _REGION.match(line)) is not None:
                touches[region[1].decode("ascii", "backslashreplace")] += 1
            elif (device := _CONFIGURATION.match(line)) is not None:
                touches[f"pci-config {device[1].decode('ascii', 'backslashreplace')}"] += 1
    return touches


def read_block_use(machine: Machine) -> dict[str, tuple[int, int]]:
    """Return read and written operations of each block device, by node name."""
    answer: list[Mapping[str, Any]] = machine.qmp.execute("query-blockstats")
    return {
        device["node-name"]: (device["stats"]["rd_operations"], device["stats"]["wr_operations"])
        for device in answer
        if "node-name" in device
    }


def picture(machine: Machine, path: Path) -> Digest:
    """Write the picture on the screen to a file and return its digest."""
    machine.qmp.execute("screendump", {"filename": str(path)})
    return hash_file(path)


def press_keys(machine: Machine) -> int:
    """Press keys that make a general-purpose system show or do something; return how many."""
    for combination in KEYS:
        codes = [{"type": "qcode", "data": code} for code in combination.split("-")]
        machine.qmp.execute("send-key", {"keys": codes})
    return len(KEYS)


def save_memory(machine: Machine, path: Path) -> None:
    """Write the guest's memory to a file, as any host can."""
    size = min(machine.config.memory_mib, RAM_BELOW_GAP_MIB) << 20
    machine.qmp.execute("pmemsave", {"val": 0, "size": size, "filename": str(path)})


def hash_file(path: Path) -> Digest:
    """Return SHA-256 of a file of any size."""
    with path.open("rb") as stream:
        return Digest(HashAlgorithm.SHA256, hashlib.file_digest(stream, "sha256").digest())


def hash_directory(path: Path) -> Digest:
    """Return one digest over names and contents of all files below a directory."""
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    lines = (f"{inner.relative_to(path)} {hash_file(inner)}\n" for inner in files)
    return Digest.sha256("".join(lines).encode())
