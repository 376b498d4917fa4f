"""Steps A: is the key that signs quotes inside a TPM that somebody we trust vouches for?

The client's way to believe a TPM is in the trust file: roots of endorsement certificates, or pinned keys.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import BasicConstraints
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
)
from cryptography.x509.verification import VerificationError as PathError

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.certificate import (
    TCG_KP_EK_CERTIFICATE,
    Certificate,
    is_signing_authority,
    parse_certificate,
    read_endorsement_profile,
    rsa_modulus,
    serial_number,
    subject_name,
    trim_padding,
)
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import (
    EccKey,
    PublicArea,
    RsaKey,
    Scheme,
    Symmetric,
    parse_sized_public,
)
from blindbuild.manifest import AttestationKeyRule, TrustRoots
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.explain import shown
from blindbuild.verify.policy import Basis, Policy
from blindbuild.verify.session import RecordedSession

EK_CERTIFICATE_INDEX = 0x01C00002  # EK Credential Profile 2.2.1.4: RSA-2048, low range
MAX_CHAIN_DEPTH = 4  # intermediates; real TPM chains have one or two
CURVE_P256 = 0x0003  # TPM_ECC_NIST_P256
_P256_COORDINATE = 32  # bytes
# docs/spec/evidence.md, "AK"
_AK_ATTRIBUTES = 0x00050072
# EK Credential Profile B.3.3, template L-1
_EK_ATTRIBUTES = 0x000300B2
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_EK_KEY_BITS = 2048
OPERATOR_RUN_TPM = "operator-run TPM: proves the image and the tool, nothing about the operator"
PINNED_KEY = "the attestation key is pinned: nothing here shows what kind of TPM holds it"


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that may sign quotes, with the kind of TPM it was found in."""

    public: PublicArea
    operator_run: bool


def judge_endorsement(
    steps: Checklist,
    session: RecordedSession,
    basis: Basis,
    rule: AttestationKeyRule,
) -> AttestationKey | None:
    """Run steps A1 to A11; return the attestation key when its structure could be read.

    The key is returned even when nobody vouches for it: its signature can still be checked and explained,
    and the failed step refuses the session.
    """
    pinned = steps.run("A1", partial(_one_way, session, basis.trust))
    public = steps.run("A2", partial(_check_attributes, session, rule))
    steps.run("A3", lambda: _check_curve(found(public)), needs=("A2",))
    operator_run = False
    if pinned:
        _judge_pinned(steps, public, basis.trust)
    else:
        operator_run = _judge_certified(steps, session, basis)
    return None if public is None else AttestationKey(public, operator_run)


def _one_way(session: RecordedSession, trust: TrustRoots) -> tuple[bool, str]:
    pinned = bool(trust.attestation_keys)
    if pinned == bool(trust.tpm_roots or trust.test_tpm_roots):
        raise refuse("A1", "trust-ambiguous", "expected either TPM roots or pinned attestation keys")
    if pinned and session.credential_secret is not None:
        raise refuse("A1", "trust-ambiguous", "expected no credential with a pinned key, got one")
    return pinned, "pinned attestation key" if pinned else "endorsement certificate and credential"


def _check_attributes(session: RecordedSession, rule: AttestationKeyRule) -> tuple[PublicArea, str]:
    public = parse_sized_public(session.endorsement.ak_public)
    attributes = public.attributes
    if attributes & rule.required_attributes != rule.required_attributes:
        raise refuse(
            "A2",
            "key-attributes",
            f"expected attributes 0x{rule.required_attributes:08x} all set, got 0x{attributes:08x}",
        )
    if attributes & rule.forbidden_attributes:
        raise refuse(
            "A2",
            "key-attributes",
            f"expected attributes 0x{rule.forbidden_attributes:08x} all clear, got 0x{attributes:08x}",
        )
    if attributes != _AK_ATTRIBUTES:
        raise refuse(
            "A2", "key-attributes", f"expected attributes 0x{_AK_ATTRIBUTES:08x}, got 0x{attributes:08x}"
        )
    ecdsa = Scheme(Algorithm.ECDSA, HashAlgorithm.SHA256.tpm_id)
    shape = (public.name_algorithm, public.auth_policy, public.symmetric, public.scheme)
    if shape != (HashAlgorithm.SHA256.tpm_id, b"", None, ecdsa):
        raise refuse(
            "A2", "key-template", "expected SHA-256 names, no policy, no symmetric algorithm and ECDSA-SHA256"
        )
    return public, f"attributes 0x{attributes:08x}, ECDSA with SHA-256"


def _check_curve(public: PublicArea) -> tuple[None, str]:
    key = public.key
    if not isinstance(key, EccKey) or key.curve != CURVE_P256 or key.kdf != Scheme(Algorithm.NULL, None):
        raise refuse("A3", "key-type", "expected a P-256 key without a key derivation")
    if len(key.x) != _P256_COORDINATE or len(key.y) != _P256_COORDINATE:
        raise refuse("A3", "key-type", f"expected coordinates of {_P256_COORDINATE} bytes")
    x, y = int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big")
    try:
        ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise refuse("A3", "key-off-curve", "expected a point on P-256") from error
    return None, "P-256"


def _judge_pinned(steps: Checklist, public: PublicArea | None, trust: TrustRoots) -> None:
    for step in ("A6", "A9", "A4", "A11", "A8"):
        steps.skip(step, "the attestation key is pinned")
    steps.run("A5", lambda: _is_pinned(found(public), trust), needs=("A1", "A2"))
    steps.warn(PINNED_KEY)


def _is_pinned(public: PublicArea, trust: TrustRoots) -> tuple[None, str]:
    if public.to_bytes() not in {key.to_bytes() for key in trust.attestation_keys}:
        raise refuse("A5", "key-not-pinned", "expected one of the pinned attestation keys, got another key")
    return None, f"pinned, name {public.name().hex()}"


