"""Find out which accelerator really runs a guest here, by running one.

`/dev/kvm` may be there and still not work: QEMU opens it, even creates the machine, and aborts when the first
processor is set up; or nested virtualisation is so slow that software emulation is a hundred times faster. So
the probe is a guest: a ROM that enters protected mode, counts down and writes a byte to the debug-exit port.
"""

from __future__ import annotations

import functools
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blindbuild.errors import MachineError, ToolError, UsageError
from blindbuild.host.process import Completed, Tool, run

QEMU = Tool(name="qemu-system-x86_64", package="qemu-system-x86")

Preference = Literal["auto", "kvm", "tcg"]

KVM_CPU = "host"
TCG_CPU = "max"  # has RDRAND; plainer models boot no faster (8 to 11 s with each, within the noise)
PROBE_TURNS = 20_000_000  # 10 ms on a processor, 0.2 s under TCG, half a minute where KVM only pretends
PROBE_LIMIT_S = {"kvm": 2.0, "tcg": 60.0}
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

_KVM_DEVICE = Path("/dev/kvm")
_EXIT_PORT = 0xF4
_EXIT_BYTE = 0x2A
_EXIT_STATUS = _EXIT_BYTE << 1 | 1  # QEMU docs, isa-debug-exit: it exits with (value << 1) | 1
_ROM_BYTES = 0x10000
_ROM_BASE = 0xFFFF0000  # the ROM ends at 4 GiB; the processor starts 16 bytes below


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions.

    Attributes:
        name: `kvm` or `tcg`.
        cpu: the value of QEMU's `-cpu`.
        reason: why this one, in words.
        sandbox: whether this QEMU can confine itself by seccomp.
    """

    name: str
    cpu: str
    reason: str
    sandbox: bool


@functools.cache
def choose_accelerator(preference: Preference = "auto") -> Accelerator:
    """Return the accelerator to use; a guest was run to find out, once a process.

    Raises:
        UsageError: no such preference.
        MachineError: the one that was demanded does not run guests here, or none does.
        ToolError: QEMU is missing.
    """
    if preference not in get_args(Preference):
        raise UsageError(f"expected accelerator {' or '.join(get_args(Preference))}, got {preference!r}")
    if preference == "tcg":
        return _accelerator("tcg", "software emulation, as asked")
    problem = _kvm_problem()
    if problem is None:
        return _accelerator("kvm", "a guest ran under KVM")
    if preference == "kvm":
        raise MachineError(f"KVM does not run guests here: {problem}", hint="use --accelerator tcg")
    return _accelerator("tcg", f"software emulation, because KVM does not run guests here: {problem}")


def probe_rom(turns: int) -> bytes:
    """Return a 64 KiB ROM that counts `turns` down in 32-bit code and then ends QEMU with status 85.

    Source: Intel SDM volume 3, 9.1.4 (first instruction) and 9.9.1 (switching to protected mode).
    """
    start, gdt_pointer, gdt = 0x8000, 0x9000, 0x9010
    load_table = b"\xfa\x66\x2e\x0f\x01\x16" + struct.pack("<H", gdt_pointer)  # cli; lgdt cs:[gdt_pointer]
    to_protected = load_table + b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # cr0 |= PE
    target = _ROM_BASE + start + len(to_protected) + 8
    count_down = b"\xb9" + struct.pack("<I", turns) + b"\x49\x75\xfd"  # mov ecx, turns; dec ecx; jnz
    finish = bytes((0xB0, _EXIT_BYTE, 0xBA)) + struct.pack("<I", _EXIT_PORT) + b"\xee\xf4"  # out; hlt
    code = to_protected + b"\x66\xea" + struct.pack("<IH", target, 8) + count_down + finish
    rom = bytearray(b"\xf4" * _ROM_BYTES)
    rom[start : start + len(code)] = code
    rom[gdt_pointer : gdt_pointer + 6] = struct.pack("<HI", 15, _ROM_BASE + gdt)
    rom[gdt : gdt + 16] = bytes(8) + bytes.fromhex("ffff0000009bcf00")  # null; flat 32-bit code
    rom[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<h", start - 0xFFF3)  # jmp start
    return bytes(rom)


def run_probe(name: str, cpu: str, *, sandbox: bool) -> str | None:
    """Run the probe guest; return None if it ended as it should, else what happened instead."""
    with tempfile.TemporaryDirectory(prefix="blindbuild-probe-") as directory:
        rom = Path(directory, "probe.rom")
        rom.write_bytes(probe_rom(PROBE_TURNS))
        args = ["-accel", name, "-machine", "q35", "-cpu", cpu, "-m", "16", "-nodefaults", "-no-user-config"]
        args += ["-display", "none", "-no-reboot", "-bios", str(rom)]
        args += ["-device", f"isa-debug-exit,iobase=0x{_EXIT_PORT:x},iosize=1"]
        args += ["-sandbox", SANDBOX] if sandbox else []
        limit_s = PROBE_LIMIT_S[name]
        try:
            completed = run(QEMU, args, timeout_s=limit_s, check=False)
        except ToolError as error:
            if error.hint is not None:  # it is missing: nothing to fall back to
                raise
            return f"{PROBE_TURNS} turns of a loop took more than {limit_s:g} s"
    return None if completed.returncode == _EXIT_STATUS else _describe(completed)


@functools.cache
def _kvm_problem() -> str | None:
    if not _KVM_DEVICE.exists():
        return f"there is no {_KVM_DEVICE}"
    return run_probe("kvm", KVM_CPU, sandbox=False)


@functools.cache
def _sandbox_works() -> bool:
    """Whether this QEMU confines itself; a build without seccomp refuses the option.

    Raises:
        MachineError: QEMU does not run a guest under TCG either.
    """
    if run_probe("tcg", TCG_CPU, sandbox=True) is None:
        return True
    problem = run_probe("tcg", TCG_CPU, sandbox=False)
    if problem is not None:
        raise MachineError(f"QEMU does not run guests here: {problem}")
    return False


def _accelerator(name: str, reason: str) -> Accelerator:
    return Accelerator(name, KVM_CPU if name == "kvm" else TCG_CPU, reason, _sandbox_works())


def _describe(completed: Completed) -> str:
    lines = completed.stderr.decode("utf-8", "replace").strip().splitlines()
    said = f": {lines[0].removeprefix(f'{QEMU.name}: ')}" if lines else ""
    status = completed.returncode
    return (
        f"QEMU was ended by signal {-status}" if status < 0 else f"QEMU ended with status {status}"
    ) + said
