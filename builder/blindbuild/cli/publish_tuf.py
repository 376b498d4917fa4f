"""`blindbuild publish init`, `add`, `withdraw`, `renew`, `rotate`, `sign`, `refresh` and `status`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from blindbuild.cli.options import json_option, print_json, read_place
from blindbuild.cli.outputs import check_image
from blindbuild.cli.signing import ask_pin
from blindbuild.client.published import read_published
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE, SignerKey
from blindbuild.formats.tlog_policy import MAX_POLICY, parse_log_policy
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes
from blindbuild.manifest import format_time
from blindbuild.manifest.revoked import REASONS
from blindbuild.manifest.tuf import MAX_ROOT
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.publish import ReleaseSigner
from blindbuild.publish.signers import MAX_KEY_FILE, load_public_key, open_signer
from blindbuild.publish.tuf_content import NewRelease, release_named, withdrawn_name
from blindbuild.publish.tuf_metadata import MAX_DAYS, ROLES, Days, RoleKeys, RootPlan
from blindbuild.publish.tuf_publisher import Outcome, TufPublisher

Function = Callable[..., Any]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

repository_argument = click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
key_option = click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="FILE|URI",
    help="Who signs: each key signs the roles it counts for. Repeatable.",
)
first_root_option = click.option(
    "--first-root",
    type=_FILE,
    help="Your own copy of metadata/1.root.json: sign for no repository that begins otherwise.",
)
channel_option = click.option(
    "--channel", default=DEFAULT_CHANNEL, show_default=True, help="Which line of releases it belongs to."
)


def _plan_options(function: Function) -> Function:
    """Public keys of the roles, thresholds and days; arrive as values of these names."""
    for role in reversed(ROLES):
        days = getattr(Days(), role)
        function = click.option(
            f"--{role}-days",
            type=click.IntRange(1, MAX_DAYS),
            help=f"How long {role} is signed for [default: {days}, or as before].",
        )(function)
    options = (
        click.option(
            "--root", multiple=True, type=_FILE, help="A public key that signs the root. Repeatable."
        ),
        click.option("--root-threshold", type=click.IntRange(1, 16), help="How many of them must."),
        click.option("--release", multiple=True, type=_FILE, help="A release key, public. Repeatable."),
        click.option("--threshold", type=click.IntRange(1, 16), help="How many of them must sign."),
        click.option("--online", type=_FILE, help="The public key of the machine that renews every day."),
        click.option("--timestamp", type=_FILE, help="Another one for timestamps only."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("init")
@repository_argument
@_plan_options
@key_option
@json_option
def init_command(repository: Path, keys: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Begin an empty TUF repository in the directory REPOSITORY.

    Who may sign is named by public keys, of which `--key` need have only those that are here: what is missing
    is added by `publish sign`, on other machines, until enough have signed. metadata/1.root.json is what
    clients pin, see `blindbuild trust --tuf-root`.

    Example: blindbuild publish init repo --root root.key.pub --release release.key.pub
    --online online.key.pub --key root.key --key release.key --key online.key
    """
    if not (given["root"] and given["release"] and given["online"]):
        raise UsageError("expected --root, --release and --online: the public keys of all roles")
    empty = RoleKeys(())
    plan = _changed(RootPlan(empty, empty, empty, empty), given)
    with _signers(keys) as signers:
        _show(TufPublisher(repository, now=unix_time()).init(plan, signers), as_json)


