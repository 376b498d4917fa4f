"""The rows that init, the gate, their filters and the list of files close."""

from __future__ import annotations

from blindbuild.audit.rules import BY_FILTERS, SOCKET_CALLS, ChannelRule, Control

_NO_SOCKET = Control("filter F0 lets no process make a socket, or turn one elsewhere", BY_FILTERS)
# Of the options that a socket can be given, those that change neither its peer nor its way.
_SOCKET_OPTIONS = (
    *(f"setsockopt 1=6 2={option}" for option in (1, 4, 5, 6, 18)),  # TCP_NODELAY, keep-alive, user timeout
    *(f"setsockopt 1=1 2={option}" for option in (7, 8, 9, 13)),  # buffers, SO_KEEPALIVE, SO_LINGER
)

PROGRAM_ROWS = (
    ChannelRule(
        20,
        "outgoing-connections",
        "no process can make or redirect a socket after boot",
        absent_functions=("packet_rcv", "ipv6_rcv", "unix_diag_handler_dump", "tun_chr_open"),
        controls=(
            _NO_SOCKET,
            Control("what is loaded dynamically does not ask for sockets", ("elf-imports",), second=True),
            Control("policy routing answers on the service port only", second=True),
        ),
        checks=("elf-imports", "static-programs", "system-calls", "system-call-filters"),
        refused_calls=(*SOCKET_CALLS, *_SOCKET_OPTIONS),
    ),
    ChannelRule(
        38,
        "admin-entry",
        "no shell, no login, no interpreter, no package manager, no set-uid file",
        controls=(
            Control("file list of the image", ("file-list",)),
            Control("names and contents of interpreters", ("interpreters",)),
            Control("no set-uid file", ("set-id",)),
        ),
        checks=("file-list", "interpreters", "set-id", "writable", "waivers"),
    ),
    ChannelRule(
        31,
        "command-line",
        "the kernel's command line is compiled in; injected text is ignored and measured",
        controls=(
            Control("CONFIG_CMDLINE_OVERRIDE", ("kernel-config",)),
            Control("sections of the boot image by allow list", ("boot-image-sections",)),
            Control("registers 9 and 12 are pinned", second=True),
        ),
        checks=("boot-image-sections", "command-line"),
        words=("rdinit=/init",),
    ),
    ChannelRule(
        5,
        "log-daemons",
        "no program in the image writes logs",
        controls=(
            _NO_SOCKET,
            Control("no log daemon in the list of files", ("file-list", "log-daemons")),
            Control("no import of syslog in what is loaded dynamically", ("elf-imports",), second=True),
        ),
        checks=("file-list", "log-daemons", "elf-imports", "system-call-filters"),
        refused_calls=SOCKET_CALLS,
    ),
    ChannelRule(
        6,
        "standard-streams",
        "descriptors 0-2 of every process are /dev/null",
        controls=(Control("init opens them before anything else"),),
    ),
    ChannelRule(
        21,
        "name-service",
        "nothing asks for names",
        controls=(_NO_SOCKET, Control("no configuration of a resolver", ("name-service",), second=True)),
        checks=("name-service", "elf-imports", "system-call-filters"),
        refused_calls=SOCKET_CALLS,
    ),
    ChannelRule(
        22,
        "time-service",
        "nothing asks for the time; certificates are judged by the quote and not by dates",
        controls=(_NO_SOCKET, Control("no time client in the list of files", ("time-clients",), second=True)),
        checks=("time-clients", "system-call-filters"),
        refused_calls=SOCKET_CALLS,
    ),
    ChannelRule(
        23,
        "icmp-resets",
        "closed ports and pings are not answered",
        controls=(
            Control("policy routing has no way for answers from other ports"),
            Control("icmp_echo_ignore_all on the fixed command line", ("command-line-words",), second=True),
        ),
        words=("sysctl.net.ipv4.icmp_echo_ignore_all=1",),
    ),
    ChannelRule(
        25,
        "dhcp",
        "at most one exchange at boot, by a child of init that is gone before the gate; no host name in it",
        controls=(
            Control("init's own DHCP client takes address, mask and router only"),
            Control("it sends on a connected socket, and can do nothing else", ("system-call-filters",)),
        ),
        checks=("system-call-filters",),
    ),
    ChannelRule(
        26,
        "metadata-services",
        "no agent of a cloud, and no way to its metadata service",
        controls=(_NO_SOCKET, Control("no agent in the list of files", ("file-list", "agents"), second=True)),
        checks=("file-list", "agents", "system-call-filters"),
        refused_calls=SOCKET_CALLS,
    ),
    ChannelRule(
        28,
        "debug-endpoints",
        "the gate answers on the recipe's routes and its own few; none of them counts or reports",
        controls=(Control("the gate's table of routes is gate.json, which is measured"),),
        checks=("file-list",),
    ),
    ChannelRule(
        29,
        "crash-reports",
        "a fault powers the machine off and reports nothing; that it went off is one bit",
        controls=(
            Control("panic at once", ("command-line-words", "kernel-config")),
            Control("no reporter in the list of files", ("crash-reporters",)),
            Control("init powers off when a child ends"),
        ),
        checks=("crash-reporters",),
        words=("panic=-1", "oops=panic"),
    ),
    ChannelRule(
        30,
        "tls-side-channels",
        "TLS 1.3 without tickets, early data and key logs; a certificate that says nothing",
        controls=(
            Control("no words for key logs in the gate", ("key-log",)),
            Control("the gate's settings of TLS"),
        ),
        checks=("key-log",),
    ),
    ChannelRule(
        32,
        "package-telemetry",
        "what a package would report home has no way out",
        controls=(_NO_SOCKET, Control("imports are declared", ("elf-imports",), second=True)),
        checks=("elf-imports", "system-call-filters"),
        refused_calls=SOCKET_CALLS,
    ),
    ChannelRule(
        40,
        "code-in-weights",
        "no file of weights carries code that runs when it is loaded",
        controls=(Control("no pickles, by name and by content", ("pickles",)),),
        checks=("pickles",),
    ),
)
