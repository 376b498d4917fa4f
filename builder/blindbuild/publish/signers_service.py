"""Keys of services and devices that securesystemslib speaks to; its one door for release keys.

Libraries of the providers are loaded when such a key is used, and only that provider's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key

from blindbuild.errors import ToolError, UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.publish.signers import AskPin, fixed_size

_MAX_REASON = 200  # characters of what a provider says
_PACKAGES: Mapping[str, str] = {
    "awskms": "boto3",
    "azurekms": "azure-identity azure-keyvault-keys",
    "gcpkms": "google-cloud-kms",
    "hsm": "python-pkcs11 asn1crypto",
    "hv": "hvac",
    "tkey": "tkey-py",
}


@dataclass(frozen=True, slots=True)
class ServiceSigner:
    """A release key that a service, or a device, holds."""

    public: SignerKey
    _scheme: str
    _signer: Any  # the library may be missing where types are checked

    @classmethod
    def open(cls, uri: str, public: SignerKey, ask_pin: AskPin) -> ServiceSigner:
        """Find the signer of a URI; most services are not asked before something is to be signed.

        Raises:
            UsageError: a library is missing, or the URI is not one that the provider understands.
            ToolError: the provider refused.
        """
        scheme = uri.partition(":")[0]
        try:
            from securesystemslib.exceptions import UnsupportedLibraryError
            from securesystemslib.signer import Signer, SSlibKey
        except ImportError as error:
            raise _missing(scheme, "securesystemslib[crypto]") from error
        try:
            key = SSlibKey.from_crypto(load_der_public_key(public.spki))
            signer = Signer.from_priv_key_uri(uri, key, lambda what: ask_pin(f"{what} of {scheme}"))
        except UnsupportedLibraryError as error:
            raise _missing(scheme, _PACKAGES.get(scheme, scheme)) from error
        except (ValueError, KeyError, OSError) as error:
            raise UsageError(f"{scheme}: no such key: {_reason(error)}") from error
        except Exception as error:  # each provider has errors of its own
            raise ToolError(f"{scheme}: the key cannot be used: {_reason(error)}") from error
        return cls(public, scheme, signer)

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message, in the form that DSSE has.

        Raises:
            ToolError: the provider refused, or gave no signature.
        """
        try:
            signature = bytes.fromhex(self._signer.sign(message).signature)
        except Exception as error:
            raise ToolError(
                f"{self._scheme}: the key did not sign: {_reason(error)}",
                hint="are its credentials in the environment, and may they use this key?",
            ) from error
        return fixed_size(signature) if self.public.is_p256 else signature


def _missing(scheme: str, packages: str) -> UsageError:
    return UsageError(f"keys of {scheme}: need {packages}", hint=f"pip install {packages}")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return type(error).__name__  # its text quotes what it could not read, which may be a PIN
    text = " ".join(str(error).split())[:_MAX_REASON]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
