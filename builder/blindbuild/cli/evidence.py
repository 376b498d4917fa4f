"""`blindbuild evidence`: judge saved evidence of a processor or hypervisor, step by step."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from blindbuild.cli.judging import expect
from blindbuild.cli.options import (
    PROFILES,
    JudgingOptions,
    json_option,
    print_json,
    read_channels,
    read_optional_place,
)
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError, UsageError
from blindbuild.formats.certificate import parse_pem_certificate
from blindbuild.formats.tdx_quote import trim_quote
from blindbuild.host.files import read_bytes
from blindbuild.manifest import parse_time
from blindbuild.manifest.platform_roots import PlatformRoots, parse_platform_roots
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.measure.launch_kinds import LAUNCH_KINDS
from blindbuild.verify import Policy
from blindbuild.verify.evidence import EvidenceAppraisal, Expected, Reference, ValueResult
from blindbuild.verify.nitro import NitroEvidence
from blindbuild.verify.platform_evidence import (
    PlatformEvidence,
    appraise_evidence,
    appraise_published_evidence,
    kind_of,
)
from blindbuild.verify.policy import Basis
from blindbuild.verify.snp import SnpEvidence
from blindbuild.verify.tdx import TdxEvidence
from blindbuild.verify.tdx_collateral import TdxCollateral

KINDS = ("snp", "tdx", "nitro")
MAX_EVIDENCE = 64 * 1024  # bytes; the largest kind has 32 KiB
MAX_FILE = 1 << 18  # bytes of a certificate, of Intel's answers, or of the roots file
RECORDED = "saved evidence: it proves nothing about now, only that it was made once"
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_MEASUREMENT = re.compile(r"([A-Z0-9_]{1,32})=([0-9a-f]{96})")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files beside the evidence, or None for what was not given."""

    certificate: Path | None
    tcb_info: Path | None
    qe_identity: Path | None
    issuer_chain: Path | None


@dataclass(frozen=True, slots=True)
class _Said:
    """What the evidence is judged by: a signed statement and the exchange, or values by hand."""

    manifest: Path | str | None
    trust: Path | None
    nonce: str | None
    spki: Path | None
    measurements: tuple[str, ...]
    bound: str | None
    platform: str | None
    allow_debug: bool
    policy: Path | None
    require_closed: tuple[str, ...]
    ledger: Path | None
    require_profile: str | None
    require_probe: bool
    probe: Path | None
    require_log: Path | None
    log_proof: Path | None
    channel: str | None

    @property
    def asks(self) -> tuple[object, ...]:
        """What only makes sense with a signed statement."""
        return (
            *(self.platform, self.allow_debug, self.policy, self.require_closed, self.ledger),
            *(self.require_profile, self.require_probe, self.probe),
            *(self.require_log, self.log_proof, self.channel),
        )


