"""A finished boot image taken apart: command line, sections, and every entry of the archive it boots from."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.assemble.kernel_policy import Policy
from blindbuild.audit.zstd import MAGIC, unpack_zstd
from blindbuild.digest import Digest
from blindbuild.errors import FormatError
from blindbuild.formats.cpio import CpioEntry, read_newc
from blindbuild.formats.pe import PeImage, read_pe

MAX_ARCHIVE_BYTES = (
    4 << 30
)  # the tree is in RAM when it runs; bounds what a hostile image makes of an auditor's


@dataclass(frozen=True, slots=True)
class Waiver:
    """A finding about one file that the recipe declares, and the control that takes its edge off.

    Attributes:
        path: of the file, as in the archive.
        what: an imported symbol, `interpreter`, `pickle`, or the name of a check of file names.
        control: what stops it, in words.
    """

    path: str
    what: str
    control: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """A channel that the recipe leaves open; `where` is the place of its name in the recipe, for messages."""

    identifier: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class LedgerInputs:
    """The outputs that the static checks look at.

    Attributes:
        config: the kernel's resolved configuration.
        policy: the kernel policy, whose rules name the channels they belong to.
        system_map: the kernel's symbol table as text.
        uki: the boot image.
        debug: the image was built to be looked into; the ledger then reports instead of refusing.
        waivers: what the recipe declares.
        allowed: channels that the recipe leaves open.
        allowed_where: the place in the recipe where one would be added, for messages.
    """

    config: str
    policy: Policy
    system_map: str
    uki: bytes
    debug: bool
    waivers: tuple[Waiver, ...] = ()
    allowed: tuple[Allowance, ...] = ()
    allowed_where: str = ""


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """What is in a boot image; `archive` is the initramfs as the kernel unpacks it."""

    pe: PeImage
    command_line: str
    archive: Digest
    entries: tuple[CpioEntry, ...]


def unpack_image(uki: bytes) -> UnpackedImage:
    """Return the parts of a boot image.

    Raises:
        FormatError: no PE image, a section missing, or an initramfs that is not one strict archive.
    """
    pe = read_pe(uki)
    packed = pe.section_data(".initrd")
    archive = unpack_zstd(packed, limit_bytes=MAX_ARCHIVE_BYTES) if packed.startswith(MAGIC) else packed
    try:
        command_line = pe.section_data(".cmdline").decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("uki: .cmdline: expected ASCII text") from error
    return UnpackedImage(pe, command_line, Digest.sha256(archive), read_newc(archive))
