"""The hello workload: any body gets one JSON answer, or none at all."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes.guest_init import ROOT, checked_program, spawn, status_of

SOURCE = ROOT / "recipes" / "hello" / "files" / "hello.c"
NAME_LIMIT = 64


def answer_to(message: bytes) -> bytes:
    """Run the program as the launcher would, descriptor 3 included, and return all that it sends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = spawn([str(checked_program(SOURCE))], theirs)
        theirs.close()
        sender = threading.Thread(target=_send, args=(ours, message))
        sender.start()
        received = _receive(ours)
        sender.join()
        assert status_of(process) in (0, 1)  # not what a sanitizer exits with
    return received


def _receive(connection: socket.socket) -> bytes:
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""  # it left without reading all


def _send(connection: socket.socket, message: bytes) -> None:
    try:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # it had read enough


def greet(body: bytes) -> dict[str, object]:
    received = answer_to(struct.pack(">I", len(body)) + body)
    (length,) = struct.unpack(">I", received[:4])
    assert length == len(received) - 4
    answer = json.loads(received[4:].decode("utf-8"))
    assert isinstance(answer, dict)
    return answer


def test_a_plain_name_is_greeted() -> None:
    assert greet(b"World") == {"greeting": "hello, World", "bytes": 5}


def test_a_name_in_json_is_greeted() -> None:
    body = '{"name":"Zoë \\"Z\\" \\u00e9\\ud83d\\ude00\\n"}'.encode()
    assert greet(body) == {"greeting": 'hello, Zoë "Z" é\U0001f600\n', "bytes": len(body)}


def test_what_is_special_in_json_is_escaped() -> None:
    assert greet(b'a"b\\c\nd\x00') == {"greeting": 'hello, a"b\\c\nd\x00', "bytes": 8}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" * (NAME_LIMIT + 1),
        b"\xff",
        b"\xc3",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b'{"name":""}',
        b'{"name":1}',
        b'{"name":"a","b":1}',
        b'{"name":"a"b"}',
        b'{"name":"\\x"}',
        b'{"name":"\\u12g4"}',
        b'{"name":"\\"}',
        b'{"name":"a\nb"}',
        b'{"name":"\xff"}',
        b'{ "name":"a"}',
        b'{"name":"a"} ',
        b"{",
        b'{"name":"',
        b'{"name":"}',
    ],
)
def test_any_other_body_gets_an_error_in_json(body: bytes) -> None:
    assert list(greet(body)) == ["error"]


@settings(deadline=None, max_examples=30)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16))
@example(name="{")
@example(name="\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff")
def test_any_name_comes_back_as_it_was(name: str) -> None:
    body = json.dumps({"name": name}, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) - len('{"name":""}') <= NAME_LIMIT:
        assert greet(body)["greeting"] == f"hello, {name}"
    if not name.startswith("{"):
        assert greet(name.encode())["greeting"] == f"hello, {name}"


@settings(deadline=None, max_examples=30)
@given(body=st.binary(max_size=100))
def test_bytes_at_random_get_an_answer_of_one_of_the_two_forms(body: bytes) -> None:
    assert set(greet(body)) in ({"error"}, {"greeting", "bytes"})


@pytest.mark.parametrize("message", [b"", b"\0\0\0", b"\0\0\0\5Worl", b"\0\1\0\0" + b"x" * 65536])
def test_a_message_cut_short_or_too_long_gets_no_answer(message: bytes) -> None:
    assert answer_to(message) == b""


def test_a_body_of_the_largest_size_is_read() -> None:
    assert list(greet(os.urandom(4096))) == ["error"]
