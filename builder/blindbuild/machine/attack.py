"""What the operator of a machine can try, by name, in the order in which all are played.

The tests play each, and `blindbuild run --attack` lets people play; docs/attacks.md is what came of it.
"""

from __future__ import annotations

from types import MappingProxyType

from blindbuild.errors import UsageError
from blindbuild.machine.attack_boot import BOOT_ATTACKS
from blindbuild.machine.attack_bytes import BYTES_ATTACKS
from blindbuild.machine.attack_hostile import HOSTILE_ATTACKS
from blindbuild.machine.attack_image import IMAGE_ATTACKS
from blindbuild.machine.attack_model import AnyAttack, AttackTable
from blindbuild.machine.attack_running import PLUGGING_ATTACKS, RUNNING_ATTACKS
from blindbuild.machine.attack_snapshot import SNAPSHOT_ATTACKS
from blindbuild.machine.attack_tpm import TPM_ATTACKS

_ALL: tuple[AnyAttack, ...] = (
    *IMAGE_ATTACKS,
    *BOOT_ATTACKS,
    *BYTES_ATTACKS,
    # those that a machine is not the same after come last
    *RUNNING_ATTACKS,
    *SNAPSHOT_ATTACKS,
    *PLUGGING_ATTACKS,
    *HOSTILE_ATTACKS,
    *TPM_ATTACKS,
)
ATTACKS: AttackTable = MappingProxyType({attack.name: attack for attack in _ALL})

# What belongs to the operator's means and cannot be played in a virtual machine
NOT_PLAYED = MappingProxyType(
    {
        "DMA by a device": "QEMU's devices access memory as the guest's drivers tell them; one that does so "
        "by itself needs hardware",
        "cold boot, bus probes": "they need hardware",
        "CPU side channels, timing, sizes": "not closed by any image; the ledger says so",
    }
)


def find_attack(name: str) -> AnyAttack:
    """Return the attack of this name; UsageError if there is none."""
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}", hint=f"one of: {', '.join(ATTACKS)}")
    return ATTACKS[name]
