"""What each version of systemd-stub does with the sections of a UKI.

Sources: systemd src/fundamental/uki.c (section order), src/boot/efi/stub.c to version 256, src/boot/stub.c
since 257; each version's rules were compared with boots of 252.39, 257.13 and 262.
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

# Which of these is measured depends on the machine or on the profile chosen at boot.
UNPREDICTABLE_SECTIONS = frozenset({".profile", ".dtbauto", ".efifw"})

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
    def packs_os_release(self) -> bool:
        """`.osrel` is added to the initrd as /.extra/os-release."""
        return self.version >= 257

    @property
    def trims_command_line(self) -> bool:
        """Leading white space goes away as well as trailing."""
        return self.version >= 257


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
