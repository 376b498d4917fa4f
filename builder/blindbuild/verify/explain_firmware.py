"""Rules about the firmware and its settings: builds, tables, boot entries, drivers, Secure Boot variables."""

from __future__ import annotations

from blindbuild.errors import FormatError
from blindbuild.formats.siglist import EFI_CERT_X509, SignatureEntry, parse_signature_lists
from blindbuild.formats.tcgevent import EventType, parse_variable_data
from blindbuild.verify.explain_align import Change, Step
from blindbuild.verify.explain_event import Kind, Seen, secure_boot_state
from blindbuild.verify.explain_text import (
    as_utf16,
    certificate_subject,
    image_path,
    parsed_or_none,
    shown,
)
from blindbuild.verify.explain_view import Meaning, View, listed

_SAME_KEYS = "enrol the expected keys, or predict with the variables that the machine has"
_RECORD = "record values of this machine, or leave the register out"
SMBIOS_TAG = "d5cb7cbc"  # systemd src/fundamental/tpm2-pcr.h
_SHOWN_ENTRIES = 3
_SHIM_VARIABLES = (
    "SbatLevel",
    "Shim",
    "MokList",
    "MokListRT",
    "MokListX",
    "MokListTrusted",
    "MokSBState",
    "vendor_db",
)


def say_secure_boot(view: View) -> list[Meaning]:
    """Explain Secure Boot variables and authorities (PCR 7; RTMR0)."""
    meanings = []
    rest = []
    for step in view.steps:
        if step.event.slot.name == "SecureBoot" and step.change is Change.CHANGED:
            meanings += _state(step)
        else:
            rest.append(step)
    texts = [text for step in rest if (text := _variable(step))]
    if texts:
        meanings.append(Meaning(listed(texts, 5), _SAME_KEYS))
    return meanings or [Meaning("another Secure Boot configuration", _SAME_KEYS)]


def _state(step: Step) -> list[Meaning]:
    expected = secure_boot_state(step.expected.digest) if step.expected else ""
    got = secure_boot_state(step.got.digest) if step.got else ""
    if {expected, got} == {"off", "empty"}:
        return [
            Meaning(
                "another firmware build: its variable SecureBoot "
                f"{'does not exist' if got == 'empty' else 'is 0'}, Secure Boot is off as expected",
                "predict for the firmware that is used",
            )
        ]
    if got == "on":
        return [Meaning("Secure Boot is on, and was expected off", "switch it off, or predict with it on")]
    if expected == "on":
        return [Meaning("Secure Boot is off, and was expected on", "switch it on, with the expected keys")]
    return [Meaning("another Secure Boot configuration: variable SecureBoot differs", _SAME_KEYS)]


def _variable(step: Step) -> str:
    name = step.event.slot.name or "a variable"
    if step.event.slot.kind is Kind.AUTHORITY:
        return _authority(step, name)
    if step.change is Change.MISSING:
        return f"{name} was not measured"
    if step.change is Change.ADDED:
        return f"{name} was measured in addition"
    return f"{name} differs{_entries(step)}"


def _authority(step: Step, name: str) -> str:
    if name in _SHIM_VARIABLES:
        return f"shim's {name} {_WORDS[step.change]}"
    subject = _subject(step.event)
    by = f" ({subject})" if subject else ""
    match step.change:
        case Change.ADDED:
            return f"what was started was verified with an entry of {name}{by}"
        case Change.MISSING:
            return f"nothing was verified with the expected entry of {name}{by}"
        case _:
            return f"what was started was verified with another entry of {name}{by}"


_WORDS = {
    Change.ADDED: "was measured in addition",
    Change.MISSING: "was not measured",
    Change.CHANGED: "differs",
    Change.SAME: "is as expected",
}


def _subject(event: Seen) -> str:
    # EFI_SIGNATURE_DATA: the owner's GUID, then the certificate (UEFI 2.10, 32.4.1)
    data = _variable_data(event)
    return "" if data is None else certificate_subject(data[16:])


def _variable_data(event: Seen | None) -> bytes | None:
    """Return the variable's data where the event's digest covers it."""
    if event is None or event.data is None or not event.covers(event.data):
        return None
    raw = event.data
    variable = parsed_or_none(lambda: parse_variable_data(raw))
    return None if variable is None else variable.data


def _entries(step: Step) -> str:
    """Return which entries of a signature database came and went, if both sides show them."""
    before, after = _signatures(step.expected), _signatures(step.got)
    if after is None:
        return ""
    if before is None:
        return f" ({_count(len(after), 'entry', 'entries')} now)"
    came = [after[key] for key in after.keys() - before.keys()]
    went = [before[key] for key in before.keys() - after.keys()]
    parts = [
        f"{word}: {listed(sorted(names), _SHOWN_ENTRIES)}"
        for word, names in (("+", came), ("-", went))
        if names
    ]
    return f" ({'; '.join(parts)})" if parts else " (same entries in another form)"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _signatures(event: Seen | None) -> dict[tuple[bytes, bytes], str] | None:
    data = _variable_data(event)
    if data is None:
        return None
    try:
        lists = parse_signature_lists(data)
    except FormatError:
        return None
    return {
        (item.kind.bytes, entry.data): _entry_name(entry, certificate=item.kind == EFI_CERT_X509)
        for item in lists
        for entry in item.entries
    }


