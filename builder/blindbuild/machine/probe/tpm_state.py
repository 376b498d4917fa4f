"""What a software TPM keeps over power cycles, read from outside while no machine has it.

A copy is read, because a TPM that is powered on writes counters of its own. Clock, reset counters and failed
passwords are left out: they change with every boot.

Source: TPM 2.0 Library Part 3, 30.2 (TPM2_GetCapability), 31.6 and 31.13 (TPM2_NV_ReadPublic, TPM2_NV_Read),
12.4 (TPM2_ReadPublic); Part 2, 6.12, 6.13 (TPM_CAP, TPM_PT), 7.2 (kinds of handles).
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from blindbuild.digest import Digest
from blindbuild.errors import MachineError
from blindbuild.machine.swtpm import SoftwareTpm
from blindbuild.machine.tpm_attester import read_nv
from blindbuild.machine.tpm_connection import TpmConnection
from blindbuild.machine.workplace import disposable_directory

_CC_GET_CAPABILITY = 0x17A
_CC_NV_READ_PUBLIC = 0x169
_CC_READ_PUBLIC = 0x173
_CAP_HANDLES, _CAP_PROPERTIES = 1, 6
_FIRST_INDEX, _FIRST_PERSISTENT = 0x01000000, 0x81000000
_PERMANENT = 0x200  # TPM_PT_PERMANENT: which passwords are set, whether TPM2_Clear is off
_MAX_HANDLES = 254  # MAX_CAP_HANDLES; no software TPM has room for as many indices

Kept = dict[str, Digest]


def read_kept(state: Path) -> Kept:
    """Return a digest of each thing that a TPM keeps, by name.

    Args:
        state: the directory of a TPM that is off; it is not written to.

    Raises:
        MachineError: the TPM does not answer, or keeps more than can be listed.
        ToolError: swtpm is missing.
    """
    with disposable_directory() as place:
        shutil.copytree(state, place / "tpm")
        with (
            SoftwareTpm(place / "tpm", place / "control", place / "log") as software,
            software.connect() as tpm,
        ):
            tpm.power_on()
            return dict(_read_all(tpm))


def _read_all(tpm: TpmConnection) -> Iterator[tuple[str, Digest]]:
    for index in _list_handles(tpm, _FIRST_INDEX):
        handle = struct.pack(">I", index)
        content = tpm.execute(_CC_NV_READ_PUBLIC, handles=handle)
        # what cannot be read with an empty password still shows in its attributes when it is written
        with contextlib.suppress(MachineError):
            content += read_nv(tpm, index)
        yield f"NV index {index:#010x}", Digest.sha256(content)
    for key in _list_handles(tpm, _FIRST_PERSISTENT):
        public = tpm.execute(_CC_READ_PUBLIC, handles=struct.pack(">I", key))
        yield f"persistent key {key:#010x}", Digest.sha256(public)
    yield "passwords and switches", Digest.sha256(_capability(tpm, _CAP_PROPERTIES, _PERMANENT, 1))


def _list_handles(tpm: TpmConnection, first: int) -> tuple[int, ...]:
    answer = _capability(tpm, _CAP_HANDLES, first, _MAX_HANDLES)
    more, _, count = struct.unpack_from(">BII", answer)
    if more or len(answer) != 9 + 4 * count:
        raise MachineError(f"TPM: expected a whole list of handles from {first:#010x}, got {count}")
    return struct.unpack_from(f">{count}I", answer, 9)


def _capability(tpm: TpmConnection, kind: int, first: int, count: int) -> bytes:
    return tpm.execute(_CC_GET_CAPABILITY, parameters=struct.pack(">III", kind, first, count))
