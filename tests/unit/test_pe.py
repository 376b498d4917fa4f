import struct

import pytest

from blindbuild.errors import PeError
from blindbuild.formats.pe import NewSection, PeSection, append_sections, compute_checksum, read_pe
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.pe_image import OPTIONAL, PE_OFFSET, FakeSection, make_pe, with_certificates

IMAGE = make_pe()
TABLE = OPTIONAL + 112 + 16 * 8
NEW = (NewSection(".osrel", b"ID=test\n"), NewSection(".linux", b"kernel" * 1000))


def patched(offset: int, layout: str, *values: int) -> bytes:
    image = bytearray(IMAGE)
    struct.pack_into(layout, image, offset, *values)
    return bytes(image)


def test_sections_and_header_fields_are_read() -> None:
    image = read_pe(IMAGE)
    assert image.sections == (
        PeSection(".text", 400, 4096, 512, 1024, 0x40000040),
        PeSection(".data", 600, 8192, 512, 1536, 0x40000040),
    )
    assert (image.section_alignment, image.file_alignment) == (4096, 512)
    assert (image.size_of_headers, image.size_of_image, image.sections_end) == (1024, 12288, 2048)


def test_section_data_is_cut_or_filled_to_the_virtual_size() -> None:
    image = read_pe(IMAGE)
    assert image.section_data(".text") == b"code" * 100
    assert image.section_data(".data") == b"data".ljust(600, b"\0")


@pytest.mark.parametrize("sections", [(), (FakeSection(b".a", b"1"), FakeSection(b".a", b"2"))])
def test_a_name_that_is_missing_or_occurs_twice_has_no_data(sections: tuple[FakeSection, ...]) -> None:
    image = read_pe(make_pe((*sections, FakeSection(b".b", b"3"))))
    with pytest.raises(PeError, match=r"expected one section \.a, got"):
        image.section_data(".a")


def test_every_truncation_is_refused() -> None:
    assert_all_refused(read_pe, truncations(IMAGE), PeError)


def test_flipped_bits_raise_nothing_else() -> None:
    assert assert_nothing_else_raised(read_pe, bit_flips(IMAGE), PeError) > 20


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"ZM" + IMAGE[2:], "expected magic 'MZ'"),
        (b"MZ", "64-byte DOS header"),
        (patched(60, "<I", 63), "even header offset"),
        (patched(60, "<I", 65), "even header offset"),
        (patched(60, "<I", 0xFFFF_FFFE), "even header offset"),
        (patched(60, "<I", 66), "signature"),
        (patched(PE_OFFSET + 4, "<H", 0x14C), "machine 0x8664"),
        (patched(PE_OFFSET + 6, "<H", 0), "1 to 96 sections"),
        (patched(PE_OFFSET + 6, "<H", 97), "1 to 96 sections"),
        (patched(PE_OFFSET + 6, "<H", 96), "cut off: the section table"),
        (patched(PE_OFFSET + 20, "<H", 111), "PE32\\+ optional header"),
        (patched(PE_OFFSET + 20, "<H", 0xFFFF), "PE32\\+ optional header"),
        (patched(PE_OFFSET + 20, "<H", 248), "data directories do not fit"),
        (patched(OPTIONAL, "<H", 0x10B), "magic 0x020b"),
        (patched(OPTIONAL + 108, "<I", 15), "15 data directories do not fit"),
        (patched(OPTIONAL + 108, "<I", 0xFFFF_FFFF), "data directories do not fit"),
        (patched(OPTIONAL + 32, "<I", 0), "section alignment: expected a power of two"),
        (patched(OPTIONAL + 32, "<I", 256), "section alignment: expected 512 or more"),
        (patched(OPTIONAL + 36, "<I", 513), "file alignment: expected a power of two"),
        (patched(OPTIONAL + 60, "<I", 300), "SizeOfHeaders"),
        (patched(OPTIONAL + 60, "<I", 4096), "SizeOfHeaders"),
        (patched(OPTIONAL + 60, "<I", 1025), ".text at 1024 overlaps headers"),
        (patched(OPTIONAL + 56, "<I", 0xFFFF_F000), "SizeOfImage: expected at most"),
        (patched(OPTIONAL + 56, "<I", 8700), ".data: expected to end in the image of 8700"),
        (patched(TABLE, "<Q", 0), "printable section name"),
        (patched(TABLE, "<B", 0xE9), "printable section name"),
        (patched(TABLE, "<B", 0), "printable section name"),
        (patched(TABLE + 8, "<I", 4097), ".data at 8192 overlaps .text"),
        (patched(TABLE + 12, "<I", 1000), ".text at 1000 overlaps headers"),
        (patched(TABLE + 16, "<I", 513), ".data at 1536 overlaps .text"),
        (patched(TABLE + 20, "<I", 1023), ".text at 1023 overlaps headers"),
        (patched(TABLE + 40 + 20, "<I", 1537), ".data: expected to end in the file"),
        (patched(TABLE + 40 + 16, "<I", 0xFFFF_FE00), ".data: expected to end in the file"),
        (patched(OPTIONAL + 144, "<II", 2048, 1), "certificate table from 2048"),
        (patched(OPTIONAL + 144, "<II", 2040, 8), "certificate table from 2048"),
        (patched(OPTIONAL + 144, "<II", 2048, 0), "certificate table from 2048"),
        (patched(OPTIONAL + 144, "<II", 0, 8), "certificate table from 2048"),
        (with_certificates(IMAGE, bytes(16)) + b"x", "certificate table from 2048"),
    ],
)
def test_a_malformed_image_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PeError, match=reason):
        read_pe(data)


