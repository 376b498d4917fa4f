"""Package resolution by apt, in a state directory of its own: the machine's installed packages play no part.

apt checks the archive's signature and its date, chooses versions and computes what depends on what; sizes and
hashes come from the signed index. Nothing is installed, and nothing of the machine's apt configuration counts
except how to reach a mirror.

Source: apt.conf(5), sources.list(5), apt_preferences(5), apt-get(8) `--print-uris`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.archives import APT_GET, Archives
from blindbuild.assemble.lock import LockedPackage, Request
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, LockError, ToolError
from blindbuild.host.files import write_atomically
from blindbuild.host.process import Tool, run
from blindbuild.host.store import Store
from blindbuild.host.urls import unquote

APT_CACHE = Tool("apt-cache", "apt")
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UPDATE_TIMEOUT_S = 900.0

_CONFIGURATION = """\
Dir::State "{state}/state";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{state}/empty";
Dir::Etc::sourcelist "{state}/archive.sources";
Dir::Etc::sourceparts "{state}/empty";
Dir::Etc::preferences "{state}/preferences";
Dir::Etc::preferencesparts "{state}/empty";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{state}/empty";
Dir::Log "{state}/log";
Dir::Bin::dpkg "/bin/false";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Retries "3";
"""
_SOURCES = """\
Types: deb
URIs: {debian}
Suites: {suite} {suite}-updates
Components: main
Signed-By: {keyring}

