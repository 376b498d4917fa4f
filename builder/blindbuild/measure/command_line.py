"""The kernel's command line: where the stub takes it from, what becomes of it, and what of it is measured.

Sources: systemd src/boot/stub.c (settle_command_line, cmdline_append_and_measure_addons and _smbios),
src/boot/util.c (mangle_stub_cmdline), src/boot/efi-string.c (xstrn8_to_16), src/boot/console.c
(cmdline_append_console); before 257 in src/boot/efi.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.measure.stub import StubRules
from blindbuild.measure.stub_inputs import StubInputs

LOAD_OPTIONS = "load options of the boot option"
MAX_TEXT = 1 << 20  # bytes; Linux takes 2 KiB of a command line on x86

_LAST_CONTROL = 0x1F
_SPACE = 0x20
_DELETE = 0x7F
_PROFILE_SELECTOR = re.compile("@[0-9]")
_CONSOLE = re.compile("(?:.* )?console=", re.DOTALL)

# First bytes of UTF-8 sequences: (mask, value, length); the stub knows the five and six bytes of RFC 2279.
_LEADING = ((0xE0, 0xC0, 2), (0xF0, 0xE0, 3), (0xF8, 0xF0, 4), (0xFC, 0xF8, 5), (0xFE, 0xFC, 6))
_LONGEST = 6


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the kernel gets, and the strings that were measured on the way, in order.

    Attributes:
        text: None if the kernel gets no options at all.
        measured: (string, what it is) for each event of register 12.
    """

    text: str | None
    measured: tuple[tuple[str, str], ...]


def decode_command_line(data: bytes) -> str:
    """Return what the stub reads from UTF-8: up to the first NUL, without what is malformed or above U+FFFF.

    A malformed sequence is skipped in the length that its first byte announces, whatever the bytes after are.

    Raises:
        MeasureError: more than `MAX_TEXT`.
    """
    if len(data) > MAX_TEXT:
        raise MeasureError(f"command line: expected at most {MAX_TEXT} bytes, got {len(data)}")
    characters: list[str] = []
    offset = 0
    while offset < len(data) and data[offset]:
        length, code = _decode_one(data[offset : offset + _LONGEST])
        if code is not None and (code <= 0xD7FF or 0xE000 <= code <= 0xFFFF):
            characters.append(chr(code))
        offset += length
    return "".join(characters).split("\0", 1)[0]


def _decode_one(data: bytes) -> tuple[int, int | None]:
    """Return the length of the first sequence and its character, None if it is malformed."""
    first = data[0]
    if first < 0x80:
        return 1, first
    length = next((length for mask, value, length in _LEADING if first & mask == value), 0)
    if not length:
        return 1, None
    rest = data[1:length]
    if len(rest) != length - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return length, None
    code = first & (0x7F >> length)
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return length, code


def mangle(text: str, rules: StubRules, where: str) -> str:
    """Return the text as the stub passes it on: control characters as spaces, white space at the ends gone.

    Raises:
        MeasureError: this version may do one of two things, and they differ.
    """
    old = "".join(" " if ord(character) <= _LAST_CONTROL else character for character in text).rstrip(" ")
    new = "".join(" " if _is_white(character) else character for character in text).strip(" ")
    if old != new and not rules.mangling_is_known:
        raise MeasureError(
            f"{where}: expected no control characters and no white space at its ends with systemd-stub "
            f"{rules.version}, got {text[:80]!r}"
        )
    return new if rules.trims_command_line else old


def _is_white(character: str) -> bool:
    return ord(character) <= _SPACE or ord(character) == _DELETE


def encode_options(text: str) -> bytes:
    """Return the text as LoadOptions: UTF-16LE with its NUL."""
    return (text + "\0").encode("utf-16-le", "surrogatepass")


