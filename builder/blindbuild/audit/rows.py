"""All rows of the ledger, in the order in which they are shown: what no image can close stands first."""

from __future__ import annotations

from blindbuild.audit.rows_kernel import KERNEL_ROWS
from blindbuild.audit.rows_programs import PROGRAM_ROWS
from blindbuild.audit.rules import BY_FILTERS, SOCKET_CALLS, ChannelRule, Control
from blindbuild.manifest.ledger import ChannelState

UNCLOSABLE_ROWS = (
    ChannelRule(
        34,
        "host-reads-memory",
        "nothing in an image stops the host from reading RAM; only SEV-SNP or TDX does",
        state=ChannelState.OPEN,
    ),
    ChannelRule(
        41,
        "host-supplied-acpi",
        "on plain QEMU the host's ACPI code can reach guest RAM; it is measured into register 1 only",
        state=ChannelState.OPEN,
    ),
    ChannelRule(
        35,
        "tpm",
        "the TPM is the host's where it is virtual: it sees every command, which hold no byte of a request",
        state=ChannelState.NARROWED,
        controls=(
            Control("only the gate has the descriptor, and it sends commands of a fixed form"),
            Control("of a request only SHA-256 over nonce and keys reaches the TPM"),
        ),
    ),
    ChannelRule(
        27,
        "size-and-timing",
        "sizes are padded to buckets; times are not hidden, nor what caches and power show",
        state=ChannelState.NARROWED,
        controls=(Control("padding by the gate"),),
    ),
    ChannelRule(
        24,
        "arp",
        "ARP is answered and asked, and a few bits an address can carry; no IPv6, no groups, no raw frames",
        state=ChannelState.NARROWED,
        absent_functions=("ipv6_rcv", "ndisc_rcv", "igmp_rcv", "packet_rcv"),
        controls=(Control("arp_ignore and arp_announce on the fixed command line", ("command-line-words",)),),
        words=("sysctl.net.ipv4.conf.all.arp_ignore=1", "sysctl.net.ipv4.conf.all.arp_announce=2"),
    ),
    ChannelRule(
        33,
        "between-requests",
        "each request has a process, a user and memory of its own; process numbers and load carry a few bits",
        state=ChannelState.NARROWED,
        controls=(
            Control("no calls whose effect outlives the process", ("system-call-filters",)),
            Control("every process of the slot is killed"),
        ),
        checks=("system-call-filters",),
    ),
    ChannelRule(
        4,
        "firmware-text",
        "firmware and stub may write before the kernel starts; that is before there is a request",
        state=ChannelState.NARROWED,
        controls=(
            Control("quiet on the fixed command line, for the kernel's own stub", ("command-line-words",)),
        ),
        words=("quiet",),
    ),
    ChannelRule(
        39,
        "answers",
        "an answer goes to the connection that asked, and to no other; a question can steer what it says",
        state=ChannelState.NARROWED,
        controls=(Control("no other connection can be made: filter F0", BY_FILTERS),),
        checks=("system-call-filters",),
        refused_calls=SOCKET_CALLS,
    ),
)
RULES = (*UNCLOSABLE_ROWS, *KERNEL_ROWS, *PROGRAM_ROWS)