@click.command("add")
@repository_argument
@click.argument("images", nargs=-1, required=True, callback=lambda c, p, v: [read_place(c, p, x) for x in v])
@channel_option
@click.option("--keep-older", is_flag=True, help="Earlier releases of the channel stay current as well.")
@click.option("--with-image", is_flag=True, help="List the boot image too, so that others can fetch it.")
@click.option("--log-policy", type=_FILE, help="List this policy of transparency logs (C2SP tlog-policy).")
@key_option
@first_root_option
@json_option
def add_command(
    repository: Path,
    images: Sequence[Path | str],
    channel: str,
    keep_older: bool,
    with_image: bool,
    log_policy: Path | None,
    keys: tuple[str, ...],
    first_root: Path | None,
    as_json: bool,
) -> None:
    """List releases: IMAGES are image directories that were signed, manifests, or places to read them from.

    With each go the ledger, the proof of the log and the rebuilders' envelopes that are beside it. Releases
    of the channel with a lower sequence are no longer listed: clients that begin now never see them.

    Example: blindbuild publish add repo images/hello/1.0.0 --key release.key --key online.key
    """
    policy = None if log_policy is None else read_bytes(log_policy, error=UsageError, limit_bytes=MAX_POLICY)
    if policy is not None:
        parse_log_policy(policy)
    releases = [
        NewRelease(
            read_published(image, environ=os.environ),
            image=_boot_image(image) if with_image else None,
            log_policy=policy,
        )
        for image in images
    ]
    with _signers(keys) as signers:
        publisher = _publisher(repository, first_root)
        _show(publisher.add(releases, signers, channel=channel, keep_older=keep_older), as_json)


@click.command("withdraw")
@repository_argument
@click.argument("release")
@click.option("--reason", required=True, type=click.Choice(sorted(REASONS)), help="Clients are told.")
@channel_option
@key_option
@first_root_option
@json_option
def withdraw_command(
    repository: Path,
    release: str,
    reason: str,
    channel: str,
    keys: tuple[str, ...],
    first_root: Path | None,
    as_json: bool,
) -> None:
    """List a release as withdrawn, so that every client refuses it from its next refresh on.

    RELEASE is PRODUCT/CHANNEL/SEQUENCE of one that is listed, or the manifest file of any. Clients that have
    seen it go back to no earlier one: publish a later release.

    Example: blindbuild publish withdraw repo hello/stable/42 --reason vulnerable --key release.key
    """
    path, publisher = Path(release), _publisher(repository, first_root)
    statement = None
    if path.is_file():
        manifest = read_bytes(path, error=UsageError, limit_bytes=MAX_ENVELOPE)
        name, statement = withdrawn_name(manifest, channel, [root.signed for root in publisher.files.roots()])
    else:
        name = release_named(release)
    with _signers(keys) as signers:
        _show(publisher.withdraw(name, signers, reason=reason, statement=statement), as_json)


@click.command("renew")
@repository_argument
@key_option
@first_root_option
@json_option
def renew_command(repository: Path, keys: tuple[str, ...], first_root: Path | None, as_json: bool) -> None:
    """Have the release keys sign what is listed for another period, before targets.json expires.

    Example: blindbuild publish renew repo --key release.key --key online.key
    """
    with _signers(keys) as signers:
        _show(_publisher(repository, first_root).renew(signers), as_json)


@click.command("rotate")
@repository_argument
@_plan_options
@key_option
@first_root_option
@json_option
def rotate_command(
    repository: Path, keys: tuple[str, ...], first_root: Path | None, as_json: bool, **given: Any
) -> None:
    """Stage the next root: with the keys named here in place of those of their role, or with the same.

    It must be signed by enough of the old and of the new root keys. New release keys sign targets.json and
    the manifests before anything is published. Clients follow by themselves.

    Example: blindbuild publish rotate repo --online new.key.pub --key a.key --key b.key
    """
    with _signers(keys) as signers:
        publisher = _publisher(repository, first_root)
        _show(publisher.rotate(lambda plan: _changed(plan, given), signers), as_json)


@click.command("sign")
@repository_argument
@key_option
@first_root_option
@json_option
def sign_command(repository: Path, keys: tuple[str, ...], first_root: Path | None, as_json: bool) -> None:
    """Add signatures to what others have staged. Read what it would change first: `publish status`.

    Example: blindbuild publish sign repo --key b.key
    """
    publisher = _publisher(repository, first_root)
    # before a token is asked: who signs should know what, whoever staged it
    shown = publisher.review()
    for line in shown.lines:
        click.echo(f"signing {line}", err=True)
    with _signers(keys) as signers:
        _show(publisher.sign(signers, shown), as_json)