Types: deb
URIs: {security}
Suites: {suite}-security
Components: main
Signed-By: {keyring}
"""
_URI = re.compile(r"'([^']+)' ([^ ]+) ([0-9]+) .*")


@dataclass(frozen=True, slots=True)
class Pin:
    """A version to keep if the archive still has it."""

    name: str
    version: str


class AptResolver:
    """apt for one suite, with fresh package lists.

    Use `open_resolver`.
    """

    def __init__(self, state: Path, suite: str, archives: Archives) -> None:
        self._state = state
        self._suite = suite
        self._archives = archives

    def resolve(self, request: Request, pins: Sequence[Pin] = ()) -> tuple[LockedPackage, ...]:
        """Return the packages of a request, sorted by name.

        Raises:
            LockError: a package does not exist, or its dependencies cannot be met.
        """
        if not request.names:
            return ()
        preferences = "".join(
            f"Package: {pin.name}\nPin: version {pin.version}\nPin-Priority: 1001\n\n" for pin in pins
        )
        write_atomically(self._state / "preferences", preferences.encode())
        command = "install" if request.with_dependencies else "download"
        listed = self._run(
            APT_GET, ["--quiet", "--yes", "--print-uris", command, *request.names], request.group
        )
        places = dict(self._place(line) for line in listed.splitlines() if line.startswith("'"))
        records = self._records(places, request.group)
        if missing := set(places) - set(records):
            raise LockError(f"{request.group}: the index has no hash for {', '.join(sorted(missing))}")
        packages = (self._package(places[path], records[path]) for path in places)
        return tuple(sorted(packages, key=lambda package: package.name))

    def _place(self, line: str) -> tuple[str, _Place]:
        match = _URI.fullmatch(line)
        if match is None:
            raise LockError(f"apt-get --print-uris: expected 'address' file size, got {line[:200]!r}")
        address, file = unquote(match[1]), unquote(match[2])
        for archive in ("debian-security", "debian"):  # one base may be the beginning of the other
            base = _short(self._archives.base(archive)) + "/"
            if _short(address).startswith(base):
                name, version, _ = file.removesuffix(".deb").split("_", 2)
                return _short(address).removeprefix(base), _Place(archive, name, version)
        raise LockError(f"apt-get --print-uris: {address} is in no archive that was asked for")

    def _records(self, places: Mapping[str, _Place], group: str) -> dict[str, dict[str, str]]:
        wanted = [f"{place.name}={place.version}" for place in places.values()]
        text = self._run(APT_CACHE, ["--quiet", "show", *wanted], group)
        records = {}
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
            path = fields.get("Filename", "").removeprefix("./")
            place = places.get(path)
            if place and (fields.get("Package"), fields.get("Version")) == (place.name, place.version):
                records[path] = fields
        return records

    def _package(self, place: _Place, fields: Mapping[str, str]) -> LockedPackage:
        try:
            return LockedPackage(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                archive=place.archive,
                path=fields["Filename"].removeprefix("./"),
                size=int(fields["Size"]),
                digest=Digest.from_hex(HashAlgorithm.SHA256, fields["SHA256"]),
            )
        except (KeyError, ValueError, FormatError) as error:
            raise LockError(f"{place.name}: the index is incomplete: {error}") from error

    def _run(self, tool: Tool, args: Sequence[str], group: str) -> str:
        try:
            done = run(tool, args, cwd=self._state, extra_env=_environment(self._state))
        except ToolError as error:
            raise LockError(f"{group}, suite {self._suite}: {_told(error)}", hint=_help(error)) from error
        return done.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Place:
    archive: str
    name: str
    version: str


@contextlib.contextmanager
def open_resolver(
    store: Store,
    suite: str,
    archives: Archives,
    *,
    keyring: Path = DEBIAN_KEYRING,
    on_line: Callable[[str], None] | None = None,
) -> Iterator[AptResolver]:
    """Give a resolver whose package lists are the archive's present ones, with good signatures.

    Args:
        store: keeps the lists between runs, so that unchanged ones are not fetched again.
        suite: `trixie`, for example; its updates and security updates belong to it.
        archives: where.
        keyring: whose signatures are accepted.
        on_line: hears what apt says.

    Raises:
        LockError: an archive cannot be reached, or its signature is missing, bad, too old, or of another key.
    """
    if not keyring.is_file():
        raise LockError(f"{keyring} is missing", hint="apt-get install debian-archive-keyring")
    sources = _SOURCES.format(
        debian=archives.debian, security=archives.security, suite=suite, keyring=keyring
    )
    settings = "".join(f'{key} "{value}";\n' for key, value in archives.settings)
    with store.workspace(f"apt-{suite}-{Digest.sha256(sources.encode()).hex[:16]}") as state:
        for name in ("state/lists/partial", "cache/archives/partial", "log", "empty"):
            (state / name).mkdir(parents=True, exist_ok=True)
        write_atomically(state / "status", b"")
        write_atomically(state / "preferences", b"")
        write_atomically(state / "archive.sources", sources.encode())
        write_atomically(state / "apt.conf", (_CONFIGURATION.format(state=state) + settings).encode())
        _update(state, suite, on_line)
        yield AptResolver(state, suite, archives)


def _update(state: Path, suite: str, on_line: Callable[[str], None] | None) -> None:
    try:
        run(
            APT_GET,
            # Without it a list that cannot be fetched is a warning, and the old one is used.
            ["--quiet", "--option", "APT::Update::Error-Mode=any", "update"],
            cwd=state,
            extra_env=_environment(state),
            timeout_s=UPDATE_TIMEOUT_S,
            on_line=on_line,
        )
    except ToolError as error:
        raise LockError(
            f"suite {suite}: the archive's package lists cannot be had: {_told(error)}", hint=_help(error)
        ) from error


def _environment(state: Path) -> tuple[tuple[str, str], ...]:
    return (("APT_CONFIG", str(state / "apt.conf")),)


def _short(address: str) -> str:
    # apt writes file:///srv as file:/srv; RFC 8089 allows both.
    return re.sub("^file:/+", "file:/", address)


def _told(error: ToolError) -> str:
    """Return apt's own complaints from a failed run, on one line."""
    lines = [line[3:] for line in error.message.splitlines() if line.startswith("E: ")]
    return "; ".join(lines) or error.message


def _help(error: ToolError) -> str | None:
    text = error.message
    if any(words in text for words in ("held broken", "Unable to correct", "Unable to satisfy")):
        return "the kept versions do not fit together any more: run `blindbuild lock --upgrade`"
    if "Unable to locate package" in text or "has no installation candidate" in text:
        return "check the name, and that the recipe's suite has it"
    if "signature" in text or "NO_PUBKEY" in text or "not signed" in text or "Release file" in text:
        return "the mirror is damaged, too old, or not Debian's: name another with --mirror"
    return error.hint or "check the connection, or name another mirror with --mirror"
