"""Whatever the bytes or the values, tables, key lists and logs are read back as written, or refused by us."""

from __future__ import annotations

import struct
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.firmware_volume import find_dxe_volume
from blindbuild.formats.gpt import parse_gpt, write_gpt_disk
from blindbuild.formats.siglist import (
    SignatureEntry,
    SignatureList,
    parse_signature_lists,
    write_signature_lists,
)
from blindbuild.formats.tcglog import parse_event_log, replay, write_event_log
from blindbuild.measure.bank import extend_all
from blindbuild.measure.boot import UefiBoot, boot_events, events_by_register
from blindbuild.measure.direct import patch_kernel
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.kernel import MeasuredKernel
from blindbuild.measure.log import predicted_log
from blindbuild.measure.platforms import PLATFORMS
from blindbuild.measure.secure_boot import SecureBootState

GUIDS = st.uuids()
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA512)


@st.composite
def signature_lists(draw: st.DrawFn) -> SignatureList:
    """Draw a list of a type nobody knows, whose entries have one size."""
    size = draw(st.integers(1, 80))
    data = st.binary(min_size=size, max_size=size)
    entries = draw(st.lists(st.builds(SignatureEntry, GUIDS, data), min_size=1, max_size=5))
    return SignatureList(UUID(int=draw(st.integers(1, 9))), tuple(entries), draw(st.binary(max_size=20)))


@given(st.lists(signature_lists(), max_size=4))
def test_key_lists_are_read_back_as_written(lists: list[SignatureList]) -> None:
    assert parse_signature_lists(write_signature_lists(lists)) == tuple(lists)


@given(st.binary(max_size=200))
def test_key_lists_that_are_accepted_write_back(data: bytes) -> None:
    try:
        lists = parse_signature_lists(data)
    except FormatError:
        return
    assert write_signature_lists(lists) == data


@given(st.integers(1, 5000), GUIDS, GUIDS, st.text("abc äß", max_size=36))
def test_a_written_disk_is_measured_as_its_one_partition(
    sectors: int, disk_id: UUID, partition_id: UUID, name: str
) -> None:
    image = write_gpt_disk(bytes(sectors * 512), disk_id=disk_id, partition_id=partition_id, name=name)
    table = parse_gpt(image[: 34 * 512])
    (partition,) = table.partitions
    assert (partition.name, partition.last_sector - partition.first_sector + 1) == (name, sectors)
    assert table.event_data == image[512:604] + struct.pack("<Q", 1) + image[1024:1152]


@given(st.binary(max_size=1200), st.sampled_from([512, 4096]))
def test_no_bytes_make_the_table_reader_fail_in_another_way(data: bytes, sector_size: int) -> None:
    for disk in (data, bytes(512) + b"EFI PART" + data):
        try:
            parse_gpt(disk, sector_size=sector_size)
        except FormatError:
            continue


@given(st.binary(max_size=400))
def test_no_bytes_make_the_firmware_reader_fail_in_another_way(data: bytes) -> None:
    for flash in (data, bytes(40) + b"_FVH" + data):
        try:
            find_dxe_volume(flash)
        except FormatError:
            continue


@given(
    st.integers(1 << 20, 1 << 36),
    st.integers(0, 1 << 19),
    st.integers(0, 0xFFFF),
    st.integers(0x1000, 2**32 - 1),
)
def test_an_initrd_is_below_4_gib_and_inside_the_memory(
    memory: int, size: int, flags: int, limit: int
) -> None:
    kernel = bytearray(0x400)
    kernel[0x202:0x208] = b"HdrS\x0f\x02"
    kernel[0x211] = 1
    struct.pack_into("<I", kernel, 0x22C, limit | 1 << 27)
    struct.pack_into("<H", kernel, 0x236, flags)
    if size >= memory - 0x28000 - 1:
        return
    patched = patch_kernel(bytes(kernel), memory_bytes=memory, initrd_bytes=size)
    address, stated = struct.unpack_from("<II", patched, 0x218)
    assert stated == size
    assert address % 4096 == 0
    assert address + size <= min(memory, 1 << 32)


@given(st.binary(max_size=64), st.binary(max_size=64), st.booleans())
def test_the_predicted_log_replays_to_the_chain_of_the_events(
    options: bytes, initrd: bytes, table: bool
) -> None:
    kernel = MeasuredKernel(
        hash_in_banks((b"kernel",), BANKS), load_options=options, initrd=hash_in_banks((initrd,), BANKS)
    )
    platform = next(platform for platform in PLATFORMS if not platform.secure_boot)
    boot = UefiBoot(
        platform=platform, secure_boot=SecureBootState(), partition_table=options if table else None
    )
    events = boot_events(kernel, boot)
    log = parse_event_log(write_event_log(predicted_log(events, BANKS)))
    for bank in BANKS:
        replayed = replay(log, bank)
        for register, found in events_by_register(events).items():
            if register > 1:
                assert replayed.values[register] == extend_all(register, found, bank)
