"""PCR 9: the command line and the initrd, as Linux' EFI stub gets them.

Sources: Linux drivers/firmware/efi/libstub/efi-stub-helper.c, efi_measure_tagged_event; systemd
src/boot/stub.c and src/boot/cpio.c for what the kernel is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.tcgevent import EventType, tagged_event_data
from blindbuild.measure.event import Digests, PredictedEvent, measured_event
from blindbuild.measure.stub import StubRules

LOAD_OPTIONS_TAG = 0x8F3B22ED
INITRD_TAG = 0x8F3B22EC

_CPIO_PADDING = 4  # newc
_CPIO_TRAILER = b"TRAILER!!!"
_DIRECTORY = 0o040555
_FILE = 0o100444


def load_options(command_line: bytes, rules: StubRules) -> bytes:
    """Return the LoadOptions the kernel gets for a `.cmdline` section: UTF-16LE with its NUL.

    Raises:
        MeasureError: empty, not ASCII, or altered by this version of the stub in a way that is not known.

    Source: systemd src/boot/util.c, mangle_stub_cmdline: every control character becomes a space,
        white space at both ends goes.
    """
    if not command_line or any(byte == 0 or byte >= 0x80 for byte in command_line):
        raise MeasureError(f"section .cmdline: expected ASCII without NUL, got {command_line[:80]!r}")
    mangled = bytes(0x20 if byte < 0x20 or byte == 0x7F else byte for byte in command_line).strip(b" ")
    if not mangled or (mangled != command_line and not rules.trims_command_line):
        raise MeasureError(
            f"section .cmdline: expected no control characters and no white space at its ends with "
            f"systemd-stub {rules.version}, got {command_line[:80]!r}"
        )
    return (mangled.decode("ascii") + "\0").encode("utf-16-le")


def initrd_parts(sections: Mapping[str, bytes], rules: StubRules) -> tuple[bytes, ...]:
    """Return the initrds that the stub concatenates, in its order.

    Args:
        sections: data of the UKI's sections by name; only those that become initrds are read.

    Source: systemd src/boot/stub.c, the enum of initrds; src/boot/cpio.c, pack_cpio_literal.
    """
    packed = [(".pcrsig", b"tpm2-pcr-signature.json"), (".pcrpkey", b"tpm2-pcr-public-key.pem")]
    if rules.packs_os_release:
        packed.append((".osrel", b"os-release"))
    plain = [name for name in (".ucode", ".initrd") if name == ".initrd" or name in rules.measured_sections]
    parts = [sections[name] for name in plain if sections.get(name)]
    parts += [_pack_extra_file(file, sections[name]) for name, file in packed if sections.get(name)]
    return tuple(parts)


def combine_initrds(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what the kernel reads: a single initrd as it is, several each padded to 4 bytes."""
    for part in parts:
        yield part
        if len(parts) > 1:
            yield bytes(-len(part) % _CPIO_PADDING)


def predict_pcr09(
    *, options: bytes, initrd: Digests | None, algorithms: Iterable[HashAlgorithm]
) -> tuple[PredictedEvent, ...]:
    """Return the kernel's events.

    Args:
        options: what `load_options` gave.
        initrd: digests of the combined initrd, None if there is none.
        algorithms: the banks.
    """
    command_line = measured_event(
        9,
        EventType.EV_EVENT_TAG,
        options,
        "command line",
        algorithms=algorithms,
        data=tagged_event_data(LOAD_OPTIONS_TAG, "LOADED_IMAGE::LoadOptions"),
    )
    if initrd is None:
        return (command_line,)
    data = tagged_event_data(INITRD_TAG, "Linux initrd")
    return command_line, PredictedEvent(9, EventType.EV_EVENT_TAG, initrd, data, "initrd")


def _pack_extra_file(name: bytes, data: bytes) -> bytes:
    # systemd src/boot/cpio.c: inode numbers from 1, one link, all else zero; the trailer has an upper-case B.
    return b"".join(
        (
            _pack_entry(1, _DIRECTORY, b".extra", b""),
            _pack_entry(2, _FILE, b".extra/" + name, data),
            _pad(
                b"070701"
                + b"0" * 32
                + b"00000001"
                + b"0" * 48
                + b"0000000B"
                + b"0" * 8
                + _CPIO_TRAILER
                + b"\0"
            ),
        )
    )


def _pack_entry(inode: int, mode: int, name: bytes, data: bytes) -> bytes:
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _pad(header + name + b"\0") + _pad(data)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % _CPIO_PADDING)
