"""A bzImage that is a PE image too, and a stub with systemd's magic: enough for the checks, not to run."""

from __future__ import annotations

import struct

from tests.fakes.pe_image import FakeSection, make_pe

RELEASE = "6.12.1-test"


def make_bzimage(
    *, release: str = RELEASE, protocol: int = 0x020F, xloadflags: int = 1, pointer: int = 0x100
) -> bytes:
    """Return an image with the setup header of arch/x86/boot.rst in the padding of its PE headers."""
    image = bytearray(make_pe([FakeSection(b".setup", b"s"), FakeSection(b".text", b"kernel" * 200)]))
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<H", image, 0x20E, pointer)
    struct.pack_into("<H", image, 0x236, xloadflags)
    text = f"{release} (builder@host) #1 SMP".encode() + b"\0"
    image[0x300 : 0x300 + len(text)] = text
    return bytes(image)


def make_stub(magic: bytes = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0") -> bytes:
    """Return an image with the sections of a stub that matter here."""
    return make_pe(
        [FakeSection(b".text", b"code"), FakeSection(b".sbat", b"sbat,1\n"), FakeSection(b".sdmagic", magic)]
    )
