"""`blindbuild log init`, `append` and `key`: the owner's side of a transparency log."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.log_files import LOG_PROOF, read_log_policy
from blindbuild.cli.log_options import channel_option, load_signing_key
from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import find_manifest
from blindbuild.client.log_files import open_log, read_checkpoint
from blindbuild.client.web import post
from blindbuild.digest import Digest
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE, parse_envelope
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import parse_release
from blindbuild.manifest.log_entry import log_entry_bytes, log_entry_of
from blindbuild.publish.cosigners import Cosigners
from blindbuild.publish.tlog import LogSigner, TransparencyLog
from blindbuild.publish.witness import WitnessKey

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("init")
@click.argument("log", type=click.Path(file_okay=False, path_type=Path))
@click.option("--origin", required=True, help="The log's name: its address without https://, for good.")
@click.option("--key", required=True, type=_FILE, help="From keygen; a key of its own, for this log only.")
@json_option
def init_command(log: Path, origin: str, key: Path, as_json: bool) -> None:
    """Begin an empty log in the directory LOG, to be served as it is.

    Prints the line that clients and witnesses name the log by.

    Example: blindbuild log init log --origin releases.example.org/log --key log.key
    """
    signer = LogSigner.of(origin, load_signing_key(key))
    TransparencyLog(log, signer).create()
    if as_json:
        print_json({"origin": origin, "vkey": signer.key.text})
    else:
        click.echo(signer.key.text)


@click.command("key")
@click.option("--key", required=True, type=_FILE, help="From keygen.")
@click.option("--name", required=True, help="Of the log (its origin), or of the witness.")
@click.option("--witness", is_flag=True, help="A witness's key instead of a log's.")
def key_command(key: Path, name: str, witness: bool) -> None:
    """Print the public key as policies and witnesses name it.

    Example: blindbuild log key --key witness.key --name witness.example.org --witness
    """
    signing_key = load_signing_key(key)
    named = WitnessKey.of(name, signing_key).key if witness else LogSigner.of(name, signing_key).key
    click.echo(named.text)


@click.command("append")
@click.argument("log", type=_DIRECTORY)
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--key", required=True, type=_FILE, help="The log's key.")
@click.option("--policy", type=_FILE, help="Whose witnesses are asked to cosign, and how many must.")
@channel_option
@json_option
def append_command(
    log: Path, images: tuple[Path, ...], key: Path, policy: Path | None, channel: str, as_json: bool
) -> None:
    """Log manifests: IMAGES are image directories, or manifest files.

    Beside each manifest its proof is written, `manifest.tlog-proof`. What is in the log already is not added
    again. Nothing is published until the policy's quorum has cosigned. Killed at any moment, the next run
    goes on. Without IMAGES, what a killed run left is finished, or the checkpoint is cosigned anew.

    Example: blindbuild log append log images/hello/1.0.0 --key log.key --policy log-policy.txt
    """
    last = read_checkpoint(open_log(str(log)))
    origin = last.checkpoint.origin
    if policy is None and len(last.note.signatures) > 1:
        raise UsageError(
            "expected --policy: witnesses cosigned this log's last checkpoint, and clients will ask for them"
        )
    collect = None
    if policy is not None:
        collect = Cosigners(read_log_policy(policy), post=post, clock=unix_time).collect
    owned = TransparencyLog(log, LogSigner.of(origin, load_signing_key(key)), collect=collect)
    manifests = [_find_on_channel(image, channel) for image in images]
    envelopes = [read_bytes(path, error=UsageError, limit_bytes=MAX_ENVELOPE) for path in manifests]
    entries = [log_entry_bytes(log_entry_of(envelope, channel=channel)) for envelope in envelopes]
    for envelope in envelopes:
        owned.store_envelope(Digest.sha256(envelope).hex, envelope)
    places = owned.append(entries)
    proofs = [path.with_name(LOG_PROOF) for path in manifests]
    for path, index in zip(proofs, places, strict=True):
        write_atomically(path, owned.prove(index))
    size = owned.checkpoint().checkpoint.size
    if as_json:
        rows = zip(manifests, places, proofs, strict=True)
        listed = [{"manifest": str(m), "index": index, "proof": str(proof)} for m, index, proof in rows]
        print_json({"origin": origin, "size": size, "entries": listed})
        return
    for path, index in zip(proofs, places, strict=True):
        click.echo(f"{path}: entry {index} of {size} in {origin}")
    if not proofs:
        click.echo(f"{origin}: {size} entries")


def _find_on_channel(image: Path, channel: str) -> Path:
    # nobody signs what a leaf says of the channel, and it stays for good: the signed release must agree
    manifest, release = find_manifest(image)
    if release.is_file():  # with a TUF repository there is none
        envelope = parse_envelope(read_bytes(release, error=UsageError, limit_bytes=MAX_ENVELOPE))
        said = parse_release(envelope.payload).channel
        if said != channel:
            raise UsageError(
                f"{release}: expected a release on channel {channel}, got one on {said}",
                hint=f"pass --channel {said}",
            )
    return manifest
