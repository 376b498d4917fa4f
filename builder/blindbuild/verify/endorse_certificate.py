"""Steps A4 to A11 for keys that somebody certified: the endorsement key, or the attestation key itself.

Sources: TCG EK Credential Profile 2.5; TCG TPM v2.0 AIK certificates (EKU 2.23.133.8.3); RFC 5280.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import partial

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.certificate import (
    TCG_KP_AIK_CERTIFICATE,
    TCG_KP_EK_CERTIFICATE,
    Certificate,
    EndorsementProfile,
    certified_key,
    parse_certificate,
    read_endorsement_profile,
    serial_number,
    subject_name,
    trim_padding,
    valid_through,
)
from blindbuild.formats.gce import has_instance
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import EccKey, PublicArea, RsaKey, Scheme, Symmetric, parse_sized_public
from blindbuild.manifest import TrustRoots
from blindbuild.manifest.rfc3339 import MAX_TIME
from blindbuild.verify.certificate_path import find_path
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import Basis, Policy
from blindbuild.verify.revocation import RevocationCheck, check_revocation
from blindbuild.verify.session import RecordedSession

EK_CERTIFICATE_INDEX = 0x01C00002  # EK Credential Profile 2.2.1.4: RSA-2048, low range
# Microsoft's document signing, which Azure's certificates of attestation keys say beside the TCG's purpose
_AZURE_PURPOSE = "1.3.6.1.4.1.311.10.3.12"
# EK Credential Profile B.3.3, template L-1
_EK_ATTRIBUTES = 0x000300B2
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_EK_KEY_BITS = 2048
_CURVES = {0x0003: "secp256r1", 0x0004: "secp384r1", 0x0005: "secp521r1"}  # TPM_ECC_CURVE
OPERATOR_RUN_TPM = "operator-run TPM: proves the image and the tool, nothing about the operator"


@dataclass(frozen=True, slots=True)
class Certified:
    """The certificate that was judged, None if there is none, and whether its root is a test root.

    Attributes:
        until: the first second in which the path or a list that was looked at counts no longer.
    """

    certificate: Certificate | None
    operator_run: bool
    until: int


def judge_certified(
    steps: Checklist, session: RecordedSession, basis: Basis, *, by_attestation_key: bool
) -> Certified:
    """Run steps A6, A9, A4, A7, A5, A11 and A8; return what they are about.

    Args:
        steps: what was found so far.
        session: the exchange.
        basis: whom to believe, and how much to accept.
        by_attestation_key: the trust file has roots of attestation key certificates, and only those count; if
            not, roots of endorsement certificates, and only those.
    """
    read = _read_ak_certificate if by_attestation_key else _read_ek_certificate
    check_profile = check_ak_profile if by_attestation_key else check_ek_profile
    check_key = _check_attestation_key if by_attestation_key else _check_endorsement_key
    ways = _ways(basis.trust, by_attestation_key=by_attestation_key)
    certificate = steps.run("A6", partial(read, session), needs=("A1",))
    steps.run("A9", lambda: check_profile(found(certificate)), needs=("A6",))
    led = steps.run("A4", lambda: _check_path(found(certificate), ways, basis.now), needs=("A6",))
    listed_until = _judge_revocation(steps, None if led is None else led[1], ways, basis)
    steps.run("A5", lambda: check_key(found(certificate), session), needs=("A6",))
    operator_run = led is not None and led[0]
    steps.run("A11", lambda: _not_operator_run(operator_run, basis.policy), needs=("A4",))
    if by_attestation_key:
        steps.skip("A8", "the attestation key itself is certified")
    else:
        steps.run("A8", partial(_check_credential, session), needs=("A1", "A5"))
    if operator_run:
        steps.warn(OPERATOR_RUN_TPM)
    valid_until = () if led is None else (valid_through(each) + 1 for each in led[1])
    return Certified(certificate, operator_run, min((listed_until, *valid_until)))


_Ways = tuple[tuple[tuple[Certificate, ...], tuple[Certificate, ...]], ...]


def _ways(trust: TrustRoots, *, by_attestation_key: bool) -> _Ways:
    """Return roots and issuers that count; the second pair, if there is one, is that of test TPMs."""
    if by_attestation_key:
        return ((trust.ak_roots, trust.ak_intermediates),)
    return (
        (trust.tpm_roots, trust.tpm_intermediates),
        (trust.test_tpm_roots, trust.test_tpm_intermediates),
    )


def _read_ek_certificate(session: RecordedSession) -> tuple[Certificate, str]:
    stored = [c for c in session.endorsement.ek_certificates if c.nv_index == EK_CERTIFICATE_INDEX]
    if len(stored) != 1:
        raise refuse(
            "A6",
            "certificate-missing",
            f"expected one certificate from NV 0x{EK_CERTIFICATE_INDEX:08x}, got {len(stored)}",
        )
    return _read_stored(stored[0].data)


def _read_ak_certificate(session: RecordedSession) -> tuple[Certificate, str]:
    stored = session.endorsement.ak_certificate
    if stored is None:
        raise refuse(
            "A6",
            "certificate-missing",
            "expected a certificate of the attestation key, got none",
            hint="the trust file pins who certifies attestation keys; a server without such a certificate is "
            "believed by another trust file, never by this one",
        )
    return _read_stored(stored)


def _read_stored(stored: bytes) -> tuple[Certificate, str]:
    try:
        certificate = parse_certificate(trim_padding(stored))
        serial = serial_number(certificate)
    except FormatError as error:
        raise refuse("A6", "certificate-malformed", error.message) from error
    return certificate, f"serial 0x{serial:x}"


def check_ek_profile(certificate: Certificate) -> tuple[None, str]:
    """Step A9 for the certificate of an endorsement key."""
    profile = read_endorsement_profile(certificate)
    # EK Credential Profile 3.2.9: attributes in the SAN; RFC 5280 4.2.1.6: critical if there is no subject
    if profile.attributes is None:
        raise _unlike_profile("TPM manufacturer, model and version in the SAN")
    _check_subject(profile)
    if profile.is_authority is not False:  # 3.2.10: cA is false, and said
        raise _unlike_profile("basicConstraints with cA false")
    if profile.usages != {"keyEncipherment"}:  # 3.2.12, RSA
        raise _unlike_profile("keyUsage keyEncipherment", _listed(profile.usages))
    if profile.extended_usages != {TCG_KP_EK_CERTIFICATE.dotted_string}:  # 3.2.16
        raise _unlike_profile(
            f"extendedKeyUsage {TCG_KP_EK_CERTIFICATE.dotted_string}", _listed(profile.extended_usages)
        )
    attributes = profile.attributes
    shown = f"{attributes.manufacturer} {attributes.model} {attributes.version}"
    return None, shown if shown.isprintable() else ascii(shown)


def check_ak_profile(certificate: Certificate) -> tuple[None, str]:
    """Step A9 for the certificate of an attestation key, the TCG's, Azure's or Google Compute Engine's.

    Azure's has one purpose more. Google's has no extendedKeyUsage or that of endorsement keys; it is told by
    the extension that names the machine, and from the same authority's endorsement certificates by its
    keyUsage.
    """
    profile = read_endorsement_profile(certificate)
    _check_subject(profile)
    if profile.is_authority:
        raise _unlike_profile("basicConstraints with cA false")
    if profile.usages != {"digitalSignature"}:
        raise _unlike_profile("keyUsage digitalSignature", _listed(profile.usages))
    if profile.extended_usages == {TCG_KP_AIK_CERTIFICATE.dotted_string}:
        return None, "attestation key, by the TCG's profile"
    if profile.extended_usages == {TCG_KP_AIK_CERTIFICATE.dotted_string, _AZURE_PURPOSE}:
        return None, "attestation key, as Azure certifies it"
    if profile.extended_usages <= {TCG_KP_EK_CERTIFICATE.dotted_string} and has_instance(certificate):
        return None, "attestation key, as Google Compute Engine certifies it"
    raise _unlike_profile(
        f"extendedKeyUsage {TCG_KP_AIK_CERTIFICATE.dotted_string}", _listed(profile.extended_usages)
    )


def _check_subject(profile: EndorsementProfile) -> None:
    # RFC 5280, 4.2.1.6: then the alternative name is all there is
    if profile.subject_is_empty and not profile.alternative_name_is_critical:
        raise _unlike_profile("a critical SAN, because the subject is empty")


def _unlike_profile(expected: str, got: str = "") -> Exception:
    more = f", got {got}" if got else ""
    return refuse("A9", "certificate-profile", f"expected {expected}{more}")


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "none"


def _check_path(
    certificate: Certificate, ways: _Ways, now: int
) -> tuple[tuple[bool, tuple[Certificate, ...]], str]:
    way, path = find_path(certificate, ways, now)
    return (way == 1, path), f"leads to {subject_name(path[-1])}"


def _judge_revocation(
    steps: Checklist, path: tuple[Certificate, ...] | None, ways: _Ways, basis: Basis
) -> int:
    if not basis.crls and not basis.policy.require_crls:
        steps.skip("A7", "no revocation list is at hand, and none is asked for")
        return MAX_TIME
    authorities = [certificate for way in ways for listed in way for certificate in listed]
    check = RevocationCheck(basis.crls, basis.policy.require_crls, authorities, basis.now)
    return steps.run("A7", lambda: check_revocation(found(path), check), needs=("A4",)) or 0


def _check_endorsement_key(certificate: Certificate, session: RecordedSession) -> tuple[None, str]:
    public = parse_sized_public(session.endorsement.ek_public)
    template = (
        public.name_algorithm,
        public.attributes,
        public.auth_policy,
        public.symmetric,
        public.scheme,
    )
    aes = Symmetric(Algorithm.AES, 128, Algorithm.CFB)
    expected = (
        HashAlgorithm.SHA256.tpm_id,
        _EK_ATTRIBUTES,
        _EK_POLICY,
        aes,
        Scheme(Algorithm.NULL, None),
    )
    if template != expected or not isinstance(public.key, RsaKey) or public.key.key_bits != _EK_KEY_BITS:
        raise refuse("A5", "endorsement-template", "expected an endorsement key of template L-1")
    if not is_certified(certificate, public):
        raise refuse(
            "A5", "certificate-of-other-key", "expected the certified key, got another endorsement key"
        )
    return None, "endorsement key of template L-1, as certified"


def _check_attestation_key(certificate: Certificate, session: RecordedSession) -> tuple[None, str]:
    # Q2 checks the quote's signature with this same public area
    public = parse_sized_public(session.endorsement.ak_public)
    if not is_certified(certificate, public):
        raise refuse(
            "A5", "certificate-of-other-key", "expected the certified key, got another attestation key"
        )
    return None, f"attestation key {public.name().hex()}, as certified"


def is_certified(certificate: Certificate, public: PublicArea) -> bool:
    """Return whether the certificate is about the key of this public area."""
    key = public.key
    if isinstance(key, EccKey):
        numbers = _CURVES.get(key.curve, ""), int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big")
    else:
        numbers = "rsa", int.from_bytes(key.modulus, "big"), key.public_exponent
    return certified_key(certificate) == numbers


def _not_operator_run(operator_run: bool, policy: Policy) -> tuple[None, str]:
    if not operator_run:
        return None, "the root is not a test root"
    if not policy.allow_test_tpm:
        raise refuse(
            "A11",
            "test-tpm",
            "expected a TPM its operator cannot impersonate, got one below a test root",
            hint="pass --allow-test-tpm to try the tool; it proves nothing about the operator",
        )
    return None, "test TPM, allowed by policy"


def _check_credential(session: RecordedSession) -> tuple[None, str]:
    if session.credential_secret is None:
        raise refuse("A8", "credential-missing", "expected a credential to have been sent, got none")
    answer = session.evidence.activated_secret
    if answer is None:
        raise refuse("A8", "credential-missing", "expected the credential's secret back, got none")
    if not hmac.compare_digest(answer, session.credential_secret):
        raise refuse(
            "A8",
            "credential-mismatch",
            "expected the secret that only this TPM could read, got another: the keys are not in one TPM, "
            "or the answer is an old one",
        )
    return None, "the credential for this attestation key was activated"
