"""A signed CoRIM: reference values as IETF's verifiers want them, in CBOR, in COSE_Sign1.

One CoMID with a reference-values triple for each state that the release allows: the product is the class, the
platform the measured element, and its registers are integrity registers, by number, or by name where a root
of trust names them. A register with several allowed values makes a triple for each, as a comparison fails
where one algorithm has two digests.

Source: draft-ietf-rats-corim-11 (2026-07-06): CoRIM, signed CoRIM, CoMID and how digests are compared;
digest algorithms by IANA's Named Information registry; RFC 9053, 2.1 and 2.2 (ES256, EdDSA).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.cbor import CborKey, CborTag, CborValue, encode_cbor
from blindbuild.formats.cose import write_sign1
from blindbuild.publish.exporters import Exported, ExportRequest, VerifiedRelease
from blindbuild.publish.reference_values import NOT_A_VERDICT, allowed_values
from blindbuild.publish.sign import ReleaseSigner

CONTENT_TYPE = "application/rim+cbor"
MAX_STATES = 256  # triples of one CoRIM; recorded firmware values are a handful
_TAG_CORIM, _TAG_COMID, _TAG_TIME = 501, 506, 1
_ALGORITHMS: Mapping[HashAlgorithm, int] = {  # of every bank that a statement can have
    HashAlgorithm.SHA256: 1,
    HashAlgorithm.SHA384: 7,
    HashAlgorithm.SHA512: 8,
}
_EDDSA, _ES256 = -8, -7
_ALG, _CONTENT_TYPE, _KEY_ID, _CORIM_META = 1, 3, 4, 8  # header parameters


def export(request: ExportRequest) -> Exported:
    """Return a CoRIM of one platform, signed with the request's key.

    Raises:
        UsageError: no key, the platform or bank is not in the statement, or it allows more states than
            `MAX_STATES`.
    """
    if request.signer is None:
        raise UsageError("corim: expected a key to sign with, got none")
    payload = corim_bytes(request)
    data = write_sign1(payload, _header(request.signer, request.release), request.signer.sign)
    notes = (
        "a register that may hold anything is not in it, and one that is not in it is compared with nothing",
        "who may sign is the reader's to know: the key is named by SHA-256 of its SubjectPublicKeyInfo",
        *(() if request.release.validity else ("no end of validity: the TUF repository gives that anew",)),
        NOT_A_VERDICT,
    )
    return Exported(f"{request.release.statement.name}.corim.cbor", data, notes)


def corim_bytes(request: ExportRequest) -> bytes:
    """Return the CoRIM that is signed; the same for the same release.

    Raises:
        UsageError: as `export`.
    """
    release = request.release
    statement = release.statement
    platform = request.chosen_platform().identifier
    identity = f"{statement.name} {statement.version} {platform} sha256:{Digest.sha256(release.payload).hex}"
    triples = tuple(_triple(statement.name, platform, state) for state in _states(request))
    comid: CborValue = {1: {0: identity, 1: statement.sequence}, 4: {0: triples}}
    corim: dict[CborKey, CborValue] = {0: identity, 1: (CborTag(_TAG_COMID, encode_cbor(comid)),)}
    if release.validity is not None:
        corim[4] = _validity(release.validity)
    return encode_cbor(CborTag(_TAG_CORIM, corim))


def _states(request: ExportRequest) -> tuple[dict[CborKey, CborValue], ...]:
    registers = allowed_values(request)
    count = 1
    for allowed in registers:
        count *= len(allowed.values)
    if count > MAX_STATES:
        raise UsageError(f"corim: expected at most {MAX_STATES} states that are allowed, got {count}")
    names = [allowed.name for allowed in registers]
    choices = itertools.product(*(allowed.values for allowed in registers))
    return tuple(dict(zip(names, map(_digests, choice), strict=True)) for choice in choices)


def _digests(value: Digest) -> CborValue:
    return ((_ALGORITHMS[value.algorithm], value.value),)


def _triple(product: str, platform: str, state: dict[CborKey, CborValue]) -> CborValue:
    environment: CborValue = {0: {2: product}}  # class, model
    return (environment, ({0: platform, 1: {14: state}},))  # mkey, mval, integrity-registers


def _header(signer: ReleaseSigner, release: VerifiedRelease) -> dict[CborKey, CborValue]:
    meta: dict[CborKey, CborValue] = {0: {0: f"{release.statement.name} release key"}}
    if release.validity is not None:
        meta[1] = _validity(release.validity)
    return {
        _ALG: _ES256 if signer.public.is_p256 else _EDDSA,
        _CONTENT_TYPE: CONTENT_TYPE,
        _KEY_ID: Digest.sha256(signer.public.spki).value,
        _CORIM_META: encode_cbor(meta),
    }


def _validity(validity: tuple[int, int]) -> CborValue:
    # validity-map has both ends in it, a release's validity ends before its last second
    begin, end = validity
    return {0: CborTag(_TAG_TIME, begin), 1: CborTag(_TAG_TIME, end - 1)}
