"""A second reader of the Enclave Image Format, for the tests: made from AWS's description alone.

It shares nothing with `formats/eif.py`: it walks the stream of sections as the format's own tools do, takes
integers apart by hand, computes the checksum bit by bit from the polynomial of CRC-32/ISO-HDLC, and hashes
whole byte strings.

Source: aws-nitro-enclaves-image-format, README.md "Enclave Image File (EIF) Specification", 2024-06-21.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import Any

POLYNOMIAL = 0xEDB88320  # 0x04C11DB7, reflected


class Rejected(Exception):  # noqa: N818 - what the virtualization stack does with such a file
    """The image would not be started."""


@dataclass
class Enclave:
    """What is in the image, by the description's own names."""

    arch: str
    default_mem: int
    default_cpus: int
    kernel: bytes = b""
    cmdline: bytes = b""
    ramdisks: list[bytes] = field(default_factory=list)
    signature: bytes = b""
    metadata: dict[str, Any] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def registers(self, certificate: bytes | None) -> dict[str, str]:
        """Return PCR0, 1, 2 and, with a certificate in DER, 8; for kernel before command line."""
        front = self.kernel + self.cmdline
        contents = {
            "PCR0": front + b"".join(self.ramdisks),
            "PCR1": front + self.ramdisks[0],
            "PCR2": b"".join(self.ramdisks[1:]),
        }
        if certificate is not None:
            contents["PCR8"] = certificate
        return {name: measure(content) for name, content in contents.items()}


def measure(content: bytes) -> str:
    """sha384sum( initial_digest . content_digest )"""
    return hashlib.sha384(b"\x00" * 48 + hashlib.sha384(content).digest()).hexdigest()


def checksum(data: bytes) -> int:
    """CRC-32/ISO-HDLC, one bit at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def load(image: bytes) -> Enclave:
    """Read an image as the virtualization stack is described to; Rejected where it would refuse."""
    if image[0:4] != b".eif":
        raise Rejected("magic")
    if number(image, 4, 2) != 4:
        raise Rejected("version")
    if number(image, 0x220, 4) != checksum(image[:0x220] + image[0x224:]):
        raise Rejected("crc")
    enclave = Enclave(
        "aarch64" if number(image, 6, 2) & 1 else "x86_64", number(image, 8, 8), number(image, 0x10, 8)
    )
    stream, index = io.BytesIO(image), 0
    stream.seek(0x224)
    while local := stream.read(12):
        offset = stream.tell() - len(local)
        size = number(local, 4, 8)
        if (number(image, 0x1C + 8 * index, 8), number(image, 0x11C + 8 * index, 8)) != (offset, size):
            raise Rejected(f"section {index} is not where the header says")
        keep(enclave, number(local, 0, 2), stream.read(size))
        index += 1
    if index != number(image, 0x1A, 2) or not 2 <= index <= 32:
        raise Rejected("number of sections")
    if enclave.order.count("kernel") != 1 or enclave.order.count("cmdline") != 1 or not enclave.metadata:
        raise Rejected("a mandatory section")
    return enclave


def keep(enclave: Enclave, kind: int, data: bytes) -> None:
    """Store one section's data."""
    if kind == 1:
        enclave.kernel = data
    elif kind == 2:
        enclave.cmdline = data
    elif kind == 3:
        if "kernel" not in enclave.order:
            raise Rejected("a ramdisk before the kernel")
        enclave.ramdisks.append(data)
    elif kind == 4:
        enclave.signature = data
    elif kind == 5:
        enclave.metadata = json.loads(data)
    else:
        raise Rejected(f"section type {kind}")
    enclave.order.append(("", "kernel", "cmdline", "ramdisk", "signature", "metadata")[kind])


def number(data: bytes, offset: int, size: int) -> int:
    """Return a big-endian integer."""
    value = 0
    for byte in data[offset : offset + size]:
        value = value * 256 + byte
    return value
