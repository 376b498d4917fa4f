"""What a row of the ledger is, all rows in the order in which they are shown, and words that rows share.

Numbers are the rows of the channel study; a row that no image can close says so in words, and stands first.
Rules about the kernel's configuration are not repeated here: the kernel policy names each line's channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.manifest.ledger import ChannelState


@dataclass(frozen=True, slots=True)
class Control:
    """What closes a channel.

    Attributes:
        what: in words.
        shown_by: checks that would fail without it; none for code that static checks do not execute.
        second: a second layer, on which the claim does not rest.
    """

    what: str
    shown_by: tuple[str, ...] = ()
    second: bool = False


@dataclass(frozen=True, slots=True)
class ChannelRule:
    """One channel: what is claimed, and what the static checks look for.

    Attributes:
        number: row of the channel study; 41 is one that it has no row for.
        identifier: stable word.
        claim: what holds, in words.
        state: what is claimed when every check holds.
        absent_functions: kernel functions that must not be in System.map.
        stub_calls: system calls that must be the kernel's "not implemented" stub.
        controls: what closes it beyond the kernel's configuration.
        checks: names of the other checks that are about it.
        refused_calls: system calls that no process can make once it has the first filter, except in the forms
            that are given; as `parse_form` reads them.
        words: what the command line must have for it.
    """

    number: int
    identifier: str
    claim: str
    state: ChannelState = ChannelState.CLOSED
    absent_functions: tuple[str, ...] = ()
    stub_calls: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    checks: tuple[str, ...] = ()
    refused_calls: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def closable(self) -> bool:
        """Whether an image can close the channel at all."""
        return self.state is ChannelState.CLOSED


# What a control that rests on the system call filters is shown by; that init installs them is not.
BY_FILTERS = ("system-call-filters", "refused-calls")
SOCKET_CALLS = (
    *("socket", "connect", "bind", "listen", "sendmmsg"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    "socketpair 0=1",  # AF_UNIX
    "sendto 4=0 3!&0x20000000",  # no address, no MSG_FASTOPEN
    "sendmsg 2!&0x20000000",
)

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
