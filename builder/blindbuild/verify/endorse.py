"""Steps A: is the key that signs quotes inside a TPM that somebody we trust vouches for?

The client's way to believe a TPM is in the trust file: roots of endorsement certificates, roots of
attestation key certificates, or pinned keys. `endorse_certificate` reads certificates, when there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import Attribute, EccKey, PublicArea, RsaKey, Scheme, parse_sized_public
from blindbuild.manifest import AttestationKeyRule, TrustRoots
from blindbuild.manifest.rfc3339 import MAX_TIME
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.machines import ShownMachine, judge_machine_list
from blindbuild.verify.policy import Basis
from blindbuild.verify.session import RecordedSession

CURVE_P256 = 0x0003  # TPM_ECC_NIST_P256
_P256_COORDINATE = 32  # bytes
_RSA_BITS = 2048  # of every cloud's key that was seen
_RSA_EXPONENT = 65537
# docs/spec/evidence.md, "AK"; of noDA depends only whether wrong passwords lock the key, and it has none
_AK_ATTRIBUTES = 0x00050072
_CERTIFIED_ATTRIBUTES = (_AK_ATTRIBUTES, _AK_ATTRIBUTES | Attribute.NO_DA)
_ECDSA = Scheme(Algorithm.ECDSA, HashAlgorithm.SHA256.tpm_id)
_RSASSA = Scheme(Algorithm.RSASSA, HashAlgorithm.SHA256.tpm_id)
_SCHEME_NAMES = {_ECDSA: "ecdsa-p256-sha256", _RSASSA: "rsassa-2048-sha256"}  # docs/spec/statement.md
_CLOUDS_KEY = (
    "a key that a cloud certified is believed by who certified it: `blindbuild trust --ak-root`, and never "
    "beside an endorsement certificate"
)
PINNED_KEY = "the attestation key is pinned: nothing here shows what kind of TPM holds it"


class TrustMode(Enum):
    """The one way to believe a TPM that a trust file gives; there is no falling back to another."""

    PINNED_KEY = "pinned attestation key"
    AK_CERTIFICATE = "certificate of the attestation key"
    EK_CREDENTIAL = "endorsement certificate and credential"


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that may sign quotes, and what is known of its TPM.

    Attributes:
        public: the key.
        tpm: the name by which this TPM is told from others: its endorsement key's where that is proven, since
            whoever fills a TPM's memory has it make as many attestation keys as he likes; or else this key's.
        operator_run: a software TPM that somebody runs.
        until: when that was certified no longer.
    """

    public: PublicArea
    tpm: bytes
    operator_run: bool
    until: int


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
    mode = steps.run("A1", partial(_one_way, session, basis.trust))
    # a credential proves a key of ours alone; whoever certified or pinned a key has chosen it
    chosen = mode in (TrustMode.PINNED_KEY, TrustMode.AK_CERTIFICATE)
    public = steps.run("A2", partial(_read_key, session, rule, chosen=chosen))
    steps.run("A3", lambda: _check_strength(found(public)), needs=("A2",))
    if mode is TrustMode.PINNED_KEY:
        _judge_pinned(steps, public, basis)
        judge_machine_list(steps, session, basis, ShownMachine(public))
        if public is None:
            return None
        return AttestationKey(public, public.name(), operator_run=False, until=MAX_TIME)
    from blindbuild.verify.endorse_certificate import judge_certified

    by_ak = mode is TrustMode.AK_CERTIFICATE
    certified = judge_certified(steps, session, basis, by_attestation_key=by_ak)
    shown = ShownMachine(public, certified.certificate, certified=True, by_credential=not by_ak)
    judge_machine_list(steps, session, basis, shown)
    if public is None:
        return None
    proven = not by_ak and steps.passed("A5", "A8")
    tpm = parse_sized_public(session.endorsement.ek_public) if proven else public
    return AttestationKey(public, tpm.name(), certified.operator_run, certified.until)


def trust_mode(trust: TrustRoots) -> TrustMode | None:
    """Return the one way to believe a TPM, or None when there is none or more than one."""
    ways = {
        TrustMode.PINNED_KEY: bool(trust.attestation_keys),
        TrustMode.AK_CERTIFICATE: bool(trust.ak_roots),
        TrustMode.EK_CREDENTIAL: bool(trust.tpm_roots or trust.test_tpm_roots),
    }
    given = [mode for mode, there in ways.items() if there]
    return given[0] if len(given) == 1 else None


