"""Parsers of transparency logs under fuzz: a line each, as in `targets.py`."""

from __future__ import annotations

from collections.abc import Callable

from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.note import parse_note, parse_signature_lines, parse_vkey, write_note
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.formats.tlog_proof import parse_tlog_proof, write_tlog_proof
from blindbuild.formats.tlog_tiles import parse_bundle, write_bundle
from blindbuild.manifest.log_entry import log_entry_bytes, parse_log_entry
from blindbuild.publish.witness import parse_add_checkpoint
from tests.fakes import naive_log
from tests.fakes.log_world import LOG_KEY, SEEN, WITNESSES, Shown, judged, our_entry, policy_text

_BUNDLE = b"\0\3one\0\0\0\5three"


def _read_note(data: bytes) -> None:
    assert write_note(parse_note(data)) == data


def _read_lines(data: bytes) -> None:
    assert "".join(signature.line for signature in parse_signature_lines(data)).encode() == data


def _read_proof(data: bytes) -> None:
    assert write_tlog_proof(parse_tlog_proof(data)) == data
    assert "internal-error" not in {step.reason for step in judged(data).failed()}


def _read_entry(data: bytes) -> None:
    assert log_entry_bytes(parse_log_entry(data)) == data


def _read_bundle(data: bytes) -> None:
    assert write_bundle(parse_bundle(data, 3)) == data


def _read_policy(data: bytes) -> None:
    policy = parse_log_policy(data)
    names = [witness.name for witness in policy.witnesses]
    assert policy.is_met(names)
    assert policy.is_met([]) == (policy.fewest_cosignatures == 0)


def _read_key(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert parse_vkey(text).text == text


def _requests() -> list[bytes]:
    shown = Shown()
    hashes = "".join(f"{naive_log.b64(value)}\n" for value in naive_log.proof(3, shown.entries))
    return [f"old 3\n{hashes}\n".encode() + shown.checkpoint]


def _lines() -> list[bytes]:
    return [WITNESSES[0].cosign(Shown().body, SEEN).encode()]


LOG_TARGETS: tuple[tuple[str, Callable[[bytes], object], Callable[[], list[bytes]]], ...] = (
    ("note", _read_note, lambda: [Shown().checkpoint]),
    ("note-signatures", _read_lines, _lines),
    ("vkey", _read_key, lambda: [LOG_KEY.vkey.encode(), WITNESSES[0].vkey.encode()]),
    ("log-checkpoint", parse_checkpoint, lambda: [Shown().checkpoint]),
    ("log-proof", _read_proof, lambda: [Shown().proof]),
    ("log-policy", _read_policy, lambda: [policy_text(), policy_text("quorum none\n")]),
    ("log-bundle", _read_bundle, lambda: [_BUNDLE]),
    ("log-entry", _read_entry, lambda: [our_entry()]),
    ("add-checkpoint", parse_add_checkpoint, _requests),
)
