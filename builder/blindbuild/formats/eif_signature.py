"""The signature section of an EIF: a certificate, and its signature over PCR0.

Source: aws-nitro-enclaves-image-format, README.md "EifSectionSignature" and src/utils/eif_signer.rs, commit
935dc626. Bytes stand there as arrays of small integers, not as byte strings; the certificate is PEM.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EifError, FormatError
from blindbuild.formats.cbor import CborValue, decode_cbor, encode_cbor
from blindbuild.formats.certificate import Certificate, parse_pem_certificate
from blindbuild.formats.cose import UnverifiedSign1, parse_sign1, sign_sign1
from blindbuild.formats.eif import MAX_SIGNATURE_BYTES

_CERTIFICATE = "signing_certificate"
_SIGNATURE = "signature"
_INDEX = "register_index"
_VALUE = "register_value"
_SIGNED_REGISTER = 0  # "only the first of these objects is currently verified against PCR0"


@dataclass(frozen=True, slots=True)
class UnverifiedEifSignature:
    """A signature section that was read to its end; nothing about it is verified."""

    certificate: Certificate
    sign1: UnverifiedSign1

    def verify(self, pcr0: Digest) -> Certificate:
        """Return the certificate, if its key signed this PCR0; its issuer and dates are not judged.

        Raises:
            EifError: signed by another key, or over another value or register.
        """
        key = _public_key(self.certificate)
        try:
            payload = self.sign1.verify(key)
        except FormatError as error:
            raise EifError(f"EIF signature: {error.message}") from error
        if payload != _payload(pcr0):
            raise EifError(f"EIF signature: expected one over PCR0 {pcr0.hex}, got one over something else")
        return self.certificate


def parse_eif_signature(data: bytes) -> UnverifiedEifSignature:
    """Parse the data of a signature section with one signature.

    Raises:
        EifError: malformed, too long, or with another number of signatures: only one would be verified.
    """
    if len(data) > MAX_SIGNATURE_BYTES:
        raise EifError(f"EIF signature: expected at most {MAX_SIGNATURE_BYTES} bytes, got {len(data)}")
    try:
        return _read(decode_cbor(data))
    except EifError:
        raise
    except FormatError as error:
        raise EifError(f"EIF signature: {error.message}") from error


def sign_eif(pcr0: Digest, *, key: EllipticCurvePrivateKey, certificate_pem: bytes) -> bytes:
    """Return the data of the signature section over this PCR0; the same every time.

    Args:
        pcr0: what `measure.eif` gave.
        key: on P-384; P-256 and P-521 are read by AWS too.
        certificate_pem: one certificate of that key, as it will stand in the file.

    Raises:
        EifError: the certificate is malformed or another key's, or the curve is none of the three.
    """
    try:
        sign1 = sign_sign1(_payload(pcr0), key)
    except FormatError as error:
        raise EifError(f"EIF signature: {error.message}") from error
    data = encode_cbor(({_CERTIFICATE: tuple(certificate_pem), _SIGNATURE: tuple(sign1)},))
    parse_eif_signature(data).verify(pcr0)
    return data


def _read(value: CborValue) -> UnverifiedEifSignature:
    if not isinstance(value, tuple) or len(value) != 1:
        raise EifError("EIF signature: expected a list of one signature")
    entry = value[0]
    if not isinstance(entry, dict) or list(entry) != [_CERTIFICATE, _SIGNATURE]:
        raise EifError(f"EIF signature: expected {_CERTIFICATE} and {_SIGNATURE}")
    certificate = parse_pem_certificate(_ascii(_octets(entry[_CERTIFICATE])))
    sign1 = parse_sign1(_octets(entry[_SIGNATURE]))
    if sign1.unprotected:
        raise EifError("EIF signature: expected an empty unprotected header")
    _public_key(certificate)
    return UnverifiedEifSignature(certificate, sign1)


def _payload(pcr0: Digest) -> bytes:
    if pcr0.algorithm is not HashAlgorithm.SHA384:
        raise EifError(f"EIF signature: expected a sha384 value, got {pcr0.algorithm.value}")
    return encode_cbor({_INDEX: _SIGNED_REGISTER, _VALUE: tuple(pcr0.value)})


def _public_key(certificate: Certificate) -> EllipticCurvePublicKey:
    try:
        key = certificate.parsed.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise EifError("EIF signature: the certificate's key cannot be read") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise EifError("EIF signature: expected a certificate of an elliptic-curve key")
    return key


def _octets(value: CborValue) -> bytes:
    if not isinstance(value, tuple):
        raise EifError("EIF signature: expected bytes as a list of integers")
    numbers = [item for item in value if isinstance(item, int) and 0 <= item <= 0xFF]
    if len(numbers) != len(value):
        raise EifError("EIF signature: expected bytes as a list of integers up to 255")
    return bytes(numbers)


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise EifError("EIF signature: expected a certificate in PEM") from error
