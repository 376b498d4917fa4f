"""PCR 9: the command line and the initrd, as Linux' EFI stub gets them.

Sources: Linux drivers/firmware/efi/libstub/efi-stub-helper.c, efi_measure_tagged_event; systemd
src/boot/stub.c and src/boot/cpio.c for what the kernel is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.streams import Stream
from blindbuild.formats.tcgevent import EventType, tagged_event_data
from blindbuild.measure.command_line import encode_options, settle_command_line
from blindbuild.measure.event import Digests, PredictedEvent, measured_event
from blindbuild.measure.initrd import initrd_streams, join_initrds
from blindbuild.measure.stub import StubRules
from blindbuild.measure.stub_inputs import StubInputs

LOAD_OPTIONS_TAG = 0x8F3B22ED
INITRD_TAG = 0x8F3B22EC


def load_options(command_line: bytes, rules: StubRules) -> bytes:
    """Return the LoadOptions the kernel gets for a `.cmdline` section alone: UTF-16LE with its NUL.

    Raises:
        MeasureError: see `settle_command_line`.
    """
    settled = settle_command_line(command_line, (), StubInputs(), rules)
    return b"" if settled.text is None else encode_options(settled.text)


def initrd_parts(sections: Mapping[str, bytes], rules: StubRules) -> tuple[bytes, ...]:
    """Return the initrds that the stub concatenates, in its order.

    Args:
        sections: data of the UKI's sections by name; only those that become initrds are read.

    Source: see `initrd_streams`.
    """
    streams: dict[str, Stream] = {name: (data,) for name, data in sections.items() if data}
    return tuple(
        b"".join(piece for piece in part if isinstance(piece, bytes))
        for part in initrd_streams(streams, rules)
    )


def combine_initrds(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what the kernel reads: a single initrd as it is, several each padded to 4 bytes."""
    for piece in join_initrds([(part,) for part in parts]):
        if isinstance(piece, bytes):
            yield piece


def predict_pcr09(
    *, options: bytes, initrd: Digests | None, algorithms: Iterable[HashAlgorithm]
) -> tuple[PredictedEvent, ...]:
    """Return the kernel's events; none if it gets neither options nor an initrd.

    Args:
        options: what `load_options` gave; empty for none.
        initrd: digests of the combined initrd, None if there is none.
        algorithms: the banks.
    """
    events: list[PredictedEvent] = []
    if options:
        data = tagged_event_data(LOAD_OPTIONS_TAG, "LOADED_IMAGE::LoadOptions")
        events.append(
            measured_event(
                9, EventType.EV_EVENT_TAG, options, "command line", algorithms=algorithms, data=data
            )
        )
    if initrd is not None:
        data = tagged_event_data(INITRD_TAG, "Linux initrd")
        events.append(PredictedEvent(9, EventType.EV_EVENT_TAG, initrd, data, "initrd"))
    return tuple(events)
