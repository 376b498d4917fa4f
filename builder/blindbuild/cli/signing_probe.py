"""What `sign --probe` reads and writes: the envelope over what a probe saw, by as many as clients ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from blindbuild.cli.outputs import PROBE, PROBE_ENVELOPE
from blindbuild.cli.signing import Signed, ask_pin, read_statement
from blindbuild.digest import Digest
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE, parse_envelope
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import parse_statement
from blindbuild.manifest.probe import MAX_PROBE, parse_probe
from blindbuild.publish import cosign_probe, open_signer, sign_probe
from blindbuild.verify.probe import check_subject, summarize_probe


def sign_probe_of(image: Path, keys: Sequence[str], *, add: bool) -> Signed:
    """Write the envelope over an image's probe, signed by each of the keys, of which there is one at least.

    Args:
        image: its directory, with a probe.json.
        keys: references to release keys.
        add: to the signatures of others in probe.dsse.json, which must be over a probe of this image too.

    Raises:
        UsageError: no such key, or no probe.
        VerificationError: the probe is of another image.
        ManifestError: it is malformed.
        ToolError: a token or service refused.
        BuildError: a file of the image is not what SHA256SUMS says.
        EnvelopeError: malformed, or a key has signed already.
    """
    statement, path = read_statement(image), image / PROBE_ENVELOPE
    if add:
        hint = "the first signer signs without --add"
        envelope = read_bytes(path, error=UsageError, hint=hint, limit_bytes=MAX_ENVELOPE)
        parsed = parse_envelope(envelope)
        data, count = parsed.payload, len(parsed.signatures)
    else:
        hint = f"make it with `blindbuild channels {image} --probe`"
        data = read_bytes(image / PROBE, error=UsageError, hint=hint, limit_bytes=MAX_PROBE)
        envelope, count = b"", 0
    digest = Digest.sha256(statement)
    _show(data, statement, digest, count=count)
    signers = []
    for key in keys:
        with open_signer(key, ask_pin=ask_pin) as signer:
            envelope = cosign_probe(signer, envelope) if envelope else sign_probe(signer, data)
            signers.append(signer.public.key_id)
    write_atomically(path, envelope)
    return Signed((path,), digest, tuple(signers))


def _show(data: bytes, statement: bytes, digest: Digest, *, count: int) -> None:
    """Say what is about to be signed, before a token is asked; on stderr, since it is no result."""
    probe = parse_probe(data)
    check_subject(probe, parse_statement(statement), digest)
    click.echo(
        f"signing the probe of {probe.name} {probe.version}, signatures so far, unverified: {count}", err=True
    )
    click.echo(f"  statement {digest}", err=True)
    for role, image in probe.images:
        click.echo(f"  beside the {role} image {image}", err=True)
    click.echo(f"  {summarize_probe(probe)}", err=True)
