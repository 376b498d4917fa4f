"""AMD SEV-SNP: the launch digest, MEASUREMENT in the attestation report.

The processor hashes every page that the VMM adds before the guest runs: its place, its type and, for some
types, its content. What a guest does later is in no value of SEV-SNP.

Sources: AMD SEV Secure Nested Paging Firmware ABI 1.55, 8.17.2 and table 67 (PAGE_INFO); edk2
OvmfPkg/ResetVector/X64/OvmfSevMetadata; the order of VMMs as in virtee/sev-snp-measure 0.0.13.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.ovmf import (
    FOUR_GIB,
    PAGE_BYTES,
    FooterTable,
    GuestArea,
    SevSection,
    SevSectionType,
    read_footer_table,
    read_sev_metadata,
    sev_es_reset_address,
    sev_hash_area,
    svsm_entry_offset,
)
from blindbuild.measure.named import NamedMeasurement
from blindbuild.measure.snp_hashes import TABLE_BYTES, KernelHashes, write_hash_page, write_hash_table
from blindbuild.measure.snp_vmsa import RESET_VECTOR, Vmm, processor_page, svsm_processor_page

SNP_ACTIVE = 0x1  # SEV_FEATURES bit 0: what Linux 6.8 and later launch with
MAX_PROCESSORS = 4096  # QEMU's own limit; bounds work

_PAGE_INFO = struct.Struct("<48s48sHBBBBBBQ")
_VMSA_ADDRESS = 0xFFFFFFFFF000  # all address bits that a processor has, of a page
_NO_CONTENT = bytes(48)


class _PageType(IntEnum):
    """PAGE_TYPE of SNP_LAUNCH_UPDATE (SNP ABI, table 65)."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpLaunch:
    """What an SEV-SNP guest is launched from.

    Attributes:
        firmware: the OVMF image; only its end where `firmware_digest` is given.
        processors: how many virtual processors have a VMSA page at launch.
        signature: of the processor model (`qemu_cpu_signature`); read under QEMU only.
        guest_features: SEV_FEATURES.
        vmm: who launches.
        hashes: of kernel, initrd and command line, if the VMM adds them (`kernel-hashes=on`).
        firmware_digest: the launch digest after the firmware's pages, from `snp_firmware_digest`.
    """

    firmware: bytes
    processors: int = 1
    signature: int | None = None
    guest_features: int = SNP_ACTIVE
    vmm: Vmm = Vmm.QEMU
    hashes: KernelHashes | None = None
    firmware_digest: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SvsmLaunch:
    """What an SEV-SNP guest with a COCONUT-SVSM below its firmware is launched from, by COCONUT's QEMU.

    Attributes:
        firmware: the OVMF code image.
        svsm: the SVSM image, which lies below firmware and variables.
        variables_bytes: size of the variable store between them.
        processors: how many virtual processors.
        signature: of the processor model.
    """

    firmware: bytes
    svsm: bytes
    variables_bytes: int
    processors: int
    signature: int


class _LaunchContext:
    """The launch digest while pages are added to it."""

    def __init__(self, start: bytes = _NO_CONTENT) -> None:
        self.digest = start

    def add(self, kind: _PageType, address: int, content: bytes = _NO_CONTENT) -> None:
        # After the type: IMI flag, permissions of VMPL 3, 2 and 1, one reserved byte; all zero at a launch.
        info = _PAGE_INFO.pack(self.digest, content, _PAGE_INFO.size, kind, 0, 0, 0, 0, 0, address)
        self.digest = hashlib.sha384(info).digest()

    def add_pages(self, address: int, data: bytes) -> None:
        for offset in range(0, len(data), PAGE_BYTES):
            content = hashlib.sha384(data[offset : offset + PAGE_BYTES]).digest()
            self.add(_PageType.NORMAL, address + offset, content)

    def add_area(self, kind: _PageType, area: GuestArea) -> None:
        for address in range(area.address, area.end, PAGE_BYTES):
            self.add(kind, address)

    def add_processors(self, pages: Sequence[bytes]) -> None:
        for page in pages:
            self.add(_PageType.VMSA, _VMSA_ADDRESS, hashlib.sha384(page).digest())

    def result(self) -> Digest:
        return Digest(HashAlgorithm.SHA384, self.digest)


def snp_firmware_digest(firmware: bytes) -> Digest:
    """Return the launch digest after the firmware's pages only.

    Others can go on from it with just the end of the image, which has the tables.

    Raises:
        MeasureError: not whole pages.
    """
    _check_pages(firmware, "firmware")
    context = _LaunchContext()
    context.add_pages(FOUR_GIB - len(firmware), firmware)
    return context.result()


