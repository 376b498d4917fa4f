"""Intel TDX: RTMR0 to RTMR3, what firmware, stub and kernel extend while a trust domain boots.

A trust domain has no TPM registers; OVMF extends the same events into RTMR0 to RTMR2 by a fixed mapping, so
most of a prediction is that of the same boot with a TPM. Differences: firmware code is in MRTD; RTMR0 starts
with QEMU's list of memory and the variable store; there is one separator for RTMR1, not one a register.

Sources: UEFI 2.10, 38.4.1 (mapping); edk2 OvmfPkg/IntelTdx/TdxMeasurementLib, OvmfPkg/IntelTdx/Sec/SecMain.c,
OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c (OnReadyToBoot, OnExitBootServices), commit efaf8931bb for the separator.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.ccel import CcEventLog
from blindbuild.formats.ovmf import TdxSection, TdxSectionType
from blindbuild.formats.tcgevent import EFI_GLOBAL_VARIABLE, EventType, VariableData, write_variable_data
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.log import predicted_log
from blindbuild.measure.named import NamedMeasurement, UnpredictedMeasurement
from blindbuild.measure.pcr04 import CALLING_APPLICATION
from blindbuild.measure.separator import SEPARATOR_DATA
from blindbuild.measure.tdx import PageOrder, predict_mrtd, tdx_sections
from blindbuild.measure.tdx_hob import qemu_memory, write_td_hob

CC_RTMR0, CC_RTMR1, CC_RTMR2, CC_RTMR3 = 1, 2, 3, 4  # numbers of a CC event log; 0 is MRTD
STUB_REPORTS_FROM = 256  # systemd-stub versions from here on measure into RTMR2
_BANK = HashAlgorithm.SHA384  # the only one that TDX has

_CONFIG_PCR, _BOOT_APPLICATION_PCR, _SECURE_BOOT_PCR, _KERNEL_PCR = 1, 4, 7, 9
_STUB_PCRS = frozenset({11, 12, 13})
_LAST_MAPPED_PCR = 15
_IMA_PCR = 10  # Linux' IMA extends TPMs only
_HOB_TABLE = bytes.fromhex("af96bb93f2b9b84e9462e0ba74564236")  # gUefiOvmfPkgTokenSpaceGuid
_CFV_NAME = b"Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)\0"  # the store has no name to put there


@dataclass(frozen=True, slots=True)
class PlatformData:
    """Something that a host gives to the firmware and the firmware measures.

    Attributes:
        what: a phrase for people, such as `etc/acpi/tables`.
        measured: the bytes, or their SHA-384 digest as another boot of the same machine logged it.
        event_type: as it will be logged.
        event_data: as it will be logged, None if not known.
    """

    what: str
    measured: bytes | Digest
    event_type: EventType = EventType.EV_PLATFORM_CONFIG_FLAGS
    event_data: bytes | None = b"ACPI DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxLaunch:
    """What a trust domain is launched from.

    Attributes:
        firmware: the whole OVMF image, code and variables.
        page_order: of the VMM.
        memory_bytes: the guest's memory under QEMU's q35, from which its list follows; or
        td_hob: the digest of that list, from another VMM's log; None for both leaves RTMR0 open.
        early: what firmware measures before Secure Boot's variables (edk2 202505 and later: fw_cfg items);
            None leaves RTMR0 open.
        platform: what it measures after them, in order; with QEMU `acpi_data`. None leaves RTMR0 open.
        boot_variables: data of BootOrder and of each Boot#### that it names; None leaves RTMR0 open.
        separator_in_rtmr1: false for edk2 before 202408, which put the last separator into RTMR0.
        stub_version: of systemd-stub, if the image has one.
        kernel_reports: false for Linux before 6.9, which measures nothing into RTMR2.
    """

    firmware: bytes
    page_order: PageOrder = PageOrder.INTERLEAVED
    memory_bytes: int | None = None
    td_hob: Digest | None = None
    early: tuple[PlatformData, ...] | None = ()
    platform: tuple[PlatformData, ...] | None = None
    boot_variables: tuple[tuple[str, bytes], ...] | None = None
    separator_in_rtmr1: bool = True
    stub_version: int | None = None
    kernel_reports: bool = True


@dataclass(frozen=True, slots=True)
class TdxPrediction:
    """What can be said of a trust domain before it runs.

    Attributes:
        measurements: the values that the inputs determine, MRTD first.
        unpredicted: the others, each with what is missing.
        events: of the CC event log, in its order, registers numbered as there; only those of registers
            that are predicted, so a log of them replays to `measurements`.
    """

    measurements: tuple[NamedMeasurement, ...]
    unpredicted: tuple[UnpredictedMeasurement, ...]
    events: tuple[PredictedEvent, ...]


def acpi_data(
    *, loader: bytes | Digest, rsdp: bytes | Digest, tables: bytes | Digest
) -> tuple[PlatformData, ...]:
    """Return QEMU's ACPI blobs in the order in which OVMF measures them (edk2 AcpiPlatformDxe, 202302 on)."""
    return (
        PlatformData("etc/table-loader", loader),
        PlatformData("etc/acpi/rsdp", rsdp),
        PlatformData("etc/acpi/tables", tables),
    )


