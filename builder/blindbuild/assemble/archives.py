"""Which Debian mirrors this machine uses: learnt from its apt, or from --mirror; never part of a lock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from blindbuild.errors import LockError
from blindbuild.host.process import Tool, run
from blindbuild.host.urls import escape_path, scheme_of

APT_GET = Tool("apt-get", "apt")
APT_CONFIG = Tool("apt-config", "apt")
SCHEMES = ("http", "https", "file")

_DEBIAN_RELEASES = frozenset(
    {
        *("bullseye", "bookworm", "trixie", "forky", "sid"),
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
    }
)
_INDEX = re.compile(
    r"^'([^' ]+?)/*/dists/([a-z-]+(?:/updates)?)/main/binary-[a-z0-9]+/Packages", re.MULTILINE
)
_HINT = "name one with --mirror, such as --mirror https://HOST/debian"


@dataclass(frozen=True, slots=True)
class Archives:
    """Where the archives are.

    Attributes:
        debian: base address of the archive `debian`, without a slash at its end.
        security: the same for `debian-security`.
        settings: apt's own settings for reaching them (`Acquire::http::Proxy` and its like).
    """

    debian: str
    security: str
    settings: tuple[tuple[str, str], ...] = ()

    def base(self, archive: str) -> str:
        """Return the base address of `debian` or `debian-security`."""
        return self.security if archive == "debian-security" else self.debian

    def url(self, archive: str, path: str) -> str:
        """Return the address of a file in an archive."""
        return f"{self.base(archive)}/{escape_path(path)}"

    def proxies(self) -> Mapping[str, str] | None:
        """Return proxies by scheme, or None to use the environment's."""
        found = {
            key.split("::")[1]: value
            for key, value in self.settings
            if re.fullmatch("Acquire::https?::proxy", key, re.IGNORECASE) and value != "DIRECT"
        }
        return found or None


def archives_at(mirror: str) -> Archives:
    """Return the archives below a mirror.

    Args:
        mirror: address of the archive `debian`, or of the directory above it; the archive `debian-security`
            is taken to be beside it, as on Debian's own mirrors.

    Raises:
        LockError: not an address that can be used.
    """
    base = mirror.rstrip("/")
    if scheme_of(base) not in SCHEMES or re.fullmatch("[!-~]+", base) is None:
        raise LockError(f"expected a mirror's address with http, https or file, got {mirror}", hint=_HINT)
    if not base.endswith("/debian"):
        base += "/debian"
    return Archives(base, f"{base}-security", _acquire_settings())


def machine_archives(extra_env: Iterable[tuple[str, str]] = ()) -> Archives:
    """Return the archives that this machine's apt is configured for.

    Args:
        extra_env: environment of apt, where its configuration is not in the usual place (`APT_CONFIG`).

    Raises:
        LockError: no Debian archive among them.
        ToolError: there is no apt here.
    """
    # Unlike `apt-get indextargets`, this also names lists that were never fetched.
    listed = run(APT_GET, ["update", "--print-uris"], extra_env=extra_env).stdout.decode("utf-8", "replace")
    debian: list[str] = []
    security: list[str] = []
    for base, release in _INDEX.findall(listed):
        suite, _, rest = release.replace("/updates", "-security").partition("-")
        if suite not in _DEBIAN_RELEASES or scheme_of(base) not in SCHEMES:
            continue
        if rest == "security":
            security.append(base)
        elif base.rsplit("/", 1)[-1] == "debian" and not rest:
            debian.append(base)
    if not debian:
        raise LockError("this machine's apt knows no Debian archive", hint=_HINT)
    return Archives(
        debian[0], security[0] if security else f"{debian[0]}-security", _acquire_settings(extra_env)
    )


def _acquire_settings(extra_env: Iterable[tuple[str, str]] = ()) -> tuple[tuple[str, str], ...]:
    done = run(APT_CONFIG, ["dump", "--no-empty", "--format", "%F %v%n"], extra_env=extra_env, check=False)
    pairs = (line.partition(" ") for line in done.stdout.decode("utf-8", "replace").splitlines())
    return tuple(
        (key, value)
        for key, _, value in pairs
        if re.match("acquire::https?::", key, re.IGNORECASE) and '"' not in value and value
    )
