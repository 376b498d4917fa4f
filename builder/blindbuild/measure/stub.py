"""What each version of systemd-stub does with the sections of a UKI.

Sources: systemd src/fundamental/uki.c (section order), src/boot/efi/stub.c to version 256, src/boot/stub.c
since 257, read in 252.39, 254.26, 257.13 and 262, and NEWS for when each change came; the rules were compared
with boots of 252.39, 254.26, 257.13 and 262.1. Where two versions that were read differ and
the ones between them were not, what depends on the difference is refused.

Three facts that no register of a prediction shows: stub 252 built with EFI_TPM_PCR_COMPAT measures what goes
into register 12 into register 8 as well; since 261 the stub measures SMBIOS records of type 1, 2 and 11 into
register 1, which is different on every machine; and since 261, if the EFI system partition has a random
seed, the initrd holds a secret of the machine, so that register 9 cannot be predicted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import MeasureError

OLDEST = 252
NEWEST = 262

_ORDER_252 = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey")
_ORDER_254 = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey")
_ORDER_256 = (*_ORDER_254[:4], ".ucode", *_ORDER_254[4:])
_ORDER_257 = (*_ORDER_256, ".profile", ".dtbauto", ".hwids")
_ORDER_258 = (*_ORDER_257, ".efifw")
_ORDERS = ((258, _ORDER_258), (257, _ORDER_257), (256, _ORDER_256), (254, _ORDER_254), (252, _ORDER_252))

# Of several sections of one of these names, the stub takes the one that is for the machine.
HARDWARE_SECTIONS = (".dtbauto", ".efifw")
SIGNATURE_SECTION = ".pcrsig"  # known to every version, measured by none: it signs what is measured

_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{3})(?:[.~^+-][!-~]*)? ####\0?")


@dataclass(frozen=True, slots=True)
class StubRules:
    """The rules of one major version.

    Attributes:
        version: the major version, such as 257.
        measured_sections: the names that are measured into PCR 11, in the order of measuring.
    """

    version: int
    measured_sections: tuple[str, ...]

    @property
    def loads_kernel_through_firmware(self) -> bool:
        """With Secure Boot off, LoadImage is called for the kernel, so that firmware measures it too.

        Since 258 the kernel's entry point is called directly.
        """
        return self.version < 258

    @property
    def names(self) -> frozenset[str]:
        """The sections that this version looks at."""
        return frozenset({*self.measured_sections, SIGNATURE_SECTION})

    @property
    def mangling_is_known(self) -> bool:
        """Whether command lines are treated as in 254 or as in 257 was read, not guessed."""
        return self.version not in (255, 256)

    @property
    def packs_os_release(self) -> bool:
        """`.osrel` is added to the initrd as /.extra/os-release, and `.profile` as /.extra/profile."""
        return self.version >= 257

    @property
    def trims_command_line(self) -> bool:
        """Leading white space goes away as well as trailing, and DEL counts as white space."""
        return self.version >= 257

    @property
    def has_profiles(self) -> bool:
        """Sections after a `.profile` belong to it; of equal names the first counts, not the last."""
        return self.version >= 257

    @property
    def reads_extra_command_lines(self) -> bool:
        """Addons, and the SMBIOS string io.systemd.stub.kernel-cmdline-extra."""
        return self.version >= 254

    @property
    def joins_addon_command_lines(self) -> bool:
        """Those of all addons are one event; before there was one for each directory."""
        return self.version >= 255

    @property
    def reads_addon_payloads(self) -> bool:
        """Of addons not only the command line, but also `.dtb`, `.initrd` and `.ucode`."""
        return self.version >= 257

    @property
    def has_confexts(self) -> bool:
        """Configuration extensions are told from system extensions."""
        return self.version >= 256

    @property
    def has_global_extensions(self) -> bool:
        """Extensions are read from /loader/extensions too."""
        return self.version >= 258

    @property
    def completes_machine_state(self) -> bool:
        """What is found on the machine is added: consoles, an initrd registered before, a boot secret."""
        return self.version >= 261


def stub_rules(version: int) -> StubRules:
    """Return the rules of a major version.

    Raises:
        MeasureError: the version's rules are not known.
    """
    if not OLDEST <= version <= NEWEST:
        raise MeasureError(f"systemd-stub: expected version {OLDEST} to {NEWEST}, got {version}")
    return StubRules(version, next(order for since, order in _ORDERS if version >= since))


def parse_stub_magic(data: bytes) -> StubRules:
    """Return the rules of the stub whose `.sdmagic` section this is.

    Raises:
        MeasureError: the section is not that of a systemd-stub of a known version.

    Source: systemd src/boot/stub.c, DECLARE_NOALLOC_SECTION(".sdmagic").
    """
    match = _MAGIC.fullmatch(data)
    if match is None:
        raise MeasureError(f"section .sdmagic: expected the name of a systemd-stub, got {data[:80]!r}")
    return stub_rules(int(match[1]))
