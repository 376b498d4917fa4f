"""Who we are to a registry: what docker's configuration says, and what a registry asks for.

Nothing is executed for it: helpers that a configuration names (`credsStore`, `credHelpers`) are programs of
somebody else's, started with the name of a host that an address gave. What is read is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blindbuild.client.log_files import read_log_file
from blindbuild.errors import BlindbuildError, ChannelError, FormatError, UsageError
from blindbuild.formats.canonical import JsonValue, parse_json
from blindbuild.formats.fields import decode_base64

CONFIG_TEXT = "DOCKER_AUTH_CONFIG"  # the configuration itself, as CI systems pass it
CONFIG_DIRECTORY = "DOCKER_CONFIG"
MAX_CONFIG = 1 << 20  # bytes
MAX_CHALLENGE = 1 << 12  # characters of a WWW-Authenticate header
# RFC 9110, 11.2: token = token, or token = quoted-string without escapes, which no registry uses
_PARAMETER = re.compile(r'([A-Za-z][A-Za-z0-9_-]*)=(?:"([^"\\]*)"|([A-Za-z0-9!#$%&*+.^_`|~-]+))')
_PARAMETERS = re.compile(rf"{_PARAMETER.pattern}(?: *, *{_PARAMETER.pattern})*")
_SCHEME = re.compile(r"(Basic|Bearer)(?: +|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password, in base64 as Basic authentication sends them; never printed."""

    encoded: str = field(repr=False)


def read_login(host: str, environ: Mapping[str, str]) -> Login | None:
    """Return the login for a registry, or None when the configuration has none.

    Args:
        host: with its port, exactly as in the address; an entry of another host is never used.
        environ: `DOCKER_AUTH_CONFIG` has the configuration, else `DOCKER_CONFIG` or `HOME` say where it is.

    Raises:
        UsageError: a configuration that cannot be read, or an entry that is no login.
    """
    found = _read_config(environ)
    if found is None:
        return None
    where, config = found
    entries = config.get("auths", {})
    if not isinstance(entries, dict):
        raise UsageError(f"{where}: auths: expected an object")
    for name in (host, f"https://{host}", f"https://{host}/"):
        entry = entries.get(name)
        if isinstance(entry, dict) and "auth" in entry:
            return _entry_login(entry["auth"], f"{where}: auths: {name}")
    return None


def _read_config(environ: Mapping[str, str]) -> tuple[str, dict[str, JsonValue]] | None:
    if text := environ.get(CONFIG_TEXT, ""):
        return CONFIG_TEXT, _parse_config(text.encode(), CONFIG_TEXT)
    folder = environ.get(CONFIG_DIRECTORY, "") or f"{environ.get('HOME', '')}/.docker"
    if not folder.startswith("/"):
        return None
    try:
        data = read_log_file(Path(folder), "config.json", MAX_CONFIG)
    except BlindbuildError as error:
        raise UsageError(error.message) from error
    return None if data is None else (f"{folder}/config.json", _parse_config(data, f"{folder}/config.json"))


def _parse_config(data: bytes, where: str) -> dict[str, JsonValue]:
    try:
        value = parse_json(data, max_bytes=MAX_CONFIG)
    except FormatError as error:  # its message has no value in it, only a place
        raise UsageError(f"{where}: expected docker's configuration in JSON") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected docker's configuration: an object")
    return value


def _entry_login(value: JsonValue, where: str) -> Login:
    try:
        plain = decode_base64(value if isinstance(value, str) else "*")
    except FormatError:
        plain = b""
    name, colon, _password = plain.partition(b":")
    if not name or not colon:
        raise UsageError(f"{where}: expected auth: NAME:PASSWORD in base64") from None
    return Login(str(value))


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants before it answers: a login, or a token from a server that it names."""

    bearer: bool
    realm: str = ""
    service: str = ""


def parse_challenge(text: str, *, host: str) -> Challenge:
    """Read a WWW-Authenticate header.

    Args:
        text: the header's value; the scope that it may name is not looked at, the caller knows his own.
        host: for messages.

    Raises:
        ChannelError: neither Basic nor Bearer with a realm, or malformed.

    Source: RFC 9110, 11.6.1; RFC 6750, 3; distribution's token authentication specification.
    """
    scheme = _SCHEME.match(text)
    if scheme is None or len(text) > MAX_CHALLENGE:
        raise ChannelError(f"{host}: expected to be asked for Basic or Bearer authentication, got neither")
    if scheme[1].lower() == "basic":
        return Challenge(bearer=False)
    parameters = text[scheme.end() :]
    pairs = [(name.lower(), quoted or word) for name, quoted, word in _PARAMETER.findall(parameters)]
    values = dict(pairs)
    if not _PARAMETERS.fullmatch(parameters) or len(values) != len(pairs) or not values.get("realm"):
        raise ChannelError(f"{host}: expected a well-formed WWW-Authenticate header with a realm")
    return Challenge(bearer=True, realm=values["realm"], service=values.get("service", ""))
