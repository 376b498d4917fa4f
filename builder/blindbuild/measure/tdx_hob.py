"""The TD HOB: QEMU's list of memory for the firmware of a trust domain, the first thing that RTMR0 holds.

Sources: QEMU hw/i386/tdvf-hob.c, tdvf_hob_create; target/i386/kvm/tdx.c, tdx_accept_ram_range; for the memory
below 4 GiB hw/i386/pc_q35.c; edk2 OvmfPkg/IntelTdx/TdxHelperLib, TdxHelperMeasureTdHob (hashed up to, not
with, the end of the list); UEFI Platform Initialization 1.8, volume 3, 5 (HOB structures).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.formats.ovmf import FOUR_GIB, PAGE_BYTES, GuestArea, TdxSection, TdxSectionType

MAX_MEMORY_BYTES = 1 << 46  # 64 TiB, more than any machine's
_LOW_LIMIT = 0xB0000000  # q35: from here on, less memory is kept below 4 GiB
_LOW_BYTES = 0x80000000

_HANDOFF = struct.Struct("<HHIII5Q")  # header, version, boot mode, four unused addresses, end of the list
_RESOURCE = struct.Struct("<HHI16sIIQQ")  # header, owner, type, attributes, start, length
_END_BYTES = 8  # the header of the last HOB
_HANDOFF_TYPE = 1
_RESOURCE_TYPE = 3
_VERSION = 9
_SYSTEM_MEMORY = 0
_UNACCEPTED_MEMORY = 7
_ATTRIBUTES = 7  # present, initialized, tested


@dataclass(frozen=True, slots=True)
class _Range:
    area: GuestArea
    added: bool


def qemu_memory(memory_bytes: int) -> tuple[GuestArea, ...]:
    """Return where QEMU's q35 machine has its memory, without `max-ram-below-4g`.

    Raises:
        MeasureError: not whole pages, or a size no machine has.
    """
    if memory_bytes % PAGE_BYTES or not 0 < memory_bytes <= MAX_MEMORY_BYTES:
        raise MeasureError(
            f"expected whole pages of memory, up to {MAX_MEMORY_BYTES} bytes, got {memory_bytes}"
        )
    if memory_bytes < _LOW_LIMIT:
        return (GuestArea(0, memory_bytes),)
    return GuestArea(0, _LOW_BYTES), GuestArea(FOUR_GIB, memory_bytes - _LOW_BYTES)


def write_td_hob(sections: Sequence[TdxSection], memory: Sequence[GuestArea]) -> bytes:
    """Return the part of the HOB list that firmware measures.

    Args:
        sections: of the firmware's TDX metadata, in its order.
        memory: the guest's memory.

    Raises:
        MeasureError: pages of the firmware are not inside one range of memory; QEMU would not start.
    """
    ranges = [_Range(area, False) for area in memory]
    base = None
    for section in sections:
        if section.kind is TdxSectionType.TD_HOB:
            base = section.area.address
        if section.kind in (TdxSectionType.TD_HOB, TdxSectionType.TEMP_MEM):
            ranges = _with_added(ranges, section.area)
    if base is None:
        raise MeasureError("TD HOB: expected firmware with a place for it, got none")
    ordered = sorted(ranges, key=lambda entry: entry.area.address)
    end = base + _HANDOFF.size + len(ordered) * _RESOURCE.size + _END_BYTES
    handoff = _HANDOFF.pack(_HANDOFF_TYPE, _HANDOFF.size, 0, _VERSION, 0, 0, 0, 0, 0, end)
    return handoff + b"".join(_resource(entry) for entry in ordered)


def _with_added(ranges: list[_Range], area: GuestArea) -> list[_Range]:
    for index, entry in enumerate(ranges):
        if not entry.added and entry.area.address <= area.address and area.end <= entry.area.end:
            before = GuestArea(entry.area.address, area.address - entry.area.address)
            after = GuestArea(area.end, entry.area.end - area.end)
            rest = [_Range(part, False) for part in (before, after) if part.size]
            return [*ranges[:index], _Range(area, True), *rest, *ranges[index + 1 :]]
    raise MeasureError(
        f"TD HOB: expected {area.size:#x} bytes at {area.address:#x} inside the guest's memory",
        hint="give the guest more memory",
    )


def _resource(entry: _Range) -> bytes:
    kind = _SYSTEM_MEMORY if entry.added else _UNACCEPTED_MEMORY
    area = entry.area
    return _RESOURCE.pack(
        _RESOURCE_TYPE, _RESOURCE.size, 0, bytes(16), kind, _ATTRIBUTES, area.address, area.size
    )
