"""The disk image: one unpartitioned FAT file system with the UKI where firmware looks for it.

There is no partition table on purpose: firmware measures a GPT into PCR 5, and there is nothing else to
store.
"""

from __future__ import annotations

from blindbuild.errors import BuildError
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.pe import read_pe

BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"  # UEFI specification 2.10, 3.5.1.1: removable media boot behaviour, x64
VOLUME_ID = 0x626C_6E64
LABEL = "BLINDBUILD"


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
