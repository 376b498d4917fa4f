"""Who may use the local proxy."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from blindbuild.client.http1_request import RequestHead
from blindbuild.client.proxy_access import Access, check_origin, is_loopback, same_user
from blindbuild.errors import UsageError

PLAIN = Access("127.0.0.1", 8080)
TOKEN = "t" * 20


def head(**headers: str) -> RequestHead:
    named = {"host": "127.0.0.1:8080", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return RequestHead("POST", "/v1/hello", tuple(named.items()))


def status(access: Access, **headers: str) -> int | None:
    refusal = access.refuse(head(**headers))
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080"])
def test_a_program_that_asks_for_this_machine_may(host: str) -> None:
    assert status(PLAIN, host=host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example:8080", "evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8080", ""],
)
def test_a_name_that_was_made_to_mean_this_machine_is_refused(host: str) -> None:
    assert status(PLAIN, host=host) == 421


def test_port_80_goes_without_saying() -> None:
    assert status(Access("127.0.0.1", 80), host="localhost") is None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost"]
)
def test_a_page_is_refused(origin: str) -> None:
    assert status(PLAIN, origin=origin) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_an_image_of_a_page_is_refused_although_it_has_no_origin(site: str) -> None:
    assert status(PLAIN, sec_fetch_site=site) == 403


def test_a_page_that_was_named_may_ask() -> None:
    access = Access("127.0.0.1", 8080, origins=frozenset({"https://app.example"}))
    assert status(access, origin="https://app.example", sec_fetch_site="cross-site") is None
    assert status(access, origin="https://app.example.evil") == 403
    assert status(access, origin="http://app.example") == 403


def test_a_token_is_asked_of_everybody() -> None:
    access = Access("127.0.0.1", 8080, token=TOKEN)
    assert status(access) == 401
    assert status(access, authorization=f"Bearer {TOKEN}x") == 401
    assert status(access, authorization=f"Basic {TOKEN}") == 401
    assert status(access, authorization="Bearer ") == 401
    assert status(access, blindbuild_token="") == 401
    assert status(access, authorization=f"bearer {TOKEN}") is None
    assert status(access, blindbuild_token=TOKEN) is None
    assert access.in_authorization(head(authorization=f"Bearer {TOKEN}"))
    assert not access.in_authorization(head(authorization="Bearer for the server", blindbuild_token=TOKEN))


def test_without_a_token_no_authorization_is_taken_for_it() -> None:
    assert not PLAIN.in_authorization(head(authorization="Bearer "))


@pytest.mark.parametrize(
    "text", ["*", "null", "app.example", "https://app.example/", "https://a b", "ftp://x", ""]
)
def test_an_origin_that_no_page_has_cannot_be_allowed(text: str) -> None:
    with pytest.raises(UsageError, match="expected an origin"):
        check_origin(text)
    assert check_origin("http://localhost:3000") == "http://localhost:3000"


def test_only_this_machine_reaches_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not any(is_loopback(host) for host in ("192.0.2.1", "2001:db8::1", "host.example", ""))


# --- other users of this machine

ROW = "{n}: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1 0"


def pair(family: int = socket.AF_INET, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    with socket.create_server((host, 0), family=family) as listener:
        theirs = socket.create_connection(listener.getsockname()[:2])
        return theirs, listener.accept()[0]


def test_the_kernel_says_that_this_process_connected() -> None:
    theirs, ours = pair()
    with theirs, ours:
        assert same_user(ours)


def test_a_program_that_speaks_ipv6_to_an_ipv4_address_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as theirs:
            try:
                theirs.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
            except OSError:
                pytest.skip("this machine has no IPv6")
            ours = listener.accept()[0]
            with ours:
                assert same_user(ours)


@pytest.mark.parametrize(
    ("uid", "inode", "expected"),
    [(os.geteuid(), 7, True), (os.geteuid() + 1, 7, False), (os.geteuid(), 0, False)],
)
def test_the_owner_is_read_from_the_table(uid: int, inode: int, expected: bool, tmp_path: Path) -> None:
    theirs, ours = pair()
    with theirs, ours:
        port, own = theirs.getsockname()[1], ours.getsockname()[1]
        # proc(5): the address as four hexadecimal digits pairs in the order of this machine's memory
        rows = [
            "  sl  local_address rem_address   st",
            ROW.format(
                n=0,
                local=f"0100007F:{own:04X}",
                remote=f"0100007F:{port:04X}",
                state="01",
                uid=12345,
                inode=7,
            ),
            ROW.format(
                n=1,
                local=f"0100007F:{port:04X}",
                remote=f"0100007F:{own:04X}",
                state="04",
                uid=uid,
                inode=inode,
            ),
        ]
        (tmp_path / "tcp").write_text("\n".join(rows) + "\n")
        assert same_user(ours, tmp_path) is expected


def test_a_connection_that_the_table_does_not_have_is_a_strangers(tmp_path: Path) -> None:
    theirs, ours = pair()
    with theirs, ours:
        (tmp_path / "tcp").write_text("  sl  local_address rem_address   st\n")
        assert not same_user(ours, tmp_path)


@pytest.mark.parametrize(("platform", "expected"), [("linux", False), ("darwin", True)])
def test_a_system_that_should_have_the_table_and_does_not_is_not_believed(
    platform: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    theirs, ours = pair()
    with theirs, ours:
        assert same_user(ours, tmp_path / "no such system") is expected
