"""`blindbuild evidence` asks of a release what `verify` asks, and needs no roots of TPMs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli.main import main
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, UsageError
from blindbuild.manifest import parse_trust
from blindbuild.verify import bound_data
from tests.fakes import naive_log
from tests.fakes.channels import closed_ledger, ledger_bytes
from tests.fakes.log_world import Shown, others, policy_text
from tests.fakes.probed import probe_envelope, probe_value
from tests.fakes.published import Publisher
from tests.fakes.snp_machine import SnpMachine, roots_file, snp_product
from tests.fakes.world import NONCE, SPKI, authority
from tests.unit.test_platform_roots import SNP, published

AT = "2026-09-21T14:13:20Z"
LEDGER = ledger_bytes(closed_ledger())


def by() -> Publisher:
    return published(SNP).but(ledger={"sha256": Digest.sha256(LEDGER).hex}, memoryConfidentiality="sev-snp")


BY = by()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "roots.json").write_bytes(roots_file(sevSnp={"products": [snp_product()]}))
    (tmp_path / "manifest.dsse.json").write_bytes(BY.envelope)
    (tmp_path / "release.dsse.json").write_bytes(BY.release)
    (tmp_path / "channels.json").write_bytes(LEDGER)
    value = json.loads(BY.trust(tpm_roots=[authority().root_pem]))
    del value["tpmRoots"]
    (tmp_path / "trust.json").write_text(json.dumps(value))
    (tmp_path / "key.der").write_bytes(SPKI)
    (tmp_path / "vcek.der").write_bytes(SnpMachine().certificate())
    bound = bound_data(nonce=NONCE, spki=SPKI, statement=Digest.sha256(BY.statement))
    (tmp_path / "report.bin").write_bytes(SnpMachine().report(bound + bytes(32)))
    return tmp_path


def judged(place: Path, *more: str | Path) -> Result:
    words = ["evidence", str(place / "report.bin"), "--kind", "snp", "--at", AT, "--json"]
    for option in ("roots", "trust"):
        words += [f"--{option}", str(place / f"{option}.json")]
    words += ["--certificate", str(place / "vcek.der"), "--manifest", str(place)]
    words += ["--nonce", NONCE.hex(), "--spki", str(place / "key.der")]
    return CliRunner().invoke(main, [*words, *map(str, more)])


def refusal(done: Result) -> BlindbuildError:
    assert isinstance(done.exception, BlindbuildError), (done.output, done.exception)
    return done.exception


def policy(place: Path, **rules: object) -> Path:
    path = place / "policy.json"
    path.write_text(json.dumps({"version": 1, **rules}))
    return path


def test_a_trust_file_without_tpm_roots_is_enough(place: Path) -> None:
    done = judged(place)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accepted"] is True


def test_two_ways_to_believe_a_tpm_are_a_mistake_here_too(place: Path) -> None:
    value = json.loads((place / "trust.json").read_text())
    value |= {"tpmRoots": [authority().root_pem], "akRoots": [authority().issuer_pem]}
    (place / "trust.json").write_text(json.dumps(value))
    assert "got TPM roots and AK roots" in refusal(judged(place)).message


def test_such_a_trust_file_believes_no_tpm(place: Path) -> None:
    with pytest.raises(BlindbuildError, match="got none of them"):
        parse_trust((place / "trust.json").read_bytes())


def test_channels_and_memory_can_be_asked_for(place: Path) -> None:
    assert judged(place, "--require-closed", "disk,egress").exit_code == 0
    error = refusal(judged(place, "--require-closed", "memory"))
    assert (error.step, error.reason) == ("P3", "channel-not-closed")
    (place / "channels.json").unlink()
    assert refusal(judged(place, "--require-closed", "disk")).reason == "ledger-missing"
    assert judged(place, "--policy", policy(place, memoryConfidentiality=["sev-snp"])).exit_code == 0
    error = refusal(judged(place, "--policy", policy(place, memoryConfidentiality=["tdx"])))
    assert (error.step, error.reason) == ("P4", "memory-not-confidential")


def test_the_profile_of_the_channel_can_be_asked_for(place: Path) -> None:
    tls, hpke = "tls-spki-quote-v1", "hpke-quote-v1"
    for asked in (("--require-profile", tls), ("--policy", policy(place, channelProfiles=[tls]))):
        done = judged(place, *asked)
        assert done.exit_code == 0, done.output
        assert "C1" in {step["id"] for step in json.loads(done.stdout)["steps"]}
    for asked in (("--require-profile", hpke), ("--policy", policy(place, channelProfiles=[hpke]))):
        error = refusal(judged(place, *asked))
        assert (error.step, error.reason) == ("C1", "profile-not-allowed")


def test_a_probe_can_be_asked_for(place: Path) -> None:
    probe = probe_envelope(probe_value(BY), BY.key)
    (place / "elsewhere").write_bytes(probe)
    required = ("--policy", policy(place, requireProbe=True))
    for asked in (("--require-probe",), required):
        (place / "probe.dsse.json").unlink(missing_ok=True)
        error = refusal(judged(place, *asked))
        assert (error.step, error.reason) == ("P5", "probe-missing")
        assert judged(place, *asked, "--probe", place / "elsewhere").exit_code == 0
        (place / "probe.dsse.json").write_bytes(probe)
        done = judged(place, *asked)
        assert done.exit_code == 0, done.output
        assert "P5" in {step["id"] for step in json.loads(done.stdout)["steps"]}


def test_a_log_can_be_asked_for(place: Path) -> None:
    (place / "log.txt").write_bytes(policy_text())
    asked = ("--require-log", place / "log.txt")
    error = refusal(judged(place, *asked))
    assert (error.step, error.reason) == ("M12", "log-proof-missing")
    entries = [*others(3), naive_log.entry(BY.envelope, BY.statement)]
    (place / "manifest.tlog-proof").write_bytes(Shown(entries=entries, index=3).proof)
    done = judged(place, *asked)
    assert done.exit_code == 0, done.output
    assert "M12" in {step["id"] for step in json.loads(done.stdout)["steps"]}
    required = policy(place, requireLog=policy_text().decode())
    assert judged(place, "--policy", required).exit_code == 0


def test_what_only_a_tpm_shows_cannot_be_asked_for(place: Path) -> None:
    rules = {
        "machines": {"attestationKeys": ["000b" + "00" * 32]},
        "minimumTpmFirmware": "0x0000000000000001",
        "requireCrls": True,
        "requireSecureBoot": True,
    }
    for name, value in rules.items():
        error = refusal(judged(place, "--policy", policy(place, **{name: value})))
        assert isinstance(error, UsageError)
        assert name in error.message


def test_a_platform_beside_the_policys_is_a_contradiction(place: Path) -> None:
    platform = BY.value["predicate"]["platforms"][0]["id"]
    both = policy(place, platforms=[platform])
    assert judged(place, "--policy", both, "--platform", platform).exit_code == 0
    assert (
        "--platform: the policy allows" in refusal(judged(place, "--policy", both, "--platform", "x")).message
    )


@pytest.mark.parametrize("option", ["--policy", "--require-log", "--ledger", "--log-proof", "--probe"])
def test_values_by_hand_have_no_release_to_ask_about(place: Path, option: str) -> None:
    words = ["evidence", str(place / "report.bin"), "--kind", "snp", "--roots", str(place / "roots.json")]
    words += ["--certificate", str(place / "vcek.der"), "--bound", "00" * 32]
    words += ["--measurement", "LAUNCH_DIGEST=" + "00" * 48, option, str(place / "key.der")]
    error = refusal(CliRunner().invoke(main, words))
    assert "expected --manifest, --trust" in error.message