@click.command("refresh")
@repository_argument
@key_option
@first_root_option
@json_option
def refresh_command(repository: Path, keys: tuple[str, ...], first_root: Path | None, as_json: bool) -> None:
    """Sign timestamp.json, and the snapshot when half its time is over; publish what is staged and complete.

    To be run every few hours by a machine that has the online key and no other.

    Example: blindbuild publish refresh repo --key online.key
    """
    with _signers(keys) as signers:
        _show(_publisher(repository, first_root).refresh(signers), as_json)


@click.command("status")
@repository_argument
@json_option
def status_command(repository: Path, as_json: bool) -> None:
    """Say what is published, until when each role is signed, and what is staged and waits for whom.

    Example: blindbuild publish status repo
    """
    publisher = TufPublisher(repository, now=unix_time())
    with publisher.files.held():
        roles, releases = publisher.roles(), publisher.releases()
        changes, waiting = publisher.staged_changes(), publisher.waiting()
    if as_json:
        listed = {
            name: {"version": role.version, "expires": format_time(role.expires)}
            for name, role in roles.items()
        }
        print_json({"roles": listed, "releases": releases, "staged": changes, "waiting": waiting})
        return
    for name, role in roles.items():
        click.echo(f"{name:<10} {role.version:>5}  until {format_time(role.expires)}")
    for line in releases:
        click.echo(f"current    {line}")
    _print_lines("staged", changes)
    _print_lines("waits for", waiting)


def _publisher(repository: Path, first_root: Path | None) -> TufPublisher:
    pinned = None
    if first_root is not None:
        pinned = read_bytes(first_root, error=UsageError, limit_bytes=MAX_ROOT)
    return TufPublisher(repository, now=unix_time(), pinned=pinned)


@contextlib.contextmanager
def _signers(keys: Sequence[str]) -> Iterator[list[ReleaseSigner]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_signer(key, ask_pin=ask_pin)) for key in keys]


def _changed(plan: RootPlan, given: dict[str, Any]) -> RootPlan:
    online = _public(given["online"])
    timestamp = _public(given["timestamp"]) or online
    days = {field.name: given[f"{field.name}_days"] for field in fields(Days)}
    return RootPlan(
        root=_role(plan.root, _all_public(given["root"]), given["root_threshold"]),
        targets=_role(plan.targets, _all_public(given["release"]), given["threshold"]),
        snapshot=_role(plan.snapshot, online, None),
        timestamp=_role(plan.timestamp, timestamp, None),
        days=replace(plan.days, **{name: value for name, value in days.items() if value is not None}),
    )


def _role(before: RoleKeys, keys: tuple[SignerKey, ...], threshold: int | None) -> RoleKeys:
    return RoleKeys(keys or before.keys, threshold or before.threshold)


def _public(path: Path | None) -> tuple[SignerKey, ...]:
    return () if path is None else _all_public((path,))


def _all_public(paths: Sequence[Path]) -> tuple[SignerKey, ...]:
    return tuple(
        load_public_key(read_bytes(path, error=UsageError, limit_bytes=MAX_KEY_FILE)) for path in paths
    )


def _boot_image(image: Path | str) -> bytes:
    path = Path(image)
    if not path.is_dir():
        raise UsageError(f"{image}: expected an image directory with --with-image")
    files = check_image(path)
    (name,) = [name for name in files if name.endswith(".efi")]
    return files[name]


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json({"published": outcome.published, "changes": outcome.changes, "waiting": outcome.waiting})
        return
    for line in outcome.changes:
        click.echo(line)
    click.echo("published" if outcome.published else "staged, not published")
    _print_lines("waits for", outcome.waiting)


def _print_lines(head: str, lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"{head:<10} {line}")
