"""The channels the first ledger covers, and what closes each one.

Numbers are the rows of the channel study; a row that no image can close says so in words. Rules about
the kernel's configuration are not repeated here: the kernel policy names each line's channels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What the ledger says of a channel; `stated` is claimed, with no static check to show it."""

    CLOSED = "closed"
    STATED = "stated"
    NARROWED = "narrowed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ChannelRule:
    """One channel: what is claimed, and what the static checks look for.

    Attributes:
        number: row of the channel study.
        identifier: stable word.
        claim: what holds, in words.
        state: what is claimed when every check holds.
        absent_functions: kernel functions that must not be in System.map.
        stub_calls: system calls that must be the kernel's "not implemented" stub.
        controls: what closes it beyond the kernel's configuration.
    """

    number: int
    identifier: str
    claim: str
    state: State = State.CLOSED
    absent_functions: tuple[str, ...] = ()
    stub_calls: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()


RULES = (
    ChannelRule(
        1,
        "serial-console",
        "no serial, hypervisor or early console is driven by the kernel",
        absent_functions=(
            "tty_register_driver",
            "serial8250_register_8250_port",
            "uart_register_driver",
            "early_serial_init",
        ),
        controls=("no console= on the fixed command line",),
    ),
    ChannelRule(
        2,
        "screen-keyboard",
        "no screen is drawn on and no key is read",
        absent_functions=("register_framebuffer", "drm_dev_register", "input_register_device"),
    ),
    ChannelRule(
        3,
        "kernel-log",
        "the kernel keeps no log and has no call to read one",
        absent_functions=("vprintk_emit", "_printk", "do_syslog", "kmsg_dump_register", "netpoll_setup"),
        stub_calls=("syslog",),
    ),
    ChannelRule(
        5,
        "log-daemons",
        "no program in the image writes logs",
        controls=("only init, gate and the recipe's tree are in the image",),
    ),
    ChannelRule(
        6,
        "standard-streams",
        "descriptors 0-2 of every process are /dev/null",
        controls=("init opens them before anything else",),
    ),
    ChannelRule(
        7,
        "core-dumps",
        "a crash leaves no core file",
        absent_functions=("do_coredump",),
        controls=("RLIMIT_CORE 0",),
    ),
    ChannelRule(
        8,
        "swap-hibernation",
        "memory is never written out",
        absent_functions=("hibernate",),
        stub_calls=("swapon", "swapoff"),
    ),
    ChannelRule(
        9,
        "disks-file-systems",
        "the kernel has no block layer and no shared file system",
        absent_functions=(
            "blk_register_queue",
            "submit_bio",
            "fuse_dev_init",
            "p9_client_create",
            "nvme_probe",
            "ata_host_register",
            "scsi_add_host",
        ),
    ),
    ChannelRule(
        10,
        "peripheral-buses",
        "no USB, sound or I2C device can be attached",
        absent_functions=("usb_register_driver", "snd_card_new", "i2c_register_driver"),
    ),
    ChannelRule(
        11,
        "firmware-storage",
        "nothing is written into firmware variables, pstore or clocks",
        absent_functions=("pstore_register", "efivar_init", "rtc_register_device"),
    ),
    ChannelRule(
        12, "sysrq-debugger", "no SysRq and no kernel debugger", absent_functions=("__handle_sysrq",)
    ),
    ChannelRule(
        13,
        "kexec",
        "no other kernel can be started",
        absent_functions=("kernel_kexec",),
        stub_calls=("kexec_load", "kexec_file_load"),
    ),
    ChannelRule(
        14,
        "tracing",
        "no probes, tracers or BPF programs",
        absent_functions=(
            "bpf_prog_load",
            "bpf_check",
            "register_kprobe",
            "register_ftrace_function",
            "uprobe_register",
            "tracefs_create_file",
            "debugfs_create_dir",
        ),
        stub_calls=("bpf",),
        controls=("perf_event_open is refused by filter F0",),
    ),
    ChannelRule(
        15,
        "other-processes-memory",
        "no process reads another's memory",
        absent_functions=("process_vm_rw",),
        stub_calls=("process_vm_readv", "process_vm_writev"),
        controls=("ptrace and pidfd_getfd are refused by filter F0", "Yama scope 3", "a uid for each role"),
    ),
    ChannelRule(
        16,
        "physical-memory",
        "no device node shows memory, ports or machine registers",
        absent_functions=("msr_read", "proc_kcore_init"),
        controls=("device nodes are null, zero and urandom only",),
    ),
    ChannelRule(
        18,
        "code-loading",
        "no modules, no firmware files, no helper programs started by the kernel",
        absent_functions=("load_module", "request_firmware"),
        stub_calls=("init_module", "finit_module"),
    ),
    ChannelRule(
        19,
        "hypervisor-side-doors",
        "no virtual console, socket, balloon or shared folder",
        absent_functions=("vsock_core_register", "virtballoon_probe", "hv_vmbus_init", "xen_hvm_init"),
    ),
    ChannelRule(
        20,
        "outgoing-connections",
        "no process can make or redirect a socket after boot",
        absent_functions=("packet_rcv", "ipv6_rcv"),
        controls=("filter F0 before the first fork", "policy routing answers on the service port only"),
    ),
    ChannelRule(
        31,
        "command-line",
        "the kernel's command line is compiled in; injected text is ignored and measured",
        controls=("CONFIG_CMDLINE_OVERRIDE", "registers 9 and 12 are pinned"),
    ),
    ChannelRule(
        38,
        "admin-entry",
        "no shell, no login, no interpreter, no package manager, no set-uid file",
        controls=("file list of the image",),
    ),
    ChannelRule(
        24,
        "arp",
        "the kernel answers and asks ARP; a few bits an address can carry",
        state=State.NARROWED,
        controls=("arp_ignore and arp_announce on the fixed command line",),
    ),
    ChannelRule(
        27,
        "size-and-timing",
        "sizes are padded to buckets; times are not hidden",
        state=State.NARROWED,
        controls=("padding by the gate",),
    ),
    ChannelRule(
        33,
        "between-requests",
        "each request has a process, a user and memory of its own; process numbers and load carry a few bits",
        state=State.NARROWED,
        controls=("no calls whose effect outlives the process", "every process of the slot is killed"),
    ),
    ChannelRule(
        34,
        "host-reads-memory",
        "nothing in an image stops the host from reading RAM; only SEV-SNP or TDX does",
        state=State.OPEN,
    ),
    ChannelRule(
        40,
        "host-supplied-acpi",
        "on plain QEMU the host's ACPI code can reach guest RAM; it is measured into register 1 only",
        state=State.OPEN,
    ),
)

