"""A Linux kernel that is started without a stub around it: one PE file, and what it is given.

Its own EFI stub measures command line and initrd into PCR 9, but only what it gets at run time: a command
line and an initramfs that are built into the kernel are covered by its Authenticode digest in PCR 4 alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.source import Source
from blindbuild.measure.event import Digests, PredictedEvent
from blindbuild.measure.pcr09 import predict_pcr09


@dataclass(frozen=True, slots=True)
class MeasuredKernel:
    """Everything that the registers of a boot depend on in one kernel.

    Attributes:
        authenticode: of the file as the firmware loads it.
        load_options: what the kernel gets as its command line, UTF-16LE with its NUL; empty if nothing.
        initrd: of what it reads through the firmware; None if it gets none.
        changed: it is not the file that was given, so that no signature in it holds.
    """

    authenticode: Digests
    load_options: bytes = b""
    initrd: Digests | None = None
    changed: bool = False


def measure_kernel(image: bytes | Source, algorithms: Iterable[HashAlgorithm]) -> MeasuredKernel:
    """Return what is measured of a kernel with built-in initramfs and command line, as a boot application.

    Raises:
        PeError: not a PE image.
    """
    return MeasuredKernel(authenticode_digests(image, tuple(algorithms)))


def predict_kernel_inputs(measured: MeasuredKernel) -> tuple[PredictedEvent, ...]:
    """Return the events of PCR 9: none where the kernel gets neither options nor initrd.

    Source: Linux drivers/firmware/efi/libstub/efi-stub-helper.c: options are measured if there are any.
    """
    return predict_pcr09(
        options=measured.load_options, initrd=measured.initrd, algorithms=tuple(measured.authenticode)
    )
