"""The table of hashes that QEMU gives to an SEV guest's firmware with `kernel-hashes=on`.

The table is measured into the launch digest; the firmware (only edk2's OvmfPkg/AmdSev build) then refuses a
kernel, initrd or command line whose hash is another.

Sources: QEMU target/i386/sev.c, sev_build_kernel_loader_hashes; edk2 OvmfPkg/AmdSev/BlobVerifierLibSevHashes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.ovmf import PAGE_BYTES

_TABLE = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_COMMAND_LINE = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_HEADER = struct.Struct("<16sH")  # the size counts the header
_PADDING = 16
TABLE_BYTES = 176  # the table with its padding; QEMU wants so much room for it


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHashes:
    """SHA-256 of what QEMU passes to the firmware: all three are always there."""

    kernel: Digest
    initrd: Digest
    command_line: Digest

    def __post_init__(self) -> None:
        for digest in (self.kernel, self.initrd, self.command_line):
            if digest.algorithm is not HashAlgorithm.SHA256:
                raise MeasureError(f"kernel hashes: expected sha256, got {digest.algorithm.value}")


def hash_kernel(kernel: bytes, *, initrd: bytes = b"", command_line: str = "") -> KernelHashes:
    """Hash what `-kernel`, `-initrd` and `-append` are given; one that is missing counts as empty.

    Raises:
        MeasureError: a command line with a NUL or one that is not text.
    """
    try:
        line = command_line.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MeasureError("kernel hashes: expected a command line of text") from error
    if 0 in line:
        raise MeasureError("kernel hashes: expected a command line without NUL")
    return KernelHashes(
        kernel=Digest.sha256(kernel),
        initrd=Digest.sha256(initrd),
        command_line=Digest.sha256(line + b"\0"),
    )


def write_hash_table(hashes: KernelHashes) -> bytes:
    """Return the table, padded as QEMU pads it."""
    entries = (
        (_COMMAND_LINE, hashes.command_line),
        (_INITRD, hashes.initrd),
        (_KERNEL, hashes.kernel),
    )
    body = b"".join(
        _HEADER.pack(guid.bytes_le, _HEADER.size + len(digest.value)) + digest.value
        for guid, digest in entries
    )
    table = _HEADER.pack(_TABLE.bytes_le, _HEADER.size + len(body)) + body
    return table + bytes(-len(table) % _PADDING)


def write_hash_page(hashes: KernelHashes, offset: int) -> bytes:
    """Return the page that has the table at this offset and zeros around it.

    Raises:
        MeasureError: the table does not fit.
    """
    table = write_hash_table(hashes)
    if not 0 <= offset <= PAGE_BYTES - len(table):
        raise MeasureError(
            f"kernel hashes: expected an offset of at most {PAGE_BYTES - len(table)}, got {offset}"
        )
    return (bytes(offset) + table).ljust(PAGE_BYTES, b"\0")