def predict_snp_launch(launch: SnpLaunch) -> tuple[NamedMeasurement, ...]:
    """Return MEASUREMENT of an SEV-SNP attestation report.

    Raises:
        FormatError: firmware without well-formed tables for SEV-SNP.
        MeasureError: inputs that no launch can have, or hashes that the firmware would not check.
    """
    table = read_footer_table(launch.firmware)
    sections = read_sev_metadata(launch.firmware, table)
    _check_hashes(launch.hashes, table, sections)
    context = _LaunchContext(_firmware_start(launch))
    for section in _in_launch_order(sections, launch.vmm):
        _add_section(context, section, launch, table)
    context.add_processors(
        _processor_pages(
            table,
            launch.processors,
            vmm=launch.vmm,
            signature=launch.signature,
            features=launch.guest_features,
        )
    )
    what = "firmware, first state of the processors"
    if launch.hashes is not None:
        what += ", kernel, initrd and command line"
    return (NamedMeasurement("LAUNCH_DIGEST", context.result(), what, _needs(launch)),)


def predict_svsm_launch(launch: SvsmLaunch) -> tuple[NamedMeasurement, ...]:
    """Return MEASUREMENT of a guest that starts in a COCONUT-SVSM.

    Raises:
        FormatError: an SVSM image without well-formed tables.
        MeasureError: inputs that no launch can have.

    Source: the launches behind sev-snp-measure's SVSM vectors.
    """
    for data, what in ((launch.firmware, "firmware"), (launch.svsm, "SVSM")):
        _check_pages(data, what)
    _check_processors(launch.processors)
    table = read_footer_table(launch.svsm)
    offset = svsm_entry_offset(table)
    firmware_address = FOUR_GIB - len(launch.firmware)
    svsm_address = firmware_address - launch.variables_bytes - len(launch.svsm)
    if (
        offset is None
        or launch.variables_bytes < 0
        or launch.variables_bytes % PAGE_BYTES
        or svsm_address < 0
    ):
        raise MeasureError("SVSM: expected an SVSM image, and a variable store of whole pages above it")
    context = _LaunchContext()
    context.add_pages(firmware_address, launch.firmware)
    context.add_pages(svsm_address, launch.svsm)
    for section in read_sev_metadata(launch.svsm, table):
        if section.kind is SevSectionType.KERNEL_HASHES:
            raise MeasureError("SVSM: expected no page of kernel hashes, got one")
        context.add_area(_page_type(section.kind, Vmm.QEMU), section.area)
    page = svsm_processor_page(
        entry=svsm_address + offset, sev_features=SNP_ACTIVE, signature=launch.signature
    )
    context.add_processors([page] * launch.processors)
    needs = (
        f"firmware image ({len(launch.firmware)} bytes)",
        f"SVSM image ({len(launch.svsm)} bytes)",
        f"size of the variable store ({launch.variables_bytes} bytes)",
        f"virtual processors: {launch.processors}",
        f"CPU signature: {launch.signature:#x}",
        "VMM: COCONUT's QEMU, guest features 0x1",
    )
    return (
        NamedMeasurement(
            "LAUNCH_DIGEST", context.result(), "SVSM, firmware, first state of the processors", needs
        ),
    )


def predict_sev_launch(launch: SnpLaunch, *, encrypted_state: bool) -> tuple[NamedMeasurement, ...]:
    """Return the launch digest of plain SEV or, with `encrypted_state`, of SEV-ES.

    The value that a guest owner sees is an HMAC over this digest, with policy and nonce. Neither is remote
    attestation as SEV-SNP has it, and neither protects the memory's integrity.

    Raises:
        FormatError: firmware without a well-formed table.
        MeasureError: inputs that no launch can have, or hashes that the firmware would not check.

    Source: AMD SEV API 0.24, 6.5 (LAUNCH_MEASURE).
    """
    if launch.firmware_digest is not None:
        raise MeasureError("SEV: expected the whole firmware, got its SEV-SNP digest")
    _check_pages(launch.firmware, "firmware")
    table = read_footer_table(launch.firmware)
    hasher = hashlib.sha256(launch.firmware)
    if launch.hashes is not None:
        _hash_offset(table)
        hasher.update(write_hash_table(launch.hashes))
    if encrypted_state:
        for page in _processor_pages(
            table, launch.processors, vmm=launch.vmm, signature=launch.signature, features=0
        ):
            hasher.update(page)
    digest = Digest(HashAlgorithm.SHA256, hasher.digest())
    what = "firmware and, if given, hashes of kernel, initrd and command line"
    if encrypted_state:
        what += "; first state of the processors"
    needs = _needs(launch, processors=encrypted_state, features=False)
    return (NamedMeasurement("LAUNCH_DIGEST", digest, what, needs),)


def _firmware_start(launch: SnpLaunch) -> bytes:
    given = launch.firmware_digest
    if given is None:
        return snp_firmware_digest(launch.firmware).value
    if given.algorithm is not HashAlgorithm.SHA384:
        raise MeasureError(f"firmware digest: expected sha384, got {given.algorithm.value}")
    return given.value


