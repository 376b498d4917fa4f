"""Step A4: a path from a certificate to a pinned root, through pinned issuers only.

Source: RFC 5280, 6.1; 4.2.1.3 (keyCertSign) and 4.2.1.9 (cA, pathLenConstraint).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import BasicConstraints
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as PathError

from blindbuild.formats.certificate import Certificate, is_signing_authority, subject_name
from blindbuild.verify.checklist import refuse
from blindbuild.verify.explain_text import shown

MAX_CHAIN_DEPTH = 4  # intermediates; real TPM chains have one or two


def find_path(
    leaf: Certificate, ways: Sequence[tuple[Sequence[Certificate], Sequence[Certificate]]], now: int
) -> tuple[int, tuple[Certificate, ...]]:
    """Return which of several sets of roots the leaf leads to, and the path: leaf first, root last.

    Issuers come from the trust file only, never from the attester: issuer and root are both pinned.

    Args:
        leaf: what the attester has.
        ways: roots and the only issuers below them, each set tried in turn; one without roots is passed over.
        now: seconds since 1970; everything on the path must be valid then.

    Raises:
        VerificationError: step A4, `certificate-path` or `certificate-authority`.
    """
    problem = "no root of this kind is pinned"
    for number, (roots, intermediates) in enumerate(ways):
        if not roots:
            continue
        try:
            return number, verify_path(leaf, roots, intermediates, now)
        except PathError as error:
            problem = str(error)
    # the library quotes names out of the attester's certificate
    raise refuse("A4", "certificate-path", f"expected a path to a pinned root, got none: {shown(problem)}")


def verify_path(
    leaf: Certificate, roots: Sequence[Certificate], intermediates: Sequence[Certificate], now: int
) -> tuple[Certificate, ...]:
    """Return the path from the leaf to one of these roots.

    Raises:
        PathError: the library found none.
        VerificationError: step A4, for what the library does not look at.
    """
    authority = ExtensionPolicy.permit_all().require_present(BasicConstraints, Criticality.AGNOSTIC, None)
    try:
        verifier = (
            PolicyBuilder()
            .store(Store([root.parsed for root in roots]))
            .time(datetime.fromtimestamp(now, tz=UTC))
            .max_chain_depth(MAX_CHAIN_DEPTH)
            .extension_policies(ca_policy=authority, ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
        )
        chain = verifier.verify(leaf.parsed, [c.parsed for c in intermediates]).chain
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refuse("A4", "certificate-path", "the certificate cannot be verified") from error
    # the library's own rules for authorities are web rules and are off: these are RFC 5280's
    by_certificate = {certificate.parsed: certificate for certificate in (*roots, *intermediates)}
    authorities = [by_certificate[certificate] for certificate in chain[1:]]
    if not authorities:
        raise refuse("A4", "certificate-path", "expected an issuer, got a certificate that is its own root")
    for below, certificate in enumerate(authorities):
        if not is_signing_authority(certificate, below=below):
            raise refuse(
                "A4",
                "certificate-authority",
                "expected an authority with cA, keyCertSign and a long enough path, got "
                f"{subject_name(certificate)}",
            )
    return leaf, *authorities
