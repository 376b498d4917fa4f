"""Steps Q and C: did that key sign these register values, for this client, now, on this connection?"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.tpm2 import (
    TPM_GENERATED_VALUE,
    TPM_ST_ATTEST_QUOTE,
    Algorithm,
    EcdsaSignature,
    Quote,
    RsaSignature,
    TpmSignature,
    attest_magic_and_type,
    parse_quote,
    parse_signature,
    signature_scheme,
)
from blindbuild.formats.tpmkey import EccKey, PublicArea, RsaKey
from blindbuild.measure.classification import REGISTER_COUNT
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.endorse import AttestationKey
from blindbuild.verify.policy import Basis
from blindbuild.verify.session import NONCE_SIZE, PROFILE, SEALED_PROFILE, RecordedSession

LABELS = {PROFILE: b"blindbuild/tls-spki-quote/v1", SEALED_PROFILE: b"blindbuild/hpke-quote/v1"}
ROLE = b"server"
_SELECT_SIZE = 3  # bytes: 24 registers
_HASHES: dict[int, tuple[HashAlgorithm, hashes.HashAlgorithm]] = {
    HashAlgorithm.SHA256.tpm_id: (HashAlgorithm.SHA256, hashes.SHA256()),
    HashAlgorithm.SHA384.tpm_id: (HashAlgorithm.SHA384, hashes.SHA384()),
    HashAlgorithm.SHA512.tpm_id: (HashAlgorithm.SHA512, hashes.SHA512()),
}
# TPM_ECC_CURVE: the curve and the size of its numbers in bytes
_CURVES: dict[int, tuple[ec.EllipticCurve, int]] = {
    0x0003: (ec.SECP256R1(), 32),
    0x0004: (ec.SECP384R1(), 48),
    0x0005: (ec.SECP521R1(), 66),
}
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class QuoteExpectation:
    """What a quote must be about: which bank, which registers, and their values by number."""

    bank: HashAlgorithm
    registers: frozenset[int]
    values: Sequence[Digest]


ALL_REGISTERS = frozenset(range(REGISTER_COUNT))


def bound_data(*, nonce: bytes, spki: bytes, statement: Digest, profile: str = PROFILE) -> bytes:
    """Return the extraData of a quote that belongs to one nonce, one channel key and one statement.

    Each part with its length in front, so that no two lists of parts give the same bytes.

    Source: docs/spec/evidence.md.
    """
    parts = (LABELS[profile], nonce, Digest.sha256(spki).value, statement.value, ROLE)
    return Digest.sha256(b"".join(struct.pack(">H", len(part)) + part for part in parts)).value


def judge_signature(
    steps: Checklist,
    *,
    public: PublicArea | None,
    raw_quote: bytes,
    raw_signature: bytes,
    needs: Sequence[str],
) -> Quote | None:
    """Run steps Q3, Q4, Q2, Q5, Q6 and Q10: return the quote if the key signed these very bytes.

    Args:
        public: the key, or None when step A2 could not read it.
        needs: the steps that must have passed for `public` to be there.
    """
    steps.run("Q3", lambda: _check_scheme(found(public), raw_signature), needs=needs)
    signature: TpmSignature | None = steps.run(
        "Q4", lambda: _check_form(found(public), raw_signature), needs=("Q3",)
    )
    steps.run("Q2", lambda: _check_signature(found(public), signature, raw_quote), needs=("Q4",))
    # nothing of the quote is read before somebody is known to have signed it
    steps.run("Q5", partial(_check_magic, raw_quote), needs=("Q2",))
    steps.run("Q6", partial(_check_type, raw_quote), needs=("Q5",))
    return steps.run("Q10", partial(_read_quote, raw_quote), needs=("Q6",))


def judge_values(
    steps: Checklist, quote: Quote | None, expected: QuoteExpectation, raw_signature: bytes
) -> None:
    """Run steps Q8 and Q9: the values at hand are the signed ones, of exactly these registers."""
    steps.run("Q8", lambda: _check_selection(found(quote), expected), needs=("Q10",))
    steps.run("Q9", lambda: _check_values(found(quote), expected, raw_signature), needs=("Q8",))


def judge_machine(steps: Checklist, quote: Quote | None, key: AttestationKey | None, basis: Basis) -> None:
    """Run steps Q11, Q12 and Q14: where the key lives, and the TPM's own counters."""
    public = None if key is None else key.public
    steps.run("Q11", lambda: _check_signer(found(quote), found(public)), needs=("Q10", "A2"))
    # Q13, Part 1, 36.7: a TPM obfuscates its counters and firmware version for keys of other hierarchies
    steps.run("Q12", lambda: _check_clock(found(quote), found(key).tpm, basis), needs=("Q11",))
    minimum = basis.policy.minimum_tpm_firmware
    if minimum is None:
        steps.skip("Q14", "no minimum is asked for")
    else:
        steps.run("Q14", lambda: _check_firmware(found(quote), minimum or 0), needs=("Q11",))


