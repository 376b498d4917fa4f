"""PCR 12 and 13: what systemd-stub takes from outside the UKI.

Both stay zero when nothing is added. Events are logged with text in UTF-16 with its NUL. Sources: systemd
src/boot/stub.c and src/boot/measure.c; src/fundamental/tpm2-pcr.h for the tags of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.addons import AddonEffects, Payloads
from blindbuild.measure.command_line import LOAD_OPTIONS, CommandLine, encode_options
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.extra_files import Folder, pack_named_files
from blindbuild.measure.stub import StubRules
from blindbuild.measure.stub_inputs import NamedFiles, StubInputs

CONFIGURATION = 12
EXTENSIONS = 13

PROFILE_TAG = 0x13AED6DB
DEVICE_TREE_ADDON_TAG = 0x6C46F751
INITRD_ADDON_TAG = 0x49DFFE0F
MICROCODE_ADDON_TAG = 0xDAC08E1A

_RAW = ".raw"
_CONFEXT = ".confext.raw"
_CONFEXT_TITLES = ("Configuration extension initrd", "Global configuration extension initrd")


@dataclass(frozen=True, slots=True)
class SidecarArchive:
    """An archive that the stub makes of files beside the UKI.

    Attributes:
        register: where it is measured.
        title: the text of its event.
        data: the archive; empty if there are no files.
    """

    register: int
    title: str
    data: bytes


def sidecar_archives(inputs: StubInputs, rules: StubRules) -> tuple[SidecarArchive, ...]:
    """Return the archives that are not empty, in the order of measuring and of the initrd.

    Raises:
        MeasureError: a file that the stub would leave out, or files that this version may do several things
            with.
    """
    if inputs.confexts and not rules.has_confexts:
        raise MeasureError(
            f"systemd-stub {rules.version} has no configuration extensions and takes all *.raw for system "
            "extensions",
            hint="state them as system extensions",
        )
    if inputs.confexts and inputs.sysexts and rules.version == 256:
        raise MeasureError("systemd-stub 256: the order of system and configuration extensions is not known")
    excluded = _CONFEXT if rules.has_confexts else ""
    archives = [
        _credentials("Credentials", "credentials", inputs.credentials),
        _credentials("Global credentials", "global_credentials", inputs.global_credentials),
        _extensions(EXTENSIONS, "System", "sysext", inputs.sysexts, but_not=excluded),
        _extensions(CONFIGURATION, "Configuration", "confext", inputs.confexts),
    ]
    if rules.has_global_extensions:
        system, configuration = inputs.global_sysexts, inputs.global_confexts
        archives.insert(
            3, _extensions(EXTENSIONS, "Global system", "global_sysext", system, but_not=_CONFEXT)
        )
        archives.append(_extensions(CONFIGURATION, "Global configuration", "global_confext", configuration))
    return tuple(archive for archive in archives if archive.data)


def _credentials(title: str, directory: str, files: NamedFiles) -> SidecarArchive:
    folder = Folder(f".extra/{directory}", 0o500, 0o400)
    return SidecarArchive(CONFIGURATION, f"{title} initrd", pack_named_files(folder, files, ".cred"))


def _extensions(
    register: int, title: str, directory: str, files: NamedFiles, *, but_not: str = ""
) -> SidecarArchive:
    folder = Folder(f".extra/{directory}", 0o555, 0o444)
    suffix = _RAW if register == EXTENSIONS else _CONFEXT
    data = pack_named_files(folder, files, suffix, but_not=but_not)
    return SidecarArchive(register, f"{title} extension initrd", data)


def predict_pcr12_and_13(
    *,
    profile: int,
    command_line: CommandLine,
    addons: AddonEffects,
    archives: Sequence[SidecarArchive],
    algorithms: Sequence[HashAlgorithm],
) -> tuple[PredictedEvent, ...]:
    """Return the events of both registers in the order of the log.

    The event of the profile comes before all events of register 11, the others after them.
    """
    events: list[PredictedEvent] = []
    if profile:
        number = encode_options(str(profile))
        events.append(_tagged(PROFILE_TAG, number, str(profile), f"profile {profile}", algorithms))
    for text, what in command_line.measured:
        options = encode_options(text)
        events.append(_ipl(CONFIGURATION, options, text, f"{what}: {text}", algorithms))
    events += _payload_events(DEVICE_TREE_ADDON_TAG, "device tree", addons.device_trees, algorithms)
    for archive in archives:
        events.append(_ipl(archive.register, archive.data, archive.title, archive.title, algorithms))
    events += _payload_events(MICROCODE_ADDON_TAG, "microcode", addons.microcode, algorithms)
    events += _payload_events(INITRD_ADDON_TAG, "initrd", addons.initrds, algorithms)
    return tuple(events)


def order_stub_events(
    pcr11: Sequence[PredictedEvent],
    pcr12: Sequence[PredictedEvent],
    pcr13: Sequence[PredictedEvent],
    addons: Sequence[PredictedEvent] = (),
) -> tuple[PredictedEvent, ...]:
    """Return the stub's events of all registers in the order of the log.

    Args:
        pcr11: the sections.
        pcr12: in order.
        pcr13: in order.
        addons: what the firmware measures when it loads the addons. Stub 254 measures the command lines of
            the one directory before it has the other's loaded; here all are loaded first, as since 255.
    """
    profile = [event for event in pcr12 if _is_tagged(event, PROFILE_TAG)]
    options = [event for event in pcr12 if event.what.startswith(f"{LOAD_OPTIONS}:")]
    rest = pcr12[len(profile) + len(options) :]
    after = next((index for index, event in enumerate(rest) if _follows_extensions(event)), len(rest))
    return (*profile, *pcr11, *options, *addons, *rest[:after], *pcr13, *rest[after:])


def _is_tagged(event: PredictedEvent, tag: int) -> bool:
    data = event.data or b""
    return event.event_type is EventType.EV_EVENT_TAG and data[:4] == tag.to_bytes(4, "little")


def _follows_extensions(event: PredictedEvent) -> bool:
    if event.event_type is EventType.EV_IPL:
        return event.what in _CONFEXT_TITLES
    return _is_tagged(event, MICROCODE_ADDON_TAG) or _is_tagged(event, INITRD_ADDON_TAG)


def _payload_events(
    tag: int, kind: str, payloads: Payloads, algorithms: Sequence[HashAlgorithm]
) -> list[PredictedEvent]:
    return [_tagged(tag, data, name, f"{kind} of addon {name}", algorithms) for name, data in payloads]


def _ipl(
    register: int, measured: bytes, text: str, what: str, algorithms: Sequence[HashAlgorithm]
) -> PredictedEvent:
    data = encode_options(text)
    return measured_event(register, EventType.EV_IPL, measured, what, algorithms=algorithms, data=data)


def _tagged(
    tag: int, measured: bytes, text: str, what: str, algorithms: Sequence[HashAlgorithm]
) -> PredictedEvent:
    # PFP 10.4.2.1 (TCG_PCClientTaggedEvent): identifier, size, data.
    title = encode_options(text)
    data = tag.to_bytes(4, "little") + len(title).to_bytes(4, "little") + title
    return measured_event(
        CONFIGURATION, EventType.EV_EVENT_TAG, measured, what, algorithms=algorithms, data=data
    )
