"""COSE_Sign1, against a signature that another implementation published."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blindbuild.errors import FormatError
from blindbuild.formats.cbor import encode_cbor
from blindbuild.formats.cose import parse_sign1, sign_sign1
from tests.fakes.damage import assert_all_refused, bit_flips, truncations

# awslabs/aws-nitro-enclaves-cose, src/sign.rs (commit 6064f826, Apache-2.0), test cose_sign1_ec384_validate
# and its test key; the message is made by another implementation, with an unprotected header {4: '11'}.
PRIVATE = 0x55C6AA815A31741BC37F0FFDDEA73AF2397BAD640816EF22BFB689EFC1B6CC682A73F7E5A657248E3ABAD500E46D5AFC
PUBLIC_X = 0x5A829F62F2F4F095C0E922719285B4B981C677912870A413137A5D7319916FA8584A6036951D06FFEAE99CA73AB1A2DC
MESSAGE = bytes.fromhex(
    "8444a1013822a104423131"
    "5875"
    + b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be "
    b"in want of a wife.".hex()
    + "5860"
    "cd42d27632d5414e4b545c95fde6e3505b93580f4b7731d14a86523175266cdeb24aff2de3364e9ceee9f9f795a01515"
    "5bc712aa2863e2aaf6078a819093fdfc7059a3f1467f64ec7e221fd163d80b3b552625cf379d1cbb9e5138ccd07a1931"
)


def private_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(PRIVATE, ec.SECP384R1())


def test_a_signature_by_another_implementation_is_verified() -> None:
    key = private_key().public_key()
    assert key.public_numbers().x == PUBLIC_X
    sign1 = parse_sign1(MESSAGE)
    assert sign1.unprotected == {4: b"11"}
    assert sign1.verify(key).startswith(b"It is a truth universally acknowledged")


def test_a_signature_is_the_same_every_time_and_is_verified() -> None:
    signed = sign_sign1(b"payload", private_key())
    assert signed == sign_sign1(b"payload", private_key())
    assert parse_sign1(signed).verify(private_key().public_key()) == b"payload"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_the_other_two_curves_sign_with_their_own_algorithms(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    sign1 = parse_sign1(sign_sign1(b"payload", key))
    assert sign1.verify(key.public_key()) == b"payload"
    with pytest.raises(FormatError, match="expected a signature by ES384"):
        sign1.verify(private_key().public_key())


def test_a_curve_without_an_algorithm_is_refused() -> None:
    with pytest.raises(FormatError, match="expected a key on secp256r1, secp384r1, secp521r1, got secp256k1"):
        sign_sign1(b"payload", ec.generate_private_key(ec.SECP256K1()))


def test_another_key_or_another_payload_is_refused() -> None:
    signed = sign_sign1(b"payload", private_key())
    with pytest.raises(FormatError, match="not this key's over this payload"):
        parse_sign1(signed).verify(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(FormatError, match="not this key's over this payload"):
        parse_sign1(signed.replace(b"payload", b"paylord")).verify(private_key().public_key())


def test_a_signature_of_another_length_is_refused() -> None:
    parts = (encode_cbor({1: -35}), {}, b"payload", b"\1" * 95)
    with pytest.raises(FormatError, match="expected a signature of 96 bytes, got 95"):
        parse_sign1(encode_cbor(parts)).verify(private_key().public_key())


def test_a_signature_of_zeros_is_refused() -> None:
    parts = (encode_cbor({1: -35}), {}, b"payload", bytes(96))
    with pytest.raises(FormatError, match="not this key's"):
        parse_sign1(encode_cbor(parts)).verify(private_key().public_key())


@pytest.mark.parametrize("value", [0, (), (b"", {}, b""), (b"", {}, 0, b""), (b"", b"", b"", b"")])
def test_what_is_not_four_parts_is_refused(value: object) -> None:
    with pytest.raises(FormatError, match=r"expected the four parts|expected bytes, a map"):
        parse_sign1(encode_cbor(value))  # type: ignore[arg-type]


def test_damage_gives_our_error_only() -> None:
    signed, key = sign_sign1(b"payload", private_key()), private_key().public_key()
    assert_all_refused(parse_sign1, truncations(signed), FormatError)
    assert_all_refused(lambda data: parse_sign1(data).verify(key), bit_flips(signed), FormatError)