ALLOWED_DEVICES = {b"dev/null": (1, 3), b"dev/zero": (1, 5), b"dev/urandom": (1, 9)}
ALLOWED_UKI_SECTIONS = frozenset(
    {
        ".text",
        ".rodata",
        ".data",
        ".reloc",
        ".sdmagic",
        ".sbat",
        ".osrel",
        ".cmdline",
        ".uname",
        ".linux",
        ".initrd",
        ".dynamic",
        ".dynsym",
        ".rela",
    }
)
FORBIDDEN_WORDS = (
    "console=",
    "earlyprintk",
    "earlycon",
    "noinitrd",
    "efi=runtime",
    "init=",
    "kgdb",
    "debug",
    "initrd=",
)
# Shells, interpreters, login and package tools, with or without a version: a recipe that needs one says so.
# A name is no proof: what is renamed passes; the file list with its digests is what an auditor reads.
INTERPRETER_NAME = re.compile(
    r"(?:(?:ba|da|k|z|c|tc|fi|a|mk|rba|o|ya)?sh|busybox|toybox|python|pypy|perl|ruby|lua|luajit|node|nodejs|deno|bun"
    r"|php|tclsh|wish|[gmn]?awk|guile|java|gdb|strace|ld|sshd?|dropbear|telnetd|login|su|sudo|getty|agetty|apt|apt-get"
    r"|dpkg|rpm|dnf|apk|pip|curl|wget|nc|ncat|netcat|socat)(?:[-.]?[0-9][0-9.]*)?"
)
