"""What `sign` reads and writes for releases: an image, keys by reference, envelopes, rebuild records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from blindbuild.cli.outputs import MANIFEST, REBUILDS, RELEASE, STATEMENT, check_image, find_manifest
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, UsageError, VerificationError
from blindbuild.formats.dsse import MAX_ENVELOPE, parse_envelope
from blindbuild.formats.printable import visible
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import Release, format_time, parse_statement
from blindbuild.manifest.words import DEFAULT_CHANNEL, NAME
from blindbuild.publish import (
    Envelopes,
    ReleaseSigner,
    check_envelopes,
    cosign_envelopes,
    make_release,
    open_signer,
    sign_envelopes,
    sign_rebuild,
)

DAY_S = 86400
PIN_VARIABLE = "BLINDBUILD_PIN"


@dataclass(frozen=True, slots=True)
class Signed:
    """What was written, and who has signed just now.

    Attributes:
        paths: the files.
        statement: SHA-256 of the statement that they are about.
        signers: key ids.
        release: None for a rebuild record.
    """

    paths: tuple[Path, ...]
    statement: Digest
    signers: tuple[str, ...]
    release: Release | None = None


def ask_pin(what: str) -> str:
    """Return a PIN from the environment, or ask for it without echo; never one from the command line."""
    chosen = os.environ.get(PIN_VARIABLE)
    # a token's name is from a URI, and that may be from a key file of somebody else's
    return chosen if chosen else str(click.prompt(visible(what), hide_input=True, err=True))


def sign_image(image: Path, key: ReleaseSigner, *, days: int) -> tuple[Digest, str]:
    """Write both envelopes with one signature; return the statement's digest and the end of validity."""
    statement = read_statement(image)
    release = _new_release(statement, days=days, channel=DEFAULT_CHANNEL)
    _write(image, sign_envelopes(key, statement, release))
    return Digest.sha256(statement), format_time(release.valid_until)


def sign_release_of(image: Path, keys: Sequence[str], *, days: int, channel: str) -> Signed:
    """Write both envelopes anew, signed by each of the keys, of which there is one at least.

    Raises:
        UsageError: no such key.
        ToolError: a token or service refused.
        BuildError: a file of the image is not what SHA256SUMS says.
        EnvelopeError: two references mean one key.
    """
    if not NAME.fullmatch(channel):
        raise UsageError(f"--channel: expected a name such as {DEFAULT_CHANNEL}, got {channel[:80]!r}")
    statement = read_statement(image)
    release = _new_release(statement, days=days, channel=channel)
    _show(release, count=0)
    with open_signer(keys[0], ask_pin=ask_pin) as signer:
        first, envelopes = signer.public.key_id, sign_envelopes(signer, statement, release)
    others, envelopes = _cosign(envelopes, keys[1:])
    return Signed(_write(image, envelopes), release.statement, (first, *others), release)


def add_to_release_of(image: Path, keys: Sequence[str]) -> Signed:
    """Add signatures to the envelopes that others have signed, if they are about the image at hand.

    Raises:
        UsageError: no such key, or nobody has signed yet.
        VerificationError: the envelopes are about something else, or no longer valid.
        ToolError: a token or service refused.
        BuildError: a file of the image is not what SHA256SUMS says.
        EnvelopeError: malformed, or a key has signed already.
    """
    statement = read_statement(image)
    files = find_manifest(image)
    manifest, published = (read_bytes(path, error=UsageError, limit_bytes=MAX_ENVELOPE) for path in files)
    envelopes = Envelopes(manifest, published)
    release = check_envelopes(envelopes, statement, now=unix_time())
    _show(release, count=len(parse_envelope(manifest).signatures))
    signers, envelopes = _cosign(envelopes, keys)
    return Signed(_write(image, envelopes), release.statement, signers, release)


