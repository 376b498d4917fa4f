"""A Secure Boot key on a PKCS#11 token, which signs without handing the key out; the one door to `pkcs11`.

The library is the optional extra `pkcs11`. The token's own module runs in this process, with this process's
environment: that is where modules find their configuration.

Source: PKCS #11 3.1, "Signing and MACing functions" and the mechanism CKM_SHA256_RSA_PKCS.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from blindbuild.errors import ToolError, UsageError
from blindbuild.publish.key_uri import KeyUri


@dataclass(frozen=True, slots=True)
class TokenKey:
    """An RSA private key in an open session; use it before the session ends."""

    _key: Any  # the extra may be missing where types are checked
    _library: Any

    def sign(self, message: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature with SHA-256 over a message.

        Raises:
            ToolError: the token refused.
        """
        try:
            signature = self._key.sign(message, mechanism=self._library.Mechanism.SHA256_RSA_PKCS)
        except self._library.PKCS11Error as error:
            raise ToolError(f"pkcs11: the token did not sign: {_reason(error)}") from error
        return bytes(signature)


@contextlib.contextmanager
def open_token_key(uri: KeyUri, *, pin: str | None) -> Iterator[TokenKey]:
    """Log in to the token that `uri` means, and give its one key that fits.

    Args:
        uri: the key; its own `pin` and `pin_file` are the caller's to read.
        pin: the user's PIN, None for a token that wants none.

    Raises:
        ToolError: the library or the module is missing, or the token refused.
        UsageError: not exactly one token, or not exactly one key fits.
    """
    library = _load_library()
    with contextlib.ExitStack() as stack:
        try:
            token = _find_token(library, uri)
            session = stack.enter_context(token.open(user_pin=pin))
            key = _find_key(library, session, uri)
        except UnicodeError as error:
            # No text of the error: it could quote a part of the PIN.
            raise UsageError("pkcs11: expected names and a PIN of text") from error
        except (library.PKCS11Error, RuntimeError, OSError) as error:
            raise ToolError(
                f"pkcs11: {uri.module}: {_reason(error)}", hint="check module-path, token and PIN"
            ) from error
        yield TokenKey(key, library)


def _load_library() -> ModuleType:
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise ToolError(
            "keys on tokens need the Python package python-pkcs11",
            hint="pip install 'blindbuild[pkcs11]'",
        ) from error


def _find_token(library: Any, uri: KeyUri) -> Any:
    wanted = {
        "label": uri.token,
        "serial": None if uri.serial is None else uri.serial.encode(),
        "manufacturer_id": uri.manufacturer,
        "model": uri.model,
    }
    found = [
        token
        for token in library.lib(uri.module).get_tokens()
        if all(value is None or getattr(token, name) == value for name, value in wanted.items())
    ]
    if len(found) != 1:
        raise UsageError(
            f"pkcs11: expected one token that fits, got {len(found)}", hint="name it: token=LABEL"
        )
    return found[0]


def _find_key(library: Any, session: Any, uri: KeyUri) -> Any:
    attributes = {
        library.Attribute.CLASS: library.ObjectClass.PRIVATE_KEY,
        library.Attribute.KEY_TYPE: library.KeyType.RSA,
    }
    if uri.label is not None:
        attributes[library.Attribute.LABEL] = uri.label
    if uri.identifier is not None:
        attributes[library.Attribute.ID] = uri.identifier
    found = list(session.get_objects(attributes))
    if len(found) != 1:
        raise UsageError(
            f"pkcs11: expected one RSA private key that fits, got {len(found)}",
            hint="name it by object=LABEL or id=%01",
        )
    return found[0]


def _reason(error: Exception) -> str:
    """Return what a token said; the library's errors often have a name only."""
    return str(error) or type(error).__name__
