"""The command line of the virtual machine: a pure function of its configuration.

Everything that QEMU would add by itself is off; what the machine has is listed here.

Source: man qemu-system-x86_64(1); QEMU docs/specs/tpm.rst.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from blindbuild.machine.accelerator import SANDBOX, Accelerator
from blindbuild.machine.config import GUEST_MAC, HOST_ADDRESS, DirectBoot, MachineConfig
from blindbuild.machine.serial_ports import PORT_COUNT

MACHINE = (
    "q35,smm={smm},vmport=off,usb=off,dump-guest-core=off,pflash0=firmware-code,pflash1=firmware-variables"
)
# edk2 OvmfPkg/README, "SMM support": then only code in system management mode writes to the flash
SECURE_FLASH = ("-global", "driver=cfi.pflash01,property=secure,value=on")


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """Where everything of one machine is; sockets are apart, because their paths must be short."""

    directory: Path
    sockets: Path

    @property
    def capture(self) -> Path:
        """Every frame on the network card, as pcap."""
        return self.directory / "network.pcap"

    @property
    def tpm_state(self) -> Path:
        """The software TPM's state."""
        return self.directory / "tpm"

    @property
    def tpm_log(self) -> Path:
        """What swtpm said; with a transcript, every command and response."""
        return self.directory / "swtpm.log"

    @property
    def qemu_log(self) -> Path:
        """What QEMU said."""
        return self.directory / "qemu.log"

    @property
    def tpm_socket(self) -> Path:
        """swtpm's control channel."""
        return self.sockets / "tpm"

    @property
    def link_socket(self) -> Path:
        """QEMU's end of the link to a neighbour of the guest."""
        return self.sockets / "link"

    @property
    def monitor_socket(self) -> Path:
        """Where QEMU connects its monitor to."""
        return self.sockets / "qmp"

    def serial_log(self, port: int) -> Path:
        """What one serial port said."""
        return self.directory / f"serial{port}.log"

    def serial_socket(self, port: int) -> Path:
        """Where QEMU connects a serial port to."""
        return self.sockets / f"serial{port}"


def qemu_arguments(
    config: MachineConfig,
    accelerator: Accelerator,
    files: MachineFiles,
    *,
    firmware_code: Path,
    firmware_variables: Path,
    clock: str,
    tpm_socket: Path | None = None,
) -> list[str]:
    """Return QEMU's arguments, without its name.

    Args:
        config: the machine.
        accelerator: what `choose_accelerator` returned.
        files: where sockets and logs are; all paths absolute.
        firmware_code: the flash image with code; never written.
        firmware_variables: the flash image with variables; written.
        clock: the date and time the machine starts with, `YYYY-MM-DDTHH:MM:SS`, UTC.
        tpm_socket: what speaks as the TPM's control channel, if it is not the TPM itself.
    """
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S"),
        *("-machine", MACHINE.format(smm="on" if config.secure_flash else "off")),
        *(SECURE_FLASH if config.secure_flash else ()),
        *("-accel", _accelerator_argument(accelerator), "-cpu", accelerator.cpu),
        *("-smp", str(config.cpus), "-m", str(config.memory_mib)),
        *("-rtc", f"base={clock},clock=vm", "-boot", "menu=off,strict=on"),
        *(("-sandbox", SANDBOX) if accelerator.sandbox else ()),
        *_flash("firmware-code", firmware_code, read_only=True),
        *_flash("firmware-variables", firmware_variables, read_only=False),
        *_disk(config),
        *_direct_boot(config.direct),
        *_network(config, files),
        *("-chardev", f"socket,id=tpm,path={_quote(tpm_socket or files.tpm_socket)}"),
        *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"),
        *(
            "-chardev",
            f"socket,id=qmp,path={_quote(files.monitor_socket)}",
            "-mon",
            "chardev=qmp,mode=control",
        ),
        *(argument for port in range(PORT_COUNT) for argument in _serial(port, files.serial_socket(port))),
        *(argument for text in config.smbios for argument in ("-smbios", f"type=11,value={_quote(text)}")),
        *config.more_devices,
    ]


def _accelerator_argument(accelerator: Accelerator) -> str:
    return "tcg,thread=multi" if accelerator.name == "tcg" else accelerator.name


def _flash(name: str, path: Path, *, read_only: bool) -> tuple[str, ...]:
    return _block_device(name, path, read_only=read_only)


def _disk(config: MachineConfig) -> tuple[str, ...]:
    if config.disk is None:
        return ()
    order = ",bootindex=0" if config.disk_first else ""
    return (
        *_block_device("disk", config.disk, read_only=True),
        *("-device", f"virtio-blk-pci,drive=disk,disable-legacy=on{order}"),
    )


def _direct_boot(direct: DirectBoot | None) -> tuple[str, ...]:
    if direct is None:
        return ()
    return (
        *("-kernel", str(direct.kernel)),
        *(("-initrd", str(direct.initrd)) if direct.initrd is not None else ()),
        *(("-append", direct.command_line) if direct.command_line else ()),
    )


def _block_device(name: str, path: Path, *, read_only: bool) -> tuple[str, ...]:
    file = {"driver": "file", "filename": str(path), "read-only": read_only}
    device = {"driver": "raw", "node-name": name, "read-only": read_only, "file": file}
    return ("-blockdev", json.dumps(device, separators=(",", ":")))


def _network(config: MachineConfig, files: MachineFiles) -> tuple[str, ...]:
    """User-mode network: the guest reaches nothing, and is reached through one forwarded port only."""
    address = config.guest_address
    forward = f"hostfwd=tcp:{HOST_ADDRESS}:{config.host_port}-{address.ip}:{config.guest_port}"
    user = f"ipv6=off,restrict=on,net={address.network},host={config.router},{forward}"
    return (
        *(("-netdev", f"user,id=net,{user}") if config.link_socket is None else _hub(user, config, files)),
        "-device",
        f"virtio-net-pci,netdev=net,mac={GUEST_MAC},romfile=,disable-legacy=on",
        "-object",
        f"filter-dump,id=capture,netdev=net,file={_quote(files.capture)},maxlen=65536",
    )


def _hub(user: str, config: MachineConfig, files: MachineFiles) -> tuple[str, ...]:
    """The same network and a neighbour on one hub; QEMU docs/system, "hubport"."""
    near, far = _quote(files.link_socket), _quote(config.link_socket or "")
    peer = f"dgram,id=peer,local.type=unix,local.path={near},remote.type=unix,remote.path={far}"
    return (
        *("-netdev", f"user,id=user,{user}", "-netdev", peer),
        *("-netdev", "hubport,id=user-port,hubid=0,netdev=user"),
        *("-netdev", "hubport,id=peer-port,hubid=0,netdev=peer"),
        *("-netdev", "hubport,id=net,hubid=0"),
    )


def _serial(port: int, path: Path) -> tuple[str, ...]:
    return (
        *("-chardev", f"socket,id=serial{port},path={_quote(path)}"),
        *("-device", f"isa-serial,index={port},chardev=serial{port}"),
    )


def _quote(value: Path | str) -> str:
    """Double the commas, which separate QEMU's suboptions."""
    return str(value).replace(",", ",,")
