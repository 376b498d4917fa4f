"""UEFI variables as OVMF keeps them in its VARS flash image, and boot options.

The image is a firmware volume whose body begins with an authenticated variable store. Only that store is read
and written; the fault-tolerant-write areas behind it are left as they are.

Source: edk2 MdeModulePkg/Include/Guid/VariableFormat.h (authenticated format) and
MdePkg/Include/Pi/PiFirmwareVolume.h; UEFI 2.10, 3.1.3 (load options) and 10.3 (device paths).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from blindbuild.errors import FormatError

EFI_GLOBAL_VARIABLE = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
NON_VOLATILE_BOOT_RUNTIME = 0x07  # EFI_VARIABLE_NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS

_NV_DATA_VOLUME = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
_AUTHENTICATED_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_VOLUME_HEADER = struct.Struct("<16s16sQ4sIHHHBB")
_STORE_HEADER = struct.Struct("<16sIBBHI")
_VARIABLE_HEADER = struct.Struct("<HBBIQ16sIII16s")
_STORE_FORMATTED = 0x5A
_STORE_HEALTHY = 0xFE
_START_ID = 0x55AA
_ERASED_ID = 0xFFFF
_STATE_ADDED = 0x3F
_STATE_DELETING = 0x3E  # VAR_ADDED & VAR_IN_DELETED_TRANSITION: still the valid copy
_ERASED = b"\xff"
_ALIGNMENT = 4
_MAX_VARIABLES = 4096  # a 256 KiB store holds fewer; bounds the loop
_LOAD_OPTION_ACTIVE = 0x01
_END_OF_PATH = bytes.fromhex("7fff0400")


@dataclass(frozen=True, slots=True)
class EfiVariable:
    """One variable.

    Attributes:
        vendor: the namespace GUID as 36 lower-case characters.
        name: without the trailing NUL.
        data: what GetVariable would return.
        attributes: the EFI_VARIABLE_* bits.
        monotonic_count, timestamp, key_index: the fields of authenticated variables, zero for all others.
    """

    vendor: str
    name: str
    data: bytes
    attributes: int = NON_VOLATILE_BOOT_RUNTIME
    monotonic_count: int = 0
    timestamp: bytes = bytes(16)
    key_index: int = 0


def read_variables(image: bytes) -> tuple[EfiVariable, ...]:
    """Return the live variables of a VARS image, in the order of the store.

    Raises:
        FormatError: the image is no authenticated variable store, or a variable leaves its bounds.
    """
    start, end = _variable_area(image)
    found: list[EfiVariable] = []
    position = start
    for _ in range(_MAX_VARIABLES):
        if position + 2 > end or _start_id(image, position) == _ERASED_ID:
            break
        variable, position = _read_variable(image, position, end)
        if variable is not None:
            found.append(variable)
    else:
        raise FormatError(f"variable store: more than {_MAX_VARIABLES} variables")
    _require_erased(image, position, end)
    return tuple(found)


def set_variables(image: bytes, variables: Iterable[EfiVariable]) -> bytes:
    """Return the image with these variables set; others of the store stay, and keep their order.

    Raises:
        FormatError: as `read_variables`, or the variables do not fit, or cannot be written as given.
    """
    start, end = _variable_area(image)
    merged = {(variable.vendor, variable.name): variable for variable in read_variables(image)}
    for variable in variables:
        merged[variable.vendor, variable.name] = variable
    area = b"".join(_pad(_pack_variable(variable)) for variable in merged.values())
    if len(area) > end - start:
        raise FormatError(f"variable store: {len(area)} bytes of variables, room for {end - start}")
    return image[:start] + area + _ERASED * (end - start - len(area)) + image[end:]


def pack_load_option(description: str, path: str, optional_data: bytes) -> bytes:
    r"""Return an active EFI_LOAD_OPTION for a file on any readable volume.

    Args:
        description: what a boot menu would show.
        path: the file, such as `\EFI\BOOT\BOOTX64.EFI` (a short-form device path: one file-path node).
        optional_data: what the started image gets as its LoadOptions.

    Source: UEFI 2.10, 3.1.3, 10.3.5.4 and 3.1.2 (short-form file path).
    """
    name = _utf16(path)
    node = struct.pack("<BBH", 4, 4, 4 + len(name)) + name
    device_path = node + _END_OF_PATH
    header = struct.pack("<IH", _LOAD_OPTION_ACTIVE, len(device_path))
    return header + _utf16(description) + device_path + optional_data


def pack_boot_order(numbers: Iterable[int]) -> bytes:
    """Return the data of BootOrder: one u16 for each Boot#### (UEFI 2.10, 3.3)."""
    return b"".join(struct.pack("<H", number) for number in numbers)


