"""A running machine copied to another place: its memory, its TPM, its keys.

Source: QEMU docs/devel/migration; the stream is what live migration sends, kept in a file.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

from blindbuild.client import attest
from blindbuild.errors import ChannelError, MachineError, VerificationError
from blindbuild.machine.attack_model import Outcome, RunningAttack, Seen, Stage
from blindbuild.machine.machine import Machine
from blindbuild.machine.sockets import listen_at

MIGRATION_LIMIT_S = 120.0  # half a second for 256 MiB, and a busy host
MAX_BANDWIDTH = 1 << 40  # bytes a second: as fast as it goes
POLL_S = 0.1

_READ_BYTES = 1 << 20


def _copy_machine(stage: Stage) -> Seen | None:
    """Keep the whole state of the machine, let it go on, and start a second one from what was kept."""
    snapshot = stage.directory / "snapshot"
    _save(stage.machine, snapshot)
    original = attest(stage.machine.url, stage.expect(stage.machine.authority))
    original.close()
    arrivals = stage.machine.files.sockets / "arrivals"
    config = replace(
        stage.config,
        host_port=0,
        state_dir=None,
        tpm_between=None,
        more_devices=(*stage.config.more_devices, "-incoming", f"unix:{arrivals}"),
    )
    with Machine(config) as copy:
        _load(copy, snapshot, arrivals)
        try:
            found = attest(copy.url, stage.expect(stage.machine.authority))
            found.accept().close()
        except (ChannelError, VerificationError) as error:
            return Seen(Outcome.REFUSED, f"the copy is not believed: {error.message}")
        if found.session.spki != original.session.spki:
            return None
    return Seen(
        Outcome.SUCCEEDS,
        "a copy started from a snapshot has the same TLS key and is accepted as the original",
    )


def _save(machine: Machine, path: Path) -> None:
    """Write the machine's state to a file, and let it go on."""
    place = machine.files.sockets / "departures"
    with listen_at(place) as listener:
        listener.settimeout(MIGRATION_LIMIT_S)
        writer = threading.Thread(target=_receive, args=(listener, path), daemon=True)
        writer.start()
        machine.qmp.execute("stop")
        machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": MAX_BANDWIDTH})
        machine.qmp.execute("migrate", {"uri": f"unix:{place}"})
        _wait(machine, "query-migrate", "completed")
        writer.join(MIGRATION_LIMIT_S)
    machine.qmp.execute("cont")


def _receive(listener: socket.socket, path: Path) -> None:
    with contextlib.suppress(OSError), listener.accept()[0] as stream, path.open("wb") as file:
        while data := stream.recv(_READ_BYTES):
            file.write(data)


def _load(machine: Machine, path: Path, arrivals: Path) -> None:
    """Give a machine that waits for its state what was kept."""
    with socket.socket(socket.AF_UNIX) as stream, path.open("rb") as file:
        stream.settimeout(MIGRATION_LIMIT_S)
        stream.connect(str(arrivals))
        stream.sendfile(file)
        stream.shutdown(socket.SHUT_WR)
        _wait(machine, "query-status", "paused")  # as the original was
    machine.qmp.execute("cont")


def _wait(machine: Machine, query: str, wanted: str) -> None:
    deadline = time.monotonic() + MIGRATION_LIMIT_S
    while (status := machine.qmp.execute(query).get("status")) != wanted:
        if status == "failed" or time.monotonic() > deadline:
            raise MachineError(f"{query}: expected {wanted}, got {status}{machine.last_words()}")
        time.sleep(POLL_S)


SNAPSHOT_ATTACKS: tuple[RunningAttack, ...] = (
    RunningAttack(
        name="snapshot",
        summary="saves the running machine to a file and starts a copy of it",
        outcome=Outcome.SUCCEEDS,
        play=_copy_machine,
    ),
)