def predict_tdx_launch(launch: TdxLaunch, events: Sequence[PredictedEvent] = ()) -> TdxPrediction:
    """Return MRTD and every RTMR that the inputs determine.

    Args:
        launch: firmware and machine.
        events: what the same boot measures into TPM registers, in log order and with SHA-384 digests;
            none leaves RTMR0, RTMR1 and RTMR2 open.

    Raises:
        FormatError: the firmware has no well-formed TDX metadata.
        MeasureError: two values for the list of memory; events that lack SHA-384 or do not have one separator
            each in PCR 4 and 7; events of a stub whose version is not given.
    """
    if launch.memory_bytes is not None and launch.td_hob is not None:
        raise MeasureError("TD HOB: expected the memory's size or the digest of its list, got both")
    sections = tdx_sections(launch.firmware)
    unpredicted = _open_registers(launch, events)
    names = {entry.name for entry in unpredicted}
    predicted = tuple(
        event for event in _log(launch, sections, events) if f"RTMR{event.register - 1}" not in names
    )
    measurements = [predict_mrtd(launch.firmware, order=launch.page_order)]
    for register in (CC_RTMR0, CC_RTMR1, CC_RTMR2, CC_RTMR3):
        if f"RTMR{register - 1}" not in names:
            measurements.append(_named(register, predicted, launch))
    return TdxPrediction(tuple(measurements), unpredicted, predicted)


def predicted_cc_log(prediction: TdxPrediction) -> CcEventLog:
    """Return the predicted events as a CC event log, which replays to the predicted registers.

    Load addresses and device paths in event data are the machine's; here they are zero.
    """
    return CcEventLog(predicted_log(prediction.events, (_BANK,), leave_out=()))


def _open_registers(
    launch: TdxLaunch, events: Sequence[PredictedEvent]
) -> tuple[UnpredictedMeasurement, ...]:
    if not events:
        return tuple(
            UnpredictedMeasurement(name, "it depends on what boots", ("events of the boot",))
            for name in ("RTMR0", "RTMR1", "RTMR2")
        )
    _check_events(launch, events)
    found = []
    missing = _missing_for_rtmr0(launch)
    if missing:
        found.append(UnpredictedMeasurement("RTMR0", "it holds the machine's configuration", missing))
    if any(_is_tagged_by_stub(event) for event in events) and _stub_reports(launch):
        # systemd src/boot/measure.c: tagged events reach the CC log since commit a06992dd16 only.
        found.append(
            UnpredictedMeasurement("RTMR2", "versions of systemd-stub differ in reporting tagged events")
        )
    return tuple(found)


def _missing_for_rtmr0(launch: TdxLaunch) -> tuple[str, ...]:
    missing = []
    if launch.memory_bytes is None and launch.td_hob is None:
        missing.append("memory size, or the digest of the VMM's list of memory (TD HOB)")
    if launch.early is None:
        missing.append("fw_cfg items and SMBIOS tables, which edk2 measures since 202505")
    if launch.platform is None:
        missing.append("ACPI blobs of the machine (they follow QEMU's version, processors and devices)")
    if launch.boot_variables is None:
        missing.append("BootOrder and Boot#### variables")
    if not any(section.kind is TdxSectionType.CFV for section in tdx_sections(launch.firmware)):
        missing.append("an image with a variable store (CFV)")
    return tuple(missing)


def _check_events(launch: TdxLaunch, events: Sequence[PredictedEvent]) -> None:
    for event in events:
        if _BANK not in event.digests:
            raise MeasureError(f"TDX: expected sha384 digests, got an event without one: {event.what}")
    if launch.stub_version is None and any(event.register in _STUB_PCRS for event in events):
        raise MeasureError(
            "TDX: expected the version of systemd-stub beside its events, got none",
            hint="versions before 256 do not measure into RTMR2",
        )
    for register in (_BOOT_APPLICATION_PCR, _SECURE_BOOT_PCR):
        count = sum(_is_separator(event) and event.register == register for event in events)
        if count != 1:
            raise MeasureError(f"TDX: expected one separator in PCR {register}, got {count}")


