"""One frame of zstd, unpacked within a limit; the only user of the library `zstandard`.

Source: RFC 8878.
"""

from __future__ import annotations

import zstandard

from blindbuild.errors import ArchiveError

MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
MAX_WINDOW_BYTES = 1 << 27  # the kernel's own limit (lib/decompress_unzstd.c, ZSTD_WINDOWSIZE_MAX)
# A block of 4 bytes can stand for 128 KiB, so one step gives at most 32 MiB more than the limit.
_STEP_BYTES = 1024


def unpack_zstd(data: bytes, *, limit_bytes: int) -> bytes:
    """Return what exactly one frame holds.

    What follows a frame is refused: the kernel would unpack it too, as a second archive.

    Raises:
        ArchiveError: not zstd, damaged, cut off, larger than the limit, or followed by something.
    """
    if not data.startswith(MAGIC):
        raise ArchiveError(f"zstd: expected magic {MAGIC.hex()}, got {data[:4].hex()}")
    stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    parts: list[bytes] = []
    size = offset = 0
    while offset < len(data) and not stream.eof:
        try:
            part = stream.decompress(data[offset : offset + _STEP_BYTES])
        except zstandard.ZstdError as error:
            raise ArchiveError(f"zstd: damaged within {_STEP_BYTES} bytes of offset {offset}") from error
        offset += _STEP_BYTES
        size += len(part)
        parts.append(part)
        if size > limit_bytes:
            raise ArchiveError(f"zstd: expected at most {limit_bytes} bytes when unpacked, got more")
    if not stream.eof:
        raise ArchiveError(f"zstd: cut off after {len(data)} bytes")
    if stream.unused_data or offset < len(data):
        raise ArchiveError("zstd: expected one frame, got more bytes after it")
    return b"".join(parts)
