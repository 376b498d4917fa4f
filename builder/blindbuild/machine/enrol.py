"""A machine's Secure Boot keys, put where its firmware keeps them.

This is the owner of a machine at work, before its first boot: the variables are written into the flash image,
as `virt-fw-vars` does for other virtual machines. No firmware checks an update here, since none runs.

Source: UEFI 2.10, 8.2 (variable attributes) and 32.3 (Secure Boot modes); edk2
SecurityPkg/Library/AuthVariableLib/AuthVariableLib.c, AuthVariableLibInitialize (how SecureBootEnable and
CustomMode decide) and SecurityPkg/SecurityPkg.dec (their namespaces).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blindbuild.errors import UsageError
from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    NON_VOLATILE_BOOT_RUNTIME,
    EfiVariable,
    set_variables,
)

IMAGE_SECURITY_DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
TIME_BASED_AUTHENTICATED = 0x20  # EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS

_SECURE_BOOT_ENABLE_DISABLE = "f0a30bc7-af08-4556-99c4-001009c93a44"
_CUSTOM_MODE_ENABLE = "c076ec0c-7028-4399-a072-71ee5c448b9f"
_NON_VOLATILE_BOOT = 0x03
# EFI_TIME of the enrolment; a later update signed by PK or KEK must be newer. A constant, so that the flash
# image is a function of the keys.
_ENROLLED = struct.pack("<HBBBBBxIhBx", 2010, 1, 1, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBootKeys:
    """What the four variables hold, as they are measured: what `formats.siglist.write_signature_lists` gives.

    Attributes:
        pk: the platform key; with one enrolled, the firmware leaves its setup mode.
        kek: who may change `db` and `dbx`.
        db: what may start.
        dbx: what may not, although `db` would let it; empty if the variable shall not be there.
    """

    pk: bytes
    kek: bytes
    db: bytes
    dbx: bytes = b""


def enrol_keys(variables: bytes, keys: SecureBootKeys) -> bytes:
    """Return the variable flash image of a machine that boots with these keys and Secure Boot on.

    Args:
        variables: OVMF's variable template, or what a machine has left.
        keys: the four databases; without a platform key Secure Boot would stay off, without `db` nothing
            would start.

    Raises:
        UsageError: `pk`, `kek` or `db` is empty.
        FormatError: not a variable store, or the keys do not fit.
    """
    databases = (
        ("PK", EFI_GLOBAL_VARIABLE, keys.pk),
        ("KEK", EFI_GLOBAL_VARIABLE, keys.kek),
        ("db", IMAGE_SECURITY_DATABASE, keys.db),
        ("dbx", IMAGE_SECURITY_DATABASE, keys.dbx),
    )
    missing = [name for name, _, data in databases if not data and name != "dbx"]
    if missing:
        raise UsageError(f"expected keys for PK, KEK and db, got none for {' and '.join(missing)}")
    enrolled = [
        EfiVariable(
            vendor, name, data, NON_VOLATILE_BOOT_RUNTIME | TIME_BASED_AUTHENTICATED, timestamp=_ENROLLED
        )
        for name, vendor, data in databases
        if data
    ]
    switches = [
        EfiVariable(_SECURE_BOOT_ENABLE_DISABLE, "SecureBootEnable", b"\x01", _NON_VOLATILE_BOOT),
        EfiVariable(_CUSTOM_MODE_ENABLE, "CustomMode", b"\x00", _NON_VOLATILE_BOOT),
    ]
    return set_variables(variables, [*enrolled, *switches])
