"""PCR 4: the boot applications, by their Authenticode digests.

Source: PFP 3.3.4.5; edk2 Tcg2Dxe.c (OnReadyToBoot) and DxeTpm2MeasureBootLib.
"""

from __future__ import annotations

from collections.abc import Iterable

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import Digests, PredictedEvent, measured_event
from blindbuild.measure.separator import predict_separator

CALLING_APPLICATION = b"Calling EFI Application from Boot Option"  # PFP 10.4.4, no NUL


def predict_pcr04(*, image: Digests, inner_kernel: Digests | None) -> tuple[PredictedEvent, ...]:
    """Return the events of a boot whose first boot option starts this image.

    Args:
        image: Authenticode digests of the UKI.
        inner_kernel: those of the kernel inside, if the stub starts it through the firmware's LoadImage
            (`StubRules.loads_kernel_through_firmware`), else None.
    """
    algorithms = tuple(image)
    events = [
        predict_calling(algorithms),
        predict_separator(4, algorithms),
        predict_application(image, "Authenticode digest of the image"),
    ]
    if inner_kernel is not None:
        events.append(predict_application(inner_kernel, "Authenticode digest of the kernel in the image"))
    return tuple(events)


def predict_calling(algorithms: Iterable[HashAlgorithm]) -> PredictedEvent:
    """Return the event that the firmware measures when it is ready to boot."""
    return measured_event(
        4,
        EventType.EV_EFI_ACTION,
        CALLING_APPLICATION,
        "the firmware tries a boot option",
        algorithms=algorithms,
    )


def predict_application(digests: Digests, what: str) -> PredictedEvent:
    """Return the event of one image that was loaded, by whoever loaded it."""
    # The event data is EFI_IMAGE_LOAD_EVENT: load address and device path, which are the machine's.
    return PredictedEvent(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, digests, None, what)
