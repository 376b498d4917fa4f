"""Damaged UKIs and any inputs: only our errors; streams as put together first; no thread changes a digest."""

from __future__ import annotations

import contextlib
import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError, PeError
from blindbuild.formats.source import BytesSource
from blindbuild.formats.streams import FileRange, Piece, Stream, Zeros, hash_streams
from blindbuild.measure.command_line import decode_command_line
from blindbuild.measure.stub import NEWEST, OLDEST
from blindbuild.measure.stub_inputs import Addon, StubInputs
from blindbuild.measure.uki import measure_uki
from tests.fakes.pe_image import OPTIONAL, PE_OFFSET, FakeSection, make_pe

SHA256 = HashAlgorithm.SHA256
TABLE = OPTIONAL + 112 + 8 * 16
KERNEL = make_pe((FakeSection(b".text", b"kernel"),))
NAMES = (
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrsig",
    ".pcrpkey",
)
ALL_NAMES = (*NAMES, ".linux", ".profile", ".dtbauto", ".hwids", ".efifw", ".rdata", ".linux2", ".sdmagic")

versions = st.integers(OLDEST, NEWEST)
contents = st.one_of(st.binary(max_size=40), st.just(KERNEL), st.just(b"console=ttyS0"))
tables = st.lists(st.tuples(st.sampled_from(ALL_NAMES), contents), max_size=9)
texts = st.text(max_size=20)
files = st.lists(
    st.tuples(st.sampled_from(("a.cred", "b.raw", "c.confext.raw", "X.CRED", ".cred")), contents)
)


def image(table: list[tuple[str, bytes]], *, kernel: bool = True) -> bytes:
    """Return an image with these sections and a kernel."""
    sections = [FakeSection(name.encode(), data) for name, data in table]
    if kernel:
        sections.append(FakeSection(b".linux", KERNEL))
    return make_pe(sections, size_of_headers=2048)


@given(tables, versions, st.data())
def test_a_uki_with_fields_overwritten_gives_only_our_errors(
    table: list[tuple[str, bytes]], version: int, data: st.DataObject
) -> None:
    damaged = bytearray(image(table))
    limit = TABLE + 40 * (len(table) + 1)
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(0, limit - 4))
        value = data.draw(st.one_of(st.integers(0, 0xFFFFFFFF), st.integers(0, 5000)))
        struct.pack_into("<I", damaged, offset, value)
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))]
    with contextlib.suppress(PeError, MeasureError):
        measure_uki(bytes(damaged), (SHA256,), stub_version=version)
    with contextlib.suppress(PeError, MeasureError):
        measure_uki(bytes(damaged), (SHA256,))


@given(st.integers(0, len(KERNEL) - 4), st.integers(0, 0xFFFFFFFF), versions)
def test_a_damaged_kernel_gives_only_our_errors(offset: int, value: int, version: int) -> None:
    damaged = bytearray(KERNEL)
    struct.pack_into("<I", damaged, offset, value)
    uki = image([(".cmdline", b"console=ttyS0"), (".linux", bytes(damaged))], kernel=False)
    with contextlib.suppress(PeError, MeasureError):
        measure_uki(uki, (SHA256,), stub_version=version)


@given(
    tables,
    versions,
    st.builds(
        StubInputs,
        secure_boot=st.booleans(),
        confidential=st.booleans(),
        profile=st.integers(-1, 3),
        load_options=texts,
        addons=st.lists(
            st.builds(
                Addon,
                name=st.sampled_from(("a.addon.efi", "B.addon.EFI", "c.efi")),
                image=st.one_of(tables.map(lambda table: image(table, kernel=False)), st.binary(max_size=9)),
                everywhere=st.booleans(),
            ),
            max_size=3,
        ).map(tuple),
        smbios_command_line=texts,
        credentials=files.map(tuple),
        sysexts=files.map(tuple),
        device_tree=st.one_of(st.none(), st.integers(-1, 3)),
        firmware_image=st.one_of(st.none(), st.integers(-1, 3)),
        consoles=st.one_of(st.none(), st.just(("console=ttyS0",))),
    ),
)
def test_any_inputs_give_only_our_errors(
    table: list[tuple[str, bytes]], version: int, inputs: StubInputs
) -> None:
    try:
        result = measure_uki(image(table), (SHA256,), inputs=inputs, stub_version=version)
    except (PeError, MeasureError):
        return
    assert {event.register for event in result.pcr12} <= {12}
    assert {event.register for event in result.pcr13} <= {13}
    assert result.load_options == b"" or result.load_options.endswith(b"\0\0")


pieces = st.one_of(
    st.builds(Zeros, st.integers(0, 9)),
    st.binary(max_size=4),
    st.builds(FileRange, st.integers(0, 100), st.integers(0, 100)),
)


@given(st.lists(st.lists(pieces, max_size=5), max_size=5), st.integers(0, 5), st.sampled_from((0, 2)))
def test_streams_are_hashed_as_if_put_together_first(
    lists: list[list[Piece]], shared: int, threads: int
) -> None:
    data = bytes(range(200))
    streams: dict[str, Stream] = {str(number): tuple(items) for number, items in enumerate(lists)}
    for number, items in enumerate(lists):
        streams[f"{number}+"] = (*items, *(lists[shared] if shared < len(lists) else ()))
    found = hash_streams(BytesSource(data), streams, (SHA256,), threads=threads)
    for name, stream in streams.items():
        whole = b"".join(_bytes(piece, data) for piece in stream)
        assert found[name][SHA256].value == hashlib.sha256(whole).digest()


def _bytes(piece: Piece, data: bytes) -> bytes:
    match piece:
        case FileRange(offset=offset, size=size):
            return data[offset : offset + size]
        case Zeros(size=size):
            return bytes(size)
        case _:
            return piece


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs",), exclude_characters="\0")))
def test_utf_8_within_the_basic_plane_is_read_as_python_reads_it(text: str) -> None:
    assert decode_command_line(text.encode()) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_characters_that_utf_16_has_one_unit_for(data: bytes) -> None:
    text = decode_command_line(data)
    assert "\0" not in text
    assert len(text.encode("utf-16-le")) == 2 * len(text)


def test_the_number_of_threads_does_not_change_a_measurement() -> None:
    uki = image([(name, name.encode() * 50) for name in NAMES if name != ".cmdline"])
    results = [
        measure_uki(uki, tuple(HashAlgorithm), stub_version=257, threads=threads) for threads in (0, 1, 8)
    ]
    assert results[0] == results[1] == results[2]


def test_a_machine_field_of_another_architecture_is_refused() -> None:
    other = bytearray(image([]))
    struct.pack_into("<H", other, PE_OFFSET + 4, 0x14C)
    with contextlib.suppress(PeError):
        measure_uki(bytes(other), (SHA256,), stub_version=257)
        raise AssertionError
