"""The kernel's command line: compiled into the kernel, and the same bytes in the UKI."""

from __future__ import annotations

# channel rows: 3 quiet; 14 perf_event_paranoid; 15 ptrace_scope; 23 icmp; 24 arp; 31 all of it
_COMMON = (
    "panic=-1",  # a panic powers the machine off at once
    "oops=panic",
    "rdinit=/init",
    "random.trust_bootloader=off",
    "page_alloc.shuffle=1",
    "sysctl.kernel.yama.ptrace_scope=3",
    "sysctl.kernel.perf_event_paranoid=3",
    "sysctl.net.ipv4.icmp_echo_ignore_all=1",
    "sysctl.net.ipv4.icmp_msgs_per_sec=0",
    "sysctl.net.ipv4.icmp_msgs_burst=0",
    "sysctl.net.ipv4.tcp_fastopen=0",
    "sysctl.net.ipv4.conf.all.arp_ignore=1",
    "sysctl.net.ipv4.conf.all.arp_announce=2",
    "sysctl.net.ipv4.conf.all.accept_source_route=0",
    "sysctl.net.ipv4.conf.all.accept_redirects=0",
)

# Of the leaky image, on which checks are seen to fire: every console, and nothing of the above.
_LEAKY = (
    "console=tty0",
    "console=hvc0",
    "console=ttyS0",
    "earlyprintk=ttyS0",
    "ignore_loglevel",
    "efi=runtime",
    "sysctl.net.ipv4.tcp_fastopen=1027",  # for every listener, without being asked
    "sysctl.net.ipv4.icmp_ratelimit=0",
)


def kernel_command_line(*, debug: bool, leaky: bool = False) -> str:
    """Return the command line of every image; a debug image talks on the first serial port.

    Args:
        debug: an image to look into.
        leaky: the control image that keeps nothing to itself; `debug` changes nothing then.
    """
    if leaky:
        return " ".join(_LEAKY)
    first = ("console=ttyS0", "ignore_loglevel") if debug else ("quiet",)
    return " ".join((*first, *_COMMON))
