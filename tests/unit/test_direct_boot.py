"""QEMU's direct boot: the setup header that it changes, and the command line that the firmware makes."""

from __future__ import annotations

import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError, PeError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.source import BytesSource
from blindbuild.measure.direct import (
    MAX_COMMAND_LINE,
    Confidential,
    DirectMachine,
    direct_load_options,
    measure_direct_kernel,
    patch_kernel,
)
from tests.fakes.damage import bit_flips, truncations
from tests.fakes.pe_image import make_pe

SHA256 = HashAlgorithm.SHA256
GIB = 1 << 30


def bz_image(
    *, protocol: int = 0x20F, flags: int = 0x01, xloadflags: int = 0x7F, limit: int = 0x7FFFFFFF
) -> bytes:
    """Return a PE image whose headers hold a setup header, as a bzImage's do (boot.rst)."""
    image = bytearray(make_pe(size_of_headers=2048))
    assert not any(image[0x201:0x268])
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    image[0x211] = flags
    struct.pack_into("<I", image, 0x22C, limit)
    struct.pack_into("<H", image, 0x236, xloadflags)
    return bytes(image)


def changed(before: bytes, after: bytes) -> dict[int, int]:
    """Return the new bytes by offset."""
    assert len(before) == len(after)
    return {i: b for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


def machine(qemu: tuple[int, int] = (7, 2), edk2: int = 202211, **more: object) -> DirectMachine:
    return DirectMachine(qemu=qemu, edk2=edk2, **{"memory_bytes": 2 * GIB, **more})


def test_without_an_initrd_four_fields_of_a_boot_loader_are_written() -> None:
    kernel = bz_image()
    patched = patch_kernel(kernel, memory_bytes=2 * GIB, initrd_bytes=0)
    assert changed(kernel, patched) == {0x210: 0xB0, 0x211: 0x81, 0x225: 0xFE, 0x22A: 0x02}


@pytest.mark.parametrize(
    ("memory", "size", "address"),
    [
        # 0x80000000 - 0x28000 - 1 - 1028483, down to a page: read from the memory of a 2 GiB machine
        (2 * GIB, 1028483, 0x7FEDC000),
        (GIB, 1028483, 0x3FEDC000),
        (0xB0000000 - 1, 4096, 0xAFFD6000),
        (0xB0000000, 4096, 0x7FFD6000),
        (8 * GIB, 4096, 0x7FFD6000),
    ],
)
def test_the_initrd_goes_below_the_end_of_low_memory(memory: int, size: int, address: int) -> None:
    patched = patch_kernel(bz_image(), memory_bytes=memory, initrd_bytes=size)
    assert struct.unpack_from("<II", patched, 0x218) == (address, size)


def test_a_kernel_that_cannot_be_above_4_gib_says_where_its_initrd_ends() -> None:
    kernel = bz_image(xloadflags=0x7D, limit=0x37FFFFFF)
    patched = patch_kernel(kernel, memory_bytes=8 * GIB, initrd_bytes=4096)
    assert struct.unpack_from("<I", patched, 0x218)[0] == 0x37FFE000


def test_memory_at_which_q35_splits_changes_the_digest_of_the_kernel() -> None:
    values = {
        patch_kernel(bz_image(), memory_bytes=size, initrd_bytes=4096)
        for size in (GIB, 2 * GIB, 3 * GIB, 8 * GIB)
    }
    assert len(values) == 2 + 0  # 2 GiB and more than 2.75 GiB put it at the same place


@pytest.mark.parametrize(
    ("kernel", "memory", "size", "reason"),
    [
        (make_pe(), 2 * GIB, 0, "expected a bzImage with a setup header, got none"),
        (bz_image()[:0x267], 2 * GIB, 0, "expected a bzImage with a setup header, got none"),
        (bz_image(protocol=0x20B), 2 * GIB, 0, "protocol 0x020c that is loaded high, got 0x020b"),
        (bz_image(flags=0), 2 * GIB, 0, "that is loaded high"),
        (bz_image(), 0x28000, 1, "expected more memory"),
        (bz_image(), GIB, GIB, "expected an initrd below 1073577983 bytes, got 1073741824"),
        (bz_image(), GIB, GIB - 0x28000 - 1, "expected an initrd below 1073577983 bytes"),
    ],
)
def test_what_qemu_would_refuse_or_treat_in_another_way_is_refused(
    kernel: bytes, memory: int, size: int, reason: str
) -> None:
    with pytest.raises(MeasureError, match=reason):
        patch_kernel(kernel, memory_bytes=memory, initrd_bytes=size)


@pytest.mark.parametrize(
    ("given", "patches"),
    [
        (machine((7, 2), 202211), True),
        (machine((7, 2), 202502), True),
        (machine((10, 0), 202211), True),
        (machine((10, 0), 202502), False),
        (machine((10, 1), 202508), False),
        (machine((7, 2), 202211, confidential=Confidential.SEV), False),
        (machine((10, 1), 202211, confidential=Confidential.TDX), True),
        (machine((10, 2), 202211, confidential=Confidential.TDX), False),
    ],
)
def test_the_pairs_of_qemu_and_edk2_that_patch(given: DirectMachine, patches: bool) -> None:
    assert given.patches_kernel is patches


@pytest.mark.parametrize(
    ("text", "initrd", "edk2", "shim", "options"),
    [
        ("quiet", True, 202505, False, "quiet initrd=initrd"),
        ("quiet", True, 202508, False, "initrd=initrd quiet"),
        ("quiet", False, 202505, False, "quiet"),
        ("quiet", False, 202508, False, "quiet"),
        ("", False, 202508, False, ""),
        ("", True, 202505, False, " initrd=initrd"),
        ("", True, 202508, False, "initrd=initrd "),
        ("quiet", True, 202508, True, "kernel initrd=initrd quiet"),
        ("quiet", True, 202502, True, "kernel quiet initrd=initrd"),
    ],
)
def test_the_firmware_makes_load_options_in_the_order_of_its_release(
    text: str, initrd: bool, edk2: int, shim: bool, options: str
) -> None:
    assert direct_load_options(text, has_initrd=initrd, edk2=edk2, via_shim=shim) == options


@pytest.mark.parametrize("text", ["é", "a\nb", "a\0b", "x" * (MAX_COMMAND_LINE + 1)])
def test_a_command_line_that_cannot_be_predicted_is_refused(text: str) -> None:
    with pytest.raises(MeasureError, match="direct boot: expected printable ASCII"):
        direct_load_options(text, has_initrd=False, edk2=202502)


def test_a_kernel_is_measured_as_the_firmware_gets_it() -> None:
    kernel = bz_image()
    old = measure_direct_kernel(
        kernel, command_line="quiet", initrd=b"initrd", machine=machine(), algorithms=(SHA256,)
    )
    patched = patch_kernel(kernel, memory_bytes=2 * GIB, initrd_bytes=6)
    assert old.authenticode == authenticode_digests(patched, (SHA256,))
    assert old.load_options == "quiet initrd=initrd\0".encode("utf-16-le")
    assert old.initrd == {SHA256: Digest.sha256(b"initrd")}
    new = measure_direct_kernel(
        kernel, command_line="", initrd=None, machine=machine((10, 0), 202502), algorithms=(SHA256,)
    )
    assert new.authenticode == authenticode_digests(kernel, (SHA256,))
    assert (new.load_options, new.initrd) == (b"", None)
    assert (old.changed, new.changed) == (True, False)


def test_an_initrd_may_come_from_a_file_and_an_empty_one_is_none() -> None:
    for initrd in (BytesSource(b""), b""):
        found = measure_direct_kernel(
            bz_image(), command_line="quiet", initrd=initrd, machine=machine(), algorithms=(SHA256,)
        )
        assert (found.initrd, found.load_options) == (None, "quiet\0".encode("utf-16-le"))


def test_an_option_that_qemu_interprets_itself_is_refused_where_it_matters() -> None:
    with pytest.raises(MeasureError, match="without vga="):
        measure_direct_kernel(
            bz_image(), command_line="vga=ask", initrd=None, machine=machine(), algorithms=(SHA256,)
        )
    measure_direct_kernel(
        bz_image(),
        command_line="vga=ask",
        initrd=None,
        machine=machine((10, 0), 202502),
        algorithms=(SHA256,),
    )


def test_a_damaged_kernel_gives_only_our_errors() -> None:
    kernel = bz_image()
    for damaged in (*truncations(kernel, step=61), *bit_flips(kernel[:0x268])):
        try:
            measure_direct_kernel(
                damaged, command_line="", initrd=b"i", machine=machine(), algorithms=(SHA256,)
            )
        except (MeasureError, PeError):
            continue
