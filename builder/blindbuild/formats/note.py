"""Signed notes: text, and signature lines that name their key; and the keys as one line of text.

Source: C2SP signed-note (c2sp.org/signed-note), "Format", "Signatures", "Verifier keys".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

from blindbuild.errors import FormatError, TlogError
from blindbuild.formats.dsse import SignerKey
from blindbuild.formats.fields import decode_base64, encode_base64

ED25519, COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44 = 0x01, 0x04, 0x06  # "Signature types"
MAX_NOTE = 1 << 17  # bytes; 16 ML-DSA-44 signatures with their names take 56 KiB
MAX_SIGNATURES = 16  # what every verifier must accept; bounds the work before a verdict
MAX_KEY_NAME = 255  # bytes; an ML-DSA-44 cosignature has one byte for the length
_PUBLIC_SIZES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_ML_DSA_44: 1312}
_KEY_ID_SIZE = 4
_LINE_START = "— "  # em dash, U+2014, and a space
_NO_TEXT = b"-\n"
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 4: what stands before the 32 bytes


class SignatureState(Enum):
    """What a note has from one key."""

    ABSENT = "absent"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by name: what signature lines are compared with.

    Attributes:
        name: as it stands in signature lines; not empty, no spaces, no plus.
        kind: the signature type identifier byte.
        public: the key as its type encodes it.
    """

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart; a hint, not a proof."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(named).digest()[:_KEY_ID_SIZE]

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the bare public key: equal for one key under two names or types."""
        return hashlib.sha256(self.public).digest()

    @property
    def text(self) -> str:
        """The key as one line: a vkey."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.kind]) + self.public)}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line with its newline."""
        return f"{_LINE_START}{self.name} {encode_base64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class UnverifiedNote:
    """A well-formed note that nobody has vouched for yet; `text` ends with its newline."""

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def of(self, key: VerifierKey) -> tuple[bytes, ...]:
        """Return the signatures that claim to be of a key: its name and its id."""
        key_id = key.key_id
        return tuple(s.value for s in self.signatures if s.name == key.name and s.key_id == key_id)


def make_vkey(name: str, kind: int, public: bytes) -> VerifierKey:
    """Return a key by name.

    Raises:
        TlogError: a name that no note may have, another type, a length that is not the type's, or an Ed25519
            key of small order.
    """
    _check_name(name)
    if kind not in _PUBLIC_SIZES:
        raise TlogError(f"key {name!r}: expected signature type 0x01, 0x04 or 0x06, got 0x{kind:02x}")
    if len(public) != _PUBLIC_SIZES[kind]:
        raise TlogError(f"key {name!r}: expected {_PUBLIC_SIZES[kind]} bytes, got {len(public)}")
    if kind != COSIGNATURE_ML_DSA_44:
        try:
            SignerKey.from_spki(_ED25519_SPKI + public)
        except FormatError as error:
            raise TlogError(f"key {name!r}: {error.message}") from error
    return VerifierKey(name, kind, public)


def parse_vkey(text: str) -> VerifierKey:
    """Read a key from its line.

    Raises:
        TlogError: malformed, or the id is not that of name, type and key.
    """
    name, _, rest = text.partition("+")
    key_id, plus, encoded = rest.partition("+")
    if not plus or not re.fullmatch(r"[0-9a-f]{8}", key_id):
        raise TlogError(f"expected a key as NAME+ID+BASE64, got {text[:80]!r}")
    try:
        data = decode_base64(encoded)
    except FormatError as error:
        raise TlogError(f"key {name[:80]!r}: {error.message}") from error
    if not data:
        raise TlogError(f"key {name[:80]!r}: expected a signature type and a key, got nothing")
    key = make_vkey(name, data[0], data[1:])
    if key.key_id.hex() != key_id:
        raise TlogError(f"key {name!r}: expected id {key.key_id.hex()}, got {key_id}")
    return key


def parse_note(data: bytes) -> UnverifiedNote:
    """Parse a signed note; the text ends at the last empty line.

    Raises:
        TlogError: not UTF-8, control characters, no text, no signature, too many, or a line that is none.
    """
    if len(data) > MAX_NOTE:
        raise TlogError(f"note: expected at most {MAX_NOTE} bytes, got {len(data)}")
    control = _CONTROL.search(data)
    if control is not None:
        raise TlogError(f"note: control character 0x{control[0][0]:02x} at byte {control.start()}")
    end = data.rfind(b"\n\n")
    if end < 0 or not data.endswith(b"\n"):
        raise TlogError("note: expected text, an empty line and signatures, each line with its end")
    text, signed = data[: end + 1], data[end + 2 :]
    try:
        text.decode("utf-8")
        lines = signed.decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise TlogError(f"note: expected UTF-8, got another byte at {error.start}") from error
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        raise TlogError(f"note: expected 1 to {MAX_SIGNATURES} signatures, got {len(lines)}")
    return UnverifiedNote(text, tuple(_read_line(line) for line in lines))


def parse_signature_lines(data: bytes) -> tuple[NoteSignature, ...]:
    """Parse signature lines that stand alone, as a witness answers with them.

    Raises:
        TlogError: as `parse_note`.
    """
    note = parse_note(_NO_TEXT + b"\n" + data)
    if note.text != _NO_TEXT:  # the text ends at the last empty line, and here there is none
        raise TlogError("note: expected signature lines and nothing else")
    return note.signatures


def write_note(note: UnverifiedNote) -> bytes:
    """Return the note as its bytes.

    Raises:
        TlogError: what was put together is no note.
    """
    data = note.text + b"\n" + "".join(signature.line for signature in note.signatures).encode()
    if parse_note(data) != note:
        raise TlogError("note: expected text and signatures that read back as they are")
    return data


def accepts_ed25519(key: VerifierKey, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 key made a signature over exactly these bytes."""
    return SignerKey.from_spki(_ED25519_SPKI + key.public).accepts(signature, message)


def _read_line(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_LINE_START).partition(" ")
    if not line.startswith(_LINE_START) or not space:
        raise TlogError(f"note: expected a line `— NAME BASE64`, got {line[:80]!r}")
    _check_name(name)
    try:
        value = decode_base64(encoded)
    except FormatError as error:
        raise TlogError(f"note: signature of {name!r}: {error.message}") from error
    if len(value) <= _KEY_ID_SIZE:
        raise TlogError(f"note: signature of {name!r}: expected a key id and a signature")
    return NoteSignature(name, value[:_KEY_ID_SIZE], value[_KEY_ID_SIZE:])


def _check_name(name: str) -> None:
    # "Key names MUST be non-empty and MUST NOT contain any Unicode spaces or plus"
    if not name or len(name.encode("utf-8", "replace")) > MAX_KEY_NAME:
        raise TlogError(f"expected a key name of 1 to {MAX_KEY_NAME} bytes, got {name[:80]!r}")
    # what cannot be printed is refused too: a name is shown to people who compare it
    if any(char.isspace() or char == "+" for char in name) or not name.isprintable():
        raise TlogError(f"expected a printable key name without spaces and plus, got {name[:80]!r}")
