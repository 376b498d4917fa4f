"""The VMSA page: a virtual processor's registers before its first instruction.

SEV-ES and SEV-SNP measure one page for each processor. VMMs differ in a few of the values; those below are
what each was seen to launch with. They are KVM's since Linux 6.10 where the VMM is QEMU.

Sources: AMD64 Architecture Programmer's Manual 2, table B-4 (layout) and 14.1.3 (state after INIT); the
values of each VMM as virtee/sev-snp-measure 0.0.13 states them, and Google's own in google/gce-tcb-verifier.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from blindbuild.formats.ovmf import PAGE_BYTES

RESET_VECTOR = 0xFFFFFFF0  # where the first processor starts

_SEGMENT = struct.Struct("<HHIQ")  # selector, attributes, limit, base
_SEGMENT_OFFSETS = {
    "es": 0x00,
    "cs": 0x10,
    "ss": 0x20,
    "ds": 0x30,
    "fs": 0x40,
    "gs": 0x50,
    "gdtr": 0x60,
    "ldtr": 0x70,
    "idtr": 0x80,
    "tr": 0x90,
}
_FIELDS = {
    "efer": (0x0D0, "<Q"),
    "cr4": (0x148, "<Q"),
    "cr0": (0x158, "<Q"),
    "dr7": (0x160, "<Q"),
    "dr6": (0x168, "<Q"),
    "rflags": (0x170, "<Q"),
    "rip": (0x178, "<Q"),
    "g_pat": (0x268, "<Q"),
    "rdx": (0x310, "<Q"),
    "sev_features": (0x3B0, "<Q"),
    "xcr0": (0x3E8, "<Q"),
    "mxcsr": (0x408, "<I"),
    "x87_fcw": (0x410, "<H"),
}

_PAT_AFTER_RESET = 0x0007040600070406
_PAT_OF_GCE = 0x00070106
_EDX_AFTER_RESET = 0x600  # what hardware leaves there; QEMU puts its model's signature
_COMMON = {
    "efer": 0x1000,  # KVM sets SVME
    "cr4": 0x40,  # KVM sets MCE
    "cr0": 0x10,
    "dr7": 0x400,
    "dr6": 0xFFFF0FF0,
    "rflags": 0x2,
    "xcr0": 0x1,
}


class Vmm(Enum):
    """The program that launches the guest."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class _Quirks:
    """What a VMM does differently from the others."""

    cs: int
    ss: int
    tr: int
    pat: int
    edx: int
    mxcsr: int
    fcw: int


def processor_page(*, entry: int, sev_features: int, signature: int, vmm: Vmm) -> bytes:
    """Return the VMSA page of a processor that starts in real mode.

    Args:
        entry: the address of its first instruction.
        sev_features: SEV_FEATURES, called guest features elsewhere; zero under SEV-ES.
        signature: of the processor model; only QEMU lets the guest see it here.
        vmm: who launches.
    """
    quirks = _quirks(vmm, entry, signature)
    segments = {
        "es": (0, 0x93, 0xFFFF, 0),
        "cs": (0xF000, quirks.cs, 0xFFFF, entry & 0xFFFF0000),
        "ss": (0, quirks.ss, 0xFFFF, 0),
        "ds": (0, 0x93, 0xFFFF, 0),
        "fs": (0, 0x93, 0xFFFF, 0),
        "gs": (0, 0x93, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "tr": (0, quirks.tr, 0xFFFF, 0),
    }
    fields = {
        **_COMMON,
        "rip": entry & 0xFFFF,
        "g_pat": quirks.pat,
        "rdx": quirks.edx,
        "sev_features": sev_features,
        "mxcsr": quirks.mxcsr,
        "x87_fcw": quirks.fcw,
    }
    return _page(segments, fields)


def svsm_processor_page(*, entry: int, sev_features: int, signature: int) -> bytes:
    """Return the VMSA page of a processor that starts in an SVSM: in protected mode, with flat segments.

    Source: a launch of COCONUT-SVSM by its own QEMU, as sev-snp-measure's vectors state it. They have zero
        in the x87 control word.
    """
    data = (16, 0xC93, 0xFFFFFFFF, 0)
    segments = {
        "es": data,
        "cs": (8, 0xC9B, 0xFFFFFFFF, 0),
        "ss": data,
        "ds": data,
        "fs": data,
        "gs": (0, 0x93, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "tr": (0, 0x8B, 0xFFFF, 0),
    }
    fields = {
        **_COMMON,
        "cr0": 0x11,
        "rip": entry,
        "g_pat": _PAT_AFTER_RESET,
        "rdx": signature,
        "sev_features": sev_features,
        "mxcsr": 0x1F80,
    }
    return _page(segments, fields)


def _quirks(vmm: Vmm, entry: int, signature: int) -> _Quirks:
    match vmm:
        case Vmm.QEMU:
            return _Quirks(0x9B, 0x93, 0x8B, _PAT_AFTER_RESET, signature, 0x1F80, 0x37F)
        case Vmm.EC2:
            cs = 0x9A if entry == RESET_VECTOR else 0x9B
            return _Quirks(cs, 0x92, 0x83, _PAT_AFTER_RESET, _EDX_AFTER_RESET, 0, 0)
        case Vmm.GCE:
            return _Quirks(0x9B, 0x93, 0x8B, _PAT_OF_GCE, _EDX_AFTER_RESET, 0, 0)
        case _:
            assert_never(vmm)


def _page(segments: dict[str, tuple[int, int, int, int]], fields: dict[str, int]) -> bytes:
    page = bytearray(PAGE_BYTES)
    for name, values in segments.items():
        _SEGMENT.pack_into(page, _SEGMENT_OFFSETS[name], *values)
    for name, value in fields.items():
        offset, form = _FIELDS[name]
        struct.pack_into(form, page, offset, value)
    return bytes(page)
