"""What the ledger wants to know of an ELF file; the only user of lief.

lief is C++: a file made for it could do more to an auditor's process than raise. Whoever audits images of
strangers does it in a sandbox.

Source: System V ABI, "Object Files" and "Program Loading and Dynamic Linking".
"""

from __future__ import annotations

from dataclasses import dataclass

import lief

from blindbuild.errors import FormatError

MAGIC = b"\x7fELF"
_BIG_ENDIAN = 2  # of e_ident[EI_DATA]
_ET_REL = 1  # an object file
_SHN_UNDEF = 0  # a symbol that another file has to bring

lief.logging.disable()  # what it has to say about a damaged file is in our error


@dataclass(frozen=True, slots=True)
class ElfFile:
    """An ELF file as its loader sees it.

    Attributes:
        relocatable: an object file, such as a kernel module, and no program or library.
        interpreter: the dynamic loader it asks for, or "".
        needed: libraries that it asks for.
        imports: symbols that others have to bring; sorted and unique.
    """

    relocatable: bool
    interpreter: str
    needed: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def is_static(self) -> bool:
        """Nothing is loaded besides the file, so its imports say nothing about what it calls."""
        return not (self.interpreter or self.needed or self.imports or self.relocatable)


def read_elf(data: bytes) -> ElfFile:
    """Return what an ELF file asks for.

    Raises:
        FormatError: not ELF, or so malformed that nothing can be said about it.
    """
    binary = lief.ELF.parse(data) if data.startswith(MAGIC) else None
    if not isinstance(binary, lief.ELF.Binary):
        raise FormatError(f"elf: expected an ELF file, got one that begins with {data[:8].hex()}")
    try:
        return ElfFile(
            relocatable=_file_type(data) == _ET_REL,
            interpreter=str(binary.interpreter) if binary.has_interpreter else "",
            needed=tuple(str(name) for name in binary.libraries),
            imports=tuple(sorted(_undefined(binary))),
        )
    except (UnicodeError, ValueError) as error:
        raise FormatError("elf: names that are no text") from error


def _file_type(data: bytes) -> int:
    # not lief's, which warns on the terminal of a number that it does not know
    return int.from_bytes(data[16:18], "big" if data[5] == _BIG_ENDIAN else "little")


def _undefined(binary: lief.ELF.Binary) -> set[str]:
    # Not lief's own `imported_symbols`: it leaves out what has no type, and a function that is only called
    # may have none. What a relocation names counts too, wherever the symbol table is said to end.
    found = {str(symbol.name) for symbol in binary.dynamic_symbols if symbol.shndx == _SHN_UNDEF}
    for relocation in binary.relocations:
        symbol = relocation.symbol if relocation.has_symbol else None
        if symbol is not None and symbol.shndx == _SHN_UNDEF:
            found.add(str(symbol.name))
    return found - {""}
