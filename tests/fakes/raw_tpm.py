"""Commands to a real TPM over its stream, byte for byte: what a cloud's provisioning leaves in one.

Source: TPM 2.0 Library Part 3: 22.2 (PCR_Extend), 24.1 (CreatePrimary), 28.5 (EvictControl),
31.3 (NV_DefineSpace), 31.7 (NV_Write); Part 2, 13.4 (TPMA_NV).
"""

from __future__ import annotations

import hashlib
import socket
import struct

from tests.fakes.published import BANKS, Event
from tests.fakes.software_tpm import BANK_IDS, sized

OWNER, ENDORSEMENT, PLATFORM = 0x40000001, 0x4000000B, 0x4000000C
PASSWORD = 0x40000009
CHUNK = 1024  # bytes of one NV_Write


class TpmRefusedError(Exception):
    """The TPM answered with a response code other than success."""


class RawTpm:
    """Sends commands; `auth` is the password of the one handle that needs it."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def command(self, code: int, handles: bytes, parameters: bytes, auth: bytes | None = b"") -> bytes:
        """Return what follows the answer's header."""
        area = b""
        if auth is not None:
            session = struct.pack(">I", PASSWORD) + sized(b"") + b"\0" + sized(auth)
            area = struct.pack(">I", len(session)) + session
        body = handles + area + parameters
        tag = 0x8001 if auth is None else 0x8002
        self._stream.sendall(struct.pack(">HII", tag, 10 + len(body), code) + body)
        answer = self._stream.recv(4096)
        while len(answer) < struct.unpack(">I", answer[2:6])[0]:
            answer += self._stream.recv(4096)
        (response,) = struct.unpack(">I", answer[6:10])
        if response:
            raise TpmRefusedError(f"0x{response:03x}")
        return answer[10:]

    def extend(self, events: list[Event]) -> None:
        """Extend what a boot would have extended."""
        for event in events:
            digests = b"".join(
                struct.pack(">H", BANK_IDS[bank]) + hashlib.new(bank, event.measured).digest()
                for bank in BANKS
            )
            parameters = struct.pack(">I", len(BANKS)) + digests
            self.command(0x182, struct.pack(">I", event.register), parameters)

    def create_primary(self, template: bytes) -> tuple[int, bytes]:
        """Make a key in the endorsement hierarchy; its handle and its TPMT_PUBLIC."""
        parameters = sized(bytes(4)) + sized(template) + sized(b"") + bytes(4)
        answer = self.command(0x131, struct.pack(">I", ENDORSEMENT), parameters)
        handle, _size, public = struct.unpack(">IIH", answer[:10])
        return handle, answer[10 : 10 + public]

    def flush(self, handle: int) -> None:
        self.command(0x165, b"", struct.pack(">I", handle), None)

    def keep(self, handle: int, persistent: int) -> None:
        """Copy a key to a persistent handle, as the owner."""
        self.command(0x120, struct.pack(">II", OWNER, handle), struct.pack(">I", persistent))

    def define(self, index: int, size: int, attributes: int, auth: bytes = b"") -> None:
        """Define an NV index as the platform, and write nothing into it."""
        public = struct.pack(">IHI", index, 0x000B, attributes) + sized(b"") + struct.pack(">H", size)
        self.command(0x12A, struct.pack(">I", PLATFORM), sized(auth) + sized(public))

    def store(self, index: int, content: bytes, attributes: int, auth: bytes | None = None) -> None:
        """Define an NV index as the platform and fill it.

        Args:
            index: the NV index.
            content: all of it.
            attributes: TPMA_NV.
            auth: the index's password, with which it is then written; without, the platform writes it.
        """
        self.define(index, len(content), attributes, auth or b"")
        writer = struct.pack(">II", PLATFORM if auth is None else index, index)
        for offset in range(0, len(content), CHUNK):
            piece = sized(content[offset : offset + CHUNK]) + struct.pack(">H", offset)
            self.command(0x137, writer, piece, auth or b"")
