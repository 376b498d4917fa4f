"""Reference values for the neighbours' verifiers, made from a release that a client would accept.

Each format is a module with one function `export(ExportRequest) -> Exported`, and a row in `FORMATS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import cast

from blindbuild.client import Expectation
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import (
    Signature,
    SignerKey,
    parse_envelope,
    pre_authentication_encoding,
    verify_envelope,
)
from blindbuild.manifest import (
    RELEASE_PAYLOAD_TYPE,
    STATEMENT_PAYLOAD_TYPE,
    Statement,
    parse_release,
    parse_statement,
)
from blindbuild.measure.classification import PlatformReference
from blindbuild.publish.policy_key import PolicyKey
from blindbuild.publish.sign import ReleaseSigner


class SignedBy(Enum):
    """Who signs a file in a format that has signatures of its own."""

    RELEASE_KEY = "a key as releases have"
    RSA_KEY = "an RSA key"


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is written.

    Attributes:
        module: below blindbuild.publish; imported only when it is asked for.
        line: of help.
        of_platform: it holds the registers of one platform and bank.
        signed_by: the kind of key that signs it, if it carries a signature of its own.
    """

    module: str
    line: str
    of_platform: bool = False
    signed_by: SignedBy | None = None


FORMATS = {
    "corim": Format(
        "export_corim",
        "a signed CoRIM, a key as for releases",
        of_platform=True,
        signed_by=SignedBy.RELEASE_KEY,
    ),
    "intoto": Format("export_intoto", "an in-toto bundle, one envelope a line"),
    "keylime": Format("export_keylime", "a tpm_policy of keylime", of_platform=True),
    "nitro": Format("export_nitro", "the measurements of an enclave image", of_platform=True),
    "pcrlock": Format("export_pcrlock", "a tar archive of systemd's .pcrlock files", of_platform=True),
    "pcrsig": Format(
        "export_pcrsig",
        "systemd's signed PCR policy, an RSA key",
        of_platform=True,
        signed_by=SignedBy.RSA_KEY,
    ),
    "rvps": Format("export_rvps", "a message for trustee's RVPS", of_platform=True),
    "sigstore": Format("export_sigstore", "a sigstore bundle v0.3, one signature of a managed key"),
}


@dataclass(frozen=True, slots=True)
class CountedSignature:
    """A signature on the statement that a key of the trust file made."""

    key: SignerKey
    value: bytes


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release that a client accepts as published; it comes from `verify_release`, and from nowhere else.

    Attributes:
        payload: the very bytes that were signed.
        statement: what they say.
        signatures: those that count, in the order of their keys' ids.
        threshold: how many the trust file wants.
        warnings: what a client would have been told.
        validity: from when, and until when, in seconds since 1970; None where a TUF repository says it anew.
    """

    payload: bytes
    statement: Statement
    signatures: tuple[CountedSignature, ...]
    threshold: int
    warnings: tuple[str, ...]
    validity: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be exported, and what somebody chose about it.

    Attributes:
        release: verified.
        bank: whose registers.
        platform: one id of the statement, or None when nobody chose.
        signer: signs formats of `SignedBy.RELEASE_KEY`, or None.
        policy_key: signs formats of `SignedBy.RSA_KEY`, or None.
    """

    release: VerifiedRelease
    bank: HashAlgorithm = HashAlgorithm.SHA256
    platform: str | None = None
    signer: ReleaseSigner | None = None
    policy_key: PolicyKey | None = None

    def chosen_platform(self) -> PlatformReference:
        """Return the platform to export, for formats that hold only one.

        Raises:
            UsageError: it is not in the statement, or there are several and none was chosen.
        """
        platforms = {platform.identifier: platform for platform in self.release.statement.platforms}
        if self.platform is None and len(platforms) == 1:
            return next(iter(platforms.values()))
        if self.platform not in platforms:
            said = "none" if self.platform is None else self.platform
            raise UsageError(f"expected --platform to be one of {', '.join(platforms)}, got {said}")
        return platforms[self.platform]


@dataclass(frozen=True, slots=True)
class Exported:
    """A file in somebody else's format.

    Attributes:
        name: what such a file is usually called.
        notes: what the format cannot say, or its readers do not check; for whoever uses it.
    """

    name: str
    data: bytes
    notes: tuple[str, ...] = ()


def verify_release(expectation: Expectation) -> VerifiedRelease:
    """Judge a publication as a client does before it asks a server, and return what it vouches for.

    Raises:
        VerificationError: a step failed; nothing of it may be exported.
    """
    now = expectation.now()
    appraisal = expectation.check_publication(now=now, log=expectation.required_log(now))
    if appraisal.failed:
        appraisal.accepted()
    current, trust = expectation.current, expectation.trust
    keys = trust.release_keys if current is None else current.release_keys
    threshold = trust.threshold if current is None else current.threshold
    kind, envelope = STATEMENT_PAYLOAD_TYPE, parse_envelope(expectation.envelope)
    payload = verify_envelope(envelope, keys=keys, threshold=threshold, payload_type=kind).payload
    message = pre_authentication_encoding(kind, payload)
    return VerifiedRelease(
        payload,
        parse_statement(payload),
        _counted(envelope.signatures, keys, message),
        threshold,
        appraisal.warnings,
        _validity(expectation, keys, threshold),
    )


def export(name: str, request: ExportRequest) -> Exported:
    """Return a release in one of `FORMATS`."""
    module = importlib.import_module(f"blindbuild.publish.{FORMATS[name].module}")
    return cast("Callable[[ExportRequest], Exported]", module.export)(request)


def _validity(
    expectation: Expectation, keys: tuple[SignerKey, ...], threshold: int
) -> tuple[int, int] | None:
    if expectation.current is not None or expectation.release is None:
        return None
    envelope = parse_envelope(expectation.release)
    payload = verify_envelope(
        envelope, keys=keys, threshold=threshold, payload_type=RELEASE_PAYLOAD_TYPE
    ).payload
    release = parse_release(payload)
    return release.valid_from, release.valid_until


def _counted(
    signatures: tuple[Signature, ...], keys: tuple[SignerKey, ...], message: bytes
) -> tuple[CountedSignature, ...]:
    # one for each key: what else is in the envelope was checked by nobody, and does not go on
    found: dict[str, CountedSignature] = {}
    for key in keys:
        for signature in signatures:
            if key.accepts(signature.value, message):
                found.setdefault(key.key_id, CountedSignature(key, signature.value))
    return tuple(found[key_id] for key_id in sorted(found))