def _judge_certified(steps: Checklist, session: RecordedSession, basis: Basis) -> bool:
    certificate = steps.run("A6", partial(_read_certificate, session), needs=("A1",))
    steps.run("A9", lambda: _check_profile(found(certificate)), needs=("A6",))
    operator_run = steps.run(
        "A4", lambda: _check_path(found(certificate), basis.trust, basis.now), needs=("A6",)
    )
    steps.run("A5", lambda: _check_certified_key(found(certificate), session), needs=("A6",))
    steps.run("A11", lambda: _not_operator_run(found(operator_run), basis.policy), needs=("A4",))
    steps.run("A8", partial(_check_credential, session), needs=("A1", "A5"))
    if operator_run:
        steps.warn(OPERATOR_RUN_TPM)
    return bool(operator_run)


def _read_certificate(session: RecordedSession) -> tuple[Certificate, str]:
    stored = [c for c in session.endorsement.ek_certificates if c.nv_index == EK_CERTIFICATE_INDEX]
    if len(stored) != 1:
        raise refuse(
            "A6",
            "certificate-missing",
            f"expected one certificate from NV 0x{EK_CERTIFICATE_INDEX:08x}, got {len(stored)}",
        )
    try:
        certificate = parse_certificate(trim_padding(stored[0].data))
        serial = serial_number(certificate)
    except FormatError as error:
        raise refuse("A6", "certificate-malformed", error.message) from error
    return certificate, f"serial 0x{serial:x}"


def _check_profile(certificate: Certificate) -> tuple[None, str]:
    profile = read_endorsement_profile(certificate)
    # EK Credential Profile 3.2.9: attributes in the SAN; RFC 5280 4.2.1.6: critical if there is no subject
    if profile.attributes is None:
        raise refuse("A9", "certificate-profile", "expected TPM manufacturer, model and version in the SAN")
    if profile.subject_is_empty and not profile.alternative_name_is_critical:
        raise refuse("A9", "certificate-profile", "expected a critical SAN, because the subject is empty")
    if profile.is_authority is not False:  # 3.2.10: cA is false, and said
        raise refuse("A9", "certificate-profile", "expected basicConstraints with cA false")
    if profile.usages != {"keyEncipherment"}:  # 3.2.12, RSA
        raise refuse(
            "A9",
            "certificate-profile",
            f"expected keyUsage keyEncipherment, got {', '.join(sorted(profile.usages)) or 'none'}",
        )
    if profile.extended_usages != {TCG_KP_EK_CERTIFICATE.dotted_string}:  # 3.2.16
        raise refuse(
            "A9",
            "certificate-profile",
            f"expected extendedKeyUsage {TCG_KP_EK_CERTIFICATE.dotted_string}, got "
            f"{', '.join(sorted(profile.extended_usages)) or 'none'}",
        )
    attributes = profile.attributes
    shown = f"{attributes.manufacturer} {attributes.model} {attributes.version}"
    return None, shown if shown.isprintable() else ascii(shown)


def _check_path(certificate: Certificate, trust: TrustRoots, now: int) -> tuple[bool, str]:
    # issuers come from the trust file only, never from the attester: issuer and root are both pinned
    problem = "no root of this kind is pinned"
    pinned = (
        (False, trust.tpm_roots, trust.tpm_intermediates),
        (True, trust.test_tpm_roots, trust.test_tpm_intermediates),
    )
    for operator_run, roots, intermediates in pinned:
        if not roots:
            continue
        try:
            root = _verify_path(certificate, roots, intermediates, now)
        except PathError as error:
            problem = str(error)
        else:
            return operator_run, f"leads to {subject_name(root)}"
    # the library quotes names out of the attester's certificate
    raise refuse("A4", "certificate-path", f"expected a path to a pinned root, got none: {shown(problem)}")


def _verify_path(
    leaf: Certificate, roots: tuple[Certificate, ...], intermediates: tuple[Certificate, ...], now: int
) -> Certificate:
    authority = ExtensionPolicy.permit_all().require_present(BasicConstraints, Criticality.AGNOSTIC, None)
    try:
        verifier = (
            PolicyBuilder()
            .store(Store([root.parsed for root in roots]))
            .time(datetime.fromtimestamp(now, tz=UTC))
            .max_chain_depth(MAX_CHAIN_DEPTH)
            .extension_policies(ca_policy=authority, ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
        )
        chain = verifier.verify(leaf.parsed, [c.parsed for c in intermediates]).chain
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refuse("A4", "certificate-path", "the certificate cannot be verified") from error
    # the library's own rules for authorities are web rules and are off: these are RFC 5280's
    by_certificate = {certificate.parsed: certificate for certificate in (*roots, *intermediates)}
    authorities = [by_certificate[certificate] for certificate in chain[1:]]
    if not authorities:
        raise refuse("A4", "certificate-path", "expected an issuer, got a certificate that is its own root")
    for below, certificate in enumerate(authorities):
        if not is_signing_authority(certificate, below=below):
            raise refuse(
                "A4",
                "certificate-authority",
                "expected an authority with cA, keyCertSign and a long enough path, got "
                f"{subject_name(certificate)}",
            )
    return authorities[-1]


def _check_certified_key(certificate: Certificate, session: RecordedSession) -> tuple[None, str]:
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
    key = int.from_bytes(public.key.modulus, "big"), public.key.public_exponent
    if rsa_modulus(certificate) != key:
        raise refuse(
            "A5", "certificate-of-other-key", "expected the certified key, got another endorsement key"
        )
    return None, "endorsement key of template L-1, as certified"


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
