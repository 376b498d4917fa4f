"""A boot, the statement about it, and everything signed, built from plain dictionaries and hashlib.

The statement is written by `rfc8785` from a dictionary, not by the code under test.
"""

from __future__ import annotations

import copy
import hashlib
import struct
from dataclasses import dataclass, field

import rfc8785

from blindbuild.publish import (
    SigningKey,
    TrustContent,
    generate_key,
    make_trust,
    sign_payload,
)

NOW = 1_790_000_000  # September 2026, in the validity of everything made here
IMAGE = b"an image"
BANKS = ("sha256", "sha384")
STATEMENT_TYPE = "application/vnd.in-toto+json"
RELEASE_TYPE = "application/vnd.blindbuild.release+json"
_BANK_IDS = {"sha1": 4, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}
_TYPES = {
    "EV_UNUSED": 2,
    "EV_NO_ACTION": 3,
    "EV_SEPARATOR": 4,
    "EV_EVENT_TAG": 6,
    "EV_S_CRTM_VERSION": 8,
    "EV_PLATFORM_CONFIG_FLAGS": 0x0A,
    "EV_IPL": 0x0D,
    "EV_EFI_VARIABLE_DRIVER_CONFIG": 0x80000001,
    "EV_EFI_VARIABLE_BOOT": 0x80000002,
    "EV_EFI_BOOT_SERVICES_APPLICATION": 0x80000003,
    "EV_EFI_BOOT_SERVICES_DRIVER": 0x80000004,
    "EV_EFI_GPT_EVENT": 0x80000006,
    "EV_EFI_ACTION": 0x80000007,
    "EV_EFI_PLATFORM_FIRMWARE_BLOB": 0x80000008,
    "EV_EFI_VARIABLE_AUTHORITY": 0x800000E0,
}
_GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_SECURITY = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")


@dataclass(frozen=True)
class Event:
    """One event of a boot: what is hashed, and what the log has beside it."""

    register: int
    kind: str
    measured: bytes
    what: str
    data: bytes | None = None

    @property
    def logged(self) -> bytes:
        return self.measured if self.data is None else self.data


def variable(guid: bytes, name: str, data: bytes) -> bytes:
    return guid + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def tagged(tag: int, text: str) -> bytes:
    payload = text.encode() + b"\0"
    return struct.pack("<II", tag, len(payload)) + payload


def section(name: str, content: bytes) -> tuple[Event, Event]:
    logged = name.encode("utf-16-le") + b"\0\0"
    return (
        Event(11, "EV_IPL", name.encode() + b"\0", f"name {name}", logged),
        Event(11, "EV_IPL", content, f"content of {name}", logged),
    )


def command_line(text: str) -> Event:
    measured = text.encode("utf-16-le") + b"\0\0"
    return Event(9, "EV_EVENT_TAG", measured, "command line", tagged(0x8F3B22ED, "LOADED_IMAGE::LoadOptions"))


def initrd(content: bytes) -> Event:
    return Event(9, "EV_EVENT_TAG", content, "initrd", tagged(0x8F3B22EC, "Linux initrd"))


def application(content: bytes, what: str) -> Event:
    return Event(4, "EV_EFI_BOOT_SERVICES_APPLICATION", content, what, bytes(32) + content[:8])


def action(register: int, text: str) -> Event:
    return Event(register, "EV_EFI_ACTION", text.encode(), text)


def separator(register: int) -> Event:
    return Event(register, "EV_SEPARATOR", bytes(4), "separator")


def honest_boot() -> list[Event]:
    """OVMF 2025.02 and systemd-stub 257 from an unpartitioned disk, in the order of MEASUREMENT.md 1.a.1."""
    variables = [(_GLOBAL, "SecureBoot"), (_GLOBAL, "PK"), (_GLOBAL, "KEK"), (_SECURITY, "db")]
    variables.append((_SECURITY, "dbx"))
    return [
        Event(0, "EV_S_CRTM_VERSION", "2025.02\0".encode("utf-16-le"), "firmware version"),
        Event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", b"PEI volume", "firmware", bytes(16)),
        *(
            Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(guid, name, b""), f"variable {name}: empty")
            for guid, name in variables
        ),
        separator(7),
        Event(1, "EV_EFI_VARIABLE_BOOT", b"\1\0", "boot order", variable(_GLOBAL, "BootOrder", b"\1\0")),
        action(4, "Calling EFI Application from Boot Option"),
        *(separator(register) for register in range(7)),
        application(IMAGE, "Authenticode digest of the image"),
        *section(".linux", b"kernel"),
        *section(".cmdline", b"quiet"),
        *section(".initrd", b"initrd"),
        application(b"kernel", "Authenticode digest of the kernel in the image"),
        command_line("quiet"),
        initrd(b"initrd"),
        action(5, "Exit Boot Services Invocation"),
        action(5, "Exit Boot Services Returned with Success"),
    ]


