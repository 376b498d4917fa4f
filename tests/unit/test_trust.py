"""Trust files: whom a client believes, without doubt."""

from __future__ import annotations

import json

import pytest

from blindbuild.errors import ManifestError, UsageError
from blindbuild.manifest import parse_trust
from blindbuild.publish import SigningKey, TrustContent, generate_key, load_key, make_trust, replace_trust
from tests.fakes.attester import b64
from tests.fakes.tuf_world import TufWorld
from tests.fakes.world import authority, publisher, tpm

KEY, REBUILDER, SECOND_REBUILDER = generate_key(), generate_key(), generate_key()
ROOT, ISSUER = authority().root_pem, authority().issuer_pem
GOOD = {
    "version": 1,
    "product": "hello",
    "releaseKeys": [{"public": b64(KEY.public.spki)}],
    "threshold": 1,
    "tpmRoots": [ROOT],
    "tpmIntermediates": [ISSUER],
}
MISSING = object()
NO_ROOTS = {"tpmRoots": MISSING, "tpmIntermediates": MISSING}


def rebuilders(*keys: SigningKey, threshold: int = 1) -> dict:
    return {
        "rebuilders": {"keys": [{"public": b64(key.public.spki)} for key in keys], "threshold": threshold}
    }


REFUSED = {
    "a release key as rebuilder": (
        rebuilders(REBUILDER, KEY),
        "expected rebuilders that are no release keys",
    ),
    "the same rebuilder twice": (rebuilders(REBUILDER, REBUILDER), "same rebuilder is listed twice"),
    "more rebuilders needed than there are": (
        rebuilders(REBUILDER, threshold=2),
        "trust file.rebuilders.threshold: expected 1 to 1, got 2",
    ),
    "rebuilders of whom none is needed": (rebuilders(REBUILDER, threshold=0), "expected 1 to 1, got 0"),
    "an empty list of rebuilders": (rebuilders(), "rebuilders.keys: expected 1 to 16 entries"),
    "a domain that is no digest": ({"domain": "x"}, "trust file.domain: "),
    "threshold above the keys": ({"threshold": 2}, "trust file.threshold: expected 1 to 1, got 2"),
    "threshold zero": ({"threshold": 0}, "expected 1 to 1, got 0"),
    "threshold true": ({"threshold": True}, "expected an integer, got a boolean"),
    "no release key": ({"releaseKeys": []}, "expected 1 to 16 entries"),
    "the same key twice": ({"releaseKeys": GOOD["releaseKeys"] * 2}, "same release key is listed twice"),
    "a key with a claimed id": (
        {"releaseKeys": [{"public": b64(KEY.public.spki), "keyid": "x"}]},
        "unknown 'keyid'",
    ),
    "a key that is not base64": ({"releaseKeys": [{"public": "%"}]}, "expected standard base64"),
    "a key of another kind": ({"releaseKeys": [{"public": b64(b"x")}]}, "SubjectPublicKeyInfo"),
    "unknown version": ({"version": 2}, "expected 1 to 1, got 2"),
    "unknown field": ({"tpmRoot": []}, "unknown 'tpmRoot'"),
    "no product": ({"product": MISSING}, "missing product"),
    "nothing to believe a TPM by": ({"tpmRoots": [], "tpmIntermediates": []}, "got none of them"),
    "two ways to believe a TPM": (
        {"attestationKeys": [b64(tpm().ak_public)]},
        "got TPM roots and attestation keys",
    ),
    "TPM roots and AK roots": (
        {"tpmRoots": [ROOT], "tpmIntermediates": [], "akRoots": [ISSUER]},
        "got TPM roots and AK roots",
    ),
    "AK roots and a pinned key": (
        NO_ROOTS | {"akRoots": [ROOT], "attestationKeys": [b64(tpm().ak_public)]},
        "got AK roots and attestation keys",
    ),
    "AK intermediates without a root": (
        {"tpmIntermediates": [], "akIntermediates": [ISSUER]},
        "expected a root for the intermediates",
    ),
    "intermediates without a root": (
        {"tpmRoots": [], "testTpmRoots": [ROOT], "tpmIntermediates": [ISSUER]},
        "expected a root for the intermediates",
    ),
    "a certificate twice": ({"testTpmRoots": [ROOT]}, "same certificate is listed twice"),
    "two certificates in one entry": ({"tpmRoots": [ROOT + ISSUER]}, "expected one PEM certificate"),
    "text before the certificate": ({"tpmRoots": ["x" + ROOT]}, "expected one PEM certificate"),
    "a damaged certificate": ({"tpmRoots": [ROOT.replace("M", "N", 3)]}, "tpmRoots[0]: "),
    "a private key as root": ({"tpmRoots": [KEY.to_pem().decode()]}, "expected one PEM certificate"),
    "an attestation key that is not one": (
        {"tpmRoots": [], "tpmIntermediates": [], "attestationKeys": [b64(b"x")]},
        "attestationKeys[0]: ",
    ),
}


