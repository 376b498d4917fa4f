"""Device paths and load options as text, beside the reader of virt-firmware."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virt.firmware.efi.devpath import DevicePath, DevicePathElem

from blindbuild.errors import FormatError
from blindbuild.formats.devicepath import (
    MAX_NODES,
    device_path_text,
    parse_image_load,
    parse_load_option,
)

END = bytes.fromhex("7fff0400")
PCI_ROOT = bytes.fromhex("02010c00d041030a00000000")
PCI = bytes.fromhex("0101060003 1f".replace(" ", ""))


def written_by_virt_firmware(*elements: DevicePathElem) -> bytes:
    path = DevicePath()
    path.extend(elements)
    return bytes(path)


def test_a_path_of_another_writer_is_read() -> None:
    disk, file, web = DevicePathElem(), DevicePathElem(), DevicePathElem()
    disk.set_gpt(1, 0x800, 0x32000, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
    file.set_filepath("\\EFI\\BOOT\\BOOTX64.EFI")
    web.set_uri("https://example.org/x.efi")
    assert device_path_text(written_by_virt_firmware(disk, file)) == (
        "HD(1,GPT,aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee,0x800,0x32000)/\\EFI\\BOOT\\BOOTX64.EFI"
    )
    assert device_path_text(written_by_virt_firmware(web)) == "Uri(https://example.org/x.efi)"


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (PCI_ROOT, "PciRoot(0x0)"),
        (PCI, "Pci(0x1f,0x3)"),
        (bytes.fromhex("02010c00d041080a01000000"), "PcieRoot(0x1)"),
        (bytes.fromhex("02010c000105d04100000000"), "Acpi(0x41d00501,0x0)"),
        (bytes.fromhex("03120a000100ffff0000"), "Sata(0x1,0xffff,0x0)"),
        (bytes.fromhex("03020800 0100 0200".replace(" ", "")), "Scsi(0x1,0x2)"),
        (bytes.fromhex("030b2500 525400123456".replace(" ", "")) + bytes(27), "MAC(525400123456)"),
        (
            bytes.fromhex("04031400 72f728144ab61e44b8c39ebdd7f893c7".replace(" ", "")),
            "VenMedia(1428f772-b64a-441e-b8c3-9ebdd7f893c7)",
        ),
        (bytes.fromhex("0909060001 02".replace(" ", "")), "Path(9,9,0102)"),
        (bytes.fromhex("01010500ff"), "Path(1,1,ff)"),  # a PCI node that is too short
    ],
)
def test_a_node_is_named_as_the_specification_does(node: bytes, text: str) -> None:
    # UEFI 2.10, table 10.58
    assert device_path_text(node + END) == text


def test_nothing_is_an_empty_path() -> None:
    assert device_path_text(b"") == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PCI_ROOT, "no end after 12 bytes"),
        (PCI_ROOT[:-1], "a node of 12 bytes does not fit"),
        (b"\x01\x01\x03\x00" + END, "a node of 3 bytes does not fit"),
        (PCI_ROOT + END + b"x", "1 bytes after its end"),
        (PCI * (MAX_NODES + 1) + END, f"at most {MAX_NODES} nodes"),
    ],
)
def test_a_malformed_path_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        device_path_text(data)


def load_option(description: str, path: bytes, optional: bytes = b"") -> bytes:
    """EFI_LOAD_OPTION by hand (UEFI 2.10, 3.1.3)."""
    return struct.pack("<IH", 1, len(path)) + description.encode("utf-16-le") + b"\0\0" + path + optional


def test_a_boot_entry_is_taken_apart_and_only_its_first_path_is_shown() -> None:
    option = parse_load_option(load_option("Linux", PCI_ROOT + PCI + END + PCI + END, b"quiet"))
    assert (option.attributes, option.description, option.path, option.optional_data) == (
        1,
        "Linux",
        "PciRoot(0x0)/Pci(0x1f,0x3)",
        b"quiet",
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\1\0\0\0", "expected at least 6 bytes"),
        (struct.pack("<IH", 1, 0) + b"A\0B\0", "has no end"),
        (load_option("x", END)[:-1], "expected 4 bytes of device path, got 3"),
    ],
)
def test_a_malformed_boot_entry_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_load_option(data)


def test_an_image_load_event_is_taken_apart() -> None:
    path = PCI_ROOT + PCI + END
    loaded = parse_image_load(struct.pack("<QQQQ", 1, 2, 3, len(path)) + path)
    assert (loaded.address, loaded.size, loaded.path) == (1, 2, "PciRoot(0x0)/Pci(0x1f,0x3)")
    with pytest.raises(FormatError, match="expected 54 bytes in all"):
        parse_image_load(struct.pack("<QQQQ", 1, 2, 3, len(path)) + path + b"x")
    with pytest.raises(FormatError, match="expected at least 32 bytes"):
        parse_image_load(bytes(31))


@given(st.binary(max_size=120))
def test_random_bytes_give_only_our_error(data: bytes) -> None:
    for parse in (device_path_text, parse_load_option, parse_image_load):
        try:
            parse(data)
        except FormatError:
            continue


def test_a_boot_entry_cut_or_flipped_anywhere_gives_only_our_error() -> None:
    data = load_option("Linux", PCI_ROOT + PCI + END, b"quiet")
    changed = [data[:size] for size in range(len(data))]
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        changed.append(bytes(flipped))
    for candidate in changed:
        try:
            parse_load_option(candidate)
        except FormatError:
            continue
