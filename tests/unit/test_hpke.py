"""HPKE's two halves against the RFCs' vectors, and against the one in `cryptography`."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.hpke import AES_256_GCM, Aead, read_key, set_up_recipient, set_up_sender
from tests.bad_inputs import refusing

AES_128_GCM = Aead(0x0001, 16)  # what the RFCs' vectors for X25519 have
ORACLES = {
    AES_128_GCM: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM),
    AES_256_GCM: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}
# points whose order divides 8, and one above the field (RFC 7748 sections 5 and 6.1)
SMALL = (
    bytes(32),
    b"\1" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
)


def test_a_message_is_sealed_as_in_appendix_a_of_rfc_9180() -> None:
    """A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base mode."""
    sender = set_up_sender(
        bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
        info=bytes.fromhex("4f6465206f6e2061204772656369616e2055726e"),
        ephemeral=bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736"),
        aead=AES_128_GCM,
    )
    assert sender.encapsulated.hex() == "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
    sealed = sender.seal(b"Count-0", b"Beauty is truth, truth beauty")
    assert sealed.hex() == (
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    for use, secret in (
        (b"", "3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee"),
        (b"\0", "2e8f0b54673c7029649d4eb9d5e33bf1872cf76d623ff164ac185da9e88c21a5"),
        (b"TestContext", "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931"),
    ):
        assert sender.export(use, 32).hex() == secret


def test_an_answer_is_opened_as_in_appendix_a_of_rfc_9458() -> None:
    sender = set_up_sender(
        bytes.fromhex("31e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e798155"),
        info=bytes.fromhex("6d6573736167652f626874747020726571756573740001002000010001"),
        ephemeral=bytes.fromhex("bc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73"),
        aead=AES_128_GCM,
    )
    request = bytes.fromhex("00034745540568747470730b6578616d706c652e636f6d012f")
    assert (sender.encapsulated + sender.seal(b"", request)).hex() == (
        "4b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b472"
        "6374e469135906992e1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525"
    )
    answer = bytes.fromhex("c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd")
    assert sender.open_answer(b"message/bhttp response", answer).hex() == "0140c8"


@given(st.sampled_from(list(ORACLES)), st.binary(max_size=200), st.binary(max_size=50))
def test_another_implementation_opens_what_is_sealed(aead: Aead, message: bytes, info: bytes) -> None:
    recipient, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate().private_bytes_raw()
    sender = set_up_sender(
        recipient.public_key().public_bytes_raw(), info=info, ephemeral=ephemeral, aead=aead
    )
    whole = sender.encapsulated + sender.seal(b"", message)
    assert ORACLES[aead].decrypt(whole, recipient, info) == message
    for other in (info + b"x", info[1:] if info else b"y"):
        with pytest.raises(InvalidTag):
            ORACLES[aead].decrypt(whole, recipient, other)


def test_a_message_is_opened_as_in_appendix_a_of_rfc_9180() -> None:
    """A.1.1; the key is RFC 9180's skRm."""
    recipient = set_up_recipient(
        X25519PrivateKey.from_private_bytes(
            bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
        ),
        bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"),
        info=bytes.fromhex("4f6465206f6e2061204772656369616e2055726e"),
        aead=AES_128_GCM,
    )
    sealed = bytes.fromhex(
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    assert recipient.open(b"Count-0", sealed) == b"Beauty is truth, truth beauty"
    for additional, message in ((b"Count-1", sealed), (b"Count-0", sealed[:-1]), (b"Count-0", b"")):
        with pytest.raises(FormatError, match="expected a message that was sealed to this key"):
            recipient.open(additional, message)


@given(st.sampled_from(list(ORACLES)), st.binary(max_size=200), st.binary(max_size=50))
def test_what_another_implementation_seals_is_opened(aead: Aead, message: bytes, info: bytes) -> None:
    own = X25519PrivateKey.generate()
    whole = ORACLES[aead].encrypt(message, own.public_key(), info)
    recipient = set_up_recipient(own, whole[:32], info=info, aead=aead)
    assert recipient.open(b"", whole[32:]) == message


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(max_size=200))
def test_both_ends_agree_on_message_and_answer(message: bytes, additional: bytes, answer: bytes) -> None:
    own, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate().private_bytes_raw()
    sender = set_up_sender(own.public_key().public_bytes_raw(), info=b"x", ephemeral=ephemeral)
    recipient = set_up_recipient(own, sender.encapsulated, info=b"x")
    assert recipient.open(additional, sender.seal(additional, message)) == message
    assert sender.open_answer(b"use", recipient.seal_answer(b"use", answer, salt=bytes(32))) == answer
    with pytest.raises(FormatError):
        sender.open_answer(b"other", recipient.seal_answer(b"use", answer, salt=bytes(32)))


@pytest.mark.parametrize("encapsulated", [*SMALL, b"", bytes(31), bytes(33)])
def test_an_encapsulated_key_that_gives_no_secret_is_refused(encapsulated: bytes) -> None:
    with pytest.raises(FormatError, match="expected an X25519 key that gives a secret"):
        set_up_recipient(X25519PrivateKey.generate(), encapsulated, info=b"")


@pytest.mark.bad_input(125)
@pytest.mark.parametrize("key", SMALL, ids=["0", "1", "p-1", "p", "order 8"])
def test_a_key_for_which_everybody_knows_the_secret_is_refused(key: bytes) -> None:
    with refusing("expected an X25519 key that gives a secret", FormatError):
        set_up_sender(key, info=b"", ephemeral=bytes(range(32)))


def test_every_changed_or_cut_answer_is_refused() -> None:
    answer = bytes.fromhex("c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd")
    use = b"message/bhttp response"
    sender = set_up_sender(
        bytes.fromhex("31e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e798155"),
        info=bytes.fromhex("6d6573736167652f626874747020726571756573740001002000010001"),
        ephemeral=bytes.fromhex("bc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73"),
        aead=AES_128_GCM,
    )
    assert sender.open_answer(use, answer)
    changed = [answer[:size] for size in range(len(answer))] + [answer + b"\0"]
    for index in range(len(answer) * 8):
        bits = bytearray(answer)
        bits[index // 8] ^= 1 << index % 8
        changed.append(bytes(bits))
    for wrong in changed:
        with pytest.raises(FormatError):
            sender.open_answer(use, wrong)
    with pytest.raises(FormatError):
        sender.open_answer(use + b"x", answer)


def test_no_secret_is_longer_than_a_hash() -> None:
    sender = set_up_sender(b"\x09" + bytes(31), info=b"", ephemeral=bytes(range(32)))
    assert len(sender.export(b"", 32)) == 32
    for size in (0, 33):
        with pytest.raises(AssertionError):
            sender.export(b"", size)


def test_a_key_is_read_in_its_one_encoding() -> None:
    public = X25519PrivateKey.generate().public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert read_key(spki) == public.public_bytes_raw()
    ed25519 = spki.replace(bytes.fromhex("2b656e"), bytes.fromhex("2b6570"))
    for wrong in (b"", spki[:-1], spki + b"\0", ed25519, public.public_bytes_raw()):
        with pytest.raises(FormatError, match="expected an X25519 SubjectPublicKeyInfo"):
            read_key(wrong)
