"""A machine's life from power-on to nothing left behind, with firmware of a few instructions."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.machine.swtpm import DEFAULT_BANKS, TpmAuthority, manufacture_tpm
from tests.fakes.tiny_firmware import HALT, POWER_OFF, RESET, tiny_firmware
from tests.fakes.variable_store import empty_store

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
TOOLS = ("qemu-system-x86_64", "swtpm", "swtpm_setup")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="QEMU or swtpm is not installed"
)

Configure = Callable[..., MachineConfig]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that has keys already, so that no test waits for them."""
    directory = tmp_path_factory.mktemp("authority")
    manufacture_tpm(directory / "first", TpmAuthority(directory), banks=DEFAULT_BANKS)
    return directory


@pytest.fixture
def configure(tmp_path: Path, authority: Path) -> Configure:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))

    def build(text: bytes = b"ready", ending: bytes = HALT, **changes: object) -> MachineConfig:
        values = {
            "disk": disk,
            "firmware_code": tiny_firmware(text, ending),
            "firmware_vars": empty_store(),
            "memory_mib": 128,
            "accelerator": "tcg",
            "tpm_authority": authority,
        }
        return MachineConfig(**(values | changes))

    return build


@pytest.fixture(autouse=True)
def private_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Everything that a machine leaves in the place for temporary files is seen, and must not be there."""
    place = Path("/tmp", f"bb{os.getpid()}")  # short: it is part of socket paths
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield place
    left = list(place.iterdir())
    shutil.rmtree(place)
    assert left == []


def wait_for(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_the_guest_says_arrives_with_its_time(configure: Configure, tmp_path: Path) -> None:
    with Machine(configure(b"BdsDxe", state_dir=tmp_path / "state")) as machine:
        wait_for(lambda: machine.serial_bytes(0) == b"BdsDxe", "the guest's words")
        last = machine.serial(0).last_time_s
        assert last is not None
        assert machine.power_on_s < last <= time.monotonic()
        assert [machine.serial_bytes(port) for port in (1, 2, 3)] == [b""] * 3
        assert machine.ending() is None
    names = {path.name: path for path in (tmp_path / "state").iterdir()}
    assert names["serial0.log"].read_bytes() == b"BdsDxe"
    assert {"network.pcap", "qemu.log", "swtpm.log", "tpm", "firmware-variables.fd"} <= names.keys()


@pytest.mark.parametrize(
    ("ending", "words"), [(RESET, "the guest reset the machine"), (POWER_OFF, "the guest powered off")]
)
def test_the_guests_own_end_is_noticed(configure: Configure, ending: bytes, words: str) -> None:
    with Machine(configure(b"bye", ending)) as machine:
        assert machine.wait_until_ended(LIMIT_S) == words
        with pytest.raises(MachineError, match=rf"(?s)expected a machine that gets ready, {words}.*bye"):
            machine.wait_until_ready(lambda *_: False, LIMIT_S)


def test_a_machine_that_does_not_get_ready_shows_what_it_said(configure: Configure) -> None:
    with Machine(configure(b"\x1b[2Jno disk\r\n")) as machine:
        wait_for(lambda: machine.serial_bytes(0).endswith(b"\n"), "the guest's words")
        with pytest.raises(MachineError) as late:
            machine.wait_until_ready(lambda *_: False, 0.5)
    expected = "not ready within 0.5 s: the guest sent nothing\nserial port 0 said:\nno disk"
    assert str(late.value) == expected


def test_a_machine_that_does_not_end_is_an_error(configure: Configure) -> None:
    with Machine(configure()) as machine:
        with pytest.raises(MachineError, match=r"expected a machine that ends within 0\.2 s"):
            machine.wait_until_ended(0.2)


def test_frames_of_the_host_are_seen_and_none_of_a_guest_that_is_silent(configure: Configure) -> None:
    with Machine(configure()) as machine:
        before = time.monotonic()
        with socket.create_connection(("127.0.0.1", machine.port), 10):
            wait_for(lambda: bool(machine.frames()), "QEMU asking for the guest")
        time_s, frame = machine.frames()[0]
        assert before - 0.1 <= time_s <= time.monotonic()
        assert frame.data[12:14] == b"\x08\x06"  # ARP
        assert machine.first_guest_frame_time() is None


def test_the_tpm_outlives_a_cut_of_power(configure: Configure) -> None:
    with Machine(configure()) as machine:
        # this firmware does not start the TPM: TPM_RC_INITIALIZE comes from a TPM that is still there
        with pytest.raises(MachineError, match="response code 0x100"):
            machine.read_registers(HashAlgorithm.SHA256)
        assert machine.ending() == "QEMU was ended by signal 9"


def test_two_machines_have_two_ports_on_loopback_only(configure: Configure) -> None:
    with Machine(configure()) as one, Machine(configure()) as two:
        assert one.port != two.port
        assert one.url == f"https://127.0.0.1:{one.port}"
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        for machine in (one, two):
            assert [text for text in listening if text.endswith(f":{machine.port:04X}")] == [
                f"0100007F:{machine.port:04X}"
            ]


def test_a_port_that_is_taken_is_said_in_words(configure: Configure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=r"Could not set up host forwarding rule"):
            Machine(configure(host_port=port)).start()


def test_a_chosen_port_is_taken(configure: Configure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Machine(configure(host_port=port)) as machine:
        assert machine.port == port


def test_a_disk_that_is_not_there_is_said_in_words(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"(?s)expected a running QEMU.*absent\.raw.*No such file"):
        Machine(configure(disk=tmp_path / "absent.raw")).start()


def test_a_failure_inside_ends_the_machine(configure: Configure) -> None:
    seen: list[tuple[tuple[int, ...], Path]] = []

    def interrupted(machine: Machine) -> None:
        with machine:
            seen.append((machine.pids, machine.files.sockets))
            assert all(is_alive(pid) for pid in machine.pids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(Machine(configure()))
    ((pids, sockets),) = seen
    assert not any(is_alive(pid) for pid in pids)
    assert not sockets.exists()


def test_a_machine_is_started_once_and_stopped_any_number_of_times(configure: Configure) -> None:
    machine = Machine(configure())
    with pytest.raises(MachineError, match="not started"):
        _ = machine.port
    machine.stop()
    machine.start()
    with pytest.raises(MachineError, match="started before"):
        machine.start()
    machine.stop()
    machine.stop()


def test_a_kept_state_keeps_the_tpm_and_not_the_variables(configure: Configure, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Machine(configure(state_dir=state)):
        pass
    certificate = (state / "tpm" / "ek-rsa2048.crt").read_bytes()
    (state / "firmware-variables.fd").write_bytes(b"what the last boot left")
    with Machine(configure(state_dir=state)):
        assert (state / "firmware-variables.fd").read_bytes() == empty_store()
    assert (state / "tpm" / "ek-rsa2048.crt").read_bytes() == certificate


def test_the_disk_and_the_firmware_code_cannot_be_written(configure: Configure) -> None:
    config = configure()
    with Machine(config) as machine:
        devices = {device["node-name"]: device for device in machine.qmp.execute("query-named-block-nodes")}
        assert devices["disk"]["ro"]
        assert devices["firmware-code"]["ro"]
        assert not devices["firmware-variables"]["ro"]


MAKER = """
import sys, time
from pathlib import Path
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from tests.fakes.tiny_firmware import tiny_firmware
from tests.fakes.variable_store import empty_store
disk, authority = map(Path, sys.argv[1:])
config = MachineConfig(disk=disk, firmware_code=tiny_firmware(b"x"), firmware_vars=empty_store(),
                       memory_mib=128, accelerator="tcg", tpm_authority=authority)
