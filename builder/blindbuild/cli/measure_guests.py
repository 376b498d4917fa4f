"""`blindbuild measure` for roots of trust without TPM registers: SEV, TDX and Nitro Enclaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.cli.measure_options import MeasureOptions, refuse_given
from blindbuild.cli.naming import reading
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.source import read_chunks
from blindbuild.host.file_source import FileSource
from blindbuild.host.files import read_bytes
from blindbuild.measure.eif import measure_eif
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.named import NamedMeasurement, UnpredictedMeasurement
from blindbuild.measure.snp import (
    SNP_ACTIVE,
    SnpLaunch,
    SvsmLaunch,
    predict_sev_launch,
    predict_snp_launch,
    predict_svsm_launch,
)
from blindbuild.measure.snp_cpu import qemu_cpu_signature
from blindbuild.measure.snp_hashes import KernelHashes, hash_kernel
from blindbuild.measure.snp_vmsa import Vmm

MAX_FIRMWARE = 64 << 20  # bytes
_SHA256 = HashAlgorithm.SHA256  # what QEMU hashes a kernel with
SEV_PLATFORMS = ("sev", "sev-es", "sev-snp")
# Before SEV-SNP there are no guest features in a launch digest, and before SEV-ES no processors.
_WITHOUT_EFFECT = {
    "sev": ("processors", "cpu", "guest_features", "vmm"),
    "sev-es": ("guest_features",),
    "sev-snp": (),
}


@dataclass(frozen=True, slots=True)
class GuestPrediction:
    """What is said of one launch."""

    measurements: Sequence[NamedMeasurement]
    unpredicted: Sequence[UnpredictedMeasurement] = ()


def predict_sev(image: Path | None, platform: str, options: MeasureOptions) -> GuestPrediction:
    """Predict the launch digest; with an image, of a launch with kernel hashes.

    Raises:
        BlindbuildError: an input that is malformed, or does not go with the others.
    """
    refuse_given(options, _WITHOUT_EFFECT[platform], f" says nothing about platform {platform}")
    if options.vmm != Vmm.QEMU.value:
        refuse_given(options, ("cpu",), f": expected none with --vmm {options.vmm}, got {options.cpu}")
    if options.svsm is not None:
        return _predict_svsm(image, platform, options, options.svsm)
    if options.variables is not None:
        raise UsageError(f"platform {platform}: --variables counts only with --svsm")
    launch = SnpLaunch(
        firmware=read_firmware(options, platform),
        processors=options.processors,
        signature=_signature(options.cpu),
        guest_features=_parse_hex("--guest-features", options.guest_features),
        vmm=Vmm(options.vmm),
        hashes=_hashes(image, options),
    )
    if platform == "sev-snp":
        return GuestPrediction(predict_snp_launch(launch))
    return GuestPrediction(predict_sev_launch(launch, encrypted_state=platform == "sev-es"))


def _predict_svsm(image: Path | None, platform: str, options: MeasureOptions, svsm: Path) -> GuestPrediction:
    signature = _signature(options.cpu)
    if platform != "sev-snp" or image is not None or options.vmm != "qemu":
        raise UsageError(
            "--svsm: expected platform sev-snp on QEMU and no image, which an SVSM does not hash"
        )
    if _parse_hex("--guest-features", options.guest_features) != SNP_ACTIVE:
        raise UsageError(f"--svsm: expected guest features {SNP_ACTIVE:#x}, got {options.guest_features}")
    if signature is None or options.variables is None:
        raise UsageError("--svsm: expected --cpu and --variables as well")
    launch = SvsmLaunch(
        firmware=read_firmware(options, platform),
        svsm=read_bytes(svsm, error=UsageError, limit_bytes=MAX_FIRMWARE),
        variables_bytes=options.variables.stat().st_size,
        processors=options.processors,
        signature=signature,
    )
    return GuestPrediction(predict_svsm_launch(launch))


def predict_eif(image: Path) -> GuestPrediction:
    """Predict the registers of an enclave image.

    Raises:
        BlindbuildError: no well-formed EIF.
    """
    with (
        FileSource(image) as source,
        reading(image, hint="`blindbuild eif IMAGE -o FILE` makes one of a UKI"),
    ):
        return GuestPrediction(measure_eif(source))


def read_firmware(options: MeasureOptions, platform: str) -> bytes:
    """Return the firmware image.

    Raises:
        UsageError: none was named.
    """
    if options.firmware is None:
        raise UsageError(f"platform {platform}: expected --firmware, which is what is measured, got none")
    return read_bytes(options.firmware, error=UsageError, limit_bytes=MAX_FIRMWARE)


def _hashes(image: Path | None, options: MeasureOptions) -> KernelHashes | None:
    if image is None:
        if options.initrd is not None or options.command_line:
            raise UsageError("--initrd and --command-line: expected the kernel as well, got none")
        return None
    hashes = hash_kernel(b"", command_line=options.command_line)
    initrd = hashes.initrd if options.initrd is None else _hash(options.initrd)
    return replace(hashes, kernel=_hash(image), initrd=initrd)


def _hash(path: Path) -> Digest:
    with FileSource(path) as source:
        return hash_in_banks(read_chunks(source, 0, source.size), (_SHA256,))[_SHA256]


def _signature(cpu: str | None) -> int | None:
    if cpu is None:
        return None
    return _parse_hex("--cpu", cpu) if cpu.startswith("0x") else qemu_cpu_signature(cpu)


def _parse_hex(name: str, text: str) -> int:
    digits = text.removeprefix("0x")
    if digits == text or not 1 <= len(digits) <= 16 or not set(digits) <= set("0123456789abcdefABCDEF"):
        raise UsageError(f"{name}: expected 0x and up to 16 hexadecimal digits, got {text[:80]!r}")
    return int(digits, 16)