def _variable_area(image: bytes) -> tuple[int, int]:
    """Check both headers; return where variables start and where the store ends."""
    if len(image) < _VOLUME_HEADER.size:
        raise FormatError(f"variable store: expected a firmware volume, got {len(image)} bytes")
    _, system, length, signature, _, header_size, _, _, _, _ = _VOLUME_HEADER.unpack_from(image)
    if signature != b"_FVH" or system != _NV_DATA_VOLUME:
        raise FormatError("variable store: expected a non-volatile data volume, got other bytes")
    if not _VOLUME_HEADER.size <= header_size <= length <= len(image) or header_size % 2:
        raise FormatError(f"variable store: volume of {length} bytes, header {header_size}, in {len(image)}")
    if sum(struct.unpack_from(f"<{header_size // 2}H", image)) & 0xFFFF:
        raise FormatError("variable store: checksum of the volume header is wrong")
    if header_size + _STORE_HEADER.size > length:
        raise FormatError("variable store: no room for its header")
    kind, size, form, state, _, _ = _STORE_HEADER.unpack_from(image, header_size)
    if kind != _AUTHENTICATED_STORE or form != _STORE_FORMATTED or state != _STORE_HEALTHY:
        raise FormatError("variable store: expected a healthy authenticated store, got other bytes")
    if not _STORE_HEADER.size <= size <= length - header_size:
        raise FormatError(f"variable store: {size} bytes, the volume has room for {length - header_size}")
    return header_size + _STORE_HEADER.size, header_size + size


def _start_id(image: bytes, position: int) -> int:
    return int.from_bytes(image[position : position + 2], "little")


def _read_variable(image: bytes, position: int, end: int) -> tuple[EfiVariable | None, int]:
    """Return the variable at `position` (None if it is a deleted one) and where the next one is."""
    if position + _VARIABLE_HEADER.size > end:
        raise FormatError(f"variable store: header at {position} runs over the end")
    fields = _VARIABLE_HEADER.unpack_from(image, position)
    start_id, state, _, attributes, count, timestamp, key_index, name_size, data_size, vendor = fields
    if start_id != _START_ID:
        raise FormatError(f"variable store: expected 0x55aa at {position}, got 0x{start_id:04x}")
    name_at = position + _VARIABLE_HEADER.size
    data_at = name_at + name_size
    if data_at + data_size > end:
        raise FormatError(f"variable store: variable at {position} runs over the end")
    following = _aligned(data_at + data_size)
    if state not in (_STATE_ADDED, _STATE_DELETING):
        return None, following
    name = _read_name(image[name_at:data_at], position)
    data = image[data_at : data_at + data_size]
    namespace = str(uuid.UUID(bytes_le=vendor))
    return EfiVariable(namespace, name, data, attributes, count, timestamp, key_index), following


def _read_name(raw: bytes, position: int) -> str:
    """Return a UTF-16LE name without its NUL; the NUL must be there, once and last."""
    try:
        text = raw.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise FormatError(f"variable store: name at {position} is no UTF-16") from error
    if len(text) < 2 or text.find("\0") != len(text) - 1:
        raise FormatError(f"variable store: name at {position} does not end in its only NUL")
    return text[:-1]


def _require_erased(image: bytes, position: int, end: int) -> None:
    if image[position:end].strip(_ERASED):
        raise FormatError(f"variable store: bytes after the last variable at {position} are not erased")


def _pack_variable(variable: EfiVariable) -> bytes:
    if not variable.name or "\0" in variable.name or len(variable.timestamp) != 16:
        raise FormatError(f"variable store: cannot write a variable named {variable.name!r}")
    name = _utf16(variable.name)
    header = _VARIABLE_HEADER.pack(
        _START_ID,
        _STATE_ADDED,
        0,
        variable.attributes,
        variable.monotonic_count,
        variable.timestamp,
        variable.key_index,
        len(name),
        len(variable.data),
        uuid.UUID(variable.vendor).bytes_le,
    )
    return header + name + variable.data


def _utf16(text: str) -> bytes:
    """Return `text` as UTF-16LE with its NUL."""
    return (text + "\0").encode("utf-16-le")


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def _pad(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), _ERASED)
