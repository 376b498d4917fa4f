"""Options and arguments that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from blindbuild.errors import UsageError
from blindbuild.host.store import Store

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout.")
mirror_option = click.option(
    "--mirror", metavar="URL", help="Debian mirror to use instead of the machine's own."
)
offline_option = click.option(
    "--offline", is_flag=True, help="Touch no network; the store must have everything."
)


plain_http_option = click.option(
    "--plain-http",
    is_flag=True,
    help="Fetch what is published without TLS, also from other machines: it proves itself, but may be old.",
)


# the words of a statement's channelBinding; a test compares them, as most verbs need not load a statement
PROFILES = ("tls-spki-quote-v1", "hpke-quote-v1")
_EXISTING = click.Path(exists=True, path_type=Path)


def read_place(context: click.Context, parameter: click.Parameter, value: str) -> Path | str:
    """Return an address as it is, or a path that exists."""
    return value if "://" in value else _EXISTING.convert(value, parameter, context)


def read_optional_place(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Path | str | None:
    """Return the place that --manifest names, if it is given; for a click option."""
    return None if value is None else read_place(context, parameter, value)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgingOptions:
    """The options of everyone who judges a server."""

    trust: Path
    manifest: Path | str | None = None
    tuf: str | None = None
    policy: Path | None = None
    crl: tuple[Path, ...] = ()
    audit_log: Path | None = None
    bank: str = "sha256"
    allow_test_tpm: bool = False
    allow_debug: bool = False
    allow_unsafe_clock: bool = False
    require_closed: tuple[str, ...] = ()
    ledger: Path | None = None
    require_profile: str | None = None
    require_probe: bool = False
    probe: Path | None = None
    require_log: Path | None = None
    log_proof: Path | None = None
    log_place: str | None = None
    rebuild: tuple[Path, ...] = ()
    channel: str | None = None
    plain_http: bool = False
    remember: bool = True
    state: Path | None = None
    history: bool = True  # no option: only the demo, which rebuilds one release over and over, goes without


def read_channels(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the ids that --require-closed names; for a click option."""
    # cryptography comes with it, and most verbs need not pay for that
    from blindbuild.manifest.ledger import CHANNEL

    names = [name for value in values for name in value.split(",")]
    for name in names:
        # an empty name would ask for nothing, and look as if it asked for something
        if not CHANNEL.fullmatch(name):
            raise click.BadParameter(f"expected ids of channels with commas between them, got {name!r}")
    return tuple(names)


_JUDGING = (
    click.option(
        "--manifest",
        metavar="PLACE",
        callback=read_optional_place,
        help="The image's directory, its manifest.dsse.json, or where it is published: https:// or oci://. "
        "Not needed with a trust file that pins a TUF repository.",
    ),
    click.option(
        "--tuf",
        metavar="URL|DIR",
        help="The TUF repository that the trust file pins [default: the address in the trust file].",
    ),
    plain_http_option,
    click.option(
        "--trust",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The trust file: whose keys and which TPM makers count.",
    ),
    click.option(
        "--policy",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What is asked for beyond the defaults, as a policy.json; other options only make it stricter.",
    ),
    click.option(
        "--crl",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What an authority of TPMs revoked, DER or PEM; repeatable.",
    ),
    click.option(
        "--audit-log",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Append a record of each decision here, one JSON line; no user's data is in it.",
    ),
    click.option(
        "--bank",
        default="sha256",
        type=click.Choice(["sha256", "sha384", "sha512"]),
        show_default=True,
        help="The bank of registers to be quoted.",
    ),
    click.option(
        "--allow-test-tpm",
        is_flag=True,
        help="Believe an operator-run TPM: proves the image and the tool, nothing about the operator.",
    ),
    click.option("--allow-debug", is_flag=True, help="Accept an image that says it is for debugging."),
    click.option(
        "--allow-unsafe-clock",
        is_flag=True,
        help="Accept a TPM that lost power without a shutdown, so that its clock may have gone back.",
    ),
    click.option(
        "--require-closed",
        multiple=True,
        metavar="ID[,ID...]",
        callback=read_channels,
        help="Refuse unless the ledger shows these channels closed: ids of channels.json, or the groups "
        "disk, console, egress, admin and memory.",
    ),
    click.option(
        "--ledger",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The image's channels.json [default: the one beside the manifest].",
    ),
    click.option(
        "--require-profile",
        type=click.Choice(PROFILES),
        help="Refuse unless the statement promises this channel: TLS that ends in the image, or sealed "
        "requests.",
    ),
    click.option(
        "--require-probe",
        is_flag=True,
        help="Refuse unless enough release keys signed that the image's machine was seen to do no more than "
        "it should.",
    ),
    click.option(
        "--probe",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What they signed [default: probe.dsse.json beside the manifest].",
    ),
    click.option(
        "--require-log",
        metavar="POLICY",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Refuse unless the release is in a transparency log of this policy (C2SP tlog-policy).",
    ),
    click.option(
        "--log-proof",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The proof of it [default: manifest.tlog-proof beside the manifest].",
    ),
    click.option(
        "--log", "log_place", metavar="DIR|URL", help="The log's files [default: the address in its policy]."
    ),
    click.option(
        "--rebuild",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A rebuilder's record, beside those in rebuilds/ next to the manifest; repeatable.",
    ),
    click.option("--channel", help="The line of releases that is wanted [default: the policy's, or stable]."),
    click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where accepted releases are remembered [default: the user's state directory].",
    ),
    click.option(
        "--no-remember",
        "remember",
        flag_value=False,
        default=True,
        help="Record nothing; what was accepted before is still held against the server.",
    ),
)


def judging_options(function: Function) -> Function:
    """What a server is judged by; arrives as one JudgingOptions named `options`."""

    @functools.wraps(function)
    def wrapped(**values: Any) -> None:
        names = {field.name for field in dataclasses.fields(JudgingOptions)} & values.keys()
        options = JudgingOptions(**{name: values.pop(name) for name in names})
        function(**values, options=options)

    for option in reversed(_JUDGING):
        wrapped = option(wrapped)
    return cast("Function", wrapped)


def recipe_argument(function: Function) -> Function:
    """A recipe: its file, or the directory that has a recipe.yaml."""
    return click.argument("recipe", type=click.Path(exists=True, path_type=Path))(function)


def find_recipe(path: Path) -> Path:
    """Return the recipe file that a path names."""
    found = path / "recipe.yaml" if path.is_dir() else path
    if not found.is_file():
        raise UsageError(f"{path}: no recipe.yaml there", hint="name a recipe, such as recipes/hello")
    return found


def user_store() -> Store:
    """Return the store of the person who called."""
    return Store.default(os.environ)


def state_directory() -> Path:
    """Return where state lives that must outlast a run (XDG Base Directory Specification 0.8)."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    base = Path(chosen) if chosen.startswith("/") else Path.home() / ".local" / "state"
    return base / "blindbuild"


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def print_json(value: Mapping[str, object]) -> None:
    """Print the one JSON value of a --json run."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
