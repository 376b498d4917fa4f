"""Images with the tables of OVMF, written from edk2's reset vector sources and not by the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SEV_HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_ES_RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
TDX_METADATA_OFFSET = "e47a6535-984a-4798-865e-4685a7bf8ec2"
TDX_METADATA = "e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae"

# (address, size, type) as in edk2's AmdSev build
AMD_SEV_SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x810000, 0x1000, 0x10),
    (0x811000, 0xF000, 1),
)
# the ranges of memory of edk2's builds for trust domains: (address, size, type)
TDX_MEMORY_SECTIONS = (
    (0x810000, 0x10000, 3),
    (0x80B000, 0x2000, 3),
    (0x809000, 0x2000, 2),
    (0x800000, 0x6000, 3),
)


def entry(guid: str, data: bytes) -> bytes:
    """One entry of the GUIDed table; the same form as its footer."""
    return data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le


@dataclass(frozen=True)
class OvmfImage:
    """What to put into an image; its first pages are its variable store."""

    pages: int = 8
    variable_pages: int = 2
    sev_sections: Sequence[tuple[int, int, int]] = AMD_SEV_SECTIONS
    hashes: tuple[int, int] = (0x810C00, 0x400)
    reset: int = 0x80B004
    code_is_extended: bool = True
    memory_is_extended: bool = False
    memory: Sequence[tuple[int, int, int]] = TDX_MEMORY_SECTIONS
    extra: bytes = b""

    def sev_metadata(self) -> bytes:
        """ASEV, with its sections."""
        body = b"".join(struct.pack("<III", *section) for section in self.sev_sections)
        return b"ASEV" + struct.pack("<III", 16 + len(body), 1, len(self.sev_sections)) + body

    def tdx_metadata(self) -> bytes:
        """TDVF, with its sections: code, variables, memory."""
        size, variables = self.pages * 4096, self.variable_pages * 4096
        base = (1 << 32) - size
        rows = [
            (variables, size - variables, base + variables, size - variables, 0, int(self.code_is_extended)),
            *([(0, variables, base, variables, 1, 0)] if variables else []),
            *(
                (0, 0, address, length, kind, int(self.memory_is_extended))
                for address, length, kind in self.memory
            ),
        ]
        body = b"".join(struct.pack("<IIQQII", *row) for row in rows)
        return b"TDVF" + struct.pack("<III", 16 + len(body), 1, len(rows)) + body

    def build(self) -> bytes:
        """The image: pages with a pattern, the metadata, the table, 32 bytes."""
        size = self.pages * 4096
        sev, tdx = self.sev_metadata(), UUID(TDX_METADATA).bytes_le + self.tdx_metadata()
        fixed = 5 * 18 + 4 * 3 + 8 + len(self.extra) + 32
        sev_distance = fixed + len(sev)
        tdx_distance = sev_distance + len(tdx)
        table = (
            self.extra
            + entry(TDX_METADATA_OFFSET, struct.pack("<I", tdx_distance - 16))
            + entry(SEV_METADATA, struct.pack("<I", sev_distance))
            + entry(SEV_HASHES, struct.pack("<II", *self.hashes))
            + entry(SEV_ES_RESET, struct.pack("<I", self.reset))
        )
        table = entry(FOOTER, table)
        tail = tdx + sev + table + bytes(range(32))
        pattern = b"".join(
            struct.pack("<Q", number * 0x9E3779B97F4A7C15 % 2**64) for number in range(size // 8)
        )
        image = pattern[: size - len(tail)] + tail
        assert len(image) == size
        return image
