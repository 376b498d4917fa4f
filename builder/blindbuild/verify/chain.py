"""A chain of certificates from a key that signs evidence to a root that the relying party pinned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blindbuild.formats.certificate import Certificate, is_signing_authority, subject_name
from blindbuild.formats.certificate_chain import (
    claims_authority,
    is_signed_by,
    names_issuer,
    unchecked_critical,
    validity,
)
from blindbuild.manifest import format_time
from blindbuild.verify.checklist import refuse


def check_chain(chain: Sequence[Certificate], *, now: int, step: str) -> str:
    """Check every link of a chain and say where it leads.

    Args:
        chain: the leaf first, then each issuer; the last one is pinned by the caller.
        now: seconds since 1970.
        step: the step that is refused.

    Raises:
        VerificationError: `certificate-issuer`, `certificate-signature`, `certificate-authority`,
            `certificate-extension`, `certificate-expired`, or `certificate-not-yet-valid`.
        FormatError: a part of a certificate cannot be read.

    Source: RFC 5280, 6.1.3 and 6.1.4, for chains without policies and name constraints.
    """
    for depth, (certificate, issuer) in enumerate(itertools.pairwise(chain)):
        _check_link(certificate, issuer, below=depth, step=step)
    for certificate in chain:
        _check_extensions(certificate, step)
        _check_time(certificate, now, step)
    if claims_authority(chain[0]):
        raise refuse(step, "certificate-authority", "expected a key for evidence, got an authority's")
    return f"leads to {subject_name(chain[-1])}"


def _check_link(certificate: Certificate, issuer: Certificate, *, below: int, step: str) -> None:
    if not names_issuer(certificate, issuer):
        raise refuse(
            step,
            "certificate-issuer",
            f"expected {subject_name(issuer)} as issuer of {subject_name(certificate)}, got another name",
        )
    if not is_signing_authority(issuer, below=below):
        raise refuse(
            step,
            "certificate-authority",
            f"expected an authority with cA, keyCertSign and a long enough path, got {subject_name(issuer)}",
        )
    if not is_signed_by(certificate, issuer):
        raise refuse(
            step,
            "certificate-signature",
            f"expected a signature by {subject_name(issuer)} on {subject_name(certificate)}",
        )


def _check_extensions(certificate: Certificate, step: str) -> None:
    unchecked = unchecked_critical(certificate)
    if unchecked:
        raise refuse(
            step,
            "certificate-extension",
            f"expected no critical extension but basicConstraints and keyUsage, got {unchecked[0]}",
        )


def _check_time(certificate: Certificate, now: int, step: str) -> None:
    begin, end = validity(certificate)
    if now < begin:
        raise refuse(
            step,
            "certificate-not-yet-valid",
            f"expected {subject_name(certificate)} to be valid, got one from {format_time(begin)}",
        )
    if now > end:
        raise refuse(
            step,
            "certificate-expired",
            f"expected {subject_name(certificate)} to be valid, got one until {format_time(end)}",
        )