def _in_launch_order(sections: tuple[SevSection, ...], vmm: Vmm) -> tuple[SevSection, ...]:
    # EC2's VMM adds the CPUID page after everything else that the list names.
    if vmm is not Vmm.EC2:
        return sections
    return tuple(sorted(sections, key=lambda section: section.kind is SevSectionType.CPUID))


def _add_section(context: _LaunchContext, section: SevSection, launch: SnpLaunch, table: FooterTable) -> None:
    if section.kind is SevSectionType.KERNEL_HASHES and launch.hashes is not None:
        context.add_pages(section.area.address, write_hash_page(launch.hashes, _hash_offset(table)))
    else:
        context.add_area(_page_type(section.kind, launch.vmm), section.area)


def _page_type(kind: SevSectionType, vmm: Vmm) -> _PageType:
    match kind:
        case SevSectionType.SNP_SEC_MEM:
            return _PageType.UNMEASURED if vmm is Vmm.GCE else _PageType.ZERO
        case SevSectionType.SNP_SECRETS:
            return _PageType.SECRETS
        case SevSectionType.CPUID:
            return _PageType.CPUID
        case SevSectionType.SVSM_CAA | SevSectionType.KERNEL_HASHES:
            return _PageType.ZERO


def _check_hashes(hashes: KernelHashes | None, table: FooterTable, sections: tuple[SevSection, ...]) -> None:
    if hashes is None:
        return
    areas = [section.area for section in sections if section.kind is SevSectionType.KERNEL_HASHES]
    _hash_offset(table)
    place = sev_hash_area(table)
    if len(areas) != 1 or place is None or not areas[0].address <= place.address < areas[0].end:
        raise MeasureError(
            "kernel hashes: expected firmware with one page for them, at the place of its hash table",
            hint="only edk2's OvmfPkg/AmdSev build checks them",
        )


def _hash_offset(table: FooterTable) -> int:
    area = sev_hash_area(table)
    if area is None:
        raise MeasureError(
            "kernel hashes: expected firmware that checks them, got a build that does not",
            hint="only edk2's OvmfPkg/AmdSev build checks them; measure without a kernel, or use that build",
        )
    if area.size < TABLE_BYTES:
        raise MeasureError(
            f"kernel hashes: expected room for {TABLE_BYTES} bytes, got {area.size}; QEMU would not start"
        )
    return area.address % PAGE_BYTES


def _processor_pages(
    table: FooterTable, count: int, *, vmm: Vmm, signature: int | None, features: int
) -> list[bytes]:
    _check_processors(count)
    if vmm is Vmm.QEMU and signature is None:
        raise MeasureError(
            "expected the CPU signature, which QEMU's guests see at launch, got none",
            hint="name QEMU's CPU model, such as --cpu EPYC-v4",
        )
    if not 0 <= features < 1 << 64 or not 0 <= (signature or 0) < 1 << 32:
        raise MeasureError(
            f"expected 64-bit guest features and a 32-bit signature, got {features}, {signature}"
        )
    reset = sev_es_reset_address(table)
    if count > 1 and not reset:
        raise MeasureError("expected firmware that says where further processors start, got none")
    entries = [RESET_VECTOR] + [reset or 0] * (count - 1)
    pages = {
        entry: processor_page(entry=entry, sev_features=features, signature=signature or 0, vmm=vmm)
        for entry in set(entries)
    }
    return [pages[entry] for entry in entries]


def _check_processors(count: int) -> None:
    if not 1 <= count <= MAX_PROCESSORS:
        raise MeasureError(f"expected 1 to {MAX_PROCESSORS} processors, got {count}")


def _check_pages(data: bytes, what: str) -> None:
    if not data or len(data) % PAGE_BYTES:
        raise MeasureError(f"{what}: expected whole pages of {PAGE_BYTES} bytes, got {len(data)} bytes")


def _needs(launch: SnpLaunch, *, processors: bool = True, features: bool = True) -> tuple[str, ...]:
    needs = [f"firmware image ({len(launch.firmware)} bytes)"]
    if launch.firmware_digest is not None:
        needs = [f"firmware digest {launch.firmware_digest.hex}", "the end of the firmware image"]
    if processors:
        needs += [f"VMM: {launch.vmm.value}", f"virtual processors: {launch.processors}"]
        if launch.vmm is Vmm.QEMU:
            needs.append(f"CPU signature: {launch.signature or 0:#x}")
    if features:
        needs.append(f"guest features: {launch.guest_features:#x}")
    if launch.hashes is not None:
        needs += [
            f"kernel {launch.hashes.kernel}",
            f"initrd {launch.hashes.initrd}",
            f"command line with its NUL {launch.hashes.command_line}",
        ]
    return tuple(needs)
