"""PKCS#11 URIs: which key of which token is meant.

Source: RFC 7512, 2.3 (syntax) and 2.4 (attributes); RFC 3986, 2.1 (percent-encoding).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from blindbuild.errors import UsageError

SCHEME = "pkcs11:"
MAX_URI = 4096  # characters; bounds the work

# What is understood. RFC 7512, 2.3: a URI with another path attribute must be refused.
_PATH = frozenset({"token", "serial", "manufacturer", "model", "object", "id", "type"})
_QUERY = frozenset({"module-path", "pin-value", "pin-source"})
_PIN = "pin"
_TEXT = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/?|-]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUri:
    """A private key on a token; what is None is not asked for.

    Attributes:
        module: path of the library that speaks to the token.
        token, serial, manufacturer, model: what the token must say of itself.
        label, identifier: CKA_LABEL and CKA_ID of the key.
        pin: the PIN itself.
        pin_file: path of a file that holds it.
    """

    module: str
    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    label: str | None = None
    identifier: bytes | None = None
    pin: str | None = field(default=None, repr=False)
    pin_file: str | None = None


def parse_key_uri(uri: str) -> KeyUri:
    """Read a PKCS#11 URI of a private key.

    Raises:
        UsageError: malformed, an attribute twice or unknown, no module, or neither object nor id.
    """
    if not uri.startswith(SCHEME) or len(uri) > MAX_URI:
        raise UsageError(f"expected a URI that starts with {SCHEME!r}, of at most {MAX_URI} characters")
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    named = {**_attributes(path, ";", _PATH), **_attributes(query, "&", _QUERY)}
    if named.get("type", b"private") != b"private":
        raise UsageError("pkcs11: expected type=private, got another type of object")
    if "module-path" not in named:
        raise UsageError(
            "pkcs11: expected module-path, the library that speaks to the token",
            hint="append ?module-path=/usr/lib/softhsm/libsofthsm2.so or that of your token",
        )
    if not named.keys() & {"object", "id"}:
        raise UsageError("pkcs11: expected object= or id=, which name the key")
    if {"pin-value", "pin-source"} <= named.keys():
        raise UsageError("pkcs11: expected pin-value or pin-source, got both")
    pin_file = _text(named, "pin-source")
    return KeyUri(
        module=_text(named, "module-path") or "",
        token=_text(named, "token"),
        serial=_text(named, "serial"),
        manufacturer=_text(named, "manufacturer"),
        model=_text(named, "model"),
        label=_text(named, "object"),
        identifier=named.get("id"),
        pin=_text(named, "pin-value"),
        pin_file=None if pin_file is None else pin_file.removeprefix("file:"),
    )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, bytes]:
    """Return the attributes of one part of the URI, percent-encoding undone."""
    found: dict[str, bytes] = {}
    for item in text.split(separator) if text else ():
        name, equals, value = item.partition("=")
        if name not in known or not equals:
            # What stands beside a PIN may be a part of it, cut off by a separator that was not escaped.
            shown = "an unknown one" if _PIN in text else repr(name)
            raise UsageError(
                f"pkcs11: unknown attribute, got {shown}",
                hint=f"known here: {', '.join(sorted(known))}; & and ; in a value are %26 and %3B",
            )
        if name in found:
            raise UsageError(f"pkcs11: expected {name} once, got it twice")
        if not _TEXT.fullmatch(value) or not value:
            raise UsageError(f"pkcs11: {name}: expected a percent-encoded value")
        found[name] = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), value.encode())
    return found


def _text(named: Mapping[str, bytes], name: str) -> str | None:
    if name not in named:
        return None
    try:
        text = named[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"pkcs11: {name}: expected UTF-8") from error
    if "\0" in text:
        raise UsageError(f"pkcs11: {name}: expected no NUL")
    return text