def log_bytes(events: list[Event], banks: tuple[str, ...] = BANKS) -> bytes:
    """The crypto-agile log of a boot (PFP 10.2)."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    for bank in banks:
        spec += struct.pack("<HH", _BANK_IDS[bank], hashlib.new(bank).digest_size)
    spec += b"\0"
    parts = [struct.pack("<II20sI", 0, 3, b"", len(spec)) + spec]
    for event in events:
        parts.append(struct.pack("<III", event.register, _TYPES[event.kind], len(banks)))
        for bank in banks:
            digest = hashlib.new(bank, event.measured).digest()
            parts.append(struct.pack("<H", _BANK_IDS[bank]) + digest)
        parts.append(struct.pack("<I", len(event.logged)) + event.logged)
    return b"".join(parts)


def register_values(events: list[Event], bank: str) -> list[bytes]:
    """The registers after a boot."""
    size = hashlib.new(bank).digest_size
    values = [b"\xff" * size if 17 <= register <= 22 else bytes(size) for register in range(24)]
    for event in events:
        digest = hashlib.new(bank, event.measured).digest()
        values[event.register] = hashlib.new(bank, values[event.register] + digest).digest()
    return values


def rules(events: list[Event], bank: str) -> dict[str, object]:
    """What a statement says about the 24 registers after this boot (decision 9)."""
    values = register_values(events, bank)
    said: dict[str, object] = {}
    for register in range(24):
        if register in (2, 3, 4, 6, 7, 9, 11):
            said[str(register)] = {
                "rule": "exact",
                "value": values[register].hex(),
                "events": [
                    {
                        "type": event.kind,
                        "digest": hashlib.new(bank, event.measured).hexdigest(),
                        "what": event.what,
                    }
                    for event in events
                    if event.register == register
                ],
            }
        elif register in (0, 5):
            said[str(register)] = {"rule": "oneOf", "values": [values[register].hex()], "why": "recorded"}
        elif register in (1, 16, 23):
            said[str(register)] = {"rule": "unconstrained", "reason": "says nothing about the image"}
        else:
            said[str(register)] = {"rule": "initial"}
    return said


def statement_value(events: list[Event] | None = None) -> dict:
    """A statement as a dictionary that a test may change."""
    boot = honest_boot() if events is None else events
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "hello.efi", "digest": {"sha256": hashlib.sha256(IMAGE).hexdigest()}}],
        "predicateType": "urn:blindbuild:reference-measurements:v1",
        "predicate": {
            "name": "hello",
            "version": "1.0.0",
            "sequence": 42,
            "debug": False,
            "memoryConfidentiality": "none",
            "ledger": {"sha256": hashlib.sha256(b"ledger").hexdigest()},
            "platforms": [
                {
                    "id": "qemu-q35-ovmf-2025.02",
                    "kind": "uefi-tpm",
                    "firmwareDigest": {"sha256": hashlib.sha256(b"firmware").hexdigest()},
                    "banks": {bank: {"pcrs": rules(boot, bank)} for bank in BANKS},
                }
            ],
            "attestationKey": {
                "schemes": ["ecdsa-p256-sha256"],
                "requiredAttributes": "0x00050072",
                "forbiddenAttributes": "0x00020000",
                "hierarchy": "endorsement",
            },
            "channelBinding": "tls-spki-quote-v1",
            "build": {
                "tool": {"name": "blindbuild", "version": "0.1.0"},
                "inputs": [{"name": "linux-source-6.12", "digest": {"sha256": "00" * 32}}],
            },
        },
    }


def release_value(statement: bytes, value: dict) -> dict:
    return {
        "_type": "urn:blindbuild:release:v1",
        "product": value["predicate"]["name"],
        "version": value["predicate"]["version"],
        "sequence": value["predicate"]["sequence"],
        "statement": {"sha256": hashlib.sha256(statement).hexdigest()},
        "validFrom": "2026-01-01T00:00:00Z",
        "validUntil": "2027-01-01T00:00:00Z",
    }


@dataclass
class Publisher:
    """A release engineer with one key, who signs what a test wants."""

    key: SigningKey = field(default_factory=generate_key)
    value: dict = field(default_factory=statement_value)
    release_changes: dict = field(default_factory=dict)

    @property
    def statement(self) -> bytes:
        return rfc8785.dumps(self.value)

    @property
    def envelope(self) -> bytes:
        return sign_payload(self.key, STATEMENT_TYPE, self.statement)

    @property
    def release(self) -> bytes:
        value = release_value(self.statement, self.value) | self.release_changes
        return sign_payload(self.key, RELEASE_TYPE, rfc8785.dumps(value))

    def but(self, *, release: dict | None = None, **predicate) -> Publisher:
        """The same engineer, with another predicate or release."""
        value = copy.deepcopy(self.value)
        value["predicate"] |= predicate
        return Publisher(self.key, value, release or {})

    def trust(self, **content) -> bytes:
        return make_trust(TrustContent(**{"product": "hello", "release_keys": [self.key.public], **content}))
