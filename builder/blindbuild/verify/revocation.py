"""Step A7: was a certificate on the way to the root revoked?

Lists are files that the relying party brings; nothing is fetched. Each must be signed by an authority that
the trust file pins, and be current.

Source: RFC 5280, 5 (certificate revocation lists) and 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate, serial_number, subject_name
from blindbuild.formats.crl import RevocationList, is_list_of, may_sign_lists, parse_crl
from blindbuild.manifest import format_time
from blindbuild.manifest.rfc3339 import MAX_TIME
from blindbuild.verify.checklist import refuse

MAX_CRLS = 64  # one an authority; a trust file has at most as many certificates of a kind


@dataclass(frozen=True, slots=True)
class RevocationCheck:
    """What a path is held against.

    Attributes:
        crls: the files, DER or PEM.
        required: whether each certificate below the root must be covered by one.
        authorities: every authority that the trust file pins.
        now: seconds since 1970.
    """

    crls: Sequence[bytes]
    required: bool
    authorities: Sequence[Certificate]
    now: int


def check_revocation(path: Sequence[Certificate], check: RevocationCheck) -> tuple[int, str]:
    """Refuse a path with a revoked certificate.

    Args:
        path: the leaf first, the root last.
        check: lists and time.

    Returns:
        Until when the lists that were looked at are current, in seconds since 1970; and a line of detail.

    Raises:
        VerificationError: step A7: `certificate-revoked`, or a list that is malformed, a stranger's, badly
            signed, not current, or missing.
    """
    if len(check.crls) > MAX_CRLS:
        raise refuse("A7", "crl-malformed", f"expected at most {MAX_CRLS} lists, got {len(check.crls)}")
    lists = [_read(data, check) for data in check.crls]
    covered, until = 0, MAX_TIME
    for certificate, issuer in pairwise(path):
        of_issuer = [each for each, authorities in lists if issuer.der in authorities]
        if not of_issuer and check.required:
            raise refuse(
                "A7",
                "crl-missing",
                f"expected a revocation list of {subject_name(issuer)}, got none",
                hint="fetch it from the address in the certificate, and pass it with --crl",
            )
        for each in of_issuer:
            until = min(until, _check_current(each, issuer, check.now))
            _check_not_listed(certificate, each)
        covered += bool(of_issuer)
    return until, f"{covered} of {len(path) - 1} certificates looked up"


def _read(data: bytes, check: RevocationCheck) -> tuple[RevocationList, frozenset[bytes]]:
    """Return a list, and the certificates of the authorities whose list it is: one key may have several."""
    try:
        parsed = parse_crl(data)
    except FormatError as error:
        raise refuse("A7", "crl-malformed", error.message) from error
    named = [authority for authority in check.authorities if is_list_of(parsed, authority)]
    if not named:
        raise refuse(
            "A7", "crl-issuer", f"expected a list of a pinned authority, got one of {parsed.issuer_name}"
        )
    signers = [each.der for each in named if may_sign_lists(each) and parsed.is_signed_by(each)]
    if not signers:
        raise refuse(
            "A7", "crl-signature", f"expected a list signed by {parsed.issuer_name}, got another signature"
        )
    return parsed, frozenset(signers)


def _check_current(each: RevocationList, issuer: Certificate, now: int) -> int:
    if now < each.this_update:
        raise refuse(
            "A7",
            "crl-not-yet-valid",
            f"expected a current list of {subject_name(issuer)}, "
            f"got one from {format_time(each.this_update)}",
        )
    if each.next_update is None or now >= each.next_update:
        until = "one without an end" if each.next_update is None else format_time(each.next_update)
        raise refuse(
            "A7",
            "crl-expired",
            f"expected a current list of {subject_name(issuer)}, got {until}",
            hint="fetch the authority's current list",
        )
    return each.next_update


def _check_not_listed(certificate: Certificate, each: RevocationList) -> None:
    if each.lists(serial_number(certificate)):
        raise refuse(
            "A7",
            "certificate-revoked",
            f"expected a certificate that counts, got {subject_name(certificate)}, "
            f"serial 0x{serial_number(certificate):x}, which {each.issuer_name} revoked",
            hint="this TPM or its authority is no longer believed by who certified it",
        )
