"""What is written reads back, for any input that the formats can hold."""

import stat
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import ArchiveError, PeError
from blindbuild.formats.ar import read_ar
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc
from blindbuild.formats.deb import read_deb
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.pe import NewSection, append_sections, read_pe
from tests.fakes.deb import make_ar, make_deb, make_tar, tar_file
from tests.fakes.pe_image import FakeSection, make_pe

UINT32 = st.integers(0, 0xFFFF_FFFF)
PARTS = st.binary(min_size=1, max_size=20).filter(
    lambda part: b"\0" not in part and b"/" not in part and part not in (b".", b"..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join).filter(lambda path: path != b"TRAILER!!!")
MODES = st.integers(0, 0o7777)
CPIO_ENTRIES = st.one_of(
    st.builds(
        CpioEntry,
        PATHS,
        MODES.map(lambda mode: stat.S_IFREG | mode),
        st.binary(max_size=50),
        UINT32,
        UINT32,
        UINT32,
    ),
    st.builds(CpioEntry, PATHS, MODES.map(lambda mode: stat.S_IFDIR | mode)),
    st.builds(CpioEntry, PATHS, st.just(0o120777), st.binary(min_size=1, max_size=50)),
    st.builds(CpioEntry, PATHS, st.just(0o20666), rdev=st.tuples(UINT32, UINT32)),
)
NAMES = st.from_regex(r"[A-Z0-9_-]{1,8}(\.[A-Z0-9_-]{1,3})?", fullmatch=True)


@settings(deadline=None)
@given(st.lists(CPIO_ENTRIES, max_size=10, unique_by=lambda entry: entry.path))
def test_a_newc_archive_reads_back_sorted_and_writes_the_same_again(entries: list[CpioEntry]) -> None:
    archive = write_newc(entries)
    assert read_newc(archive) == tuple(sorted(entries, key=lambda entry: entry.path))
    assert write_newc(read_newc(archive)) == archive


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,14}", fullmatch=True), st.binary(max_size=9), min_size=1
    )
)
def test_an_ar_archive_reads_back(members: dict[str, bytes]) -> None:
    assert {member.name: bytes(member.data) for member in read_ar(make_ar(members))} == members


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(/[a-z]{1,120}){0,3}", fullmatch=True), st.binary(max_size=600), max_size=5
    )
)
def test_the_files_of_a_package_read_back(files: dict[str, bytes]) -> None:
    files = {
        path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)
    }
    package = read_deb(
        make_deb(make_tar([tar_file(f"./{path}", data) for path, data in files.items()]), suffix="")
    )
    assert {entry.path.decode(): entry.data for entry in package.entries} == files


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join),
        st.binary(max_size=1500),
        min_size=1,
        max_size=6,
    ),
    UINT32,
)
def test_a_fat_image_reads_back(files: dict[str, bytes], volume_id: int) -> None:
    files = {
        path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)
    }
    assert read_fat(write_fat(files, volume_id=volume_id, label="PROPERTY")) == files


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=6),
    st.lists(st.binary(min_size=1, max_size=3000), max_size=6),
)
def test_appended_sections_read_back_and_so_do_the_old_ones(old: list[bytes], new: list[bytes]) -> None:
    stub = make_pe([FakeSection(b".o%d" % i, data) for i, data in enumerate(old)])
    image = read_pe(append_sections(stub, [NewSection(f".n{i}", data) for i, data in enumerate(new)]))
    assert [image.section_data(section.name) for section in image.sections] == old + new
    assert image.sections_end == len(image.data)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_only_our_errors(data: bytes) -> None:
    for parse, prefix, error in (
        (read_newc, b"070701", ArchiveError),
        (read_ar, b"!<arch>\n", ArchiveError),
        (read_deb, b"!<arch>\n", ArchiveError),
        (read_fat, b"", ArchiveError),
        (read_pe, b"MZ", PeError),
        (lambda image: authenticode_digests(image, [HashAlgorithm.SHA256]), b"MZ", PeError),
    ):
        try:
            parse(prefix + data)  # type: ignore[operator]
        except error:
            continue


@settings(deadline=None)
@given(st.data())
def test_patched_images_raise_only_our_errors(data: st.DataObject) -> None:
    image = bytearray(make_pe())
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(60, 420))
        image[offset : offset + 4] = data.draw(st.binary(min_size=4, max_size=4))
    try:
        append_sections(bytes(image), [NewSection(".new", b"x")])
    except PeError:
        return


@settings(deadline=None)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=12))
def test_patched_tar_headers_raise_only_our_errors(offset: int, patch: bytes) -> None:
    block = bytearray(make_tar([tar_file("./a", b"abc"), tarfile.TarInfo("./b")]))
    block[offset : offset + len(patch)] = patch
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    try:
        list(read_deb(make_deb(bytes(block), suffix="")).entries)
    except ArchiveError:
        return
