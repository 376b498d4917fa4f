"""The trust file: whose signatures and whose TPMs a client believes.

People make it, so it is strict JSON, but not canonical.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import canonical_bytes, parse_json
from blindbuild.formats.dsse import MAX_SIGNATURES, SignerKey
from blindbuild.formats.fields import Fields, decode_base64
from blindbuild.formats.tpmkey import PublicArea, parse_sized_public
from blindbuild.manifest.tuf import MAX_ROOT, check_root
from blindbuild.manifest.words import DEFAULT_CHANNEL, NAME

if TYPE_CHECKING:
    from blindbuild.formats.certificate import Certificate

MAX_TRUST = 1 << 20  # bytes; dozens of certificates fit
MAX_CERTIFICATES = 64  # of each kind; there are about 40 TPM vendor roots in all
MAX_ATTESTATION_KEYS = 64  # pinned machines
_ADDRESS = re.compile(r"https?://[!-~]{1,500}")
_CERTIFICATE_LISTS = (
    *("tpmRoots", "tpmIntermediates", "testTpmRoots", "testTpmIntermediates"),
    *("akRoots", "akIntermediates"),
)


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """Whom a client believes.

    Roots of endorsement certificates, roots of attestation key certificates, or pinned attestation keys are
    given, never two of them: there is one way to believe a TPM, and no falling back to a second one.

    Attributes:
        product: the only product that is accepted.
        release_keys: keys of unique public bytes.
        threshold: how many of them must have signed; 0, and no keys, where a TUF repository says which count.
        tpm_roots: roots of TPMs; `tpm_intermediates` are the only issuers below them.
        test_tpm_roots: roots of software TPMs that their operator runs.
        attestation_keys: public areas of keys that are believed as they are.
        ak_roots: roots of those who certify attestation keys themselves, as cloud providers do;
            `ak_intermediates` are the only issuers below them.
        rebuilders: keys of those who build the same image on their own; none of them is a release key.
        rebuilder_threshold: how many of them must have found the same statement; 0 when there are none.
        inherited_domain: the domain of the trust file whose place this one takes, so that new release keys do
            not make a client forget what it accepted; None for a trust file that begins anew.
        tuf_root: root metadata of the TUF repository that says what is current and which keys count, or None
            where the release keys of this file do.
        tuf_repository: where that repository is, unless the caller says otherwise; or None.
    """

    product: str
    release_keys: tuple[SignerKey, ...]
    threshold: int
    tpm_roots: tuple[Certificate, ...]
    tpm_intermediates: tuple[Certificate, ...]
    test_tpm_roots: tuple[Certificate, ...]
    test_tpm_intermediates: tuple[Certificate, ...]
    attestation_keys: tuple[PublicArea, ...]
    ak_roots: tuple[Certificate, ...] = ()
    ak_intermediates: tuple[Certificate, ...] = ()
    rebuilders: tuple[SignerKey, ...] = ()
    rebuilder_threshold: int = 0
    inherited_domain: Digest | None = None
    tuf_root: bytes | None = None
    tuf_repository: str | None = None

    @property
    def domain(self) -> Digest:
        """SHA-256 that names product and release keys: what is remembered is remembered under it."""
        if self.inherited_domain is not None:
            return self.inherited_domain
        if self.tuf_root is not None:
            # not the keys that count: they change, and what was accepted must outlast that
            root = Digest.sha256(self.tuf_root).hex
            return Digest.sha256(canonical_bytes({"product": self.product, "tufRoot": root}))
        keys = sorted(key.key_id for key in self.release_keys)
        return Digest.sha256(canonical_bytes({"product": self.product, "releaseKeys": list(keys)}))

    def domain_of(self, channel: str) -> Digest:
        """Return what a channel's releases are remembered under; the default's is the domain itself."""
        if channel == DEFAULT_CHANNEL:
            return self.domain
        return Digest.sha256(canonical_bytes({"domain": self.domain.hex, "channel": channel}))


def parse_trust(data: bytes, *, for_tpm: bool = True) -> TrustRoots:
    """Parse a trust file.

    Args:
        data: the file.
        for_tpm: there must be something to believe a TPM by; evidence of processors needs nothing.

    Raises:
        ManifestError: not strict JSON, an unknown or missing field, a key or certificate twice, a threshold
            that cannot be met, or nothing to believe a TPM by.
    """
    try:
        value = parse_json(data, max_bytes=MAX_TRUST)
    except FormatError as error:
        raise ManifestError(f"trust file: {error.message}") from error
    fields = Fields(
        value,
        "trust file",
        required=("version", "product"),
        optional=(
            *("releaseKeys", "threshold", "tuf"),
            *_CERTIFICATE_LISTS,
            *("attestationKeys", "rebuilders", "domain"),
        ),
        error=ManifestError,
    )
    fields.integer("version", minimum=1, maximum=1)
    keys, threshold = _release_keys(fields)
    tuf_root, tuf_repository = _tuf(fields)
    rebuilders, rebuilder_threshold = _rebuilders(fields)
    _refuse_two_roles(keys, rebuilders)
    certificates = {name: _certificates(fields, name) for name in _CERTIFICATE_LISTS}
    _refuse_duplicates([c.der for listed in certificates.values() for c in listed], "certificate")
    trust = TrustRoots(
        product=fields.token("product", NAME),
        release_keys=keys,
        threshold=threshold,
        tpm_roots=certificates["tpmRoots"],
        tpm_intermediates=certificates["tpmIntermediates"],
        test_tpm_roots=certificates["testTpmRoots"],
        test_tpm_intermediates=certificates["testTpmIntermediates"],
        attestation_keys=_attestation_keys(fields),
        ak_roots=certificates["akRoots"],
        ak_intermediates=certificates["akIntermediates"],
        rebuilders=rebuilders,
        rebuilder_threshold=rebuilder_threshold,
        inherited_domain=fields.digest("domain", HashAlgorithm.SHA256) if "domain" in fields else None,
        tuf_root=tuf_root,
        tuf_repository=tuf_repository,
    )
    _check_one_way(trust, for_tpm=for_tpm)
    return trust


def _check_one_way(trust: TrustRoots, *, for_tpm: bool) -> None:
    ways = {
        "TPM roots": bool(trust.tpm_roots or trust.test_tpm_roots),
        "AK roots": bool(trust.ak_roots),
        "attestation keys": bool(trust.attestation_keys),
    }
    given = [name for name, there in ways.items() if there]
    if len(given) > 1 or (for_tpm and not given):
        raise ManifestError(
            f"trust file: expected one of {', '.join(ways)}, got {' and '.join(given) or 'none of them'}",
            hint="pin the roots of the TPM's maker, those of who certifies attestation keys, or the one key, "
            "and remove the others",
        )
    pairs = (
        (trust.tpm_roots, trust.tpm_intermediates),
        (trust.test_tpm_roots, trust.test_tpm_intermediates),
        (trust.ak_roots, trust.ak_intermediates),
    )
    if any(intermediates and not roots for roots, intermediates in pairs):
        raise ManifestError("trust file: expected a root for the intermediates that are listed")


def _release_keys(fields: Fields) -> tuple[tuple[SignerKey, ...], int]:
    named = [name for name in ("releaseKeys", "threshold") if name in fields]
    if "tuf" in fields:
        if named:
            raise ManifestError(
                f"trust file: expected either tuf or {' and '.join(named)}, got both",
                hint="with a TUF root the keys that count are those of its repository; remove the others",
            )
        return (), 0
    if len(named) != len(("releaseKeys", "threshold")):
        raise ManifestError("trust file: missing releaseKeys and threshold, or tuf")
    keys = _signer_keys(fields, "releaseKeys", "release key")
    return keys, fields.integer("threshold", minimum=1, maximum=len(keys))


def _tuf(fields: Fields) -> tuple[bytes | None, str | None]:
    if "tuf" not in fields:
        return None, None
    where = fields.at("tuf")
    inner = Fields(
        fields.raw("tuf"), where, required=("root",), optional=("repository",), error=ManifestError
    )
    root = inner.base64("root", max_bytes=MAX_ROOT)
    check_root(root)
    if "repository" not in inner:
        return root, None
    # an address, never a path: who hands a trust file on cannot make its reader open local files
    return root, inner.token("repository", _ADDRESS)


def _signer_keys(fields: Fields, name: str, what: str) -> tuple[SignerKey, ...]:
    keys = []
    for index, entry in enumerate(fields.array(name, minimum=1, maximum=MAX_SIGNATURES)):
        where = f"{fields.at(name)}[{index}]"
        key = Fields(entry, where, required=("public",), error=ManifestError)
        try:
            keys.append(SignerKey.from_spki(key.base64("public", max_bytes=1024)))
        except FormatError as error:
            raise key.fail("public", error.message) from error
    _refuse_duplicates([key.spki for key in keys], what)
    return tuple(keys)


def _rebuilders(fields: Fields) -> tuple[tuple[SignerKey, ...], int]:
    if "rebuilders" not in fields:
        return (), 0
    inner = Fields(
        fields.raw("rebuilders"), fields.at("rebuilders"), required=("keys", "threshold"), error=ManifestError
    )
    keys = _signer_keys(inner, "keys", "rebuilder")
    return keys, inner.integer("threshold", minimum=1, maximum=len(keys))


def _refuse_two_roles(release_keys: tuple[SignerKey, ...], rebuilders: tuple[SignerKey, ...]) -> None:
    # whoever holds such a key would be asked whether he agrees with himself
    if both := {key.key_id for key in release_keys} & {key.key_id for key in rebuilders}:
        shown = sorted(key_id[:16] for key_id in both)
        raise ManifestError(
            f"trust file: expected rebuilders that are no release keys, got {', '.join(shown)} as both",
            hint="a rebuilder is somebody else, with a key of his own",
        )


def _certificates(fields: Fields, name: str) -> tuple[Certificate, ...]:
    certificates: list[Certificate] = []
    texts = fields.texts(name, maximum=MAX_CERTIFICATES)
    if texts:  # X.509 is a third of what a client loads, and a pinned key needs none of it
        from blindbuild.formats.certificate import parse_pem_certificate
    for index, text in enumerate(texts):
        try:
            certificates.append(parse_pem_certificate(text))
        except FormatError as error:
            raise ManifestError(f"{fields.at(name)}[{index}]: {error.message}") from error
    return tuple(certificates)


def _attestation_keys(fields: Fields) -> tuple[PublicArea, ...]:
    keys = []
    for index, text in enumerate(fields.texts("attestationKeys", maximum=MAX_ATTESTATION_KEYS)):
        try:
            keys.append(parse_sized_public(decode_base64(text)))
        except FormatError as error:
            raise ManifestError(f"{fields.at('attestationKeys')}[{index}]: {error.message}") from error
    _refuse_duplicates([key.to_bytes() for key in keys], "attestation key")
    return tuple(keys)


def _refuse_duplicates(values: list[bytes], what: str) -> None:
    if len(set(values)) != len(values):
        raise ManifestError(f"trust file: the same {what} is listed twice")
