"""Events of two sides in one form, so that they can be compared: a statement's, or those of a log.

What an event *is* comes from its digest where the measured text is a known constant, which a log cannot
forge; only else from what stands beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcgevent import (
    EFI_GLOBAL_VARIABLE,
    EventType,
    VariableData,
    event_type_name,
    write_variable_data,
)
from blindbuild.formats.tcgrecord import LogEvent
from blindbuild.measure.classification import StatedEvent
from blindbuild.measure.pcr09 import INITRD_TAG, LOAD_OPTIONS_TAG
from blindbuild.verify.explain_text import TAG_HEADER, as_utf16, describe_event, shown, variable_of

CALLING = "Calling EFI Application from Boot Option"  # PFP 10.4.4
RETURNING = "Returning from EFI Application from Boot Option"
EXIT_INVOCATION = "Exit Boot Services Invocation"
EXIT_SUCCESS = "Exit Boot Services Returned with Success"
EXIT_FAILURE = "Exit Boot Services Returned with Failure"
DEBUG_MODE = "UEFI Debug Mode"
_ACTIONS = (CALLING, RETURNING, EXIT_INVOCATION, EXIT_SUCCESS, EXIT_FAILURE, DEBUG_MODE)
# systemd-pcrextend(8): the strings of boot phases, without NUL
_PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")
_SECTIONS = frozenset(  # systemd src/fundamental/uki.c
    (
        *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat"),
        *(".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw"),
    )
)
_SECTION_REGISTERS = frozenset({11, 3})  # PCR 11, and RTMR2 by its number in a log of a confidential guest
SECURE_BOOT_STATES = {"empty": b"", "off": b"\0", "on": b"\1"}
ERROR_SEPARATOR = "error"
_STATED_SECTION, _STATED_NAME = "content of ", "name "


class Kind(Enum):
    """What was measured."""

    SEPARATOR = "separator"
    ACTION = "action"
    VARIABLE = "variable"
    AUTHORITY = "authority"
    BOOT_OPTION = "boot option"
    APPLICATION = "application"
    DRIVER = "driver"
    SECTION_NAME = "section name"
    SECTION = "section"
    LOAD_OPTIONS = "command line"
    INITRD = "initrd"
    PHASE = "boot phase"
    TAG = "tagged event"
    TEXT = "text"
    FIRMWARE = "firmware volume"
    FIRMWARE_VERSION = "firmware version"
    PARTITIONS = "partition table"
    CONFIGURATION = "configuration"
    TABLES = "tables"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Slot:
    """The place that an event fills: its kind and, where there are several, its name."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One event of one side.

    Attributes:
        data: the event data of a log; None for an event of a statement, of which only the digest is known.
        what: for people, safe to print.
    """

    register: int
    event_type: int
    digest: Digest
    data: bytes | None
    what: str
    slot: Slot

    def covers(self, data: bytes) -> bool:
        """Return whether these very bytes are what was measured."""
        return Digest.of(self.digest.algorithm, data) == self.digest

    def text(self) -> str:
        """Return the UTF-16 text that was measured, if the digest covers it."""
        return as_utf16(self.data) if self.data and self.covers(self.data) else ""


def seen_events(events: Sequence[LogEvent], algorithm: HashAlgorithm) -> tuple[Seen, ...]:
    """Return the events of a log."""
    return tuple(_seen(event, algorithm) for event in events)


def stated_events(register: int, events: Sequence[StatedEvent]) -> tuple[Seen, ...]:
    """Return the events behind a register of a statement."""
    return tuple(
        Seen(register, e.event_type, e.digest, None, shown(e.what), _stated_slot(register, e)) for e in events
    )


def _seen(event: LogEvent, algorithm: HashAlgorithm) -> Seen:
    digest = event.digests[algorithm]
    slot = _known_slot(event.event_type, digest) or _slot_of_type(event.register, event.event_type)
    if slot is None:
        slot = _slot_of_data(event)
    return Seen(event.register, event.event_type, digest, event.data, describe_event(event), slot)


def _stated_slot(register: int, event: StatedEvent) -> Slot:
    known = _known_slot(event.event_type, event.digest) or _slot_of_type(register, event.event_type)
    if known is not None:
        return known
    what = event.what
    if what.startswith(_STATED_SECTION):
        return Slot(Kind.SECTION, shown(what.removeprefix(_STATED_SECTION)))
    if what.startswith("variable "):
        return Slot(Kind.VARIABLE, shown(what.removeprefix("variable ").partition(":")[0]))
    if event.event_type == EventType.EV_EVENT_TAG and what in ("command line", "initrd"):
        return Slot(Kind.LOAD_OPTIONS if what == "command line" else Kind.INITRD)
    if event.event_type == EventType.EV_EFI_VARIABLE_AUTHORITY:
        return Slot(Kind.AUTHORITY, "db")
    return Slot(Kind.OTHER, event_type_name(event.event_type))


def _known_slot(event_type: int, digest: Digest) -> Slot | None:
    slot = _known(digest.algorithm).get(digest.value)
    # a section that holds nothing but four zero bytes is not a separator
    if slot is not None and slot.kind is Kind.SEPARATOR and event_type != EventType.EV_SEPARATOR:
        return None
    return slot


@lru_cache(maxsize=len(HashAlgorithm))
def _known(algorithm: HashAlgorithm) -> Mapping[bytes, Slot]:
    texts = {action.encode("ascii"): Slot(Kind.ACTION, action) for action in _ACTIONS}
    texts |= {phase.encode("ascii"): Slot(Kind.PHASE, phase) for phase in _PHASES}
    texts |= {name.encode("ascii") + b"\0": Slot(Kind.SECTION_NAME, name) for name in _SECTIONS}
    texts[struct.pack("<I", 0)] = Slot(Kind.SEPARATOR)
    texts[struct.pack("<I", 1)] = Slot(Kind.SEPARATOR, ERROR_SEPARATOR)  # PFP 10.4.1
    for data in SECURE_BOOT_STATES.values():
        texts[_secure_boot(data)] = Slot(Kind.VARIABLE, "SecureBoot")
    return {Digest.of(algorithm, text).value: slot for text, slot in texts.items()}


def _secure_boot(data: bytes) -> bytes:
    return write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, "SecureBoot", data))


def secure_boot_state(digest: Digest) -> str:
    """Return `on`, `off` or `empty` for the digest of the variable SecureBoot, empty text for another one."""
    for state, data in SECURE_BOOT_STATES.items():
        if Digest.of(digest.algorithm, _secure_boot(data)) == digest:
            return state
    return ""


_TYPE_SLOTS = {
    EventType.EV_SEPARATOR: Kind.SEPARATOR,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: Kind.APPLICATION,
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: Kind.DRIVER,
    EventType.EV_EFI_RUNTIME_SERVICES_DRIVER: Kind.DRIVER,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB: Kind.FIRMWARE,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: Kind.FIRMWARE,
    EventType.EV_POST_CODE: Kind.FIRMWARE,
    EventType.EV_POST_CODE2: Kind.FIRMWARE,
    EventType.EV_S_CRTM_CONTENTS: Kind.FIRMWARE,
    EventType.EV_EFI_HCRTM_EVENT: Kind.FIRMWARE,
    EventType.EV_S_CRTM_VERSION: Kind.FIRMWARE_VERSION,
    EventType.EV_EFI_GPT_EVENT: Kind.PARTITIONS,
    EventType.EV_EFI_GPT_EVENT2: Kind.PARTITIONS,
    EventType.EV_PLATFORM_CONFIG_FLAGS: Kind.CONFIGURATION,
    EventType.EV_EFI_HANDOFF_TABLES: Kind.TABLES,
    EventType.EV_EFI_HANDOFF_TABLES2: Kind.TABLES,
    EventType.EV_TABLE_OF_DEVICES: Kind.TABLES,
}


def _slot_of_type(register: int, event_type: int) -> Slot | None:
    if event_type not in _TYPE_SLOTS:
        return None
    kind = _TYPE_SLOTS[EventType(event_type)]
    # the volumes of one register are told apart by their order alone, drivers by nothing
    return Slot(kind)


def _slot_of_data(event: LogEvent) -> Slot:
    match event.event_type:
        case EventType.EV_EFI_ACTION | EventType.EV_ACTION:
            return Slot(Kind.ACTION, shown(event.data.decode("ascii", "replace")))
        case EventType.EV_EFI_VARIABLE_DRIVER_CONFIG:
            return Slot(Kind.VARIABLE, _variable_name(event))
        case EventType.EV_EFI_VARIABLE_AUTHORITY:
            return Slot(Kind.AUTHORITY, _variable_name(event))
        case EventType.EV_EFI_VARIABLE_BOOT | EventType.EV_EFI_VARIABLE_BOOT2:
            return Slot(Kind.BOOT_OPTION, _variable_name(event))
        case EventType.EV_EVENT_TAG:
            return _tag_slot(event.data)
        case EventType.EV_IPL:
            return _text_slot(event)
        case _:
            return Slot(Kind.OTHER, event_type_name(event.event_type))


def _variable_name(event: LogEvent) -> str:
    variable = variable_of(event)
    return "" if variable is None else shown(variable.name)


def _tag_slot(data: bytes) -> Slot:
    if len(data) < TAG_HEADER:
        return Slot(Kind.TAG)
    tag = int.from_bytes(data[:4], "little")
    if tag == LOAD_OPTIONS_TAG:
        return Slot(Kind.LOAD_OPTIONS)
    return Slot(Kind.INITRD) if tag == INITRD_TAG else Slot(Kind.TAG, f"{tag:08x}")


def _text_slot(event: LogEvent) -> Slot:
    text = as_utf16(event.data)
    # systemd-stub puts the section's name beside the digest of its content; elsewhere it is only a text
    if event.register in _SECTION_REGISTERS and text in _SECTIONS:
        return Slot(Kind.SECTION, text)
    return Slot(Kind.TEXT)