def judge_binding(steps: Checklist, quote: Quote | None, session: RecordedSession) -> None:
    """Run steps Q7 and C3: the quote was made for this nonce, this statement, and this connection's key."""
    steps.run("Q7", lambda: _check_bound_data(found(quote), session), needs=("Q10",))
    if steps.passed("Q7"):
        steps.run("C3", lambda: _check_channel(session))
    elif steps.passed("Q10", "A8"):
        # this very TPM answered our fresh credential, so the session is not an old one
        steps.run("C3", lambda: _other_key(session))
    else:
        steps.skip("C3", "not reached: needs Q7")


def check_nonce(nonce: bytes) -> tuple[None, str]:
    """Step Q1: long enough that it was never used before; that it is fresh is the client's doing."""
    if len(nonce) != NONCE_SIZE or not any(nonce):
        raise refuse("Q1", "nonce-size", f"expected a random nonce of {NONCE_SIZE} bytes, got {len(nonce)}")
    return None, f"{NONCE_SIZE} bytes"


def _check_scheme(public: PublicArea, raw: bytes) -> tuple[None, str]:
    scheme, hash_id = signature_scheme(raw)
    if hash_id not in _HASHES:
        raise refuse("Q3", "signature-scheme", f"expected SHA-256, SHA-384 or SHA-512, got 0x{hash_id:04x}")
    if (scheme, hash_id) != (public.scheme.algorithm, public.scheme.hash_id):
        raise refuse(
            "Q3",
            "signature-scheme",
            f"expected the key's scheme 0x{public.scheme.algorithm:04x} with hash "
            f"0x{public.scheme.hash_id or 0:04x}, got 0x{scheme:04x} with 0x{hash_id:04x}",
        )
    return None, f"{Algorithm(scheme).name} with {_HASHES[hash_id][0].value}"


def _check_form(public: PublicArea, raw: bytes) -> tuple[TpmSignature, str]:
    try:
        signature = parse_signature(raw)
    except FormatError as error:
        raise refuse("Q4", "signature-malformed", error.message) from error
    if isinstance(signature, EcdsaSignature):
        size = _curve_of(public)[1]
        for name, number in (("r", signature.r), ("s", signature.s)):
            # TPMs pad to the curve's size; shorter is the same number, longer is not
            if not 1 <= len(number) <= size or not any(number):
                raise refuse(
                    "Q4", "signature-malformed", f"expected {name} of 1 to {size} bytes and not zero"
                )
        return signature, "r and s in range"
    modulus = _rsa_of(public)
    if len(signature.value) != len(modulus):
        raise refuse(
            "Q4", "signature-malformed", f"expected {len(modulus)} bytes, got {len(signature.value)}"
        )
    return signature, f"{len(signature.value)} bytes"


def _check_signature(
    public: PublicArea, signature: TpmSignature | None, raw_quote: bytes
) -> tuple[None, str]:
    try:
        if isinstance(signature, EcdsaSignature):
            _verify_ecdsa(public, signature, raw_quote)
        else:
            _verify_rsa(public, found(signature), raw_quote)
    except (InvalidSignature, ValueError) as error:
        raise refuse(
            "Q2", "signature-invalid", "expected a signature by the attestation key over the quote"
        ) from error
    return None, f"signed by {public.name().hex()}"


