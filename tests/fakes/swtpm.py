"""A real software TPM: swtpm, driven by tpm2-tools, with certificates by swtpm_setup's own authority."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

from tests.fakes.published import Event

EK_INDEX = 0x01C00002
ATTEMPTS = 5  # to find ports that nobody takes meanwhile
PROGRAMS = ("swtpm", "swtpm_setup", "tpm2_createek", "tpm2_quote", "tpm2_activatecredential")
AK_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
# what tpm2-tools puts in front of a credential: magic and version (tpm2_identity_util.c)
CREDENTIAL_HEAD = struct.pack(">II", 0xBADCC0DE, 1)


def _free_ports() -> int:
    """A port that is free together with the next one, which tpm2-tools takes for control."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Swtpm:
    """One TPM with its own authority, in a directory of its own; use it as a context manager."""

    def __init__(self, directory: Path, banks: tuple[str, ...] = ("sha256", "sha384")) -> None:
        self._dir = directory
        self._state, self._authority = directory / "state", directory / "authority"
        for folder in (self._state, self._authority):
            folder.mkdir(parents=True, exist_ok=True)
        self._banks = banks
        self._port = 0  # chosen at each start
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Swtpm:
        self._manufacture()
        self.power_on()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Take the power away without a shutdown."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def power_on(self) -> None:
        # another test may take a port between the choice and swtpm's start
        if not any(self._start() for _ in range(ATTEMPTS)):
            raise RuntimeError("swtpm did not start")
        # the same keys after each start: primaries of one seed
        self._make_keys()

    def _start(self) -> bool:
        self._port = _free_ports()
        command = (
            f"swtpm socket --tpm2 --tpmstate dir={self._state} "
            f"--server type=tcp,port={self._port},bindaddr=127.0.0.1 "
            f"--ctrl type=tcp,port={self._port + 1},bindaddr=127.0.0.1 --flags not-need-init,startup-clear"
        )
        self._process = subprocess.Popen(
            command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port + 1)) == 0:
                    return True
            time.sleep(0.05)
        self.kill()
        return False

    @property
    def root_pem(self) -> str:
        return (self._authority / "swtpm-localca-rootca-cert.pem").read_text()

    @property
    def issuer_pem(self) -> str:
        return (self._authority / "issuercert.pem").read_text()

    def _manufacture(self) -> None:
        conf = self._dir / "swtpm-localca.conf"
        conf.write_text(
            f"statedir = {self._authority}\n"
            f"signingkey = {self._authority}/signkey.pem\n"
            f"issuercert = {self._authority}/issuercert.pem\n"
            f"certserial = {self._authority}/certserial\n"
        )
        options = self._dir / "swtpm-localca.options"
        options.write_text("--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version id:20191023\n")
        setup = self._dir / "swtpm_setup.conf"
        setup.write_text(
            "create_certs_tool=/usr/bin/swtpm_localca\n"
            f"create_certs_tool_config={conf}\n"
            f"create_certs_tool_options={options}\n"
        )
        self._call(
            "swtpm_setup",
            "--tpm2",
            "--tpmstate",
            str(self._state),
            "--create-ek-cert",
            "--overwrite",
            "--pcr-banks",
            ",".join(self._banks),
            "--config",
            str(setup),
        )

    def _call(self, *command: str) -> bytes:
        path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"
        env = {
            "PATH": path,
            "TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={self._port}",
            "HOME": str(self._dir),
        }
        done = subprocess.run(command, capture_output=True, cwd=self._dir, env=env, timeout=60, check=False)
        if done.returncode != 0:
            raise ValueError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _make_keys(self) -> None:
        self._call("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
        self._call("tpm2_flushcontext", "-t")
        self._call(
            *("tpm2_createprimary", "-C", "e", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null"),
            *("-a", AK_ATTRIBUTES, "-c", "ak.ctx"),
        )
        self._call("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub", "-n", "ak.name")
        self._call("tpm2_flushcontext", "-t")

    @property
    def ek_public(self) -> bytes:
        return (self._dir / "ek.pub").read_bytes()

    @property
    def ak_public(self) -> bytes:
        return (self._dir / "ak.pub").read_bytes()

    @property
    def ak_name(self) -> bytes:
        return (self._dir / "ak.name").read_bytes()

    def endorsement(self) -> list[tuple[int, bytes]]:
        return [(EK_INDEX, self._call("tpm2_nvread", "-C", "o", f"0x{EK_INDEX:08x}"))]

    def extend(self, events: list[Event]) -> None:
        """Extend what a boot would have extended; nothing of it needs to have happened."""
        specs = []
        for event in events:
            digests = [f"{bank}={hashlib.new(bank, event.measured).hexdigest()}" for bank in self._banks]
            specs.append(f"{event.register}:{','.join(digests)}")
        for start in range(0, len(specs), 8):
            self._call("tpm2_pcrextend", *specs[start : start + 8])

    def read_registers(self, bank: str) -> list[bytes]:
        text = self._call("tpm2_pcrread", f"{bank}:all").decode()
        values = {int(m[1]): bytes.fromhex(m[2]) for m in re.finditer(r"(\d+) *: 0x([0-9A-F]+)", text)}
        return [values[register] for register in range(24)]

    def quote(self, bank: str, extra_data: bytes) -> tuple[bytes, bytes]:
        registers = ",".join(str(register) for register in range(24))
        self._call(
            *("tpm2_quote", "-c", "ak.ctx", "-l", f"{bank}:{registers}", "-q", extra_data.hex()),
            *("-g", "sha256", "-m", "quote.bin", "-s", "quote.sig"),
        )
        self._call("tpm2_flushcontext", "-t")
        return (self._dir / "quote.bin").read_bytes(), (self._dir / "quote.sig").read_bytes()

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        (self._dir / "credential").write_bytes(CREDENTIAL_HEAD + blob + encrypted_secret)
        self._call("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            self._call("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            self._call(
                *("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential"),
                *("-o", "secret", "-P", "session:session.ctx"),
            )
            return (self._dir / "secret").read_bytes()
        finally:
            self._call("tpm2_flushcontext", "session.ctx")
            self._call("tpm2_flushcontext", "-t")

    def make_credential(self, ek_public: bytes, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
        """tpm2_makecredential without a TPM: the blob and the encrypted secret."""
        (self._dir / "other.pub").write_bytes(ek_public)
        (self._dir / "plain").write_bytes(secret)
        self._call(
            *("tpm2_makecredential", "-T", "none", "-u", "other.pub", "-s", "plain", "-n", name.hex()),
            *("-o", "made"),
        )
        made = (self._dir / "made").read_bytes().removeprefix(CREDENTIAL_HEAD)
        size = 2 + struct.unpack(">H", made[:2])[0]
        return made[:size], made[size:]
