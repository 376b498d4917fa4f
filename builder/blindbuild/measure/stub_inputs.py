"""What systemd-stub is given besides the UKI: by the firmware, by the host, and by files beside the UKI."""

from __future__ import annotations

from dataclasses import dataclass

NamedFiles = tuple[tuple[str, bytes], ...]  # (file name, content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addon:
    """A PE file `*.addon.efi` that the stub accepts.

    Attributes:
        name: its file name, by which the stub sorts.
        image: its bytes.
        everywhere: it is in /loader/addons and for all UKIs, not in the directory of this one.
    """

    name: str
    image: bytes
    everywhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StubInputs:
    """The state of one boot as far as the stub looks at it; the defaults are a boot without additions.

    Attributes:
        secure_boot: Secure Boot is on.
        confidential: the stub sees that it runs in a confidential virtual machine.
        profile: the number of the profile that was chosen.
        load_options: those of the boot option, without a profile selector; empty for none.
        addons: in any order.
        smbios_command_line: the SMBIOS string io.systemd.stub.kernel-cmdline-extra.
        credentials: files of the UKI's directory.
        global_credentials: files of /loader/credentials.
        sysexts: system extension images.
        confexts: configuration extension images.
    """

    secure_boot: bool = False
    confidential: bool = False
    profile: int = 0
    load_options: str = ""
    addons: tuple[Addon, ...] = ()
    smbios_command_line: str = ""
    credentials: NamedFiles = ()
    global_credentials: NamedFiles = ()
    sysexts: NamedFiles = ()
    confexts: NamedFiles = ()