def _entry_name(entry: SignatureEntry, *, certificate: bool) -> str:
    name = certificate_subject(entry.data) if certificate else ""
    return name or f"{entry.data[:8].hex()}…"


def say_firmware(view: View) -> list[Meaning]:
    """Explain the firmware's own code (PCR 0; MRTD and RTMR0)."""
    versions = [step for step in view.steps if step.event.slot.kind is Kind.FIRMWARE_VERSION]
    if versions:
        return [_version(versions[0])]
    volumes = [step for step in view.all_steps if step.event.slot.kind is Kind.FIRMWARE]
    differing = [step for step in volumes if step.change is not Change.SAME]
    if len(volumes) > 1 and differing == volumes[:1]:
        return [
            Meaning(
                "only the early firmware (PEI) differs: another memory size or number of processors; its "
                "volume holds values that it wrote itself",
                "start the machine with a recorded memory size, or record this one",
            )
        ]
    return [Meaning("another firmware build of the same version", "use the expected firmware file")]


def _version(step: Step) -> Meaning:
    expected, got = _version_text(step.expected), _version_text(step.got)
    text = " instead of ".join(version for version in (got, expected) if version)
    return Meaning(f"another firmware version{': ' + text if text else ''}", "use the expected firmware file")


def _version_text(event: Seen | None) -> str:
    if event is None or event.data is None or not event.covers(event.data):
        return ""
    text = as_utf16(event.data)
    return f"'{shown(text)}'" if text else "none"


def say_configuration(view: View) -> list[Meaning]:
    """Explain tables and settings (PCR 1; RTMR0)."""
    kinds = {step.event.slot.kind for step in view.steps}
    meanings = []
    if Kind.CONFIGURATION in kinds:
        meanings.append(
            Meaning(
                "other ACPI tables or settings: memory size, processors or devices differ, or QEMU itself",
                _RECORD,
            )
        )
    if Kind.TABLES in kinds:
        meanings.append(
            Meaning("other hardware tables (SMBIOS or memory layout): UUID, memory size or devices", _RECORD)
        )
    tags = [step for step in view.steps if step.event.slot.name == SMBIOS_TAG]
    if tags and tags[0].change is Change.MISSING:
        meanings.append(
            Meaning("the stub does not measure SMBIOS type 1 here, as 262 does", "predict with this stub")
        )
    elif tags:
        meanings.append(
            Meaning(
                "the stub measures the machine's SMBIOS type 1 record (its UUID) here, as systemd-stub 262 "
                "does",
                "leave the register out: it is the machine's own",
            )
        )
    options = [step for step in view.steps if step.event.slot.kind is Kind.BOOT_OPTION]
    if options:
        texts = listed([f"{_option_name(step)} {_WORDS[step.change]}" for step in options], 4)
        meanings.append(Meaning(f"other boot entries: {texts}", "compare the machine's disks and boot order"))
    return meanings


def _option_name(step: Step) -> str:
    what = step.event.what
    return what.removeprefix(f"{EventType.EV_EFI_VARIABLE_BOOT.name} ")


def say_drivers(view: View) -> list[Meaning]:
    """Explain drivers that firmware started (PCR 2 and 3; RTMR1)."""
    paths = []
    for step in view.steps:
        path = "" if step.event.data is None else image_path(step.event.data)
        paths.append(f"{_WORDS[step.change]}: {path}" if path else _WORDS[step.change])
    return [
        Meaning(
            f"the firmware met a device with another option ROM or driver ({listed(paths, 3)})",
            "take the option ROM away (QEMU: romfile=), or predict with it",
        )
    ]


_BY_REGISTER = {
    0: (
        "another firmware, or another memory size than was recorded",
        "use the recorded firmware and machine",
    ),
    1: ("other machine settings", _RECORD),
    2: ("the firmware met something more, such as a device with an option ROM", "compare the devices"),
    3: ("the firmware met something more, such as a device with an option ROM", "compare the devices"),
    4: ("the firmware took another way to the image", "compare what is booted"),
    5: ("another disk layout, or boot services were left in another way", "compare the disks"),
    6: ("the firmware measured something of the machine's maker (Azure: the machine's id)", _RECORD),
    7: ("another Secure Boot configuration", _SAME_KEYS),
    8: (
        "something that is not in the image measured itself here: a boot loader (GRUB logs its commands)",
        "boot the image without a boot loader",
    ),
    10: (
        "something that is not in the image measured itself here, such as IMA",
        "boot the expected kernel, or leave the register out",
    ),
    13: ("the host added a system extension", "remove it"),
    14: (
        "shim measured its keys and settings (MokList and others)",
        "boot without shim, or record the value",
    ),
    15: (
        "the running system measured itself here, such as systemd's machine id or volume keys",
        "leave it out",
    ),
}
_UNKNOWN = ("something was measured that the statement knows nothing of", "compare what is booted")


def say_by_register(register: int, *, tpm: bool = True) -> Meaning:
    """Return what a difference in this register of a TPM usually means."""
    return Meaning(*_BY_REGISTER.get(register, _UNKNOWN)) if tpm else Meaning(*_UNKNOWN)
