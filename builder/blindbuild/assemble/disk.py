"""The disk image: a FAT file system with the UKI where firmware looks for it.

By default it fills the disk and there is no partition table: firmware measures a GPT into PCR 5, and there is
nothing else to store. Where a platform wants partitions, the same file system is the only one of a GPT.
"""

from __future__ import annotations

from uuid import UUID

from blindbuild.errors import BuildError
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.gpt import SECTOR, has_gpt, parse_gpt, write_gpt_disk
from blindbuild.formats.pe import read_pe

BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"  # UEFI specification 2.10, 3.5.1.1: removable media boot behaviour, x64
VOLUME_ID = 0x626C_6E64
LABEL = "BLINDBUILD"
# Random once, the same for every image: the table is measured, and two builds must not differ.
DISK_ID = UUID("c8b0a5f5-9a53-4f16-a28d-6d6b2f1f3c0e")
PARTITION_ID = UUID("5f3b9d1c-6a0e-4c57-8f2b-1e7d0c4a9b63")
PARTITION_NAME = "EFI system partition"


def build_disk(uki: bytes) -> bytes:
    """Return a raw disk image that boots `uki`, a multiple of 1 MiB in size.

    Raises:
        PeError: `uki` is not a PE image for x86-64.
        ArchiveError: it does not fit into the file system.
        BuildError: the image does not read back.
    """
    read_pe(uki)
    image = write_fat({BOOT_PATH: uki}, volume_id=VOLUME_ID, label=LABEL)
    if read_fat(image) != {BOOT_PATH: uki}:
        raise BuildError("disk: the file system that was written does not read back as it was meant")
    return image


def build_gpt_disk(uki: bytes) -> bytes:
    """Return a raw disk image with a partition table, whose only partition boots `uki`.

    `formats.gpt.parse_gpt(image).event_data` is what firmware measures of it into PCR 5.

    Raises:
        PeError, ArchiveError, BuildError: as `build_disk`.
    """
    system = build_disk(uki)
    image = write_gpt_disk(system, disk_id=DISK_ID, partition_id=PARTITION_ID, name=PARTITION_NAME)
    partitions = parse_gpt(image).partitions
    if len(partitions) != 1:
        raise BuildError(f"disk: expected one partition in the table that was written, got {len(partitions)}")
    start, end = partitions[0].first_sector * SECTOR, (partitions[0].last_sector + 1) * SECTOR
    if image[start:end] != system:
        raise BuildError("disk: the partition that was written does not read back as it was meant")
    return image


def read_uki(disk: bytes) -> bytes:
    """Return what a disk of `build_disk` or `build_gpt_disk` boots.

    Raises:
        FormatError, ArchiveError: it is neither.
        BuildError: it boots nothing.
    """
    if has_gpt(disk):
        first = parse_gpt(disk).partitions[0]
        disk = disk[first.first_sector * SECTOR : (first.last_sector + 1) * SECTOR]
    files = read_fat(disk)
    if BOOT_PATH not in files:
        raise BuildError(f"disk: expected a file {BOOT_PATH}, got none")
    return files[BOOT_PATH]


def replace_uki(disk: bytes, uki: bytes) -> bytes:
    """Return a disk of the same kind that boots another image.

    Raises:
        PeError, ArchiveError, BuildError: as `build_disk`.
    """
    return build_gpt_disk(uki) if has_gpt(disk) else build_disk(uki)
