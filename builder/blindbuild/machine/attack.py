"""What the operator of a machine can try, by name, in the order in which all are played.

The tests play each, and `blindbuild run --attack` lets people play; docs/attacks.md is what came of it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from blindbuild.errors import UsageError
from blindbuild.formats.pe import read_pe
from blindbuild.machine.attack_boot import BOOT_ATTACKS
from blindbuild.machine.attack_bytes import BYTES_ATTACKS
from blindbuild.machine.attack_hostile import HOSTILE_ATTACKS
from blindbuild.machine.attack_image import IMAGE_ATTACKS
from blindbuild.machine.attack_model import AnyAttack, AttackTable, Outcome
from blindbuild.machine.attack_network import NETWORK_ATTACKS, sealed_interception
from blindbuild.machine.attack_running import PLUGGING_ATTACKS, RUNNING_ATTACKS
from blindbuild.machine.attack_snapshot import SNAPSHOT_ATTACKS
from blindbuild.machine.attack_tpm import TPM_ATTACKS
from blindbuild.measure.stub import parse_stub_magic
from blindbuild.verify.session import PROFILE, SEALED_PROFILE

_ALL: tuple[AnyAttack, ...] = (
    *IMAGE_ATTACKS,
    *BOOT_ATTACKS,
    *BYTES_ATTACKS,
    *NETWORK_ATTACKS,
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


# A stub that reads no command line from outside the image does not see these
_SIDE_DOORS = frozenset({"smbios-cmdline", "esp-addon"})


def attacks_on(uki: bytes, *, profile: str = PROFILE) -> AttackTable:
    """Return the attacks with the outcomes they must have on this boot image: old stubs have fewer doors, and
    where requests are sealed another key than that of TLS must be the image's.

    Args:
        profile: what the image's evidence is bound to.

    Raises:
        FormatError: it has no stub of systemd's.
    """
    changed: dict[str, AnyAttack] = {}
    if not parse_stub_magic(read_pe(uki).section_data(".sdmagic")).reads_extra_command_lines:
        changed |= {
            name: replace(
                ATTACKS[name], outcome=Outcome.NO_EFFECT, registers=frozenset(), reasons=frozenset()
            )
            for name in _SIDE_DOORS
        }
    if profile == SEALED_PROFILE:
        changed["tls-mitm"] = sealed_interception(ATTACKS["tls-mitm"])
    return MappingProxyType({name: changed.get(name, attack) for name, attack in ATTACKS.items()})


def find_attack(name: str) -> AnyAttack:
    """Return the attack of this name; UsageError if there is none."""
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}", hint=f"one of: {', '.join(ATTACKS)}")
    return ATTACKS[name]
