"""The Secure Boot state of a machine, and the entry of db by which its firmware trusts an image.

Sources: UEFI 2.10, 3.3 and 32.3 (variables); edk2 SecurityPkg/Library/AuthVariableLib (when Secure Boot is
on) and DxeImageVerificationLib.c, IsAllowedByDb (which entry validates an image).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.certificate import Certificate, parse_certificate
from blindbuild.formats.efivars import EfiVariable
from blindbuild.formats.image_signature import read_signatures
from blindbuild.formats.siglist import (
    CERTIFICATE_DIGESTS,
    EFI_CERT_X509,
    IMAGE_DIGESTS,
    parse_signature_lists,
    x509_entries,
)
from blindbuild.formats.source import Source
from blindbuild.formats.tcgevent import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE

_ENABLE_SWITCH = (
    "f0a30bc7-af08-4556-99c4-001009c93a44",
    "SecureBootEnable",
)  # edk2 AuthenticatedVariableFormat
_TIME_BYTES = 16  # EFI_TIME, behind the digest of a certificate
_DATABASE = str(EFI_IMAGE_SECURITY_DATABASE)
_GLOBAL = str(EFI_GLOBAL_VARIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBootState:
    """What firmware measures into PCR 7; each variable as the raw lists it holds, without its signature.

    Attributes:
        enabled: images are verified.
        pk, kek, db, dbx: empty for a variable that does not exist, which is measured all the same.
        dbt, dbr: None for a variable that does not exist, which is then not measured.
        authority: the entry of db, owner and certificate, by which the firmware trusts the first image.
    """

    enabled: bool = False
    pk: bytes = b""
    kek: bytes = b""
    db: bytes = b""
    dbx: bytes = b""
    dbt: bytes | None = None
    dbr: bytes | None = None
    authority: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("pk", "kek", "db", "dbx", "dbt", "dbr"):
            try:
                parse_signature_lists(getattr(self, name) or b"")
            except FormatError as error:
                raise MeasureError(f"variable {name}: {error.message}") from error
        if self.enabled and not self.pk:
            raise MeasureError(
                "Secure Boot: expected a platform key where it is on, got none",
                hint="give the machine's keys: --variables, or --pk, --kek and --db",
            )
        if self.authority is not None and self.authority not in _entries(self.db):
            raise MeasureError("Secure Boot: expected an authority that is an entry of db, got another one")

    def trusting(self, image: bytes | Source) -> SecureBootState:
        """Return this state with the entry of db that validates `image`; unchanged where it is off."""
        return replace(self, authority=find_authority(self, image)) if self.enabled else self


SECURE_BOOT_OFF = SecureBootState()


def read_secure_boot(variables: Iterable[EfiVariable]) -> SecureBootState:
    """Return the state that a variable store boots with, without an authority.

    Secure Boot is on if there is a platform key, and the user's switch is on or was never touched.

    Raises:
        MeasureError: a list of keys is malformed.

    Source: edk2 AuthVariableLib/AuthService.c, InitSecureBootVariables.
    """
    held: Mapping[tuple[str, str], bytes] = {(item.vendor, item.name): item.data for item in variables}
    pk = held.get((_GLOBAL, "PK"), b"")
    return SecureBootState(
        enabled=bool(pk) and held.get(_ENABLE_SWITCH, b"\x01") == b"\x01",
        pk=pk,
        kek=held.get((_GLOBAL, "KEK"), b""),
        db=held.get((_DATABASE, "db"), b""),
        dbx=held.get((_DATABASE, "dbx"), b""),
        dbt=held.get((_DATABASE, "dbt")),
        dbr=held.get((_DATABASE, "dbr")),
    )


def find_authority(state: SecureBootState, image: bytes | Source) -> bytes:
    """Return the entry of db that validates `image`: owner and certificate, or owner and digest.

    For each signature in turn, firmware looks for a certificate, then for the image's digest with the
    signature's hash algorithm; for an image without one, for its SHA-256. What a signature is over is
    compared with the image, but its value itself is not verified: an image that the firmware refuses has no
    boot to predict.

    Args:
        state: the keys.
        image: not held in memory where it is a source.

    Raises:
        PeError: the image or its signature is malformed.
        FormatError: a certificate of the signature is.
        MeasureError: no entry fits, or dbx forbids the image.

    Source: edk2 DxeImageVerificationLib.c, DxeImageVerificationHandler.
    """
    carried = read_signatures(image)
    used = [one.digest.algorithm for one in carried]
    digests = authenticode_digests(image, {HashAlgorithm.SHA256, *used})
    chains = {one: tuple(parse_certificate(der) for der in one.chain) for one in carried}
    _refuse_forbidden(state.dbx, tuple(digests.values()), tuple(chains.values()))
    for signature in carried:
        digest = digests[signature.digest.algorithm]
        found = _signer_entry(state.db, chains[signature]) if signature.digest == digest else None
        found = found or _digest_entry(state.db, digest)
        if found is not None:
            return found
    found = None if carried else _digest_entry(state.db, digests[HashAlgorithm.SHA256])
    if found is not None:
        return found
    over = sum(one.digest == digests[one.digest.algorithm] for one in carried)
    raise MeasureError(
        f"Secure Boot: expected an image that an entry of db validates, got one with "
        f"{over} signatures over it and none that does",
        hint="sign the image with a key whose certificate is in db, or name the state of another machine",
    )


def _signer_entry(db: bytes, chain: tuple[Certificate, ...]) -> bytes | None:
    """Return the first certificate of db that is in the chain, or issued one of it."""
    for entry in x509_entries(db):
        if _vouches(entry.data, chain):
            return entry.encoded
    return None


def _digest_entry(db: bytes, digest: Digest) -> bytes | None:
    """Return the first entry of db that is this digest of an image."""
    for item in parse_signature_lists(db):
        for entry in item.entries if IMAGE_DIGESTS.get(item.kind) is digest.algorithm else ():
            if entry.data == digest.value:
                return entry.encoded
    return None


def _refuse_forbidden(
    dbx: bytes, digests: tuple[Digest, ...], chains: tuple[tuple[Certificate, ...], ...]
) -> None:
    """Refuse what dbx forbids, whatever time of revocation it states: no timestamp is verified here."""
    values = {digest.value for digest in digests}
    certificates = tuple(dict.fromkeys(certificate for chain in chains for certificate in chain))
    for item in parse_signature_lists(dbx):
        revoked = _signed_parts(certificates, CERTIFICATE_DIGESTS.get(item.kind))
        for entry in item.entries:
            forbidden = entry.data in values or entry.data[:-_TIME_BYTES] in revoked
            if forbidden or (item.kind == EFI_CERT_X509 and _vouches(entry.data, certificates)):
                raise MeasureError("Secure Boot: dbx forbids the image or a certificate of its signature")


def _signed_parts(certificates: Iterable[Certificate], algorithm: HashAlgorithm | None) -> set[bytes]:
    """Return the digests of what is signed of each certificate; none where dbx lists no such digests."""
    if algorithm is None:
        return set()
    return {Digest.of(algorithm, one.parsed.tbs_certificate_bytes).value for one in certificates}


def _vouches(trusted: bytes, chain: Iterable[Certificate]) -> bool:
    chain = tuple(chain)
    return trusted in {certificate.der for certificate in chain} or _issued_one_of(trusted, chain)


def _issued_one_of(trusted: bytes, chain: Iterable[Certificate]) -> bool:
    # Firmware takes a certificate of db as the end of the chain, whether or not it is a root.
    try:
        issuer = parse_certificate(trusted).parsed
    except FormatError:
        return False  # as firmware does: an entry that it cannot read validates nothing
    for certificate in chain:
        try:
            certificate.parsed.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


def _entries(lists: bytes) -> set[bytes]:
    return {entry.encoded for item in parse_signature_lists(lists) for entry in item.entries}
