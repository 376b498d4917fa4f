"""The options of `blindbuild measure`: which of them means something depends on the platform."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from blindbuild.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

BANKS = ("sha256", "sha384", "sha512")
ALL_BANKS = ("sha1", *BANKS)
UEFI, DIRECT, CLOUD, SEV, TDX, EIF = "uefi", "direct", "cloud", "sev", "tdx", "eif"
_FAMILY_NAMES = {  # as a person would type them
    UEFI: "qemu-q35-… from a disk",
    DIRECT: "qemu-q35-… with --direct",
    CLOUD: "gcp, gcp-tdx, nitro-tpm, azure",
    SEV: "sev, sev-es, sev-snp",
    TDX: "tdx",
    EIF: "nitro-eif",
}

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """Everything that can be said about a boot besides the image."""

    banks: tuple[str, ...] = ()
    firmware: Path | None = None
    event_log: Path | None = None
    secure_boot: bool | None = None
    variables: Path | None = None
    platform_key: Path | None = None
    key_exchange_key: Path | None = None
    allowed_signatures: Path | None = None
    forbidden_signatures: Path | None = None
    disk: Path | None = None
    shim: Path | None = None
    stub_version: int | None = None
    profile: int = 0
    load_options: str = ""
    addons: tuple[Path, ...] = ()
    credentials: tuple[Path, ...] = ()
    sysexts: tuple[Path, ...] = ()
    confexts: tuple[Path, ...] = ()
    smbios_command_line: str = ""
    consoles: tuple[str, ...] = ()
    initrd: Path | None = None
    command_line: str = ""
    memory: int | None = None
    processors: int = 1
    cpu: str | None = None
    guest_features: str = "0x1"
    vmm: str = "qemu"
    svsm: Path | None = None
    direct: bool = False
    qemu: str | None = None
    memory_protection: str | None = None
    page_order: str = "interleaved"
    edk2: int = 202502
    secure_boot_variable: str = "absent"
    acpi: tuple[Path, ...] = ()
    boot_variables: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Option:
    """One option, the field it fills, and the families of platforms that it means something for."""

    field: str
    names: tuple[str, ...]
    families: tuple[str, ...]
    settings: dict[str, Any]


def _option(field: str, *names: str, families: tuple[str, ...], **settings: Any) -> _Option:
    return _Option(field, names, families, settings)


_REGISTERS = (UEFI, DIRECT, CLOUD)
_BOOTS = (*_REGISTERS, TDX)
OPTIONS = (
    _option(
        "banks",
        "--bank",
        families=_REGISTERS,
        multiple=True,
        type=click.Choice(ALL_BANKS),
        help="Only this bank; repeatable [default: all but sha1].",
    ),
    _option(
        "firmware",
        "--firmware",
        families=(UEFI, DIRECT, SEV, TDX),
        type=_FILE,
        help="The firmware's code file, such as OVMF_CODE_4M.fd; tells register 0, MRTD, launch digests.",
    ),
    _option(
        "event_log",
        "--event-log",
        families=(UEFI, DIRECT, TDX),
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the predicted event log, in the TCG's binary form.",
    ),
    _option(
        "secure_boot",
        "--secure-boot/--no-secure-boot",
        families=_BOOTS,
        default=None,
        help="Secure Boot is enforced [default: what --variables say, else off].",
    ),
    _option(
        "variables",
        "--variables",
        families=(*_BOOTS, SEV),
        type=_FILE,
        help="The firmware's variable file with the enrolled keys, such as OVMF_VARS_4M.fd.",
    ),
    *(
        _option(
            field,
            name,
            families=_BOOTS,
            type=_FILE,
            help=f"What the variable {variable} holds, as EFI signature lists (.esl).",
        )
        for field, name, variable in (
            ("platform_key", "--pk", "PK"),
            ("key_exchange_key", "--kek", "KEK"),
            ("allowed_signatures", "--db", "db"),
            ("forbidden_signatures", "--dbx", "dbx"),
        )
    ),
    _option(
        "disk",
        "--disk",
        families=(UEFI, CLOUD, TDX),
        type=_FILE,
        help="The disk it boots from, for its partition table [default: none, an unpartitioned FAT].",
    ),
    _option("shim", "--shim", families=(UEFI,), type=_FILE, help="The shim that starts the image."),
    _option(
        "stub_version",
        "--stub-version",
        families=_BOOTS,
        type=int,
        help="Major version of systemd-stub [default: as .sdmagic says].",
    ),
    _option(
        "profile",
        "--profile",
        families=_BOOTS,
        type=click.IntRange(0),
        default=0,
        help="The profile of a multi-profile UKI that is chosen.",
    ),
    _option(
        "load_options",
        "--load-options",
        families=(UEFI, CLOUD, TDX),
        default="",
        metavar="TEXT",
        help="LoadOptions of the boot option.",
    ),
    _option(
        "addons",
        "--addon",
        families=_BOOTS,
        multiple=True,
        type=_FILE,
        help="A *.addon.efi beside the UKI; repeatable.",
    ),
    *(
        _option(field, name, families=_BOOTS, multiple=True, type=_FILE, help=f"{what}; repeatable.")
        for field, name, what in (
            ("credentials", "--credential", "A *.cred beside the UKI"),
            ("sysexts", "--sysext", "A system extension *.raw beside the UKI"),
            ("confexts", "--confext", "A configuration extension *.confext.raw beside the UKI"),
        )
    ),
    _option(
        "smbios_command_line",
        "--smbios-command-line",
        families=(UEFI, DIRECT),
        default="",
        metavar="TEXT",
        help="What the host adds as io.systemd.stub.kernel-cmdline-extra.",
    ),
    _option(
        "consoles",
        "--console",
        families=_BOOTS,
        multiple=True,
        metavar="TEXT",
        help="What stub 261 or later appends, such as console=ttyS0; repeatable, '' for nothing.",
    ),
    _option(
        "direct",
        "--direct",
        families=(UEFI, DIRECT, TDX),
        is_flag=True,
        help="IMAGE is given to QEMU's -kernel instead of being on a disk.",
    ),
    _option(
        "qemu",
        "--qemu",
        families=(DIRECT, TDX),
        metavar="VERSION",
        help="QEMU's version, such as 7.2; it decides whether a kernel is changed on its way.",
    ),
    _option(
        "initrd", "--initrd", families=(DIRECT, SEV, TDX), type=_FILE, help="What the VMM is given as initrd."
    ),
    _option(
        "command_line",
        "--command-line",
        families=(DIRECT, SEV, TDX),
        default="",
        metavar="TEXT",
        help="What the VMM is given as the kernel's command line.",
    ),
    _option(
        "memory",
        "--memory",
        families=(DIRECT, TDX),
        type=click.IntRange(1),
        metavar="MIB",
        help="RAM of the guest in MiB.",
    ),
    _option(
        "memory_protection",
        "--memory-protection",
        families=(CLOUD,),
        type=click.Choice(["none", "sev", "sev-es", "sev-snp", "tdx"]),
        help="On Compute Engine, what protects the guest's memory [default: what the platform has].",
    ),
    _option(
        "edk2",
        "--edk2",
        families=(TDX,),
        type=click.IntRange(202211, 203012),
        default=202502,
        show_default=True,
        metavar="YYYYMM",
        help="The release of edk2 that the firmware is from.",
    ),
    _option(
        "secure_boot_variable",
        "--secure-boot-variable",
        families=(TDX,),
        type=click.Choice(["absent", "0"]),
        default="absent",
        show_default=True,
        help="The variable SecureBoot where it is off: absent in OVMF on QEMU, 0 at Google.",
    ),
    _option(
        "page_order",
        "--page-order",
        families=(TDX,),
        type=click.Choice(["interleaved", "two-pass"]),
        default="interleaved",
        show_default=True,
        help="How the VMM adds the pages of the firmware; two-pass is QEMU 8 of the vendors.",
    ),
    _option(
        "acpi",
        "--acpi",
        families=(TDX,),
        nargs=3,
        type=_FILE,
        metavar="LOADER RSDP TABLES",
        help="QEMU's three ACPI blobs (etc/table-loader, etc/acpi/rsdp, etc/acpi/tables), for RTMR0.",
    ),
    _option(
        "boot_variables",
        "--boot-variable",
        families=(TDX,),
        multiple=True,
        metavar="NAME=FILE",
        help="Data of BootOrder and of each Boot#### in it, for RTMR0; repeatable, in order.",
    ),
    _option(
        "processors",
        "--processors",
        families=(SEV,),
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="How many virtual processors the guest has.",
    ),
    _option(
        "cpu",
        "--cpu",
        families=(SEV,),
        metavar="MODEL",
        help="QEMU's CPU model, such as EPYC-v4, or a signature such as 0x800f12.",
    ),
    _option(
        "guest_features",
        "--guest-features",
        families=(SEV,),
        default="0x1",
        show_default=True,
        metavar="HEX",
        help="SEV_FEATURES of the guest.",
    ),
    _option(
        "svsm",
        "--svsm",
        families=(SEV,),
        type=_FILE,
        help="A COCONUT-SVSM image below the firmware; with --variables, whose size counts.",
    ),
    _option(
        "vmm",
        "--vmm",
        families=(SEV,),
        type=click.Choice(["qemu", "ec2", "gce"]),
        default="qemu",
        show_default=True,
        help="Who launches the guest.",
    ),
)


def measure_options(function: Function) -> Function:
    """Collect the options into one MeasureOptions named `options`, besides the context."""

    @functools.wraps(function)
    def wrapped(**values: Any) -> None:
        names = {option.field for option in OPTIONS}
        options = MeasureOptions(**{name: values.pop(name) for name in names})
        function(**values, options=options)

    for option in reversed(OPTIONS):
        where = f"{option.settings['help']}  [{', '.join(option.families)}]"
        wrapped = click.option(*option.names, option.field, **{**option.settings, "help": where})(wrapped)
    return cast("Function", wrapped)


def refuse_foreign(context: click.Context, family: str, platform: str) -> None:
    """Refuse an option that says nothing about this family of platforms.

    Raises:
        UsageError: it would have been ignored, and the values would be those of another boot.
    """
    for option in OPTIONS:
        if family in option.families:
            continue
        if context.get_parameter_source(option.field) is ParameterSource.COMMANDLINE:
            name = option.names[0].partition("/")[0]
            raise UsageError(
                f"{name} says nothing about platform {platform}",
                hint=f"it is for {', '.join(_FAMILY_NAMES[item] for item in option.families)}",
            )


def refuse_given(options: MeasureOptions, fields: Collection[str], reason: str) -> None:
    """Refuse options that would have no effect together with the others.

    Args:
        options: what was said.
        fields: those of which none may be set to anything but its default.
        reason: follows the option's name.

    Raises:
        UsageError: one is.
    """
    defaults = MeasureOptions()
    for option in OPTIONS:
        value = getattr(options, option.field)
        if option.field in fields and value and value != getattr(defaults, option.field):
            raise UsageError(f"{option.names[0].partition('/')[0]}{reason}")