def encode(changes: dict) -> bytes:
    value = {key: new for key, new in (GOOD | changes).items() if new is not MISSING}
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", REFUSED)
def test_a_trust_file_that_breaks_a_rule_is_refused(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ManifestError) as caught:
        parse_trust(encode(changes))
    assert message in caught.value.message


def test_a_trust_file_is_read() -> None:
    trust = parse_trust(encode({}))
    assert trust.product == "hello"
    assert [key.key_id for key in trust.release_keys] == [KEY.public.key_id]
    assert (len(trust.tpm_roots), len(trust.tpm_intermediates), trust.test_tpm_roots) == (1, 1, ())


def test_a_trust_file_may_pin_attestation_keys_instead() -> None:
    pinned = {"tpmRoots": MISSING, "tpmIntermediates": MISSING, "attestationKeys": [b64(tpm().ak_public)]}
    assert parse_trust(encode(pinned)).attestation_keys[0].name() == tpm().ak_name


def test_a_trust_file_may_pin_who_certifies_attestation_keys_instead() -> None:
    trust = parse_trust(encode(NO_ROOTS | {"akRoots": [ROOT], "akIntermediates": [ISSUER]}))
    assert (len(trust.ak_roots), len(trust.ak_intermediates), trust.tpm_roots) == (1, 1, ())


def test_the_domain_is_product_and_keys_and_nothing_else() -> None:
    domain = parse_trust(encode({})).domain
    assert (
        parse_trust(encode({"tpmRoots": [], "tpmIntermediates": [], "testTpmRoots": [ROOT]})).domain == domain
    )
    assert parse_trust(encode({"product": "other"})).domain != domain
    other = [{"public": b64(generate_key().public.spki)}]
    assert parse_trust(encode({"releaseKeys": other})).domain != domain


def test_a_trust_file_may_name_rebuilders() -> None:
    trust = parse_trust(encode(rebuilders(REBUILDER, SECOND_REBUILDER, threshold=2)))
    assert trust.rebuilders == (REBUILDER.public, SECOND_REBUILDER.public)
    assert trust.rebuilder_threshold == 2
    assert parse_trust(encode({})).rebuilders == ()


def test_a_trust_file_that_takes_another_ones_place_keeps_its_domain() -> None:
    before = parse_trust(encode({}))
    rotated = {"releaseKeys": [{"public": b64(generate_key().public.spki)}], "domain": before.domain.hex}
    assert parse_trust(encode(rotated)).domain == before.domain


def test_clients_that_move_to_a_tuf_repository_forget_nothing() -> None:
    root = TufWorld().roots[0]
    old = encode(rebuilders(REBUILDER))
    new = parse_trust(
        replace_trust(old, TrustContent("hello", tuf_root=root, tuf_repository="https://r.test/"))
    )
    assert (new.tuf_root, new.tuf_repository, new.release_keys) == (root, "https://r.test/", ())
    assert new.domain == parse_trust(old).domain
    assert new.rebuilders == (REBUILDER.public,)
    # and back
    back = parse_trust(replace_trust(make_trust_of(root), TrustContent("hello", [KEY.public])))
    assert (back.tuf_root, back.release_keys, back.threshold) == (None, (KEY.public,), 1)


def make_trust_of(root: bytes) -> bytes:
    return make_trust(TrustContent("hello", tuf_root=root, tpm_roots=[ROOT]))


def test_each_channel_has_a_domain_and_the_default_keeps_the_old_one() -> None:
    trust, other = parse_trust(encode({})), parse_trust(encode({"product": "other"}))
    assert trust.domain_of("stable") == trust.domain
    domains = {each.domain_of(channel) for each in (trust, other) for channel in ("stable", "beta", "edge")}
    assert len(domains) == 6


def test_a_trust_file_is_made_that_reads_back() -> None:
    content = TrustContent("hello", [KEY.public], tpm_roots=[ROOT], tpm_intermediates=[ISSUER])
    assert parse_trust(make_trust(content)) == parse_trust(encode({}))


def test_a_trust_file_that_no_client_would_accept_is_not_made() -> None:
    with pytest.raises(ManifestError, match="got none of them"):
        make_trust(TrustContent("hello", [KEY.public]))


def test_a_release_key_survives_its_file() -> None:
    assert load_key(KEY.to_pem()).public == KEY.public


@pytest.mark.parametrize("pem", [b"", b"x", publisher().key.public.spki])
def test_a_file_that_is_no_release_key_is_refused(pem: bytes) -> None:
    with pytest.raises(UsageError, match="private key in PEM"):
        load_key(pem)


def test_a_truncated_trust_file_gives_our_error_at_every_length() -> None:
    data = encode({})
    for length in range(0, len(data), 5):
        with pytest.raises(ManifestError):
            parse_trust(data[:length])
