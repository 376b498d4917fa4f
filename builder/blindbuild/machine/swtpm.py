"""A software TPM with a genuine endorsement chain, under a certificate authority of its own.

Nothing outside of the given directories is read or written: swtpm_setup gets its own configuration.

Source: man swtpm(8), swtpm_setup(8), swtpm_setup.conf(5), swtpm_localca(8), swtpm-localca.conf(5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MachineError, UsageError
from blindbuild.host.files import write_atomically
from blindbuild.host.process import Process, Tool, find_tool, run, start
from blindbuild.machine.sockets import listen_at
from blindbuild.machine.tpm_connection import TpmConnection

SWTPM = Tool(name="swtpm", package="swtpm")
SWTPM_SETUP = Tool(name="swtpm_setup", package="swtpm-tools")
SWTPM_LOCALCA = Tool(name="swtpm_localca", package="swtpm-tools")
CERTTOOL = Tool(name="certtool", package="gnutls-bin")  # swtpm_localca runs it

DEFAULT_BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
TRANSCRIPT_LEVEL = 20  # the level at which swtpm writes every byte in and out

_STATE_FILE = "tpm2-00.permall"
_SETUP_LIMIT_S = 120.0  # seconds on an idle machine; RSA keys take as long as they take
_UNSAFE_IN_OPTIONS = frozenset(",\n$")  # ends a suboption of swtpm, a line, or starts an expansion


@dataclass(frozen=True, slots=True)
class TpmAuthority:
    """A private certificate authority that endorses TPMs; several machines can share one.

    Its keys are made by the first TPM that it endorses.
    """

    directory: Path

    @property
    def issuer_certificate(self) -> bytes:
        """PEM of the certificate that issues the EK certificates; MachineError before the first TPM."""
        return self._certificate("issuercert.pem")

    @property
    def root_certificate(self) -> bytes:
        """PEM of the root that certifies the issuer; MachineError before the first TPM."""
        return self._certificate("swtpm-localca-rootca-cert.pem")

    def _certificate(self, name: str) -> bytes:
        path = self.directory / name
        if not path.is_file():
            raise MachineError(f"{path}: this authority has endorsed no TPM yet")
        return path.read_bytes()


def manufacture_tpm(state: Path, authority: TpmAuthority, *, banks: Sequence[HashAlgorithm]) -> None:
    """Make the state of a new TPM: seeds, endorsement keys and their certificates, the banks allocated.

    A state that is there already is kept: the TPM keeps its keys over power cycles.

    Raises:
        ToolError: swtpm's tools are missing or failed.
        UsageError: no bank, or a path that swtpm cannot be told.
    """
    if not banks:
        raise UsageError("a TPM needs at least one bank")
    for path in (state, authority.directory):
        _require_plain(path)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (state / _STATE_FILE).exists():
        return
    find_tool(CERTTOOL)
    names = ",".join(bank.value for bank in banks)
    args = ["--tpm2", "--tpmstate", str(state), "--config", str(_write_configuration(authority, names))]
    args += ["--create-ek-cert", "--lock-nvram", "--write-ek-cert-files", str(state), "--pcr-banks", names]
    run(SWTPM_SETUP, args, timeout_s=_SETUP_LIMIT_S)


class SoftwareTpm:
    """A running swtpm; a context manager that ends it.

    Args:
        state: a directory that `manufacture_tpm` has filled.
        control: where its control socket shall be; QEMU's tpm-emulator and `connect` speak to it.
        log: where swtpm's own messages go.
        transcript: whether the log also gets every command and response in hexadecimal.
    """

    def __init__(self, state: Path, control: Path, log: Path, *, transcript: bool = False) -> None:
        for path in (state, control, log):
            _require_plain(path)
        self.control = control
        self.log = log
        level = TRANSCRIPT_LEVEL if transcript else 1
        with listen_at(control) as listener:
            args = ["socket", "--tpm2", "--tpmstate", f"dir={state},mode=0600"]
            args += ["--ctrl", f"type=unixio,fd={listener.fileno()}"]
            args += ["--log", f"file={log},level={level}"]
            self._process: Process = start(SWTPM, args, log=log, pass_fds=(listener.fileno(),))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process is there; a QEMU that ends in order ends its TPM too."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def connect(self) -> TpmConnection:
        """Speak to it from outside; MachineError while a QEMU holds it, or when it has ended."""
        if not self.running:
            raise MachineError(f"the software TPM has ended: {self._last_words()}")
        return TpmConnection(self.control)

    def stop(self) -> None:
        """End it and remove its socket; harmless if it has ended."""
        self._process.terminate()
        with contextlib.suppress(FileNotFoundError):
            self.control.unlink()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1].strip() if lines else "it said nothing"


def _write_configuration(authority: TpmAuthority, banks: str) -> Path:
    """Write the three configuration files into the authority's directory; return the first one's path."""
    directory = authority.directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    setup = directory / "swtpm_setup.conf"
    files = {
        setup: (
            f"create_certs_tool = {find_tool(SWTPM_LOCALCA)}\n"
            f"create_certs_tool_config = {directory / 'swtpm-localca.conf'}\n"
            f"create_certs_tool_options = {directory / 'swtpm-localca.options'}\n"
            f"active_pcr_banks = {banks}\n"
        ),
        directory / "swtpm-localca.conf": (
            f"statedir = {directory}\n"
            f"signingkey = {directory / 'signkey.pem'}\n"
            f"issuercert = {directory / 'issuercert.pem'}\n"
            f"certserial = {directory / 'certserial'}\n"
        ),
        directory / "swtpm-localca.options": (
            "--platform-manufacturer QEMU\n--platform-version 1\n--platform-model q35\n"
        ),
    }
    for path, text in files.items():
        write_atomically(path, text.encode(), mode=0o600)
    return setup


def _require_plain(path: Path) -> None:
    if not path.is_absolute() or _UNSAFE_IN_OPTIONS & set(str(path)):
        raise UsageError(f"{path}: expected an absolute path without comma, dollar sign and newline")
