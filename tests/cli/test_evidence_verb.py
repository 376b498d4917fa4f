"""`blindbuild evidence`: what it asks for, what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.cli.main import main
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, UsageError, VerificationError
from blindbuild.verify import bound_data
from tests.fakes.nitro_enclave import REGISTERS, document, fields, hypervisor
from tests.fakes.published import NOW
from tests.fakes.snp_machine import MEASUREMENT, SnpMachine, roots_file, snp_product
from tests.fakes.tdx_platform import MEASUREMENTS, answer, intel, qe_identity, quote, tcb_info, td_report
from tests.fakes.world import NONCE, SPKI, authority
from tests.unit.test_platform_roots import NITRO, SNP, TDX, published

BOUND = bytes(range(32))
AT = "2026-09-21T00:00:00Z"
DOCUMENT_TIME = 1_789_948_800  # AT in seconds since 1970


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the roots file and an image's manifest, trust file, nonce and key."""
    roots = {
        "sevSnp": {"products": [snp_product()]},
        "tdx": {"roots": [intel().root.pem]},
        "nitroEnclaves": {"roots": [hypervisor().root.pem]},
    }
    (tmp_path / "roots.json").write_bytes(roots_file(**roots))
    by = published(SNP, TDX, NITRO)
    (tmp_path / "manifest.dsse.json").write_bytes(by.envelope)
    (tmp_path / "release.dsse.json").write_bytes(by.release)
    (tmp_path / "trust.json").write_bytes(by.trust(tpm_roots=[authority().root_pem]))
    (tmp_path / "key.der").write_bytes(SPKI)
    (tmp_path / "vcek.der").write_bytes(SnpMachine().certificate())
    return tmp_path


def run(place: Path, kind: str, data: bytes, *arguments: str) -> Result:
    (place / "evidence.bin").write_bytes(data)
    roots = ("--roots", str(place / "roots.json"), "--at", AT)
    return CliRunner().invoke(
        main, ["evidence", str(place / "evidence.bin"), "--kind", kind, *roots, *arguments]
    )


def by_hand(**values: bytes) -> list[str]:
    listed = [f"--measurement={name}={value.hex()}" for name, value in values.items()]
    return [*listed, "--bound", BOUND.hex()]


def by_statement(place: Path) -> list[str]:
    return [
        *("--manifest", str(place / "manifest.dsse.json"), "--trust", str(place / "trust.json")),
        *("--nonce", NONCE.hex(), "--spki", str(place / "key.der")),
    ]


def bound() -> bytes:
    statement = Digest.sha256(published(SNP, TDX, NITRO).statement)
    return bound_data(nonce=NONCE, spki=SPKI, statement=statement)


def test_a_report_is_judged_by_the_manifest_and_its_steps_are_printed(place: Path) -> None:
    report = SnpMachine().report(bound() + bytes(32))
    done = run(place, "snp", report, "--certificate", str(place / "vcek.der"), *by_statement(place))
    assert done.exit_code == 0, done.output
    for word in ("M4", "S1", "S8", "R3", "LAUNCH_DIGEST", "as stated", "never seen on our hardware"):
        assert word in done.output
    assert "it proves nothing about now" in done.output


def test_a_quote_and_a_document_are_judged_by_the_manifest(place: Path) -> None:
    for name, data in (("tcbInfo", tcb_info()), ("enclaveIdentity", qe_identity())):
        (place / f"{name}.json").write_bytes(answer(name, data))
    (place / "chain.pem").write_bytes(intel().service_chain())
    answers = (
        "--tcb-info",
        str(place / "tcbInfo.json"),
        "--qe-identity",
        str(place / "enclaveIdentity.json"),
    )
    collateral = (*answers, "--issuer-chain", str(place / "chain.pem"))
    padded = quote(td_report(bound() + bytes(32))) + bytes(1000)
    done = run(place, "tdx", padded, *collateral, *by_statement(place))
    assert done.exit_code == 0, done.output
    made = document(fields(DOCUMENT_TIME, bound(), nonce=NONCE, public_key=SPKI))
    done = run(place, "nitro", made, *by_statement(place))
    assert done.exit_code == 0, done.output


