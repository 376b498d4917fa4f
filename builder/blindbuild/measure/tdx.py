"""Intel TDX: MRTD, what a trust domain was built from before it ran.

The TDX module hashes the address of every page that the VMM adds and, where the VMM asks for it, the page's
content in chunks. Which pages, and which with content, the firmware's own list says: only the code (BFV) has
content in MRTD; the variable store and everything later is in RTMR0 to RTMR3.

Sources: Intel TDX Module 1.5 ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND (the 128-byte buffers); TDX Module 1.5
Base Architecture, 11 (MRTD); TDVF Design Guide 1.01, 8.1 and 11; QEMU target/i386/kvm/tdx.c,
tdx_init_fw_mem_region.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.ovmf import (
    FOUR_GIB,
    PAGE_BYTES,
    TdxSection,
    TdxSectionType,
    read_footer_table,
    read_tdx_metadata,
)
from blindbuild.measure.named import NamedMeasurement

CHUNK_BYTES = 256  # what one TDH.MR.EXTEND covers
_BUFFER_BYTES = 128
_ADDRESS_OFFSET = 16
_RESET_PAGE = FOUR_GIB - PAGE_BYTES  # a trust domain's first instruction is at 0xfffffff0


class PageOrder(Enum):
    """In which order a VMM adds and extends the pages of one section.

    INTERLEAVED: each page is added, then extended: upstream Linux (since 6.16) with upstream QEMU (since
    10.1), Google's VMM, and the vendors' QEMU 9 trees. TWO_PASS: all pages are added, then all are
    extended: the vendors' QEMU 8 trees with their kernels.
    """

    INTERLEAVED = "interleaved"
    TWO_PASS = "two-pass"  # noqa: S105  the order has two passes


def tdx_sections(firmware: bytes) -> tuple[TdxSection, ...]:
    """Return the pages that a VMM adds for this image.

    Raises:
        FormatError: the image has no well-formed TDX metadata.
    """
    return read_tdx_metadata(firmware, read_footer_table(firmware))


def predict_mrtd(firmware: bytes, *, order: PageOrder = PageOrder.INTERLEAVED) -> NamedMeasurement:
    """Return MRTD of a trust domain with this firmware.

    Args:
        firmware: the whole image, code and variables, as for QEMU's `-bios`.
        order: of the VMM.

    Raises:
        FormatError: the image has no well-formed TDX metadata.
        MeasureError: its code would not be measured, so that MRTD would say nothing.
    """
    sections = tdx_sections(firmware)
    _check_code_is_measured(sections)
    hasher = hashlib.sha384()
    for section in sections:
        pages = range(section.area.address, section.area.end, PAGE_BYTES)
        if order is PageOrder.TWO_PASS:
            for address in pages:
                hasher.update(_buffer(b"MEM.PAGE.ADD", address))
        for address in pages:
            if order is PageOrder.INTERLEAVED:
                hasher.update(_buffer(b"MEM.PAGE.ADD", address))
            if section.extends_mrtd:
                hasher.update(_extended_page(address, _page(firmware, section, address)))
    return NamedMeasurement(
        "MRTD",
        Digest(HashAlgorithm.SHA384, hasher.digest()),
        "the firmware's code and the addresses of its first pages",
        (f"firmware image ({len(firmware)} bytes)", f"page order of the VMM: {order.value}"),
    )


def _check_code_is_measured(sections: tuple[TdxSection, ...]) -> None:
    for section in sections:
        if section.kind is TdxSectionType.BFV and not section.extends_mrtd:
            raise MeasureError(
                "MRTD: expected the firmware's code to be measured, got a BFV without MR.EXTEND"
            )
    if not any(
        section.extends_mrtd and section.area.address <= _RESET_PAGE < section.area.end
        for section in sections
    ):
        raise MeasureError("MRTD: expected the page of the first instruction to be measured, got none")


def _page(firmware: bytes, section: TdxSection, address: int) -> bytes:
    if section.data is None:
        return bytes(PAGE_BYTES)
    start = section.data.start + address - section.area.address
    return firmware[start : start + PAGE_BYTES]


def _extended_page(address: int, page: bytes) -> bytes:
    return b"".join(
        _buffer(b"MR.EXTEND", address + offset) + page[offset : offset + CHUNK_BYTES]
        for offset in range(0, PAGE_BYTES, CHUNK_BYTES)
    )


def _buffer(leaf: bytes, address: int) -> bytes:
    head = leaf.ljust(_ADDRESS_OFFSET, b"\0") + address.to_bytes(8, "little")
    return head.ljust(_BUFFER_BYTES, b"\0")
