"""`blindbuild eif`: write an AWS Nitro Enclave image, or read one, and print its PCRs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from blindbuild.assemble.eif import EifMetadata, EifSigner, build_eif, load_signer, split_uki
from blindbuild.cli.naming import reading
from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.progress import large_work
from blindbuild.errors import UsageError
from blindbuild.formats.eif import MAGIC
from blindbuild.formats.source import Source
from blindbuild.host.file_source import FileSource
from blindbuild.host.files import hash_file, read_bytes, write_chunks_atomically
from blindbuild.measure.eif import measure_eif
from blindbuild.measure.named import NamedMeasurement

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MAX_PEM_BYTES = 1 << 16  # a key or a certificate has some hundred bytes


@click.command("eif")
@click.argument("image", required=False, type=_FILE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the EIF goes.")
@click.option("--kernel", type=_FILE, help="A bzImage, or an uncompressed arm64 Image.")
@click.option("--command-line", metavar="TEXT", help="The kernel's command line.")
@click.option(
    "--ramdisk", "ramdisks", multiple=True, type=_FILE, help="A cpio archive; repeatable, in order."
)
@click.option("--name", help="The image's name in the metadata [default: the output's].")
@click.option("--image-version", default="0", show_default=True, help="The image's version in the metadata.")
@click.option("--build-time", metavar="RFC3339", help="A time for the metadata [default: none].")
@click.option("--sign-key", type=_FILE, help="Private key on P-384 (PEM) that signs PCR0.")
@click.option("--sign-certificate", type=_FILE, help="Its certificate (PEM), whose digest PCR8 will be.")
@json_option
def command(
    image: Path | None,
    output: Path | None,
    kernel: Path | None,
    command_line: str | None,
    ramdisks: tuple[Path, ...],
    name: str | None,
    image_version: str,
    build_time: str | None,
    sign_key: Path | None,
    sign_certificate: Path | None,
    as_json: bool,
) -> None:
    """Write an AWS Nitro Enclave image from a UKI or from a kernel and ramdisks, and print its PCRs.

    Given an EIF as IMAGE and no --output, reads it strictly and prints what its enclave would report.

    Example: blindbuild eif images/hello/1.0.0/hello.efi -o hello.eif
    """
    parts = _Parts(image, kernel, command_line, ramdisks)
    if output is None:
        if name or build_time or sign_key or sign_certificate:
            raise UsageError("--name, --build-time and --sign-…: expected --output with them, got none")
        _report(*_read(parts), as_json)
        return
    metadata = EifMetadata(name=name or output.stem, version=image_version, build_time=build_time)
    signer = _load_signer(sign_key, sign_certificate)
    with contextlib.ExitStack() as stack:
        stack.enter_context(large_work(f"write {output.name}", parts.files))
        opened, text, disks = _open(parts, stack)
        built = build_eif(kernel=opened, command_line=text, ramdisks=disks, metadata=metadata, signer=signer)
        write_chunks_atomically(output, built.chunks())
    _report(output, built.measurements, as_json)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the caller named: an image, or kernel, command line and ramdisks."""

    image: Path | None
    kernel: Path | None
    command_line: str | None
    ramdisks: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """Every file that was named."""
        return [path for path in (self.image, self.kernel, *self.ramdisks) if path is not None]

    @property
    def names(self) -> str:
        """The options that were given besides the image."""
        given = {
            "--kernel": self.kernel is not None,
            "--command-line": self.command_line is not None,
            "--ramdisk": bool(self.ramdisks),
        }
        return ", ".join(name for name, is_given in given.items() if is_given)


def _read(parts: _Parts) -> tuple[Path, tuple[NamedMeasurement, ...]]:
    if parts.image is None or parts.names:
        raise UsageError("expected --output, where the image goes, or nothing but an EIF to read")
    with FileSource(parts.image) as source:
        if not _is_eif(source):
            raise UsageError(f"{parts.image}: expected an EIF to read, or --output, where one goes")
        with reading(parts.image), large_work(f"read {parts.image.name}", parts.files):
            return parts.image, measure_eif(source)


def _is_eif(source: Source) -> bool:
    return source.size >= len(MAGIC) and source.read(0, len(MAGIC)) == MAGIC


def _open(parts: _Parts, stack: contextlib.ExitStack) -> tuple[Source, str, list[Source]]:
    if parts.image is not None:
        if parts.names:
            raise UsageError("expected a UKI, or --kernel, --command-line and --ramdisk, got both")
        return _split(parts.image, stack.enter_context(FileSource(parts.image)))
    if parts.kernel is None or parts.command_line is None or not parts.ramdisks:
        raise UsageError(
            f"expected a UKI, or all of --kernel, --command-line and --ramdisk, got {parts.names or 'none'}"
        )
    opened, *disks = (stack.enter_context(FileSource(path)) for path in (parts.kernel, *parts.ramdisks))
    return opened, parts.command_line, list(disks)


def _split(path: Path, image: Source) -> tuple[Source, str, list[Source]]:
    if _is_eif(image):
        raise UsageError(f"{path}: expected a UKI to convert, got an EIF", hint="without --output it is read")
    with reading(path, hint="of a kernel without a stub: --kernel, --command-line and --ramdisk"):
        kernel, command_line, initrd = split_uki(image)
    return kernel, command_line, [initrd]


def _load_signer(key: Path | None, certificate: Path | None) -> EifSigner | None:
    if key is None and certificate is None:
        return None
    if key is None or certificate is None:
        raise UsageError("expected --sign-key and --sign-certificate together")
    key_pem, certificate_pem = (
        read_bytes(path, error=UsageError, limit_bytes=_MAX_PEM_BYTES) for path in (key, certificate)
    )
    with reading(certificate):
        return load_signer(key_pem, certificate_pem)


def _report(path: Path, measurements: Sequence[NamedMeasurement], as_json: bool) -> None:
    if not as_json:
        for measurement in measurements:
            click.echo(f"{measurement.name}  {measurement.digest.hex}  {measurement.what}")
        return
    size, digest = hash_file(path)
    print_json(
        {
            "image": str(path),
            "size": size,
            "sha256": digest.hex,
            "measurements": {
                item.name: {"algorithm": item.digest.algorithm.value, "digest": item.digest.hex}
                for item in measurements
            },
        }
    )