def test_values_by_hand_are_enough_to_try_and_are_warned_about(place: Path) -> None:
    report = SnpMachine().report(BOUND + bytes(32))
    certificate = ("--certificate", str(place / "vcek.der"))
    done = run(place, "snp", report, *certificate, *by_hand(LAUNCH_DIGEST=MEASUREMENT), "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert (value["accepted"], value["kind"], value["platform"]) == (True, "sev-snp", "by hand")
    assert value["values"][0]["actual"] == MEASUREMENT.hex()
    assert any("given by hand" in warning for warning in value["warnings"])
    several = [*by_hand(LAUNCH_DIGEST=bytes(48)), f"--measurement=LAUNCH_DIGEST={MEASUREMENT.hex()}"]
    assert run(place, "snp", report, *certificate, *several).exit_code == 0


def test_registers_that_are_not_given_say_nothing(place: Path) -> None:
    made = document(fields(DOCUMENT_TIME, BOUND))
    pcrs = {f"PCR{number}": REGISTERS[number] for number in (0, 1, 2)}
    assert run(place, "nitro", made, *by_hand(**pcrs)).exit_code == 0
    given = {name: value for name, value in MEASUREMENTS.items() if name not in ("RTMR0", "RTMR3")}
    (place / "roots.json").write_bytes(
        roots_file(tdx={"roots": [intel().root.pem], "requireCollateral": False})
    )
    done = run(place, "tdx", quote(td_report(BOUND + bytes(32))), *by_hand(**given))
    assert done.exit_code == 0, done.output
    assert "says nothing about the image" in done.output


def refused(done: Result, kind: type[BlindbuildError]) -> BlindbuildError:
    assert isinstance(done.exception, kind), done.output
    return done.exception


def test_a_lie_is_exit_code_3_with_its_reason(place: Path) -> None:
    report = SnpMachine().report(BOUND + bytes(32), policy=0xA0000)
    done = run(
        place,
        "snp",
        report,
        "--certificate",
        str(place / "vcek.der"),
        *by_hand(LAUNCH_DIGEST=bytes(48)),
        "--json",
    )
    error = refused(done, VerificationError)
    assert (error.exit_code, "S7 debug-allowed" in error.message) == (3, True)
    assert "R2 measurement-mismatch" in error.message
    value = json.loads(done.stdout)
    assert (value["accepted"], value["live"]) == (False, False)
    assert {step["reason"] for step in value["steps"]} >= {"debug-allowed", "measurement-mismatch"}


def test_collateral_is_asked_for(place: Path) -> None:
    done = run(place, "tdx", quote(td_report(bound() + bytes(32))), *by_statement(place))
    assert "T7 collateral-missing" in refused(done, VerificationError).message


def test_what_is_no_evidence_is_refused_by_the_first_step(place: Path) -> None:
    hand = by_hand(LAUNCH_DIGEST=MEASUREMENT)
    for kind, step in (("snp", "S1"), ("tdx", "T1"), ("nitro", "N1")):
        certificate = ("--certificate", str(place / "vcek.der")) if kind == "snp" else ()
        error = refused(run(place, kind, b"nothing", *certificate, *hand), VerificationError)
        assert isinstance(error, VerificationError)
        assert (error.step, error.reason) == (step, "malformed")


def test_a_certificate_may_be_pem(place: Path) -> None:
    pem = x509.load_der_x509_certificate(SnpMachine().certificate()).public_bytes(Encoding.PEM)
    (place / "vcek.pem").write_bytes(pem)
    report = SnpMachine().report(BOUND + bytes(32))
    hand = by_hand(LAUNCH_DIGEST=MEASUREMENT)
    assert run(place, "snp", report, "--certificate", str(place / "vcek.pem"), *hand).exit_code == 0
    (place / "vcek.pem").write_bytes(pem + pem)
    done = run(place, "snp", report, "--certificate", str(place / "vcek.pem"), *hand)
    assert "expected one PEM certificate" in refused(done, UsageError).message


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("snp", ["HAND"], "expected --certificate with an SEV-SNP report"),
        ("tdx", ["HAND", "CERTIFICATE"], "expected --certificate with --kind snp only"),
        ("nitro", ["HAND", "TCB"], "expected Intel's answers with --kind tdx only"),
        ("tdx", ["HAND", "TCB"], "--tcb-info, --qe-identity and --issuer-chain together"),
        ("nitro", [], "expected --manifest, --trust, --nonce and --spki, or --measurement and --bound"),
        ("nitro", ["HAND", "STATEMENT"], "expected --manifest, --trust"),
        ("nitro", ["HAND", "--platform", "x"], "expected --manifest, --trust"),
        ("nitro", ["HAND", "--allow-debug"], "expected --manifest, --trust"),
        ("nitro", ["--bound", "00"], "expected --manifest, --trust"),
        ("nitro", ["--bound", "00", "--measurement", "PCR0=" + "00" * 48], "--bound: expected 64"),
        ("nitro", ["--bound", "00" * 32, "--measurement", "PCR0=00"], "expected NAME and 96"),
        ("nitro", ["HAND", "--at", "tomorrow"], "--at: expected a time"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_expected(
    place: Path, kind: str, arguments: list[str], message: str
) -> None:
    words = {
        "HAND": by_hand(LAUNCH_DIGEST=MEASUREMENT),
        "CERTIFICATE": ["--certificate", str(place / "vcek.der")],
        "TCB": ["--tcb-info", str(place / "key.der")],
        "STATEMENT": by_statement(place),
    }
    done = run(place, kind, b"x", *(word for given in arguments for word in words.get(given, [given])))
    error = refused(done, UsageError)
    assert message in error.message
    assert error.exit_code == 2


def test_a_nonce_of_another_length_is_wrong_usage(place: Path) -> None:
    given = by_statement(place)
    given[given.index(NONCE.hex())] = NONCE.hex()[:-2]
    done = run(place, "nitro", document(fields(NOW, BOUND)), *given)
    assert "--nonce: expected 64" in refused(done, UsageError).message
