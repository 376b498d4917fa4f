"""TCG event types, and what the data beside an event says about the digest that was extended.

Sources: TCG PC Client Platform Firmware Profile 1.06 (PFP), 10.4.1 event types and 10.2.6 UEFI_VARIABLE_DATA;
edk2 MdePkg/Include/IndustryStandard/UefiTcgPlatform.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from blindbuild.errors import EventLogError

EFI_GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")  # SecureBoot, PK, KEK, BootOrder, Boot####
EFI_IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")  # db, dbx, dbt, dbr


class EventType(IntEnum):
    """Event types by their TCG names (PFP 10.4.1)."""

    EV_PREBOOT_CERT = 0x00000000
    EV_POST_CODE = 0x00000001
    EV_UNUSED = 0x00000002
    EV_NO_ACTION = 0x00000003
    EV_SEPARATOR = 0x00000004
    EV_ACTION = 0x00000005
    EV_EVENT_TAG = 0x00000006
    EV_S_CRTM_CONTENTS = 0x00000007
    EV_S_CRTM_VERSION = 0x00000008
    EV_CPU_MICROCODE = 0x00000009
    EV_PLATFORM_CONFIG_FLAGS = 0x0000000A
    EV_TABLE_OF_DEVICES = 0x0000000B
    EV_COMPACT_HASH = 0x0000000C
    EV_IPL = 0x0000000D
    EV_IPL_PARTITION_DATA = 0x0000000E
    EV_NONHOST_CODE = 0x0000000F
    EV_NONHOST_CONFIG = 0x00000010
    EV_NONHOST_INFO = 0x00000011
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x00000012
    EV_POST_CODE2 = 0x00000013
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EV_EFI_VARIABLE_BOOT = 0x80000002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EV_EFI_GPT_EVENT = 0x80000006
    EV_EFI_ACTION = 0x80000007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EV_EFI_HANDOFF_TABLES = 0x80000009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000000C
    EV_EFI_GPT_EVENT2 = 0x8000000D
    EV_EFI_HCRTM_EVENT = 0x80000010
    EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EV_EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EV_EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


# The event data is what was hashed. Every other type only describes what was hashed (a load address, a
# section's name, a text), or firmware builds disagree; such data is never evidence of anything.
_DATA_IS_MEASURED = frozenset(
    {
        EventType.EV_SEPARATOR,
        EventType.EV_ACTION,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_OMIT_BOOT_DEVICE_EVENTS,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_GPT_EVENT,
        EventType.EV_EFI_ACTION,
        EventType.EV_EFI_VARIABLE_BOOT2,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
        EventType.EV_EFI_SPDM_DEVICE_POLICY,
        EventType.EV_EFI_SPDM_DEVICE_AUTHORITY,
    }
)


def event_type_name(event_type: int) -> str:
    """Return the TCG name of an event type, or its number in hexadecimal."""
    try:
        return EventType(event_type).name
    except ValueError:
        return f"0x{event_type:08x}"


@dataclass(frozen=True, slots=True)
class VariableData:
    """UEFI_VARIABLE_DATA: the variable that an event is about (PFP 10.2.6)."""

    vendor: UUID
    name: str
    data: bytes


_VARIABLE_HEADER = struct.Struct("<16sQQ")


def write_variable_data(variable: VariableData) -> bytes:
    """Return the bytes: GUID, name length in UTF-16 units, data length, name without NUL, data."""
    name = variable.name.encode("utf-16-le", "surrogatepass")
    return (
        _VARIABLE_HEADER.pack(variable.vendor.bytes_le, len(name) // 2, len(variable.data))
        + name
        + variable.data
    )


def parse_variable_data(data: bytes) -> VariableData:
    """Parse UEFI_VARIABLE_DATA that fills `data` exactly.

    Raises:
        EventLogError: the lengths inside do not add up to the length of `data`.
    """
    if len(data) < _VARIABLE_HEADER.size:
        raise EventLogError(
            f"variable data: expected at least {_VARIABLE_HEADER.size} bytes, got {len(data)}"
        )
    vendor, name_units, data_size = _VARIABLE_HEADER.unpack_from(data)
    name_end = _VARIABLE_HEADER.size + 2 * name_units
    if name_end + data_size != len(data):
        raise EventLogError(f"variable data: expected {name_end + data_size} bytes in all, got {len(data)}")
    name = data[_VARIABLE_HEADER.size : name_end].decode("utf-16-le", "surrogatepass")
    return VariableData(vendor=UUID(bytes_le=vendor), name=name, data=data[name_end:])


def tagged_event_data(tag: int, text: str) -> bytes:
    """Return TCG_PCClientTaggedEvent as Linux writes it: u32 id, u32 size, ASCII text with its NUL.

    Source: PFP 10.4.2.1; Linux drivers/firmware/efi/libstub/efi-stub-helper.c.
    """
    payload = text.encode("ascii") + b"\0"
    return struct.pack("<II", tag, len(payload)) + payload


def measured_bytes(event_type: int, data: bytes) -> tuple[bytes, ...]:
    """Return what an event of this type may have hashed; nothing when its data only describes that.

    Of a boot variable edk2 hashes the variable's data, other firmware the whole structure; both were
    seen, so both are given.

    Raises:
        EventLogError: an EV_EFI_VARIABLE_BOOT whose data is not UEFI_VARIABLE_DATA.

    Source: PFP 10.4.1; edk2 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c, MeasureVariable.
    """
    if event_type == EventType.EV_EFI_VARIABLE_BOOT:
        return parse_variable_data(data).data, data
    return (data,) if event_type in _DATA_IS_MEASURED else ()
