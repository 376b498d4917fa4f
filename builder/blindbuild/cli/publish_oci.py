"""`blindbuild publish oci` and `publish directory`: hand out a release where clients can fetch it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from blindbuild.cli.options import json_option, plain_http_option, print_json, read_place
from blindbuild.cli.outputs import SUMS, check_image
from blindbuild.client.published import read_published
from blindbuild.client.registry import Access
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.oci import Reference
from blindbuild.host.files import read_bytes
from blindbuild.publish.directory import check_publishable, write_directory
from blindbuild.publish.oci import push_image, push_published

IMAGE_SUFFIX = "-image"  # behind the publication's tag: the image's own


@click.command("directory")
@click.argument("image", callback=read_place)
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@plain_http_option
@json_option
def directory_command(image: Path | str, destination: Path, plain_http: bool, as_json: bool) -> None:
    """Copy what clients need of IMAGE to DESTINATION, a directory for any web server.

    IMAGE is an image directory that was signed, or a place where it is published: https:// or oci://. Files
    that do not belong together are refused; signatures are for clients to judge.

    Example: blindbuild publish directory images/hello/1.0.0 public/hello
    """
    published = read_published(image, plain_http=plain_http, environ=os.environ)
    check_publishable(published)
    names = write_directory(published, destination)
    if as_json:
        print_json({"directory": str(destination), "files": list(names)})
    else:
        click.echo("\n".join(str(destination / name) for name in names))


@click.command("oci")
@click.argument("image", callback=read_place)
@click.argument("place", metavar="oci://HOST/REPOSITORY:TAG")
@click.option("--with-image", is_flag=True, help="Push the image's files as well, and attach the release.")
@click.option("--subject", metavar="sha256:…", help="Attach the release to this manifest of the repository.")
@click.option("--plain-http", is_flag=True, help="Without TLS, for a registry on this very machine.")
@click.option(
    "--token-host",
    multiple=True,
    metavar="HOST",
    help="A token server that may be given the login, beside the registry itself.",
)
@json_option
def oci_command(
    image: Path | str,
    place: str,
    with_image: bool,
    subject: str | None,
    plain_http: bool,
    token_host: tuple[str, ...],
    as_json: bool,
) -> None:
    """Push what clients need of IMAGE to an OCI registry, under a tag.

    The login is the `auth` entry for the registry in docker's configuration (DOCKER_AUTH_CONFIG, else
    config.json in DOCKER_CONFIG or ~/.docker); helpers that it names are not run. Pushing the same files
    twice gives the same digest. --with-image tags the image TAG-image.

    Example: blindbuild publish oci images/hello/1.0.0 oci://registry.example/hello:1.0.0
    """
    reference = _reference(place)
    access = Access(plain_http, os.environ, token_host)
    published = read_published(image, environ=os.environ)
    check_publishable(published)
    target = _subject(subject)
    report: dict[str, str] = {}
    if with_image:
        if target is not None:
            raise UsageError("expected --with-image or --subject, got both")
        files = _image_files(image)
        pushed_image = push_image(files, reference.tagged(f"{reference.name}{IMAGE_SUFFIX}"), access)
        target = pushed_image.digest
        report["image"] = str(pushed_image)
    pushed = push_published(published, reference, access, subject=target)
    report["publication"] = str(pushed.publication)
    if pushed.listed is not None:
        report["attached"] = str(pushed.listed)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(f"{name}: {where}" for name, where in sorted(report.items(), reverse=True)))


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except FormatError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _subject(text: str | None) -> Digest | None:
    if text is None:
        return None
    try:
        return Digest.from_hex(HashAlgorithm.SHA256, text.removeprefix("sha256:"))
    except FormatError as error:
        raise UsageError(f"--subject: expected sha256:…, got {text[:80]!r}") from error


def _image_files(image: Path | str) -> Mapping[str, bytes]:
    if not isinstance(image, Path) or not image.is_dir():
        raise UsageError("--with-image: expected an image directory")
    return {**check_image(image), SUMS: read_bytes(image / SUMS)}