def _verify_ecdsa(public: PublicArea, signature: EcdsaSignature, message: bytes) -> None:
    curve = _curve_of(public)[0]
    if not isinstance(public.key, EccKey):
        raise refuse("Q2", "signature-invalid", "expected an ECC key for an ECDSA signature")
    x, y = int.from_bytes(public.key.x, "big"), int.from_bytes(public.key.y, "big")
    key = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    r, s = int.from_bytes(signature.r, "big"), int.from_bytes(signature.s, "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(_HASHES[signature.hash_id][1]))


def _verify_rsa(public: PublicArea, signature: RsaSignature, message: bytes) -> None:
    modulus = int.from_bytes(_rsa_of(public), "big")
    if not isinstance(public.key, RsaKey) or modulus.bit_length() < _MIN_RSA_BITS:
        raise refuse("Q2", "signature-invalid", f"expected an RSA key of at least {_MIN_RSA_BITS} bits")
    key = rsa.RSAPublicNumbers(public.key.public_exponent, modulus).public_key()
    algorithm = _HASHES[signature.hash_id][1]
    if signature.scheme is Algorithm.RSAPSS:
        # Part 1, B.7: the salt is as long as the digest or as the key allows, depending on the TPM
        pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
        key.verify(signature.value, message, pss, algorithm)
    else:
        key.verify(signature.value, message, padding.PKCS1v15(), algorithm)


def _curve_of(public: PublicArea) -> tuple[ec.EllipticCurve, int]:
    if not isinstance(public.key, EccKey) or public.key.curve not in _CURVES:
        raise refuse("Q4", "signature-scheme", "expected a key on P-256, P-384 or P-521 for ECDSA")
    return _CURVES[public.key.curve]


def _rsa_of(public: PublicArea) -> bytes:
    if not isinstance(public.key, RsaKey):
        raise refuse("Q4", "signature-scheme", "expected an RSA key for an RSA signature")
    return public.key.modulus


def _check_magic(raw: bytes) -> tuple[None, str]:
    magic, _attest_type = attest_magic_and_type(raw)
    if magic != TPM_GENERATED_VALUE:
        raise refuse(
            "Q5", "not-made-by-a-tpm", f"expected magic 0x{TPM_GENERATED_VALUE:08x}, got 0x{magic:08x}"
        )
    return None, "magic 0xff544347"


def _check_type(raw: bytes) -> tuple[None, str]:
    _magic, attest_type = attest_magic_and_type(raw)
    if attest_type != TPM_ST_ATTEST_QUOTE:
        raise refuse(
            "Q6", "not-a-quote", f"expected type 0x{TPM_ST_ATTEST_QUOTE:04x}, got 0x{attest_type:04x}"
        )
    return None, "type 0x8018"


def _read_quote(raw: bytes) -> tuple[Quote, str]:
    try:
        return parse_quote(raw), f"{len(raw)} bytes"
    except FormatError as error:
        raise refuse("Q10", "malformed", error.message) from error


def _check_selection(quote: Quote, expected: QuoteExpectation) -> tuple[None, str]:
    if len(quote.selections) != 1:
        raise refuse("Q8", "selection-banks", f"expected one bank, got {len(quote.selections)}")
    selection = quote.selections[0]
    if selection.bank != expected.bank.tpm_id:
        raise refuse(
            "Q8",
            "selection-bank",
            f"expected bank {expected.bank.value} (0x{expected.bank.tpm_id:04x}), got 0x{selection.bank:04x}",
        )
    if len(selection.bitmap) != _SELECT_SIZE or selection.registers != expected.registers:
        raise refuse(
            "Q8",
            "selection-registers",
            f"expected registers {_ranges(expected.registers)}, got {_ranges(selection.registers)}",
        )
    return None, f"{expected.bank.value}:{_ranges(expected.registers)}"


def _check_values(quote: Quote, expected: QuoteExpectation, raw_signature: bytes) -> tuple[None, str]:
    # Part 3, 18.4: the digest is made with the hash of the signature scheme, not with the bank's
    algorithm = _HASHES[signature_scheme(raw_signature)[1]][0]
    chosen = [expected.values[register] for register in sorted(expected.registers)]
    if any(value.algorithm is not expected.bank for value in chosen):
        raise refuse("Q9", "values-bank", f"expected values of bank {expected.bank.value}")
    computed = Digest.of(algorithm, b"".join(value.value for value in chosen))
    if not hmac.compare_digest(computed.value, quote.pcr_digest):
        raise refuse(
            "Q9",
            "values-mismatch",
            f"expected values with digest {quote.pcr_digest.hex()}, as signed, got {computed.hex}",
        )
    return None, f"digest {computed.hex}"


def _check_signer(quote: Quote, public: PublicArea) -> tuple[None, str]:
    # a primary of the endorsement hierarchy: Part 1, 16, qualified names
    expected = public.qualified_name()
    if quote.qualified_signer != expected:
        raise refuse(
            "Q11",
            "signer-elsewhere",
            f"expected a primary key of the endorsement hierarchy, {expected.hex()}, "
            f"got {quote.qualified_signer.hex()}",
        )
    return None, "primary key of the endorsement hierarchy"


def _check_clock(quote: Quote, tpm: bytes, basis: Basis) -> tuple[None, str]:
    clock = quote.clock
    if not clock.safe and not basis.policy.allow_unsafe_clock:
        raise refuse(
            "Q12",
            "clock-unsafe",
            "expected a TPM clock that never went back, got one that lost power without a shutdown",
            hint="a TPM is sure of its clock again seconds to an hour after it lost power: ask again later, "
            "or pass --allow-unsafe-clock",
        )
    history = basis.history
    before = history.clocks.get(tpm.hex()) if history else None
    if before is None:
        return None, f"{clock.reset_count} resets, {clock.restart_count} restarts"
    # Part 1, 36.2: clock never goes back but by TPM2_Clear, which clears the counts as well
    if (clock.reset_count, clock.restart_count, clock.clock) < (
        before.reset_count,
        before.restart_count,
        before.clock,
    ):
        raise refuse(
            "Q12",
            "clock-went-back",
            f"expected at least {before.reset_count} resets and clock {before.clock}, as seen before, "
            f"got {clock.reset_count} and {clock.clock}",
            hint="the TPM's state was restored from a copy, or cleared",
        )
    return None, f"{clock.reset_count} resets, before {before.reset_count}"


def _check_firmware(quote: Quote, minimum: int) -> tuple[None, str]:
    if quote.firmware_version < minimum:
        raise refuse(
            "Q14",
            "tpm-firmware",
            f"expected TPM firmware 0x{minimum:016x} or later, got 0x{quote.firmware_version:016x}",
        )
    return None, f"0x{quote.firmware_version:016x}"


def _check_bound_data(quote: Quote, session: RecordedSession) -> tuple[None, str]:
    expected = bound_data(
        nonce=session.nonce, spki=session.spki, statement=session.statement, profile=session.profile
    )
    if not hmac.compare_digest(quote.extra_data, expected):
        raise refuse(
            "Q7",
            "bound-data-mismatch",
            f"expected extraData {expected.hex()}, got {quote.extra_data.hex()[:128]}: "
            "the quote was made for another nonce, another key of the channel or another statement",
        )
    return None, f"extraData {expected.hex()}"


def _check_channel(session: RecordedSession) -> tuple[None, str]:
    key = Digest.sha256(session.spki).hex
    if session.profile == PROFILE:
        return None, f"TLS key {key}"
    sealing = session.evidence.sealing
    if sealing is None or sealing.spki != session.spki:
        raise refuse("C3", "other-hpke-key", "expected requests sealed to the attested key, got another")
    return None, f"requests are sealed to HPKE key {key}"


def _other_key(session: RecordedSession) -> tuple[None, str]:
    if session.profile == SEALED_PROFILE:
        raise refuse(
            "C3",
            "other-hpke-key",
            "the TPM answered this client's own credential, but its quote is bound to another HPKE key: "
            "somebody between this client and the image put in a key of theirs",
        )
    raise refuse(
        "C3",
        "other-tls-key",
        "the TPM answered this client's own credential, but its quote is bound to another TLS key: "
        "somebody stands between this client and the image",
    )


def _ranges(registers: frozenset[int]) -> str:
    if not registers:
        return "none"
    numbers = sorted(registers)
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][-1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
