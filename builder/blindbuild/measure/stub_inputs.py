"""What systemd-stub is given besides the UKI: by the firmware, by the host, and by files beside the UKI."""

from __future__ import annotations

from dataclasses import dataclass

NamedFiles = tuple[tuple[str, bytes], ...]  # (file name, content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addon:
    """A PE file `*.addon.efi` that the firmware loads; with Secure Boot that takes a signature.

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

    What a version of the stub does not look at has no effect on what is predicted for it.

    Attributes:
        secure_boot: Secure Boot is on.
        confidential: the stub sees that it runs in a confidential virtual machine.
        profile: the number of the profile that was chosen, as the boot option's `@N` does.
        load_options: those of the boot option, without `@N`; empty for none.
        addons: in any order.
        smbios_command_line: the SMBIOS string io.systemd.stub.kernel-cmdline-extra.
        credentials: files `*.cred` of the UKI's directory.
        global_credentials: files `*.cred` of /loader/credentials.
        sysexts: system extension images `*.raw` of the UKI's directory.
        confexts: configuration extension images `*.confext.raw` of the UKI's directory.
        global_sysexts: system extension images of /loader/extensions.
        global_confexts: configuration extension images of /loader/extensions.
        device_tree: which `.dtbauto` section is for the machine, counted from 1 in the section table; 0 if
            none is; None if that is not known.
        firmware_image: the same for `.efifw`.
        consoles: what the stub appends to a command line without `console=`, such as `console=ttyS0`, in its
            order; None if that is not known.
        previous_initrd: what a boot loader, or the virtual machine monitor, registered as the initrd.
        random_seed: the EFI system partition has a /loader/random-seed that the stub uses.
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
    global_sysexts: NamedFiles = ()
    global_confexts: NamedFiles = ()
    device_tree: int | None = None
    firmware_image: int | None = None
    consoles: tuple[str, ...] | None = None
    previous_initrd: bytes = b""
    random_seed: bool = False