with Machine(config) as machine:
    print(*machine.pids, machine.files.sockets, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_maker_leaves_nothing_behind(
    configure: Configure, authority: Path, private_temporary_directory: Path, number: signal.Signals
) -> None:
    disk = configure().disk
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'builder'}:{ROOT}",
        "TMPDIR": str(private_temporary_directory),
    }
    with subprocess.Popen(
        [sys.executable, "-c", MAKER, disk, authority], stdout=subprocess.PIPE, text=True, env=environment
    ) as maker:
        assert maker.stdout is not None
        *pids, sockets = maker.stdout.readline().split()
        assert all(is_alive(int(pid)) for pid in pids)
        assert Path(sockets).is_dir()
        maker.send_signal(number)
    wait_for(lambda: not any(is_alive(int(pid)) for pid in pids), "QEMU and swtpm to end")
    wait_for(lambda: not Path(sockets).exists(), "the directory to go")


def test_a_place_for_sockets_that_is_too_deep_is_said_in_words(
    configure: Configure, private_temporary_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = private_temporary_directory / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(MachineError, match="cannot listen: af_unix path too long") as caught:
        Machine(configure()).start()
    assert caught.value.hint == "set TMPDIR to a short path that can be written"
    shutil.rmtree(deep.parent)


def test_a_relative_disk_is_found(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Machine(configure(disk=Path("disk.raw"))) as machine:
        assert machine.config.disk == tmp_path / "disk.raw"
