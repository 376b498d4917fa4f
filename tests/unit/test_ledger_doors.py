"""The two libraries that read hostile bytes for the ledger: damage gives our error, and nothing else."""

from __future__ import annotations

import contextlib

import pytest
import zstandard

from blindbuild.audit.elf import read_elf
from blindbuild.audit.kernel_symbols import ALLOWED_FILE, parse_allowed, read_symbols
from blindbuild.audit.zstd import unpack_zstd
from blindbuild.errors import ArchiveError, FormatError, PolicyError
from tests.fakes.ledger_image import dynamic_elf, static_elf

CONTENT = b"070701" + bytes(5000) + b"end"
PACKED = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)


def test_what_was_packed_is_unpacked() -> None:
    assert unpack_zstd(PACKED, limit_bytes=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("size", range(len(PACKED)))
def test_a_cut_off_frame_is_refused(size: int) -> None:
    with pytest.raises(ArchiveError, match=r"zstd: (expected magic|cut off|damaged)"):
        unpack_zstd(PACKED[:size], limit_bytes=1 << 20)


@pytest.mark.parametrize("bit", range(len(PACKED) * 8))
def test_a_flipped_bit_gives_our_error_or_the_same_content(bit: int) -> None:
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ArchiveError):
        assert unpack_zstd(bytes(damaged), limit_bytes=1 << 20) == CONTENT


@pytest.mark.parametrize("more", [b"\0", PACKED, b"\x50\x2a\x4d\x18\x00\x00\x00\x00"])
def test_what_follows_a_frame_is_refused(more: bytes) -> None:
    with pytest.raises(ArchiveError, match="expected one frame"):
        unpack_zstd(PACKED + more, limit_bytes=1 << 20)


def test_a_frame_as_long_as_a_step_ends_where_it_ends() -> None:
    content = bytes(range(256)) * 3 + b"x" * (1024 - 768 - 13)
    for extra in range(40):  # some of them end exactly at a multiple of the step
        packed = zstandard.ZstdCompressor(level=1).compress(content + bytes(range(extra)))
        assert unpack_zstd(packed, limit_bytes=1 << 20) == content + bytes(range(extra))


def test_more_than_the_limit_is_refused() -> None:
    with pytest.raises(ArchiveError, match="expected at most 100 bytes"):
        unpack_zstd(PACKED, limit_bytes=100)
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    with pytest.raises(ArchiveError, match="expected at most 1048576 bytes"):
        unpack_zstd(bomb, limit_bytes=1 << 20)


def test_a_static_program_and_a_library_are_told_apart() -> None:
    assert read_elf(static_elf()).is_static
    library = read_elf(dynamic_elf("socket", "getaddrinfo"))
    assert not library.is_static
    assert library.imports == ("getaddrinfo", "socket")


@pytest.mark.parametrize("data", [b"", b"\x7fEL", b"\x7fELF", b"\x7fELF\x02\x01", b"MZ" + bytes(100)])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="elf: expected an ELF file"):
        read_elf(data)


def test_a_cut_off_library_gives_our_error_or_an_answer() -> None:
    library = dynamic_elf("socket")
    for size in range(0, len(library), 97):
        with contextlib.suppress(FormatError):
            read_elf(library[:size])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("driver\n", "expected a keyword and names"),
        ("module x\n", "expected a keyword and names"),
        ("driver a a\n", "driver a is there twice"),
        ("driver a\n", "expected names for every keyword"),
        ("", "expected names for every keyword"),
    ],
)
def test_a_malformed_allow_list_is_refused(text: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        parse_allowed(text)


def test_the_allow_list_has_no_name_of_a_forbidden_kind() -> None:
    allowed = parse_allowed(ALLOWED_FILE.read_text())
    assert len(allowed["driver"]) == 10
    assert not {"fuse_fs_type", "nfs_fs_type", "ext4_fs_type"} & allowed["filesystem"]
    assert not {"io_uring_setup", "bpf", "syslog", "kexec_load", "init_module"} & allowed["call"]


def test_a_malformed_symbol_table_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"System\.map: expected address, type and name"):
        read_symbols("ffffffff81000000 T\n")