@click.command("evidence")
@click.argument("file", type=_FILE)
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What FILE is.")
@click.option("--roots", required=True, type=_FILE, help="The roots file: which makers count, and how new.")
@click.option("--manifest", metavar="PLACE", callback=read_optional_place, help="As for verify.")
@click.option("--trust", type=_FILE, help="The trust file, as for verify; it needs no roots of TPMs.")
@click.option("--nonce", metavar="HEX", help="The nonce of the exchange, 32 bytes.")
@click.option("--spki", type=_FILE, help="The public key of the channel (DER SubjectPublicKeyInfo).")
@click.option(
    "--measurement",
    "measurements",
    multiple=True,
    metavar="NAME=HEX",
    help="Instead of a manifest: a value that `measure` gave; repeat for each one and each alternative.",
)
@click.option("--bound", metavar="HEX", help="Instead of nonce and key: the 32 bytes that must be bound.")
@click.option("--platform", help="The platform of the statement that must match.")
@click.option("--allow-debug", is_flag=True, help="Accept an image that says it is for debugging.")
@click.option("--policy", type=_FILE, help="As for verify; what only a TPM shows cannot be asked for.")
@click.option(
    "--require-closed", multiple=True, metavar="ID[,ID...]", callback=read_channels, help="As for verify."
)
@click.option("--ledger", type=_FILE, help="As for verify.")
@click.option("--require-profile", type=click.Choice(PROFILES), help="As for verify.")
@click.option("--require-probe", is_flag=True, help="As for verify.")
@click.option("--probe", type=_FILE, help="As for verify.")
@click.option("--require-log", metavar="POLICY", type=_FILE, help="As for verify.")
@click.option("--log-proof", type=_FILE, help="As for verify.")
@click.option("--channel", help="As for verify.")
@click.option("--certificate", type=_FILE, help="snp: the certificate of the VCEK or VLEK, DER or PEM.")
@click.option("--tcb-info", type=_FILE, help="tdx: Intel's TCB info for the platform, as it was answered.")
@click.option("--qe-identity", type=_FILE, help="tdx: Intel's identity of the quoting enclave, likewise.")
@click.option("--issuer-chain", type=_FILE, help="tdx: the chain of who signed both (PEM).")
@click.option("--at", metavar="TIME", help="Judge at this time (2026-12-31T23:59:59Z) [default: now].")
@json_option
def command(
    file: Path,
    kind: str,
    roots: Path,
    certificate: Path | None,
    tcb_info: Path | None,
    qe_identity: Path | None,
    issuer_chain: Path | None,
    at: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Judge FILE: an SEV-SNP report, a TDX quote or a Nitro Enclave's document, as the guest handed it out.

    Exit code 3 and a reason for each failed step if it is not what was stated. These back-ends were tried on
    public samples only: never seen on our hardware.

    Example: blindbuild evidence report.bin --kind snp --roots roots.json --certificate vcek.der
    --manifest images/hello/1.0.0 --trust trust.json --nonce NONCE --spki key.der
    """
    judged_by = _Said(**said)
    _check_said(judged_by)
    files = _Files(certificate, tcb_info, qe_identity, issuer_chain)
    appraisal = _judge(
        _read_evidence(file, kind, files), parse_platform_roots(_read(roots)), judged_by, _time(at)
    )
    _show(appraisal, as_json=as_json)
    appraisal.accepted()


def _check_said(said: _Said) -> None:
    by_statement = (said.manifest, said.trust, said.nonce, said.spki)
    by_hand = (said.measurements or None, said.bound)
    if all(by_statement) and not any(by_hand):
        return
    if all(by_hand) and not any((*by_statement, *said.asks)):
        return
    raise UsageError(
        "expected --manifest, --trust, --nonce and --spki, or --measurement and --bound",
        hint="a signed statement says what to expect; values by hand are for trying",
    )


def _read(path: Path, limit_bytes: int = MAX_FILE) -> bytes:
    return read_bytes(path, error=UsageError, limit_bytes=limit_bytes)


def _read_evidence(file: Path, kind: str, files: _Files) -> PlatformEvidence:
    _check_files(kind, files)
    data = _read(file, MAX_EVIDENCE)
    if kind == "snp":
        if files.certificate is None:
            raise UsageError(
                "expected --certificate with an SEV-SNP report",
                hint="the guest can ask its host for it, or AMD's key distribution service has it",
            )
        return SnpEvidence(data, _certificate(files.certificate))
    if kind == "tdx":
        with contextlib.suppress(FormatError):  # step T1 says what is wrong with it
            data = trim_quote(data)
        return TdxEvidence(data, _collateral(files))
    return NitroEvidence(data)


def _check_files(kind: str, files: _Files) -> None:
    collateral = (files.tcb_info, files.qe_identity, files.issuer_chain)
    if kind != "snp" and files.certificate is not None:
        raise UsageError(f"expected --certificate with --kind snp only, got --kind {kind}")
    if kind != "tdx" and any(collateral):
        raise UsageError(f"expected Intel's answers with --kind tdx only, got --kind {kind}")
    if any(collateral) and not all(collateral):
        raise UsageError("expected --tcb-info, --qe-identity and --issuer-chain together")


def _collateral(files: _Files) -> TdxCollateral | None:
    if files.tcb_info is None or files.qe_identity is None or files.issuer_chain is None:
        return None
    return TdxCollateral(_read(files.tcb_info), _read(files.qe_identity), _read(files.issuer_chain))


def _certificate(path: Path) -> bytes:
    data = _read(path)
    if not data.startswith(b"-----BEGIN"):
        return data
    try:
        return parse_pem_certificate(data.decode("latin-1")).der
    except FormatError as error:
        raise UsageError(f"{path}: {error.message}") from error


def _judge(judged: PlatformEvidence, roots: PlatformRoots, said: _Said, now: int) -> EvidenceAppraisal:
    if said.manifest is None or said.trust is None or said.nonce is None or said.spki is None:
        bound = _bytes(said.bound or "", "--bound")
        references = (_reference(judged, said.measurements),)
        return appraise_evidence(judged, roots=roots, expected=Expected(references, bound, now))
    return appraise_published_evidence(
        judged,
        roots=roots,
        basis=_basis(said, said.manifest, said.trust, now),
        nonce=_bytes(said.nonce, "--nonce"),
        spki=_read(said.spki),
    )


def _basis(said: _Said, manifest: Path | str, trust: Path, now: int) -> Basis:
    options = JudgingOptions(
        trust=trust,
        manifest=manifest,
        policy=said.policy,
        allow_debug=said.allow_debug,
        require_closed=said.require_closed,
        ledger=said.ledger,
        require_profile=said.require_profile,
        require_probe=said.require_probe,
        probe=said.probe,
        require_log=said.require_log,
        log_proof=said.log_proof,
        channel=said.channel,
        history=False,
    )
    judged_by = expect(options, now=now, for_tpm=False)
    return Basis(
        envelope=judged_by.envelope,
        release=judged_by.release,
        trust=judged_by.trust,
        now=now,
        policy=_narrow(judged_by.policy, said.platform),
        history=None,
        ledger=judged_by.ledger,
        log=judged_by.required_log(now),
        rebuilds=judged_by.rebuilds,
        current=judged_by.current,
        probe=judged_by.probe,
    )


def _narrow(policy: Policy, platform: str | None) -> Policy:
    only_tpm = {
        "machines": policy.machines is not None,
        "minimumTpmFirmware": policy.minimum_tpm_firmware is not None,
        "requireCrls": policy.require_crls,
        "requireSecureBoot": policy.require_secure_boot,
    }
    asked = [name for name, there in only_tpm.items() if there]
    if asked:
        raise UsageError(f"--policy: expected nothing that only a TPM shows, got {', '.join(asked)}")
    if platform is None:
        return policy
    if policy.platforms and platform not in policy.platforms:
        raise UsageError(f"--platform: the policy allows {', '.join(sorted(policy.platforms))}")
    return replace(policy, platforms=frozenset({platform}))


def _reference(judged: PlatformEvidence, measurements: Sequence[str]) -> Reference:
    values: dict[str, tuple[Digest, ...]] = {}
    for text in measurements:
        match = _MEASUREMENT.fullmatch(text)
        if match is None:
            raise UsageError(f"expected NAME and 96 lower-case hex digits, got {text[:140]!r}")
        digest = Digest.from_hex(HashAlgorithm.SHA384, match[2])
        values[match[1]] = (*values.get(match[1], ()), digest)
    kind = LAUNCH_KINDS[kind_of(judged)]
    rules: dict[str, OneOf | Unconstrained] = {name: Unconstrained("not given") for name in kind.named}
    rules |= {name: OneOf(digests, "") for name, digests in values.items()}
    return Reference("by hand", kind.identifier, rules)


def _bytes(text: str, option: str) -> bytes:
    if not _HEX_32.fullmatch(text):
        raise UsageError(f"{option}: expected 64 lower-case hex digits, got {text[:80]!r}")
    return bytes.fromhex(text)


def _time(text: str | None) -> int:
    if text is None:
        return int(time.time())
    try:
        return parse_time(text)
    except ManifestError as error:
        raise UsageError(f"--at: {error.message}") from error


def _show(appraisal: EvidenceAppraisal, *, as_json: bool) -> None:
    if as_json:
        value = appraisal.to_json()
        if not isinstance(value, dict):
            raise TypeError("an appraisal is an object")
        print_json(value | {"live": False})
        return
    from blindbuild.cli.render import output_console, print_steps, print_warning

    console = output_console()
    print_steps(((s.id, s.title, s.outcome.value, s.detail) for s in appraisal.steps), console=console)
    print_steps((_line(value) for value in appraisal.values), console=console)
    for warning in (*appraisal.warnings, RECORDED):
        print_warning(warning)


def _line(value: ValueResult) -> tuple[str, str, str, str]:
    actual = "not reported" if value.actual is None else value.actual.hex
    if value.rule == "unconstrained":
        return value.name, "says nothing about the image", "skipped", f"{actual} {value.why}"
    return (
        value.name,
        "as stated" if value.matches else "differs",
        "ok" if value.matches else "failed",
        actual,
    )
