"""Why a register differs, in words: the first event that is not the stated one, and what that means.

The log is only believed as far as its events lead to the quoted values, and the text beside an event is
only a description. So everything said here is for finding the cause; nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.printable import visible
from blindbuild.formats.tcgevent import EventType, event_type_name, parse_variable_data
from blindbuild.formats.tcglog import LogEvent, ReplayedLog
from blindbuild.measure.classification import Exact, StatedEvent
from blindbuild.verify.registers import PlatformMatch

MAX_SHOWN = 200  # characters of text out of a log
_RETURNING = b"Returning from EFI Application from Boot Option"
_LOAD_OPTIONS = b"LOADED_IMAGE::LoadOptions"
_CPIO_MAGIC = b"070701"
COMMAND_LINE_REGISTER = 12
_VARIABLES = frozenset(
    {
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_BOOT,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
    }
)

_SECTION_WORDS = {
    ".linux": "kernel",
    ".initrd": "initramfs",
    ".cmdline": "command line",
    ".uname": "kernel release",
    ".osrel": "os-release",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where one register leaves the statement.

    Attributes:
        position: the number of the event in its register, from 0; None if the log does not tell.
        expected: what the statement says is measured there; empty if nothing more.
        got: what was measured there; empty if nothing more.
        cause: the likely reason.
    """

    register: int
    position: int | None
    expected: str
    got: str
    cause: str


def explain_differences(match: PlatformMatch, log: ReplayedLog | None) -> tuple[Difference, ...]:
    """Return one explanation for each register that differs.

    Args:
        match: the comparison with the statement.
        log: the replayed log, or None when there is none that can be replayed.
    """
    added = [] if log is None else _added_texts(log)
    return tuple(_explain(register, match, log, added) for register in match.differing)


def _explain(register: int, match: PlatformMatch, log: ReplayedLog | None, added: list[str]) -> Difference:
    if log is None:
        return Difference(register, None, "", "", "there is no event log that can be replayed")
    if log.values[register] != match.registers[register].actual:
        return Difference(register, None, "", "", "the event log does not lead to this value")
    logged = log.events_of(register)
    rule = match.rules[register]
    if isinstance(rule, Exact):
        return _first_difference(register, rule.events, logged, log.algorithm, added)
    last = describe_event(logged[-1]) if logged else ""
    if match.registers[register].rule == "initial":
        return Difference(register, 0, "", describe_event(logged[0]), _added_cause(register, logged))
    return Difference(register, None, match.registers[register].why, last, _recorded_cause(register))


@dataclass(frozen=True, slots=True)
class _Divergence:
    """The events of one register as stated and as logged, and the position of the first that differs."""

    register: int
    stated: Sequence[StatedEvent]
    logged: Sequence[LogEvent]
    algorithm: HashAlgorithm
    position: int

    @property
    def expected(self) -> StatedEvent | None:
        return self.stated[self.position] if self.position < len(self.stated) else None

    @property
    def got(self) -> LogEvent | None:
        return self.logged[self.position] if self.position < len(self.logged) else None


def _first_difference(
    register: int,
    stated: Sequence[StatedEvent],
    logged: Sequence[LogEvent],
    algorithm: HashAlgorithm,
    added: list[str],
) -> Difference:
    pairs = enumerate(zip(stated, logged, strict=False))
    position = next(
        (i for i, (a, b) in pairs if a.digest != b.digests[algorithm]), min(len(stated), len(logged))
    )
    found = _Divergence(register, stated, logged, algorithm, position)
    return Difference(
        register,
        position,
        "" if found.expected is None else found.expected.what,
        "" if found.got is None else describe_event(found.got),
        _exact_cause(found, added),
    )


def _exact_cause(found: _Divergence, added: list[str]) -> str:
    if found.register == 4 and any(event.data == _RETURNING for event in found.logged):
        return "another boot option was tried first, and returned"
    if found.got is None:
        return "an event is missing: the boot took another way"
    if found.expected is None:
        return _added_cause(found.register, found.logged[found.position :])
    match found.register:
        case 4:
            return _boot_cause(found, found.expected, found.got)
        case 7:
            return _secure_boot_cause(found.got)
        case 9:
            return _kernel_cause(found.expected.what, found.got, added)
        case 11:
            return _section_cause(found)
        case _:
            return _recorded_cause(found.register)


