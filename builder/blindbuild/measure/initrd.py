"""The initrd that systemd-stub hands to the kernel: which parts in which order.

Sources: systemd src/boot/stub.c, the enum of initrds, generate_embedded_initrds and the end of run;
src/boot/initrd.c, combine_initrds; before 257 src/boot/efi/stub.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.formats.streams import Piece, Stream, stream_size
from blindbuild.measure.extra_files import ALIGNMENT, META, pack_files
from blindbuild.measure.stub import SIGNATURE_SECTION, StubRules

_PACKED = ((SIGNATURE_SECTION, "tpm2-pcr-signature.json"), (".pcrpkey", "tpm2-pcr-public-key.pem"))
_PACKED_SINCE_257 = ((".osrel", "os-release"), (".profile", "profile"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraInitrds:
    """Parts of the initrd that are not in the UKI.

    Attributes:
        microcode: of addons, in the order of the initrd.
        previous: what was registered as the initrd before the stub ran.
        packed: the archives of credentials and extensions, in the order of the initrd.
        addons: initrds of addons.
    """

    microcode: tuple[bytes, ...] = ()
    previous: bytes = b""
    packed: tuple[bytes, ...] = ()
    addons: tuple[bytes, ...] = ()


def initrd_streams(
    sections: Mapping[str, Stream], rules: StubRules, extra: ExtraInitrds | None = None
) -> tuple[Stream, ...]:
    """Return the initrds that the stub joins, in its order.

    Args:
        sections: the data of the UKI's sections by name; only those that become initrds are read.
        rules: those of the stub.
        extra: what comes from elsewhere.

    Raises:
        MeasureError: an initrd was there before, which makes this version of the stub fail.
    """
    extra = ExtraInitrds() if extra is None else extra
    if extra.previous and not rules.completes_machine_state:
        raise MeasureError(
            f"systemd-stub {rules.version} does not start when an initrd is registered already"
        )
    microcode = sections.get(".ucode", ()) if ".ucode" in rules.measured_sections else ()
    packed = _PACKED + (_PACKED_SINCE_257 if rules.packs_os_release else ())
    parts: list[Stream] = [
        *((part,) for part in extra.microcode),
        microcode,
        (extra.previous,),
        sections.get(".initrd", ()),
        *((part,) for part in extra.packed),
        *(pack_files(META, ((file, sections[name]),)) for name, file in packed if sections.get(name)),
        *((part,) for part in extra.addons),
    ]
    return tuple(part for part in parts if stream_size(part))


def join_initrds(parts: Sequence[Stream]) -> Iterator[Piece]:
    """Yield what the kernel reads: a single initrd as it is, several each filled up to 4 bytes."""
    for part in parts:
        yield from part
        if len(parts) > 1:
            yield bytes(-stream_size(part) % ALIGNMENT)
