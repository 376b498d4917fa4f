"""`blindbuild proxy`: an attested server for any program on this machine."""

from __future__ import annotations

import os
import re
import secrets
import signal
from contextlib import closing
from functools import partial
from pathlib import Path

import click

from blindbuild.cli.judging import expect
from blindbuild.cli.options import JudgingOptions, json_option, judging_options, print_json
from blindbuild.client.attested_pool import AttestedPool
from blindbuild.client.judge import DEFAULT_REFRESH_S
from blindbuild.client.proxy import Proxy
from blindbuild.client.proxy_access import Access, check_origin, is_loopback
from blindbuild.client.proxy_server import listen, listen_at_path, serving
from blindbuild.errors import UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import read_bytes
from blindbuild.manifest import format_time
from blindbuild.verify import AcceptedSession

_LISTEN = re.compile(r"(?P<host>[0-9A-Za-z.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")
_UNIX = "unix:"
_STOP = frozenset({signal.SIGINT, signal.SIGTERM})
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{16,200}\n?")
_TOKEN_BYTES = 32


@click.command("proxy")
@click.argument("url")
@click.option(
    "--listen",
    "place",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT|unix:PATH",
    help="Where programs ask; port 0 is any that is free.",
)
@click.option("--allow-remote", is_flag=True, help="Listen at an address that other machines reach.")
@click.option("--allow-other-users", is_flag=True, help="Take programs of other users of this machine.")
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page that may ask, such as https://app.example; repeatable. Pages are refused otherwise.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Ask every request for the token in this file; written with a new one if it is not there.",
)
@click.option(
    "--refresh",
    "refresh_s",
    type=click.FloatRange(min=0),
    default=DEFAULT_REFRESH_S,
    show_default=True,
    help="Seconds after which manifest and trust file are read again.",
)
@judging_options
@json_option
def command(
    url: str,
    place: str,
    allow_remote: bool,
    allow_other_users: bool,
    origins: tuple[str, ...],
    token_file: Path | None,
    refresh_s: float,
    options: JudgingOptions,
    as_json: bool,
) -> None:
    """Let any program on this machine talk to the server of URL, which is verified before anything is sent.

    It takes plain HTTP on loopback and passes each request on over a connection that was judged. When the
    server is refused, programs get a 502 that says why, and nothing is passed on. The first line on stdout is
    the address to ask; it is printed when the server was verified. It runs until it is stopped.

    Example: blindbuild proxy https://host --manifest images/hello/1.0.0 --trust trust.json
    """
    token = None if token_file is None else _token(token_file)
    path, host, port = _place(place, allow_remote=allow_remote, has_token=token is not None)
    allowed = frozenset(check_origin(origin) for origin in origins)
    with closing(AttestedPool(url, partial(expect, options), refresh_s=refresh_s)) as pool:
        with pool.lend() as connection:  # before anybody is listened to; exit code 3 when it is refused
            session = connection.session
        for warning in session.warnings:
            click.echo(f"warning: {visible(warning)}", err=True)
        listener = listen_at_path(path) if path else listen(host, port)
        bound = 0 if path else listener.getsockname()[1]
        # at loopback --allow-remote allows nothing: no token is asked for there
        remote = path is None and not is_loopback(host)
        access = Access("" if path else host, bound, token, allowed, remote=remote)
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)  # in every thread, so that sigwait gets it
        same_user_only = not (path or remote or allow_other_users)
        with serving(Proxy(pool, access), listener, same_user_only=same_user_only):
            _announce(f"{_UNIX}{path}" if path else access.endpoint, session, as_json=as_json)
            signal.sigwait(_STOP)
    if path:
        path.unlink(missing_ok=True)


def _announce(endpoint: str, session: AcceptedSession, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "version": 1,
                "endpoint": endpoint,
                "product": session.product,
                "productVersion": session.version,
                "sequence": session.sequence,
                "platform": session.platform,
                "expires": format_time(session.expires),
            }
        )
        return
    click.echo(endpoint)
    click.echo(f"verified: {session.product} {session.version} on {session.platform}", err=True)


def _place(text: str, *, allow_remote: bool, has_token: bool) -> tuple[Path | None, str, int]:
    if text.startswith(_UNIX):
        return Path(text.removeprefix(_UNIX)).absolute(), "", 0
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise UsageError(f"expected HOST:PORT or unix:PATH, got {text[:80]!r}")
    host = "127.0.0.1" if found["host"] == "localhost" else found["host"].strip("[]")
    if not is_loopback(host):
        if not allow_remote:
            raise UsageError(
                f"expected an address that only this machine reaches, got {host}",
                hint="requests come in without encryption, so that anybody on the way to the proxy reads "
                "them; pass --allow-remote and --token-file if that is what you want",
            )
        if not has_token:
            raise UsageError("expected --token-file with --allow-remote, or anybody can ask")
    return None, host, int(found["port"])


def _token(path: Path) -> str:
    if not path.exists():
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{token}\n")
        return token
    data = read_bytes(path, error=UsageError, limit_bytes=1 << 10)
    if not _TOKEN.fullmatch(data):
        raise UsageError(
            f"{path}: expected a token of 16 to 200 letters, digits, - and _",
            hint="name a file that is not there, and a token is written to it",
        )
    return data.decode().strip()
