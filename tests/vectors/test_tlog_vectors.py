"""Logs, notes and witnesses of other people's software.

Provenance: shared vectors, trust/C2SP+C2SP (the example of signed-note), trust/transparency-dev+tessera (a
log written by Tessera), trust/transparency-dev+formats (parse tables), trust/FiloSottile+torchwood (requests
that litewitness answered). The Go checksum database's key, note and checkpoint are public facts of that log.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import pytest

from blindbuild.client.log_files import open_log, read_checkpoint, read_consistency
from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import parse_checkpoint, parse_checkpoint_text
from blindbuild.formats.cosignature import judge_key
from blindbuild.formats.merkle import (
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    read_root,
    verify_consistency,
    verify_inclusion,
)
from blindbuild.formats.note import (
    COSIGNATURE_ED25519,
    ED25519,
    SignatureState,
    accepts_ed25519,
    make_vkey,
    parse_note,
    parse_vkey,
    write_note,
)
from blindbuild.formats.tlog_proof import parse_tlog_proof
from blindbuild.formats.tlog_tiles import TileReader, read_entries
from blindbuild.publish import generate_key
from blindbuild.publish.witness import Witness, WitnessKey

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "trust"
TESSERA = VECTORS / "transparency-dev+tessera"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no vectors in {VECTORS}")

# golang.org/x/mod/sumdb/note, package documentation
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB_CHECKPOINT = (
    "go.sum database tree\n63096908\n8lHrQPRYe4KT4WQ9/Qk8/taKnD6IRHbFgfN7vQE2Y54=\n\n— sum.golang.org "
    "Az3gri/oVBN1jAhNZ/iS+W31psFAWRT20/GyrhpU6taFwulQGetBkH5S7wpGXdS935jiIGiUUAXBVHzT/P6fYhqAmAk=\n"
)


def load(name: str):
    return json.loads((VECTORS / name).read_text())


def signs(vkey: str, note: bytes) -> bool:
    key, parsed = parse_vkey(vkey), parse_note(note)
    assert write_note(parsed) == note
    return [accepts_ed25519(key, value, parsed.text) for value in parsed.of(key)] == [True]


def test_the_notes_of_go_are_accepted_and_nothing_that_differs() -> None:
    assert signs(PETER_KEY, PETER_NOTE.encode())
    assert signs(SUMDB_KEY, SUMDB_CHECKPOINT.encode())
    assert not signs(SUMDB_KEY, SUMDB_CHECKPOINT.replace("63096908", "63096909").encode())
    checkpoint = parse_checkpoint(SUMDB_CHECKPOINT.encode()).checkpoint
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", 63096908)
    assert parse_vkey(SUMDB_KEY).text == SUMDB_KEY


@needs_vectors
def test_the_example_of_signed_note_is_accepted() -> None:
    place = VECTORS / "C2SP+C2SP"
    vkey = (place / "signed-note.example.vkey").read_text().strip()
    assert signs(vkey, (place / "signed-note.example.note").read_bytes())


@needs_vectors
def test_the_log_of_tessera_holds_together_in_every_way() -> None:
    key = parse_vkey((TESSERA / "log.vkey").read_text().strip())
    root = TESSERA / "testdata" / "log"
    read = open_log(str(root))
    signed = [parse_checkpoint((root / f"checkpoint.{size}").read_bytes()) for size in range(16)]
    assert read_checkpoint(read) == signed[15]
    for size, one in enumerate(signed):
        assert judge_key(one, key).state is SignatureState.GOOD
        tiles = TileReader(read, size)
        assert one.checkpoint.size == size
        assert read_root(tiles.subtree, size) == one.checkpoint.root
        for index, entry in enumerate(read_entries(read, size)):
            path = prove_inclusion(tiles.subtree, index, size)
            verify_inclusion(leaf_hash(entry), index, size, path, one.checkpoint.root)
    for old, new in itertools.combinations_with_replacement([one.checkpoint for one in signed], 2):
        path = prove_consistency(TileReader(read, new.size).subtree, old.size, new.size)
        verify_consistency(old.size, old.root, new.size, new.root, path)
        assert read_consistency(read, new, old) == path


@needs_vectors
@pytest.mark.parametrize(
    "case", load("transparency-dev+formats/checkpoint-parse.json") if VECTORS.is_dir() else ()
)
def test_checkpoints_of_the_parse_table(case: dict) -> None:
    # the source takes roots of any length and empty lines; tlog-checkpoint does not
    stricter = "strict parser" in case["expect"]
    text = case["note_text"].encode()
    if case["expect"].startswith("accept by source") and not stricter:
        text = text.replace(
            b"dGhlIHZpZXcgZnJvbSB0aGUgdHJlZSB0b3BzIGlzIGdyZWF0IQ==", base64.b64encode(bytes(32))
        )
        assert parse_checkpoint_text(text).extensions == ("lots", "of", "lines")
        return
    with pytest.raises(TlogError):
        parse_checkpoint_text(text)


@needs_vectors
def test_keys_of_the_parse_table() -> None:
    table = load("transparency-dev+formats/cosignature-vkeys.json")
    kinds = [parse_vkey(text).kind for text in table["accept"]]
    assert kinds == [ED25519, COSIGNATURE_ED25519]
    for text in (*table["reject"], *table["unresolved"]):
        with pytest.raises(TlogError):
            parse_vkey(text)


@needs_vectors
@pytest.mark.parametrize(
    "case",
    load("transparency-dev+formats/tlog-proof-parse.json") if VECTORS.is_dir() else (),
    ids=lambda c: c["desc"],
)
def test_proofs_of_the_parse_table(case: dict) -> None:
    assert case["expect"] == "reject"
    with pytest.raises(TlogError):
        parse_tlog_proof(case["proof"].encode())
    # the table's checkpoints are none either: with a real one, the fault is still seen
    with pytest.raises(TlogError):
        parse_tlog_proof(case["proof"].encode().replace(b"checkpoint\n", SUMDB_CHECKPOINT.encode()))


@needs_vectors
def test_the_witness_answers_as_litewitness_does(tmp_path: Path) -> None:
    story = load("FiloSottile+torchwood/litewitness.add-checkpoint.json")
    origin = story["requests"][0]["body"].split("\n\n")[1].split("\n")[0]
    public = bytes.fromhex(story["log_setup"][0].split("-key=")[1])
    witness = Witness(
        tmp_path,
        WitnessKey.of("example.com/witness", generate_key()),
        [make_vkey(origin, ED25519, public)],
        clock=lambda: 1,
    )
    assert witness.begin() == (origin,)
    answers = [witness.add_checkpoint(request["body"].encode()) for request in story["requests"]]
    for request, answer in zip(story["requests"], answers, strict=True):
        # litewitness said 403 to an unknown log; tlog-witness has said 404 since
        expected = 404 if "unknown log" in request["asserts"] else request["status"]
        assert answer.status == expected, (request, answer)
        if request["asserts"].startswith("body == "):
            assert answer.body.decode() == json.loads(request["asserts"].split(" == ")[1])
            assert answer.content_type == "text/x.tlog.size"
        elif expected == 404:
            assert b"unknown log" in answer.body
        else:
            assert json.loads(request["asserts"].split("contains ")[1]) in answer.body.decode()
    assert [answer.status for answer in answers] == [200, 403, 404, 422, 422, 200, 409, 200, 409]


@needs_vectors
def test_ml_dsa_44_is_wycheproofs() -> None:
    mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    from cryptography.exceptions import InvalidSignature

    judged = 0
    for group in load("C2SP+wycheproof/mldsa_44_verify_test.json")["testGroups"]:
        for case in group["tests"]:
            if case.get("ctx"):
                continue  # a cosignature has no context
            try:
                key = mldsa.MLDSA44PublicKey.from_public_bytes(bytes.fromhex(group["publicKey"]))
                key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
                accepted = True
            except (InvalidSignature, ValueError):
                accepted = False
            assert accepted == (case["result"] == "valid"), case["tcId"]
            judged += 1
    assert judged >= 50