def _boot_cause(found: _Divergence, expected: StatedEvent, got: LogEvent) -> str:
    application = EventType.EV_EFI_BOOT_SERVICES_APPLICATION
    if expected.event_type != application or got.event_type != application:
        return "the firmware took another way to the image, such as a kernel handed over by QEMU"
    if any(event.event_type == application for event in found.stated[: found.position]):
        return "another kernel inside the image"
    later = {event.digest for event in found.stated[found.position + 1 :]}
    if any(event.digests[found.algorithm] in later for event in found.logged[found.position + 1 :]):
        return "another image, with the same kernel inside"
    return "another image was started"


def _secure_boot_cause(event: LogEvent) -> str:
    try:
        name = parse_variable_data(event.data).name
    except EventLogError:
        return "another Secure Boot configuration"
    return f"another Secure Boot configuration: variable {shown(name)} differs"


def _kernel_cause(what: str, event: LogEvent, added: list[str]) -> str:
    if _LOAD_OPTIONS in event.data or what == "command line":
        if added:
            return f"another kernel command line: PCR 12 shows {', '.join(added)}"
        return "another kernel command line"
    return "another initrd: its files, or something the firmware or the host added to it"


def _section_cause(found: _Divergence) -> str:
    if len(found.stated) != len(found.logged):
        return "an image with other sections"
    names = [
        stated.what.removeprefix("content of ")
        for stated, logged in zip(found.stated, found.logged, strict=True)
        if stated.digest != logged.digests[found.algorithm]
    ]
    known = (f"{_SECTION_WORDS[name]} ({name})" if name in _SECTION_WORDS else name for name in names)
    return f"another {', another '.join(known)} in the image"


def _added_cause(register: int, events: Sequence[LogEvent]) -> str:
    if register == COMMAND_LINE_REGISTER:
        return "the host added to what the image boots with: " + ", ".join(
            _boot_text(event) for event in events
        )
    if register == 13:
        return "the host added a system extension"
    if register in (8, 10, 14):
        return "something that is not in the image measured itself here, such as a boot loader or IMA"
    if register in (2, 3, 6):
        return "the firmware met something more, such as a device with an option ROM"
    return "something was measured that the statement knows nothing of"


def _recorded_cause(register: int) -> str:
    if register == 0:
        return "another firmware, or another memory size than was recorded"
    if register == 5:
        return "another disk layout, or boot services were left in another way"
    if register in (2, 3, 6):
        return "the firmware met something else, such as a device with an option ROM"
    return "none of the recorded values"


def _added_texts(log: ReplayedLog) -> list[str]:
    return [_boot_text(event) for event in log.events_of(COMMAND_LINE_REGISTER)]


def _boot_text(event: LogEvent) -> str:
    # systemd-stub: EV_IPL with readable text is a command line, or a part of one
    text = _as_utf16(event.data) if event.event_type == EventType.EV_IPL else ""
    return f"command line '{shown(text)}'" if text else describe_event(event)


def describe_event(event: LogEvent) -> str:
    """Return what the log says about an event, made safe to print; the digest does not cover all of it."""
    return f"{event_type_name(event.event_type)} {_variable(event) or _described(event.data)}".strip()


def _variable(event: LogEvent) -> str:
    if event.event_type not in _VARIABLES:
        return ""
    try:
        return f"'{shown(parse_variable_data(event.data).name)}'"
    except EventLogError:
        return ""


def _described(data: bytes) -> str:
    if data.startswith(_CPIO_MAGIC):
        return f"archive of {len(data)} bytes"
    if not data:
        return ""
    text = _as_utf16(data) or _as_ascii(data)
    return f"'{shown(text)}'" if text else Digest.sha256(data).hex[:16]


def _as_utf16(data: bytes) -> str:
    # systemd-stub logs UTF-16LE with its NUL
    if len(data) % 2 or not data.endswith(b"\0\0"):
        return ""
    try:
        text = data.decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def _as_ascii(data: bytes) -> str:
    # tagged events: u32 id, u32 size, text with its NUL
    for candidate in (data, data[8:]):
        text = candidate.rstrip(b"\0")
        if text and text.isascii() and text.decode("ascii").isprintable():
            return text.decode("ascii")
    return ""


def shown(text: str) -> str:
    """Return text that cannot steer a terminal, and is not too long."""
    clean = visible(text)
    return clean if len(clean) <= MAX_SHOWN else clean[: MAX_SHOWN - 1] + "…"