def settle_command_line(
    embedded: bytes | None, addons: tuple[str, ...], inputs: StubInputs, rules: StubRules
) -> CommandLine:
    """Return the command line of a boot.

    Args:
        embedded: the data of `.cmdline`, None if there is none.
        addons: the joined text of the addons of each directory, or of all: one event each.
        inputs: the state of the boot.
        rules: those of the stub.

    Raises:
        MeasureError: what the stub or the kernel does with it is not known.
    """
    measured: list[tuple[str, str]] = []
    text = _load_options(inputs, rules, embedded is not None)
    if text is not None:
        measured.append((text, LOAD_OPTIONS))
    elif embedded is not None:
        text = mangle(decode_command_line(embedded), rules, "section .cmdline")
    for addon in addons:
        if extra := mangle(addon, rules, "addons"):
            measured.append((extra, "command line of addons"))
            text = f"{text} {extra}" if text else extra
    if extra := _smbios_text(inputs, rules):
        measured.append((extra, "command line from SMBIOS"))
        text = _append_smbios(text, extra, rules)
    return CommandLine(_check_final(_append_consoles(text, inputs, rules), inputs, rules), tuple(measured))


def _load_options(inputs: StubInputs, rules: StubRules, embedded: bool) -> str | None:
    """Return the boot option's command line as it is used and measured, None if it is not."""
    options = inputs.load_options.split("\0", 1)[0]
    confidential = inputs.confidential and rules.version >= 254
    if not options or (inputs.secure_boot and (embedded or confidential)):
        return None
    if rules.has_profiles and _PROFILE_SELECTOR.match(options):
        raise MeasureError(
            f"load options: expected a command line without a profile selector, got {options[:80]!r}",
            hint="give the profile's number as the profile",
        )
    if _looks_binary(options, inputs, rules):
        return None
    text = mangle(options, rules, "load options")
    if not text and rules.has_profiles:
        return None
    return text


def _looks_binary(options: str, inputs: StubInputs, rules: StubRules) -> bool:
    """Say whether the stub takes the options for something else than text, and ignores them."""
    if not inputs.profile and ord(options[0]) <= _LAST_CONTROL:
        return True
    if rules.version <= 257 or all(ord(character) > _LAST_CONTROL for character in options):
        return False
    if rules.version < 262 or inputs.profile:
        raise MeasureError(
            f"load options: expected no control characters with systemd-stub {rules.version}, "
            f"got {options[:80]!r}"
        )
    return True


def _smbios_text(inputs: StubInputs, rules: StubRules) -> str:
    if inputs.confidential or not rules.reads_extra_command_lines:
        return ""
    try:
        data = inputs.smbios_command_line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise MeasureError("command line from SMBIOS: expected text that UTF-8 can hold, got none") from error
    text = decode_command_line(data)
    mangled = mangle(text, rules, "command line from SMBIOS")
    # 254 takes it as it is: mangling came later, with the function that 257 has.
    return mangled if rules.version > 254 else text


def _append_smbios(text: str | None, extra: str, rules: StubRules) -> str:
    if text is None and not rules.has_profiles:
        raise MeasureError(
            f"command line from SMBIOS: expected a section .cmdline to append to with systemd-stub "
            f"{rules.version}, got none"
        )
    if rules.version == 254:
        return f"{text} {extra}"
    return f"{text} {extra}" if text else extra


def _append_consoles(text: str | None, inputs: StubInputs, rules: StubRules) -> str | None:
    if not rules.completes_machine_state or (text is not None and _CONSOLE.match(text)):
        return text
    if inputs.consoles is None:
        raise MeasureError(
            f"command line: expected console= with systemd-stub {rules.version}, which else appends the "
            f"consoles of the machine, got {(text or '')[:80]!r}",
            hint="put a console= into the command line, or state which consoles the stub finds",
        )
    for console in inputs.consoles:
        text = f"{text} {console}" if text else console
    return text


def _check_final(text: str | None, inputs: StubInputs, rules: StubRules) -> str | None:
    if text == "":
        raise MeasureError("command line: expected text, or no command line at all, got an empty one")
    given = inputs.load_options or inputs.profile
    if text is None and given and not rules.loads_kernel_through_firmware:
        # The kernel starts with the stub's handle (linux_exec), and finds there what the stub did not use.
        raise MeasureError(
            f"load options: systemd-stub {rules.version} has no command line to replace them with, so that "
            "the kernel reads what the boot option has"
        )
    return text