def _one_way(session: RecordedSession, trust: TrustRoots) -> tuple[TrustMode, str]:
    mode = trust_mode(trust)
    if mode is None:
        raise refuse(
            "A1", "trust-ambiguous", "expected one of TPM roots, AK roots and pinned attestation keys"
        )
    if mode is not TrustMode.EK_CREDENTIAL and session.credential_secret is not None:
        raise refuse("A1", "trust-ambiguous", f"expected no credential with a {mode.value}, got one")
    return mode, mode.value


def _read_key(session: RecordedSession, rule: AttestationKeyRule, *, chosen: bool) -> tuple[PublicArea, str]:
    public = parse_sized_public(session.endorsement.ak_public)
    _check_attributes(public.attributes, rule, chosen=chosen)
    schemes = (_ECDSA, _RSASSA) if chosen else (_ECDSA,)
    shape = (public.name_algorithm, public.auth_policy, public.symmetric)
    if shape != (HashAlgorithm.SHA256.tpm_id, b"", None) or public.scheme not in schemes:
        expected = " or ".join(_SCHEME_NAMES[scheme] for scheme in schemes)
        raise refuse(
            "A2",
            "key-template",
            f"expected SHA-256 names, no policy, no symmetric algorithm and {expected}",
            hint=None if chosen else _CLOUDS_KEY,
        )
    name = _SCHEME_NAMES[public.scheme]
    if name not in rule.schemes:
        raise refuse(
            "A2", "key-scheme", f"expected {' or '.join(rule.schemes)}, as the statement says, got {name}"
        )
    return public, f"attributes 0x{public.attributes:08x}, {name}"


def _check_attributes(attributes: int, rule: AttestationKeyRule, *, chosen: bool) -> None:
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
    allowed = _CERTIFIED_ATTRIBUTES if chosen else (_AK_ATTRIBUTES,)
    if attributes not in allowed:
        expected = " or ".join(f"0x{each:08x}" for each in allowed)
        raise refuse(
            "A2",
            "key-attributes",
            f"expected attributes {expected}, got 0x{attributes:08x}",
            hint=None if chosen else _CLOUDS_KEY,
        )


def _check_strength(public: PublicArea) -> tuple[None, str]:
    return _check_modulus(public.key) if public.scheme == _RSASSA else _check_curve(public.key)


def _check_curve(key: RsaKey | EccKey) -> tuple[None, str]:
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


def _check_modulus(key: RsaKey | EccKey) -> tuple[None, str]:
    if not isinstance(key, RsaKey):
        raise refuse("A3", "key-type", "expected an RSA key for an RSA scheme")
    modulus = int.from_bytes(key.modulus, "big")
    sizes = (key.key_bits, len(key.modulus) * 8, modulus.bit_length())
    if sizes != (_RSA_BITS,) * 3 or modulus % 2 == 0:
        raise refuse(
            "A3",
            "key-size",
            f"expected an odd modulus of {_RSA_BITS} bits, got one of {sizes[2]} bits in {len(key.modulus)} "
            f"bytes of a key of {key.key_bits}",
        )
    if key.public_exponent != _RSA_EXPONENT:
        raise refuse(
            "A3", "key-exponent", f"expected the exponent {_RSA_EXPONENT}, got {key.public_exponent}"
        )
    return None, f"RSA-{_RSA_BITS}"


def _judge_pinned(steps: Checklist, public: PublicArea | None, basis: Basis) -> None:
    for step in ("A6", "A9", "A4", "A11", "A8"):
        steps.skip(step, "the attestation key is pinned")
    if basis.policy.require_crls or basis.crls:
        steps.run("A7", _no_certificate)
    else:
        steps.skip("A7", "the attestation key is pinned")
    steps.run("A5", lambda: _is_pinned(found(public), basis.trust), needs=("A1", "A2"))
    steps.warn(PINNED_KEY)


def _no_certificate() -> tuple[None, str]:
    # no authority certified the key, so none can revoke it, whatever lists there are
    raise refuse(
        "A7",
        "key-pinned",
        "expected a certificate whose revocation can be looked up, got a pinned attestation key, which has "
        "no certificate",
        hint="a pinned key is revoked by taking it out of the trust file: ask for no revocation lists, or "
        "trust the authority that certifies the key instead of the key",
    )


def _is_pinned(public: PublicArea, trust: TrustRoots) -> tuple[None, str]:
    if public.to_bytes() not in {key.to_bytes() for key in trust.attestation_keys}:
        raise refuse("A5", "key-not-pinned", "expected one of the pinned attestation keys, got another key")
    return None, f"pinned, name {public.name().hex()}"
