"""What a log says about an event, as text that is safe to show: nothing of it is known to be true.

Every string here may come from an attacker. It is cut to a length and what is not printable is written out;
whoever puts it into a page still has to escape it for that page.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from blindbuild.digest import Digest
from blindbuild.errors import EventLogError, FormatError
from blindbuild.formats.devicepath import parse_image_load, parse_load_option
from blindbuild.formats.printable import visible
from blindbuild.formats.tcgevent import EventType, VariableData, event_type_name, parse_variable_data
from blindbuild.formats.tcgrecord import LogEvent

MAX_SHOWN = 200  # characters of text out of a log
_MAX_SHOWN_OPTIONS = 8  # entries of BootOrder; more say nothing to a reader
_SIGNATURE_OWNER = 16  # bytes of EFI_SIGNATURE_DATA before the certificate (UEFI 2.10, 32.4.1)
CPIO_MAGIC = b"070701"
TAG_HEADER = 8  # bytes: u32 id, u32 size
_VARIABLES = frozenset(
    {
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_BOOT,
        EventType.EV_EFI_VARIABLE_BOOT2,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
    }
)
_IMAGES = frozenset(
    {
        EventType.EV_EFI_BOOT_SERVICES_APPLICATION,
        EventType.EV_EFI_BOOT_SERVICES_DRIVER,
        EventType.EV_EFI_RUNTIME_SERVICES_DRIVER,
    }
)
_VOLUMES = frozenset({EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB})
_VOLUME = struct.Struct("<QQ")  # PFP 10.2.4: base address and length
_T = TypeVar("_T")


def shown(text: str) -> str:
    """Return text that cannot steer a terminal, and is not too long."""
    clean = visible(text[: MAX_SHOWN + 1])
    return clean if len(clean) <= MAX_SHOWN else clean[: MAX_SHOWN - 1] + "…"


def describe_event(event: LogEvent) -> str:
    """Return what the log says about an event, made safe to print; the digest does not cover all of it."""
    return f"{event_type_name(event.event_type)} {_details(event)}".strip()


def _details(event: LogEvent) -> str:
    if event.event_type in _VARIABLES:
        variable = variable_of(event)
        if variable is not None:
            return f"'{shown(variable.name)}'{_variable_details(variable, event.event_type)}"
    if event.event_type in _IMAGES:
        path = image_path(event.data)
        if path:
            return f"'{path}'"
    if event.event_type in _VOLUMES and len(event.data) == _VOLUME.size:
        base, size = _VOLUME.unpack(event.data)
        return f"{base:#x}+{size:#x}"
    if event.event_type == EventType.EV_EVENT_TAG and len(event.data) >= TAG_HEADER:
        return _tagged(event.data)
    return _described(event.data)


def _tagged(data: bytes) -> str:
    # PFP 10.4.2.1: u32 id, u32 size, text with its NUL, as ASCII (Linux) or as UTF-16LE (systemd-stub)
    text = _printable(as_utf16(data[TAG_HEADER:])) or _as_ascii(data[TAG_HEADER:])
    tag = f"0x{int.from_bytes(data[:4], 'little'):08x}"
    return f"'{shown(text)}'" if text else tag


def variable_of(event: LogEvent) -> VariableData | None:
    """Return the variable that an event is about, or None."""
    return parsed_or_none(lambda: parse_variable_data(event.data))


def image_path(data: bytes) -> str:
    """Return where an image was loaded from, or an empty text."""
    loaded = parsed_or_none(lambda: parse_image_load(data))
    return "" if loaded is None else shown(loaded.path)


def _variable_details(variable: VariableData, event_type: int) -> str:
    if event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        subject = certificate_subject(variable.data[_SIGNATURE_OWNER:])
        return f" {subject}" if subject else ""
    if variable.name == "BootOrder":
        numbers = [variable.data[i : i + 2] for i in range(0, len(variable.data) & ~1, 2)]
        names = [f"{int.from_bytes(number, 'little'):04X}" for number in numbers[:_MAX_SHOWN_OPTIONS]]
        return f" {','.join(names)}{'…' if len(numbers) > _MAX_SHOWN_OPTIONS else ''}"
    if variable.name.startswith("Boot"):
        option = parsed_or_none(lambda: parse_load_option(variable.data))
        return "" if option is None else f' "{shown(option.description)}" {shown(option.path)}'
    if variable.name == "SecureBoot":
        return f" {variable.data[:8].hex() or 'empty'}"
    return ""


def certificate_subject(der: bytes) -> str:
    """Return the subject of a DER certificate as text, or an empty one."""
    try:
        with warnings.catch_warnings():
            # the library warns on stderr of names longer than X.520 allows, which real authorities have
            warnings.simplefilter("ignore", UserWarning)
            subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
        return ""
    return shown(subject)


def _described(data: bytes) -> str:
    if data.startswith(CPIO_MAGIC):
        return f"archive of {len(data)} bytes"
    if not data:
        return ""
    text = _printable(as_utf16(data)) or _as_ascii(data)
    return f"'{shown(text)}'" if text else Digest.sha256(data).hex[:16]


def as_utf16(data: bytes) -> str:
    """Return the text of UTF-16LE with its NUL, as systemd-stub logs it; empty if it is none."""
    if len(data) % 2 or not data.endswith(b"\0\0"):
        return ""
    try:
        return data.decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError:
        return ""


def _printable(text: str) -> str:
    return text if text.isprintable() else ""


def _as_ascii(data: bytes) -> str:
    text = data.rstrip(b"\0")
    return _printable(text.decode("ascii")) if text.isascii() else ""


def parsed_or_none(parse: Callable[[], _T]) -> _T | None:
    """Return what was parsed, or None where the bytes are not what they should be."""
    try:
        return parse()
    except (EventLogError, FormatError):
        return None