def test_appended_sections_start_on_fresh_pages_and_the_last_one_stays_last() -> None:
    image = read_pe(append_sections(IMAGE, NEW))
    assert [section.name for section in image.sections] == [".text", ".data", ".osrel", ".linux"]
    assert image.sections[2:] == (
        PeSection(".osrel", 8, 12288, 512, 2048, 0x40000040),
        PeSection(".linux", 6000, 16384, 6144, 2560, 0x40000040),
    )
    assert image.size_of_image == 16384 + 8192
    assert [image.section_data(section.name) for section in NEW] == [section.data for section in NEW]


def test_appending_changes_nothing_else_of_the_stub() -> None:
    output = append_sections(IMAGE, NEW)
    changed = {offset for offset in range(len(IMAGE)) if output[offset] != IMAGE[offset]}
    fields = (
        range(PE_OFFSET + 6, PE_OFFSET + 8),  # number of sections
        range(OPTIONAL + 8, OPTIONAL + 12),  # initialized data
        range(OPTIONAL + 56, OPTIONAL + 60),  # image size
        range(OPTIONAL + 64, OPTIONAL + 68),  # checksum
        range(TABLE + 80, TABLE + 160),  # the new lines of the table
    )
    assert changed <= {offset for field in fields for offset in field}
    assert struct.unpack_from("<I", output, OPTIONAL + 8)[0] == 1024 + 512 + 6144


def test_equal_input_gives_equal_bytes() -> None:
    assert append_sections(IMAGE, NEW) == append_sections(IMAGE, NEW)


def test_a_symbol_table_behind_the_sections_is_dropped() -> None:
    stub = make_pe(tail=b"symbols and strings", symbol_table=len(IMAGE))
    assert append_sections(stub, NEW) == append_sections(IMAGE, NEW)


@pytest.mark.parametrize(
    ("stub", "sections", "reason"),
    [
        (with_certificates(IMAGE, bytes(8)), NEW, "an unsigned image"),
        (make_pe(tail=b"leftover"), NEW, "8 bytes after the sections are not a symbol table"),
        (make_pe(tail=b"leftover", symbol_table=2000), NEW, "are not a symbol table"),
        (IMAGE, (NewSection(".text", b"x"),), "'.text': expected a new name"),
        (patched(OPTIONAL + 8, "<I", 0xFFFF_FFFF), NEW, "bytes of initialized data"),
        (IMAGE, (NewSection(".new", b"x"), NewSection(".new", b"y")), "'.new': expected a new name"),
        (IMAGE, (NewSection(".too-long", b"x"),), "1 to 8 bytes"),
        (IMAGE, (NewSection("", b"x"),), "1 to 8 bytes"),
        (IMAGE, (NewSection(".empty", b""),), "and content"),
        (IMAGE, (NewSection(".é", b"x"),), "printable section name"),
    ],
)
def test_what_cannot_be_appended_is_refused_with_its_reason(
    stub: bytes, sections: tuple[NewSection, ...], reason: str
) -> None:
    with pytest.raises(PeError, match=reason):
        append_sections(stub, sections)


def test_a_stub_without_room_in_its_headers_is_refused() -> None:
    stub = make_pe(size_of_headers=512)
    room = (512 - TABLE) // 40 - 2
    fitting = [NewSection(f".n{i}", b"x") for i in range(room)]
    assert len(read_pe(append_sections(stub, fitting)).sections) == room + 2
    with pytest.raises(PeError, match="got 512") as caught:
        append_sections(stub, [*fitting, NewSection(".last", b"x")])
    assert caught.value.hint is not None


def test_the_checksum_ignores_its_own_field() -> None:
    assert compute_checksum(IMAGE, OPTIONAL + 64) == compute_checksum(
        patched(OPTIONAL + 64, "<I", 0xDEADBEEF), OPTIONAL + 64
    )


def test_a_checksum_at_an_odd_offset_is_refused() -> None:
    with pytest.raises(PeError, match="even offset"):
        compute_checksum(IMAGE, 65)
