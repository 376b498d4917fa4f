"""Steps T7 to T9: what Intel says, at this time, about the platform, its TDX module and its quoting enclave.

Source: Intel, Provisioning Certification Service API version 4: "Get TDX TCB Info" (how a level is chosen)
and "Get TDX QE Identity"; docs/spec/platform-evidence.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import parse_pem_chain, public_key, unknown_extensions
from blindbuild.formats.intel_certificate import SGX_EXTENSIONS, PlatformTcb
from blindbuild.formats.tdx_collateral import (
    QeIdentity,
    SvnLevel,
    TcbInfo,
    TcbLevel,
    TdxModule,
    parse_qe_identity,
    parse_tcb_info,
    split_signed,
)
from blindbuild.formats.tdx_quote import TdReport, TdxQuote
from blindbuild.manifest import parse_time
from blindbuild.manifest.platform_roots import TdxTrust
from blindbuild.verify.chain import check_chain
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.ecdsa import verify_p256

_SIGNER = "Intel SGX TCB Signing"  # PCS API: the common name of the key that signs answers


@dataclass(frozen=True, slots=True)
class TdxCollateral:
    """Answers of Intel's service, as they came.

    Attributes:
        tcb_info: the body of "Get TDX TCB Info".
        qe_identity: the body of "Get TDX QE Identity".
        issuer_chain: PEM of the certificate that signed both and of its root, as in the answers' header.
    """

    tcb_info: bytes
    qe_identity: bytes
    issuer_chain: bytes


def judge_collateral(
    steps: Checklist,
    collateral: TdxCollateral | None,
    quote: TdxQuote | None,
    platform: PlatformTcb | None,
    *,
    trust: TdxTrust,
    now: int,
) -> None:
    """Run steps T7 to T9."""
    said = steps.run("T7", lambda: _open(collateral, trust, now))
    steps.run("T8", lambda: _check_enclave(found(quote), found(said)[1], trust), needs=("T1", "T7"))
    steps.run(
        "T9",
        lambda: _check_platform(found(quote).report, found(platform), found(said)[0], trust),
        needs=("T1", "T3", "T7"),
    )


def _open(
    collateral: TdxCollateral | None, trust: TdxTrust, now: int
) -> tuple[tuple[TcbInfo, QeIdentity], str]:
    if collateral is None:
        raise refuse(
            "T7",
            "collateral-missing",
            "expected Intel's statements about the platform, got none",
            hint='save them beside the quote, or set "requireCollateral":false in the roots file',
        )
    key = _signing_key(collateral.issuer_chain, trust, now)
    try:
        info = parse_tcb_info(_verified(collateral.tcb_info, "tcbInfo", key))
        identity = parse_qe_identity(_verified(collateral.qe_identity, "enclaveIdentity", key))
        _check_time("TCB info", info.issued, info.next_update, now)
        _check_time("enclave identity", identity.issued, identity.next_update, now)
    except (FormatError, ManifestError) as error:
        raise refuse("T7", "collateral-malformed", error.message) from error
    return (info, identity), f"until {min(info.next_update, identity.next_update)}"


def _signing_key(chain_text: bytes, trust: TdxTrust, now: int) -> EllipticCurvePublicKey:
    try:
        chain = parse_pem_chain(chain_text.decode("ascii"))
    except (FormatError, UnicodeDecodeError) as error:
        raise refuse("T7", "certificate-malformed", "expected the signer's chain in PEM") from error
    if chain[-1].der not in {root.der for root in trust.roots} or len(chain) < 2:
        raise refuse("T7", "certificate-root", "expected a chain to a pinned root, got another root")
    check_chain(chain, now=now, step="T7")
    # platforms' keys lead to the same root, and must not speak for Intel
    if _common_name(chain[0]) != _SIGNER or SGX_EXTENSIONS in unknown_extensions(chain[0]):
        raise refuse("T7", "other-signer", f"expected the certificate of {_SIGNER}")
    key = public_key(chain[0])
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise refuse("T7", "key-type", "expected a key on P-256")
    return key


def _common_name(certificate: Certificate) -> str:
    names = certificate.parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _verified(data: bytes, name: str, key: EllipticCurvePublicKey) -> bytes:
    signed = split_signed(data, name)
    if not verify_p256(key, signed.signature, signed.raw):
        raise refuse("T7", "signature-mismatch", f"expected Intel's signature on {name}")
    return signed.raw


def _check_time(what: str, issued: str, next_update: str, now: int) -> None:
    if now < parse_time(issued):
        raise refuse("T7", "collateral-not-yet-valid", f"expected {what} of the past, got one of {issued}")
    if now >= parse_time(next_update):
        raise refuse(
            "T7",
            "collateral-expired",
            f"expected {what} that is current, got one until {next_update}",
            hint="fetch Intel's statements again",
        )


def _check_enclave(quote: TdxQuote, identity: QeIdentity, trust: TdxTrust) -> tuple[None, str]:
    enclave = quote.quoting_enclave
    attributes = _masked(enclave.attributes, identity.attributes_mask)
    if (
        enclave.mr_signer != identity.mr_signer
        or enclave.product != identity.product
        or enclave.misc_select & identity.misc_mask != identity.misc_select
        or attributes != identity.attributes
    ):
        raise refuse("T8", "other-quoting-enclave", "expected the enclave that Intel's statement is about")
    status = _status_of(identity.levels, enclave.svn, "T8")
    _check_status(status, trust, "T8")
    return None, f"version {enclave.svn}: {status}"


def _check_platform(
    report: TdReport, platform: PlatformTcb, info: TcbInfo, trust: TdxTrust
) -> tuple[None, str]:
    if (platform.fmspc, platform.pce_id) != (info.fmspc, info.pce_id):
        raise refuse(
            "T9",
            "other-platform",
            f"expected a statement about {platform.fmspc.hex()}, got one about {info.fmspc.hex()}",
        )
    statuses = [_match_level(report.tcb_svn, platform, info.levels).status]
    # PCS API, TCB info 3: from version 1 of the module on (second byte) its own identity says what is current
    version = report.tcb_svn[1]
    _check_module(report, info.module)
    if version:
        module = info.modules.get(f"TDX_{version:02X}")
        if module is None:
            raise refuse("T9", "module-unknown", f"expected a TDX module that Intel names, got {version}")
        _check_module(report, module)
        statuses.append(_status_of(module.levels, report.tcb_svn[0], "T9"))
    for status in statuses:
        _check_status(status, trust, "T9")
    return None, f"FMSPC {platform.fmspc.hex()}: {', '.join(statuses)}"


def _match_level(svn: bytes, platform: PlatformTcb, levels: Sequence[TcbLevel]) -> TcbLevel:
    # PCS API: the first level that the platform reaches in every part; with a module that has an identity of
    # its own, the first two TDX parts are judged by that
    first = 2 if svn[1] else 0
    for level in levels:
        if (
            _reaches(platform.components, level.sgx)
            and platform.pce_svn >= level.pce_svn
            and _reaches(svn[first:], level.tdx[first:])
        ):
            return level
    raise refuse("T9", "tcb-unknown", "expected a TCB that Intel lists, got an older or an unknown one")


def _check_module(report: TdReport, module: TdxModule) -> None:
    if (
        report.mr_signer_seam != module.mr_signer
        or _masked(report.seam_attributes, module.mask) != module.attributes
    ):
        raise refuse("T9", "other-module", "expected a TDX module signed by Intel, with its attributes")


def _status_of(levels: Sequence[SvnLevel], svn: int, step: str) -> str:
    for level in levels:
        if svn >= level.svn:
            return level.status
    raise refuse(step, "tcb-unknown", f"expected a version that Intel lists, got {svn}")


def _check_status(status: str, trust: TdxTrust, step: str) -> None:
    if status not in trust.statuses:
        accepted = ", ".join(sorted(trust.statuses))
        raise refuse(step, "tcb-status", f"expected status {accepted}, got {status}")


def _reaches(have: Sequence[int], want: Sequence[int]) -> bool:
    return all(a >= b for a, b in zip(have, want, strict=True))


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(a & b for a, b in zip(value, mask, strict=True))
