"""The whole command line, spelt out; and that each part of a configuration reaches it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from itertools import pairwise
from pathlib import Path

import pytest

from blindbuild.errors import UsageError
from blindbuild.machine.accelerator import Accelerator
from blindbuild.machine.config import MAX_COMMAND_LINE, DirectBoot, MachineConfig
from blindbuild.machine.qemu import MachineFiles, qemu_arguments

CONFIG = MachineConfig(
    disk=Path("/images/hello.raw"), firmware_code=b"", firmware_vars=b"", memory_mib=512, cpus=1
)
FILES = MachineFiles(directory=Path("/state"), sockets=Path("/run"))
TCG = Accelerator("tcg", "max", "as asked", sandbox=True)

EXPECTED = """
-nodefaults
-no-user-config
-display none
-no-reboot
-S
-machine q35,smm=off,vmport=off,usb=off,dump-guest-core=off,pflash0=firmware-code,pflash1=firmware-variables
-accel tcg,thread=multi
-cpu max
-smp 1
-m 512
-rtc base=2026-01-02T03:04:05,clock=vm
-boot menu=off,strict=on
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-blockdev {"driver":"raw","node-name":"firmware-code","read-only":true,"file":{"driver":"file","filename":"/state/c.fd","read-only":true}}
-blockdev {"driver":"raw","node-name":"firmware-variables","read-only":false,"file":{"driver":"file","filename":"/state/v.fd","read-only":false}}
-blockdev {"driver":"raw","node-name":"disk","read-only":true,"file":{"driver":"file","filename":"/images/hello.raw","read-only":true}}
-device virtio-blk-pci,drive=disk,disable-legacy=on,bootindex=0
-netdev user,id=net,ipv6=off,restrict=on,net=10.0.2.0/24,host=10.0.2.2,hostfwd=tcp:127.0.0.1:0-10.0.2.15:443
-device virtio-net-pci,netdev=net,mac=52:54:00:b1:1d:01,romfile=,disable-legacy=on
-object filter-dump,id=capture,netdev=net,file=/state/network.pcap,maxlen=65536
-chardev socket,id=tpm,path=/run/tpm
-tpmdev emulator,id=tpm0,chardev=tpm
-device tpm-crb,tpmdev=tpm0
-chardev socket,id=qmp,path=/run/qmp
-mon chardev=qmp,mode=control
-chardev socket,id=serial0,path=/run/serial0
-device isa-serial,index=0,chardev=serial0
-chardev socket,id=serial1,path=/run/serial1
-device isa-serial,index=1,chardev=serial1
-chardev socket,id=serial2,path=/run/serial2
-device isa-serial,index=2,chardev=serial2
-chardev socket,id=serial3,path=/run/serial3
-device isa-serial,index=3,chardev=serial3
"""  # noqa: E501


def arguments(config: MachineConfig = CONFIG, accelerator: Accelerator = TCG) -> list[str]:
    return qemu_arguments(
        config,
        accelerator,
        FILES,
        firmware_code=Path("/state/c.fd"),
        firmware_variables=Path("/state/v.fd"),
        clock="2026-01-02T03:04:05",
    )


def value_of(option: str, config: MachineConfig, accelerator: Accelerator = TCG) -> list[str]:
    found = arguments(config, accelerator)
    return [value for name, value in pairwise(found) if name == option]


def test_the_command_line_is_this_one() -> None:
    expected = [word for line in EXPECTED.strip().splitlines() for word in line.split(" ", 1)]
    assert arguments() == expected


def test_kvm_has_no_options_of_tcg() -> None:
    kvm = Accelerator("kvm", "host", "", sandbox=False)
    assert value_of("-accel", CONFIG, kvm) == ["kvm"]
    assert value_of("-cpu", CONFIG, kvm) == ["host"]
    assert value_of("-sandbox", CONFIG, kvm) == []


def test_commas_of_a_value_cannot_become_suboptions() -> None:
    config = replace(CONFIG, disk=Path("/images/a,b.raw"), smbios=("one,two=3", "plain"))
    assert value_of("-smbios", config) == ["type=11,value=one,,two=3", "type=11,value=plain"]
    assert '"filename":"/images/a,b.raw"' in value_of("-blockdev", config)[-1]


def test_the_firmwares_own_variables_can_decide_what_is_booted() -> None:
    devices = value_of("-device", replace(CONFIG, disk_first=False))
    assert "virtio-blk-pci,drive=disk,disable-legacy=on" in devices
    assert not any("bootindex" in device for device in devices)


def test_the_guest_is_reached_at_its_own_address_and_port() -> None:
    config = replace(
        CONFIG,
        host_port=8443,
        guest_port=444,
        guest_address=IPv4Interface("192.168.7.9/28"),
        router=IPv4Address("192.168.7.1"),
    )
    (network,) = value_of("-netdev", config)
    assert "net=192.168.7.0/28,host=192.168.7.1,hostfwd=tcp:127.0.0.1:8443-192.168.7.9:444" in network


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"memory_mib": 64}, "memory in MiB"),
        ({"cpus": 0}, "processors"),
        ({"host_port": 70000}, "host port"),
        ({"guest_port": 0}, "guest port"),
        ({"router": IPv4Address("10.0.3.2")}, "no neighbour"),
        ({"router": IPv4Address("10.0.2.15")}, "no neighbour"),
        ({"smbios": ("",)}, "SMBIOS"),
        ({"smbios": ("a\0b",)}, "SMBIOS"),
        ({"smbios": ("a",) * 33}, "SMBIOS"),
        ({"disk": None}, "expected a disk or a kernel"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        replace(CONFIG, **change)


def test_flash_that_only_system_management_mode_writes_needs_both_halves() -> None:
    config = replace(CONFIG, secure_flash=True)
    (machine,) = value_of("-machine", config)
    assert machine.startswith("q35,smm=on,")
    assert value_of("-global", config) == ["driver=cfi.pflash01,property=secure,value=on"]
    assert value_of("-global", CONFIG) == []


def test_a_kernel_is_handed_over_with_what_belongs_to_it() -> None:
    direct = DirectBoot(kernel=Path("/k,1"), initrd=Path("/i"), command_line="quiet a=b,c")
    config = replace(CONFIG, disk=None, direct=direct)
    assert value_of("-kernel", config) == ["/k,1"]  # options of their own: a comma separates nothing here
    assert value_of("-initrd", config) == ["/i"]
    assert value_of("-append", config) == ["quiet a=b,c"]
    assert not any("virtio-blk" in device for device in value_of("-device", config))
    alone = arguments(replace(config, direct=DirectBoot(kernel=Path("/k"))))
    assert "-initrd" not in alone
    assert "-append" not in alone


@pytest.mark.parametrize("line", ["a\0b", "a" * (MAX_COMMAND_LINE + 1), "ä" * MAX_COMMAND_LINE])
def test_a_command_line_that_a_kernel_would_not_get_whole_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="expected a command line of at most"):
        DirectBoot(kernel=Path("/k"), command_line=line)


def test_an_operators_program_can_stand_before_the_tpm() -> None:
    found = qemu_arguments(
        CONFIG,
        TCG,
        MachineFiles(Path("/state"), Path("/run")),
        firmware_code=Path("/state/c.fd"),
        firmware_variables=Path("/state/v.fd"),
        clock="2026-01-02T03:04:05",
        tpm_socket=Path("/run/a,b"),
    )
    assert "socket,id=tpm,path=/run/a,,b" in found
    assert set(found) - set(arguments()) == {"socket,id=tpm,path=/run/a,,b"}
