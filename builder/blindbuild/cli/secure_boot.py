"""What `sign --secureboot` reads and writes: keys from files or tokens, a signed image, a disk with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.disk import replace_uki
from blindbuild.cli.naming import reading
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT, SUMS, check_image
from blindbuild.cli.progress import large_work
from blindbuild.cli.signing import ask_pin
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.pe import MAX_IMAGE_SIZE
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import parse_statement
from blindbuild.publish import (
    SCHEME,
    ImageSigner,
    KeyUri,
    load_certificates,
    load_rsa_key,
    open_token_key,
    parse_key_uri,
    sign_boot_image,
)

MAX_KEY = 1 << 16  # bytes; an RSA-4096 key in PEM has 3300
MAX_CHAIN = 1 << 20  # bytes of certificates
MAX_PIN = 1 << 10  # bytes of a PIN file
SIGNED_SUFFIX = ".signed"


@dataclass(frozen=True, slots=True)
class SignedFiles:
    """What was written, and the digest of the image that its signature is over.

    Attributes:
        image: the signed UKI.
        disk: a disk that boots it; None where only a UKI was given.
        authenticode: the same as of the unsigned image.
    """

    image: Path
    disk: Path | None
    authenticode: Digest


def sign_for_secure_boot(
    image: Path, *, key: str, certificate: Path, output: Path | None, replace: bool
) -> SignedFiles:
    """Sign a UKI, or that of an image directory; the files that are there stay as they are.

    Args:
        image: a UKI, or an image directory: every file of it is checked against SHA256SUMS first.
        key: path of an RSA key in PEM, or a `pkcs11:` URI.
        certificate: path of the signer's certificate.
        output: the signed UKI's path if it shall not be NAME.signed.efi beside the unsigned one.
        replace: whether signatures that are there shall go.

    Raises:
        UsageError: key, certificate and image do not fit, or no such files.
        ToolError: the token did not sign.
        BuildError: a file of the directory is not what SHA256SUMS says.
    """
    unsigned = _read_image(image)
    target = output or unsigned.path.with_name(f"{unsigned.path.stem}{SIGNED_SUFFIX}.efi")
    disk = target.with_suffix(".raw") if unsigned.disk is not None else None
    _check_targets(target, disk, unsigned.taken)
    _check_targets(target, disk, _resolved([certificate, *([] if _is_uri(key) else [Path(key)])]))
    certificates = load_certificates(read_bytes(certificate, error=UsageError, limit_bytes=MAX_CHAIN))
    work = large_work(f"sign {unsigned.path.name}", [unsigned.path])
    with _open_signer(key) as signer, reading(unsigned.path), work:  # a PIN is asked for before the work
        signed = sign_boot_image(unsigned.data, signer, certificates, replace=replace)
    if disk is not None and unsigned.disk is not None:
        write_atomically(disk, replace_uki(unsigned.disk, signed))
    write_atomically(target, signed)
    digests = authenticode_digests(signed, (HashAlgorithm.SHA256,))
    return SignedFiles(target, disk, digests[HashAlgorithm.SHA256])


@dataclass(frozen=True, slots=True)
class _Unsigned:
    """A UKI; of one in an image directory also its disk, and the files that are not to be written over."""

    path: Path
    data: bytes
    disk: bytes | None = None
    taken: frozenset[Path] = frozenset()


def _read_image(image: Path) -> _Unsigned:
    if not image.is_dir():
        return _Unsigned(image, read_bytes(image, error=UsageError, limit_bytes=MAX_IMAGE_SIZE))
    files = check_image(image)
    name = parse_statement(files[STATEMENT]).name
    taken = _resolved(image / file for file in (*files, SUMS, MANIFEST, RELEASE))
    return _Unsigned(image / f"{name}.efi", files[f"{name}.efi"], files[f"{name}.raw"], taken)


def _resolved(paths: Iterable[Path]) -> frozenset[Path]:
    return frozenset(path.resolve() for path in paths)


def _check_targets(target: Path, disk: Path | None, taken: frozenset[Path]) -> None:
    """Refuse to write over the image's own files, the key or the certificate, or the image over its disk."""
    if target == disk:
        raise UsageError(f"{target}: expected another name, the disk goes there", hint="--output NAME.efi")
    for path in (target, *(() if disk is None else (disk,))):
        if path.resolve() in taken:
            raise UsageError(
                f"{path}: expected another name than a file of the image, key or certificate",
                hint="--output NAME.signed.efi",
            )


def _is_uri(key: str) -> bool:
    """Say whether a PKCS#11 URI is meant; one that is written wrong is no path, which errors would show."""
    return key.strip().lower().startswith(SCHEME)


@contextlib.contextmanager
def _open_signer(key: str) -> Iterator[ImageSigner]:
    if not _is_uri(key):
        yield load_rsa_key(read_bytes(Path(key), error=UsageError, limit_bytes=MAX_KEY))
        return
    uri = parse_key_uri(key)
    with open_token_key(uri, pin=_find_pin(uri)) as token_key:
        yield token_key


def _find_pin(uri: KeyUri) -> str:
    """Return the PIN that the URI has or points to; else that of the environment, or ask for it."""
    if uri.pin is not None:
        return uri.pin
    if uri.pin_file is None:
        return ask_pin("PIN of the token")
    data = read_bytes(Path(uri.pin_file), error=UsageError, limit_bytes=MAX_PIN)
    try:
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri.pin_file}: expected a PIN in UTF-8") from error
