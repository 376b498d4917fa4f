"""Boot an image directory in QEMU and wait for its gate; what run and demo share."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from blindbuild.cli.options import state_directory
from blindbuild.cli.outputs import STATEMENT, check_image
from blindbuild.client import Connection
from blindbuild.errors import ChannelError, UsageError
from blindbuild.host.reporter import Reporter
from blindbuild.host.store import Store
from blindbuild.machine.accelerator import Preference
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.manifest import parse_statement
from blindbuild.pipeline import find_firmware

READY_TIMEOUT_S = 240.0  # a boot takes 10-20 s under emulation on an idle machine, and CI is not idle
PROBE_TIMEOUT_S = 10.0
DEFAULT_MEMORY_MIB = 512
NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class BootOptions:
    """The options of a machine that people may set."""

    memory_mib: int = DEFAULT_MEMORY_MIB
    port: int = 0
    guest_port: int = 443
    accelerator: Preference = "auto"
    smbios: tuple[str, ...] = ()
    state: Path | None = None


def configure_machine(image: Path, *, store: Store, options: BootOptions) -> MachineConfig:
    """Return the machine for an image directory, with the firmware its statement was computed for."""
    statement = parse_statement(check_image(image)[STATEMENT])
    firmware = statement.platforms[0].firmware
    if firmware is None:
        raise UsageError(f"{image}: expected an image for a machine with a firmware file, got one without")
    code, variables = find_firmware(store, firmware)
    return MachineConfig(
        disk=(image / f"{statement.name}.raw").absolute(),
        firmware_code=code,
        firmware_vars=variables,
        memory_mib=options.memory_mib,
        host_port=options.port,
        guest_port=options.guest_port,
        accelerator=options.accelerator,
        smbios=options.smbios,
        tpm_authority=tpm_authority_directory(),
        state_dir=options.state,
    )


def tpm_authority_directory() -> Path:
    """Return where the local authority lives that endorses this user's software TPMs."""
    return state_directory() / "test-tpm-authority"


def gate_answers(host: str, port: int) -> bool:
    """Say whether a gate answers its health question there; proves nothing about who it is."""
    try:
        with Connection.open(f"https://{host}:{port}", timeout_s=PROBE_TIMEOUT_S) as connection:
            answer = connection.request("GET", "/healthz", content_type="text/plain", max_body=0)
            return answer.status == NO_CONTENT
    except ChannelError:
        return False


@contextlib.contextmanager
def booted(config: MachineConfig, *, reporter: Reporter) -> Iterator[Machine]:
    """Run the machine until the block ends; nothing of it is left behind, whatever ends the block."""
    machine = Machine(config)
    with _ended_by_signal():
        reporter.begin("boot")
        with machine:
            seconds = machine.wait_until_ready(gate_answers, READY_TIMEOUT_S)
            reporter.finish(f"{machine.accelerator.name}, gate answers {seconds:.1f} s after power-on")
            yield machine


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Turn SIGTERM into the exception that Ctrl-C is, so that one path cleans up."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
