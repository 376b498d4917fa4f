"""systemd's files, read by systemd's own tools and by a TPM."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.host.sandbox import Bind
from blindbuild.measure.classification import Exact
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.reference import predict_platform
from blindbuild.publish import exporters
from blindbuild.publish.policy_key import load_policy_key
from tests.fakes.published import Event, honest_boot, log_bytes, register_values, rules
from tests.fakes.systemd_tools import run_systemd
from tests.golden.test_predicted_boots import BOOTS, CASES, measured
from tests.unit.test_export_formats import SILENT, pem_of, request, with_rules

TOOLS = ("swtpm", "tpm2_pcrextend", "bwrap")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
BANKS = ("sha256", "sha384")
EXACT = [number for number, rule in rules(honest_boot(), "sha256").items() if rule["rule"] == "exact"]
LOGGED = [case for case in CASES if (BOOTS / f"{case['name']}.eventlog.bin").exists()]


class Tpm:
    """A software TPM on a socket that a sandbox without a network can reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "state").mkdir()
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}/state"),
                *("--server", f"type=unixio,path={directory}/tpm"),
                *("--ctrl", f"type=unixio,path={directory}/tpm.ctrl"),
                *("--flags", "startup-clear,not-need-init"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not (directory / "tpm.ctrl").exists():
            assert time.monotonic() < deadline, "swtpm did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def call(self, *command: str, good: bool = True) -> bytes:
        path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"
        env = {"PATH": path, "TPM2TOOLS_TCTI": f"swtpm:path={self.directory}/tpm"}
        done = subprocess.run(command, cwd=self.directory, env=env, capture_output=True, timeout=60)
        assert (done.returncode == 0) is good, (command, done.stderr)
        # a TPM holds three objects, and each tool loads its own again
        subprocess.run(("tpm2_flushcontext", "-t"), cwd=self.directory, env=env, check=True)
        return done.stdout

    def boot(self, events: list[Event]) -> None:
        """Extend what a boot would have extended."""
        hashed = [
            (event.register, {bank: hashlib.new(bank, event.measured).hexdigest() for bank in BANKS})
            for event in events
        ]
        self.extend(hashed)

    def extend(self, hashed: list[tuple[int, dict[str, str]]]) -> None:
        specs = []
        for register, digests in hashed:
            specs.append(f"{register}:{','.join(f'{bank}={value}' for bank, value in digests.items())}")
        for start in range(0, len(specs), 8):
            self.call("tpm2_pcrextend", *specs[start : start + 8])


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    # a socket's path has at most 107 bytes: less than where pytest keeps a test's files
    with tempfile.TemporaryDirectory(prefix="bb") as directory:
        running = Tpm(Path(directory))
        yield running
        running.stop()


def unpack(made: exporters.Exported, place: Path) -> Path:
    """The directory that `--components=` names."""
    place.mkdir()
    with tarfile.open(fileobj=io.BytesIO(made.data)) as archive:
        for entry in archive:
            assert (entry.mtime, entry.uid, entry.gid, entry.mode) == (0, 0, 0, 0o644)
            content = archive.extractfile(entry)
            assert content is not None
            (place / entry.name).write_bytes(content.read())
    return place


def ask_pcrlock(verb: str, components: Path, tpm: Tpm, log: bytes, registers: list[str] = EXACT) -> Any:
    (tpm.directory / "log").write_bytes(log)
    done = run_systemd(
        "systemd-pcrlock",
        *("--components=/components", "--json=short", f"--pcr={'+'.join(registers)}", verb),
        binds=[Bind(components, "/components"), Bind(tpm.directory, "/machine", writable=True)],
        SYSTEMD_MEASURE_LOG_FIRMWARE="/machine/log",
        SYSTEMD_MEASURE_LOG_USERSPACE="/machine/none",
        SYSTEMD_TPM2_DEVICE="swtpm:path=/machine/tpm",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("bank", BANKS)
def test_systemd_pcrlock_predicts_what_the_statement_says(bank: str, tpm: Tpm, tmp_path: Path) -> None:
    made = exporters.export("pcrlock", request(bank=HashAlgorithm(bank)))
    components = unpack(made, tmp_path / "components")
    tpm.boot(honest_boot())
    # of a log with several banks systemd-pcrlock takes the first that it likes
    log = log_bytes(honest_boot(), (bank,))
    listed = ask_pcrlock("list-components", components, tpm, log)
    assert [entry["id"] for entry in listed] == [f"500-hello-pcr{int(number):02}" for number in EXACT]
    predicted = ask_pcrlock("predict", components, tpm, log)
    stated = rules(honest_boot(), bank)
    wanted = [{"pcr": int(number), "values": [stated[number]["value"]]} for number in EXACT]
    assert predicted == {bank: wanted}


@pytest.mark.parametrize("case", LOGGED, ids=[case["name"] for case in LOGGED])
def test_systemd_pcrlock_knows_a_real_boot_of_the_image(
    case: dict[str, Any], tpm: Tpm, tmp_path: Path
) -> None:
    """A boot of OVMF and systemd-stub: its log, and what was predicted from the image alone."""
    firmware = Digest.from_hex(HashAlgorithm.SHA256, case["firmware"])
    platform = find_platform(case["platform"])
    reference = predict_platform(measured(case["image"]), platform=platform, firmware=firmware)
    asked = request()
    statement = replace(asked.release.statement, platforms=(reference,))
    asked = replace(asked, release=replace(asked.release, statement=statement))
    components = unpack(exporters.export("pcrlock", asked), tmp_path / "components")
    log = (BOOTS / f"{case['name']}.eventlog.bin").read_bytes()
    tpm.extend(
        [
            (event.register, {bank.value: digest.hex for bank, digest in event.digests.items()})
            for event in parse_event_log(log).events
            if event.event_type != EventType.EV_NO_ACTION
        ]
    )
    rules = enumerate(reference.banks[HashAlgorithm.SHA256])
    wanted = {number: rule.value.hex for number, rule in rules if isinstance(rule, Exact) and rule.events}
    assert {4, 9, 11} <= wanted.keys()
    predicted = ask_pcrlock("predict", components, tpm, log, [str(number) for number in wanted])
    found = {entry["pcr"]: entry["values"] for entry in predicted["sha256"]}
    assert found == {number: [value] for number, value in wanted.items()}


def test_systemd_pcrlock_does_not_know_another_image(tpm: Tpm, tmp_path: Path) -> None:
    components = unpack(exporters.export("pcrlock", request()), tmp_path / "components")
    another = [
        Event(event.register, event.kind, event.measured + b"!", event.what, event.logged)
        if event.what == "content of .linux"
        else event
        for event in honest_boot()
    ]
    assert another != honest_boot()
    tpm.boot(another)
    predicted = ask_pcrlock("predict", components, tpm, log_bytes(another))
    kept = {entry["pcr"] for entry in predicted["sha256"]}
    assert kept == {int(number) for number in EXACT} - {11}


def test_systemd_measure_signs_the_same_policy_with_the_same_bytes(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(pem_of(key))
    (tmp_path / "linux").write_bytes(b"a kernel")
    words = ("--linux=/in/linux", "--bank=sha256", "--phase=:", "--json=short")
    binds = [Bind(tmp_path, "/in")]
    done = run_systemd("systemd-measure", "calculate", *words, binds=binds)
    assert done.returncode == 0, done.stderr
    ((held,),) = json.loads(done.stdout).values()
    assert held["pcr"] == 11
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub.pem").write_bytes(public)
    keys = ("--private-key=/in/key.pem", "--public-key=/in/pub.pem")
    done = run_systemd("systemd-measure", "sign", *words, *keys, binds=binds)
    assert done.returncode == 0, done.stderr

    # a statement with that register, and nothing else that a policy could be about
    rule = {f"r{register}": SILENT for register in range(24)}
    owner = with_rules(**rule)
    bank = owner.value["predicate"]["platforms"][0]["banks"]["sha256"]["pcrs"]
    bank["11"] = {"rule": "oneOf", "values": [held["hash"]], "why": "as systemd-measure says"}
    made = exporters.export("pcrsig", request(owner, policy_key=load_policy_key(pem_of(key))))
    assert json.loads(made.data) == json.loads(done.stdout)


def test_a_tpm_opens_a_secret_in_the_state_that_was_signed_and_in_no_other(tpm: Tpm) -> None:
    key = rsa.generate_private_key(65537, 2048)
    made = exporters.export("pcrsig", request(policy_key=load_policy_key(pem_of(key))))
    ((entry,),) = json.loads(made.data).values()
    selection = f"sha256:{','.join(map(str, entry['pcrs']))}"
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files = {
        "pub.pem": public,
        "policy": bytes.fromhex(entry["pol"]),
        "signature": base64.b64decode(entry["sig"]),
        "secret": b"for this image",
    }
    held = b"".join(register_values(honest_boot(), "sha256")[number] for number in entry["pcrs"])
    state = (selection, hashlib.sha256(held).hexdigest())
    for name, data in files.items():
        (tpm.directory / name).write_bytes(data)
    tpm.boot(honest_boot())
    seal_to_key(tpm)
    assert unseal(tpm, *state) == b"for this image"
    assert (tpm.directory / "from-tpm").read_bytes() == files["policy"]
    tpm.call("tpm2_pcrextend", f"12:sha256={hashlib.sha256(b'a credential').hexdigest()}")
    assert unseal(tpm, *state, good=False) == b""


def seal_to_key(tpm: Tpm) -> None:
    """Make an object that any policy signed by the key opens (TPM2_PolicyAuthorize), as systemd does."""
    tpm.call("tpm2_loadexternal", "-Q", "-C", "o", "-G", "rsa", "-u", "pub.pem", "-c", "key", "-n", "name")
    tpm.call("tpm2_startauthsession", "-S", "trial")
    tpm.call("tpm2_policyauthorize", "-S", "trial", "-L", "by-key", "-n", "name", "-i", "policy")
    tpm.call("tpm2_flushcontext", "trial")
    tpm.call("tpm2_createprimary", "-Q", "-C", "o", "-c", "parent")
    tpm.call(
        *("tpm2_create", "-Q", "-C", "parent", "-L", "by-key", "-i", "secret"),
        *("-a", "fixedtpm|fixedparent", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed"),
    )
    tpm.call(
        *("tpm2_verifysignature", "-c", "key", "-g", "sha256", "-f", "rsassa"),
        *("-m", "policy", "-s", "signature", "-t", "ticket"),
    )


def unseal(tpm: Tpm, selection: str, digest: str, *, good: bool = True) -> bytes:
    tpm.call("tpm2_startauthsession", "--policy-session", "-S", "session")
    try:
        # tpm2-tools read at most 8 registers themselves; the TPM compares the digest with what it holds
        words = ("-S", "session", "-l", selection, "-L", "from-tpm", digest)
        tpm.call("tpm2_policypcr", "-Q", *words, good=good)
        if not good:
            return b""
        tpm.call("tpm2_policyauthorize", "-S", "session", "-i", "policy", "-n", "name", "-t", "ticket")
        return tpm.call("tpm2_unseal", "-c", "sealed", "-p", "session:session")
    finally:
        tpm.call("tpm2_flushcontext", "session")