def sign_as_rebuilder(image: Path, keys: Sequence[str], *, published: Path | None) -> Signed:
    """Write a record for each key that this image was built independently and came out the same.

    Args:
        image: what the rebuilder built.
        keys: his; none of them signs releases.
        published: the publisher's manifest, whose statement must be the same; else that in the image, if any.

    Raises:
        UsageError: no such key or manifest.
        VerificationError: the published statement is another one.
        ToolError: a token or service refused.
        BuildError: a file of the image is not what SHA256SUMS says.
    """
    statement = read_statement(image)
    if published is not None or (image / MANIFEST).is_file():
        manifest, _ = find_manifest(image if published is None else published)
        _check_same(read_bytes(manifest, error=UsageError, limit_bytes=MAX_ENVELOPE), statement)
    records = {}
    for key in keys:
        with open_signer(key, ask_pin=ask_pin) as signer:
            records[signer.public.key_id] = sign_rebuild(signer, statement)
    place = image / REBUILDS
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{place}: expected a directory that can be written: {error.strerror}") from error
    paths = tuple(place / f"{key_id}.dsse.json" for key_id in records)
    for path, record in zip(paths, records.values(), strict=True):
        write_atomically(path, record)
    return Signed(paths, Digest.sha256(statement), tuple(records))


def read_statement(image: Path) -> bytes:
    """Return the statement of an image directory, every file of which is what SHA256SUMS says.

    Raises:
        UsageError: not an image directory.
        BuildError: a file is another one than was built, or not the one that the statement is about.
    """
    if not image.is_dir():
        raise UsageError(f"{image}: expected an image directory for --key")
    files = check_image(image)
    _check_subject(image, files)
    return files[STATEMENT]


def _new_release(statement: bytes, *, days: int, channel: str) -> Release:
    now = unix_time()
    return make_release(statement, valid_from=now, valid_until=now + days * DAY_S, channel=channel)


def _cosign(envelopes: Envelopes, keys: Sequence[str]) -> tuple[tuple[str, ...], Envelopes]:
    signers = []
    for key in keys:
        with open_signer(key, ask_pin=ask_pin) as signer:
            signers.append(signer.public.key_id)
            envelopes = cosign_envelopes(signer, envelopes)
    return tuple(signers), envelopes


def _write(image: Path, envelopes: Envelopes) -> tuple[Path, ...]:
    write_atomically(image / RELEASE, envelopes.release)
    write_atomically(image / MANIFEST, envelopes.manifest)
    return image / MANIFEST, image / RELEASE


def _show(release: Release, *, count: int) -> None:
    """Say what is about to be signed, before a token is asked; on stderr, since it is no result."""
    named = f"{release.product} {release.version}, sequence {release.sequence}"
    valid = f"{format_time(release.valid_from)} until {format_time(release.valid_until)}"
    click.echo(f"signing {named}, channel {release.channel}", err=True)
    click.echo(f"  statement {release.statement}", err=True)
    click.echo(f"  valid {valid}, signatures so far: {count}", err=True)


def _check_same(manifest: bytes, statement: bytes) -> None:
    payload = parse_envelope(manifest).payload
    if payload != statement:
        raise VerificationError(
            f"expected the published statement, {Digest.sha256(payload)}, "
            f"got {Digest.sha256(statement)} from this build",
            step="M14",
            reason="rebuild-of-other-statement",
            hint="the build was not the same: compare both statement.json, and tell the publisher",
        )


def _check_subject(image: Path, files: Mapping[str, bytes]) -> None:
    # SHA256SUMS is a file like the others: only the statement's own digests say which image it is about
    statement = parse_statement(files[STATEMENT])
    name = f"{statement.name}.efi"
    subjects = {subject.name: subject.digests for subject in statement.subjects}
    digests = subjects.get(name, {})
    if name not in files or not digests:
        raise BuildError(f"{image}: expected a statement about {name}", hint="build the image again")
    about_image = all(Digest.of(kind, files[name]).equals(digest) for kind, digest in digests.items())
    if not about_image or subjects.keys() != {name}:
        raise BuildError(
            f"{image / name}: not the image that the statement is about", hint="build the image again"
        )
    if not Digest.sha256(files["channels.json"]).equals(statement.ledger):
        raise BuildError(
            f"{image / 'channels.json'}: not the ledger that the statement names",
            hint="build the image again",
        )