def _log(
    launch: TdxLaunch, sections: Sequence[TdxSection], events: Sequence[PredictedEvent]
) -> Iterator[PredictedEvent]:
    """Yield the events of the CC event log in its order."""
    yield from _before_dxe(launch, sections)
    for event in events:
        if event.data == CALLING_APPLICATION and event.register == _BOOT_APPLICATION_PCR:
            yield from _boot_variables(launch)
        mapped = _mapped(launch, event)
        if mapped is not None:
            yield mapped
        if _is_separator(event) and event.register == _SECURE_BOOT_PCR:
            yield from (_platform_event(data) for data in launch.platform or ())


def _mapped(launch: TdxLaunch, event: PredictedEvent) -> PredictedEvent | None:
    """Return the event as a trust domain measures it; None if it does not."""
    register = event.register
    if register <= _CONFIG_PCR or register == _IMA_PCR or register > _LAST_MAPPED_PCR:
        return None  # PCR 0 is MRTD, PCR 1 is given apart; nothing maps the others
    if register == _SECURE_BOOT_PCR:
        return replace(event, register=CC_RTMR0)
    if _is_separator(event):
        if register != _BOOT_APPLICATION_PCR:
            return None
        return replace(event, register=CC_RTMR1 if launch.separator_in_rtmr1 else CC_RTMR0)
    if register < _SECURE_BOOT_PCR:
        return replace(event, register=CC_RTMR1)
    if register in _STUB_PCRS and not _stub_reports(launch):
        return None
    if register == _KERNEL_PCR and not launch.kernel_reports:
        return None
    return replace(event, register=CC_RTMR2)


def _before_dxe(launch: TdxLaunch, sections: Sequence[TdxSection]) -> Iterator[PredictedEvent]:
    hob = next(section.area for section in sections if section.kind is TdxSectionType.TD_HOB)
    measured = launch.td_hob
    if measured is None and launch.memory_bytes is not None:
        measured = Digest.of(_BANK, write_td_hob(sections, qemu_memory(launch.memory_bytes)))
    if measured is not None:
        table = b"\x09TdxTable\0" + struct.pack("<Q", 1) + _HOB_TABLE + struct.pack("<Q", hob.address)
        what = "list of memory from the VMM (TD HOB)"
        yield _platform_event(PlatformData(what, measured, EventType.EV_EFI_HANDOFF_TABLES2, table))
    for section in sections:
        if section.kind is TdxSectionType.CFV and section.data is not None:
            name = bytes((len(_CFV_NAME),)) + _CFV_NAME
            blob = name + struct.pack("<QQ", section.area.address, section.area.size)
            data = launch.firmware[section.data]
            what = "variable store (CFV)"
            yield _platform_event(PlatformData(what, data, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, blob))
    yield from (_platform_event(data) for data in launch.early or ())


def _boot_variables(launch: TdxLaunch) -> Iterator[PredictedEvent]:
    for name, data in launch.boot_variables or ():
        # Of a boot variable edk2 hashes the data only and logs the whole structure.
        logged = write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, name, data))
        kind = EventType.EV_EFI_VARIABLE_BOOT
        yield measured_event(CC_RTMR0, kind, data, f"variable {name}", algorithms=(_BANK,), data=logged)


def _platform_event(data: PlatformData) -> PredictedEvent:
    digest = data.measured if isinstance(data.measured, Digest) else Digest.of(_BANK, data.measured)
    if digest.algorithm is not _BANK:
        raise MeasureError(f"{data.what}: expected sha384, got {digest.algorithm.value}")
    return PredictedEvent(CC_RTMR0, data.event_type, {_BANK: digest}, data.event_data, data.what)


def _named(register: int, events: Sequence[PredictedEvent], launch: TdxLaunch) -> NamedMeasurement:
    value = Digest.zero(_BANK)
    needs = []
    for event in events:
        if event.register == register:
            value = value.extend(event.digests[_BANK])
            needs.append(event.what)
    if register == CC_RTMR0 and launch.memory_bytes is not None:
        needs.append(f"memory: {launch.memory_bytes} bytes, QEMU q35")
    return NamedMeasurement(f"RTMR{register - 1}", value, _WHAT[register], tuple(needs))


_WHAT = {
    CC_RTMR0: "the machine's configuration and Secure Boot's keys",
    CC_RTMR1: "boot applications and partition table",
    CC_RTMR2: "the image's sections, the kernel's command line and initrd",
    CC_RTMR3: "nothing before the operating system runs; programs may extend it",
}


def _is_separator(event: PredictedEvent) -> bool:
    return event.event_type is EventType.EV_SEPARATOR and event.data == SEPARATOR_DATA


def _stub_reports(launch: TdxLaunch) -> bool:
    return launch.stub_version is not None and launch.stub_version >= STUB_REPORTS_FROM


def _is_tagged_by_stub(event: PredictedEvent) -> bool:
    return event.event_type is EventType.EV_EVENT_TAG and event.register in _STUB_PCRS
