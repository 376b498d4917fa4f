import struct
from typing import TypedDict

import pytest

from blindbuild.assemble.disk import build_disk
from blindbuild.assemble.uki import build_uki, read_kernel_release, read_stub_version
from blindbuild.errors import BuildError, PeError
from blindbuild.formats.fat import read_fat
from blindbuild.formats.pe import read_pe
from tests.fakes.kernel_image import RELEASE, make_bzimage, make_stub
from tests.fakes.pe_image import make_pe


class Inputs(TypedDict, total=False):
    stub: bytes
    kernel: bytes
    initrd: bytes
    command_line: str
    built_in_command_line: str
    os_release: str
    uname: str


GOOD: Inputs = {
    "stub": make_stub(),
    "kernel": make_bzimage(),
    "initrd": b"initramfs",
    "command_line": "quiet panic=-1",
    "built_in_command_line": "quiet panic=-1",
    "os_release": 'ID=blindbuild\nVERSION_ID="1.0.0"\n',
    "uname": RELEASE,
}


def test_the_image_holds_every_input_in_its_section_and_the_kernel_last() -> None:
    image = read_pe(build_uki(**GOOD))
    names = [section.name for section in image.sections]
    assert names == [".text", ".sbat", ".sdmagic", ".osrel", ".cmdline", ".uname", ".initrd", ".linux"]
    assert image.section_data(".osrel") == b'ID=blindbuild\nVERSION_ID="1.0.0"\n'
    assert image.section_data(".cmdline") == b"quiet panic=-1"
    assert image.section_data(".uname") == RELEASE.encode()
    assert image.section_data(".initrd") == b"initramfs"
    assert image.section_data(".linux") == make_bzimage()


def test_equal_input_gives_equal_bytes() -> None:
    assert build_uki(**GOOD) == build_uki(**GOOD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command_line": ""}, "command line: expected up to 2047"),
        ({"command_line": "a\0b", "built_in_command_line": "a\0b"}, "command line: expected up to 2047"),
        ({"command_line": "a  b", "built_in_command_line": "a  b"}, "command line: expected up to 2047"),
        ({"command_line": " a", "built_in_command_line": " a"}, "command line: expected up to 2047"),
        ({"command_line": "a\n", "built_in_command_line": "a\n"}, "command line: expected up to 2047"),
        ({"command_line": "é", "built_in_command_line": "é"}, "command line: expected up to 2047"),
        (
            {"command_line": "a" * 2048, "built_in_command_line": "a" * 2048},
            "command line: expected up to 2047",
        ),
        ({"built_in_command_line": "quiet"}, "built-in one 'quiet', got 'quiet panic=-1'"),
        ({"initrd": b""}, "expected an initramfs"),
        ({"os_release": ""}, "ended by a newline"),
        ({"os_release": "ID=x"}, "ended by a newline"),
        ({"os_release": "NAME=x\n"}, "expected ID"),
        ({"os_release": "ID=x\nID=y\n"}, "no name twice"),
        ({"os_release": "ID=x\n\n"}, "NAME=value"),
        ({"os_release": "ID=x y\n"}, "NAME=value"),
        ({"os_release": 'ID=x\nNAME="$(id)"\n'}, "NAME=value"),
        ({"os_release": 'ID=x\nNAME="é"\n'}, "NAME=value"),
        ({"uname": "6.12.2"}, "expected kernel release 6.12.2, got a bzImage of 6.12.1-test"),
        ({"kernel": make_pe()}, "no setup header"),
        ({"kernel": b"MZ"}, "no setup header"),
        ({"kernel": make_bzimage(protocol=0x020B)}, "64-bit kernel"),
        ({"kernel": make_bzimage(xloadflags=2)}, "64-bit kernel"),
        ({"kernel": make_bzimage(pointer=0)}, "kernel release in the setup header"),
        ({"kernel": make_bzimage(pointer=0xFFFF)}, "kernel release in the setup header"),
        ({"kernel": make_bzimage(release="")}, "kernel release in the setup header"),
        ({"kernel": make_bzimage()[:1024]}, "kernel with EFI stub"),
    ],
)
def test_an_input_that_is_not_what_it_should_be_is_refused(changes: Inputs, reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        build_uki(**{**GOOD, **changes})


def test_a_stub_that_is_not_systemds_is_refused() -> None:
    with pytest.raises(PeError, match=r"section \.sdmagic"):
        build_uki(**{**GOOD, "stub": make_pe()})


@pytest.mark.parametrize("version", ["252.39-1~deb12u2", "257.13-1~deb13u1", "262"])
def test_the_version_of_the_stub_is_read_from_stub_and_image(version: str) -> None:
    stub = make_stub(f"#### LoaderInfo: systemd-stub {version} ####\0".encode())
    assert read_stub_version(stub) == version
    assert read_stub_version(build_uki(**{**GOOD, "stub": stub})) == version


@pytest.mark.parametrize(
    "magic", [b"#### LoaderInfo: systemd-boot 257 ####\0", b"#### LoaderInfo: systemd-stub  ####", b"x" * 60]
)
def test_another_magic_is_refused(magic: bytes) -> None:
    with pytest.raises(PeError, match=r"\.sdmagic: expected"):
        read_stub_version(make_stub(magic))


def test_the_release_is_the_first_word_of_the_version() -> None:
    assert read_kernel_release(make_bzimage(release="6.12.117-blindbuild")) == "6.12.117-blindbuild"


def test_the_disk_holds_the_image_where_firmware_looks() -> None:
    uki = build_uki(**GOOD)
    disk = build_disk(uki)
    assert read_fat(disk) == {"EFI/BOOT/BOOTX64.EFI": uki}
    assert build_disk(uki) == disk
    assert struct.unpack_from("<H", disk, 510) == (0xAA55,)


def test_a_disk_without_an_image_is_refused() -> None:
    with pytest.raises(PeError, match="magic"):
        build_disk(b"not an image")
