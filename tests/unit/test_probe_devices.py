"""What QEMU and swtpm wrote, taken apart: traces, consoles by time, disks, TPM commands, bait arguments."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from blindbuild.digest import Digest
from blindbuild.errors import MachineError
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.probe.bait import CONSOLES, DISKS, NETWORKS, lay_bait, missing_bait
from blindbuild.machine.probe.conclude import Untouched, see_consoles, see_disks, see_tpm
from blindbuild.machine.probe.consoles import BaitConsoles
from blindbuild.machine.probe.devices import KEYS, hash_directory, hash_file, parse_qemu_version, read_touches
from blindbuild.machine.probe.observe import Phase
from blindbuild.machine.probe.plain import ask_plainly, gate_speaks
from blindbuild.machine.probe.tpm_commands import BOOT_COMMANDS, SERVING_COMMANDS, name_command
from blindbuild.machine.serial_ports import Arrival, SerialCapture
from blindbuild.machine.transcript import read_commands

# lines of QEMU 7.2's log backend, as the probe got them; the last two from hw/pci/trace-events
TRACE = b"""\
memory_region_ops_write cpu 0 mr 0x56379f9f85e0 addr 0xfee00380 value 0x23751 size 4 name 'apic-msi'
memory_region_ops_write cpu -1 mr 0x56379f9f85e0 addr 0xfee00000 value 0x22 size 4 name 'apic-msi'
memory_region_ops_read cpu 1 mr 0x55bfc60bb5e0 addr 0x3f8 value 0x60 size 1 name 'serial'
memory_region_ops_read cpu -1 mr 0x55bfc60bb5e0 addr 0xa0000 value 0x60 size 1 name 'vga-lowmem'
qemu-system-x86_64: warning: something else
pci_cfg_read nvme 00:07.0 @0x0 -> 0x101b36
pci_cfg_write nvme 00:07.0 @0x4 <- 0x6
"""


def test_accesses_of_processors_are_counted_by_device_and_the_hosts_own_are_not(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(TRACE)
    assert read_touches(tmp_path / "trace") == {"apic-msi": 1, "serial": 1, "pci-config nvme": 2}
    assert read_touches(tmp_path / "absent") == {}


def test_bytes_count_as_late_from_the_guests_first_frame_on_and_by_phase() -> None:
    periods = ((Phase.BOOT, 0.0, 12.0), (Phase.IDLE, 12.0, 20.0), (Phase.CRASH, 20.0, 30.0))
    arrivals = [(5.0, b"firmware"), (11.0, b"a"), (12.5, b"b"), (19.0, b"c"), (31.0, b"d")]
    capture = SerialCapture(tuple(Arrival(time_s, data) for time_s, data in arrivals))
    (seen,) = see_consoles({"serial0": capture}, periods, 11.0)
    assert seen.late == {Phase.BOOT: b"a", Phase.IDLE: b"bc", Phase.CRASH: b"d"}
    assert (seen.size, seen.digest) == (12, Digest.sha256(b"firmwareabcd"))


def test_bait_disks_count_from_power_on_and_the_boot_disk_from_readiness(tmp_path: Path) -> None:
    bait = lay_bait(tmp_path, tmp_path)
    disk = tmp_path / "boot.raw"
    disk.write_bytes(b"boot")
    config = MachineConfig(disk=disk, firmware_code=b"", firmware_vars=b"")
    before = Untouched.of(bait, config, {})
    bait.disks["bait-nvme"].write_bytes(b"written")
    use = {**dict.fromkeys(DISKS, (0, 0)), "bait-nvme": (7, 1), "disk": (6, 0)}
    seen = {
        one.name: one for one in see_disks(bait, config, before, at_ready=use, at_end={**use, "disk": (8, 0)})
    }
    assert (seen["bait-nvme"].reads, seen["bait-nvme"].writes) == (7, 1)
    assert seen["bait-nvme"].before != seen["bait-nvme"].after
    assert (seen["disk"].reads, seen["disk"].before) == (2, seen["disk"].after)
    assert seen.keys() == {*DISKS, "disk"}


def test_a_file_added_to_or_renamed_in_a_share_changes_its_digest(tmp_path: Path) -> None:
    share = lay_bait(tmp_path, tmp_path).share
    first = hash_directory(share)
    (share / "file").rename(share / "other")
    second = hash_directory(share)
    (share / "leak").touch()
    assert len({first, second, hash_directory(share)}) == 3


def dump(message: bytes, direction: str = "Read") -> bytes:
    """One message as swtpm writes it."""
    lines = [f" SWTPM_IO_{direction}: length {len(message)}"]
    for start in range(0, len(message), 16):
        lines.append(" " + "".join(f"{byte:02X} " for byte in message[start : start + 16]))
    return ("\n".join(lines) + "\n").encode()


def command(code: int, body: bytes = b"") -> bytes:
    return struct.pack(">HII", 0x8001, 10 + len(body), code) + body


def test_tpm_commands_are_counted_before_and_after_readiness() -> None:
    startup, quote = command(0x144, b"\0\0"), command(0x158, bytes(40))
    done = dump(struct.pack(">HII", 0x8001, 10, 0), "Write")
    transcript = dump(startup) + done + dump(quote) + done + dump(quote)
    assert [code for code, _ in read_commands(transcript)] == [0x144, 0x158, 0x158]
    assert read_commands(transcript)[1] == (0x158, quote)
    seen = see_tpm(transcript, 1, before={}, after={})
    assert (seen.boot, seen.serving) == ({0x144: 1}, {0x158: 2})


def test_a_transcript_that_is_still_being_written_gives_what_is_whole() -> None:
    whole = dump(command(0x17A, bytes(40)))
    cut = (whole + whole)[:-30]
    assert len(read_commands(cut)) == 1


def test_a_transcript_that_is_damaged_is_refused() -> None:
    with pytest.raises(MachineError, match="expected 50 bytes"):
        read_commands(b" SWTPM_IO_Read: length 50\n 80 01 \n rubbish\n\n\n\n\n\n")


def test_no_command_that_writes_to_the_tpm_is_allowed_while_the_guest_serves() -> None:
    # Part 3: NV_UndefineSpace, DefineSpace, Increment, SetBits, Extend, Write, Clear, EvictControl, PCR_*
    writing = {0x122, 0x12A, 0x134, 0x135, 0x136, 0x137, 0x126, 0x120, 0x13C, 0x13D, 0x182, 0x129}
    assert writing & SERVING_COMMANDS == set()
    assert BOOT_COMMANDS & writing == {0x182, 0x129}
    assert name_command(0x158) == "TPM2_Quote"


def test_every_bait_device_is_on_the_command_line_and_none_brings_a_rom(tmp_path: Path) -> None:
    bait = lay_bait(tmp_path, tmp_path)
    line = " ".join(bait.arguments)
    for name in (
        *CONSOLES,
        *DISKS,
        *NETWORKS,
        "virtio-9p-pci",
        "VGA",
        "virtio-balloon",
        "pvpanic",
        "vmcoreinfo",
    ):
        assert name in line
    devices = [
        text for before, text in zip(bait.arguments, bait.arguments[1:], strict=False) if before == "-device"
    ]
    pci = ("pci", "VGA", "nvme", "e1000", "xhci", "i6300esb")
    assert [d for d in devices if d.split(",")[0].endswith(pci) and "romfile=" not in d] == []
    assert "bootindex" not in line


def test_a_comma_in_the_directory_ends_no_option(tmp_path: Path) -> None:
    place = tmp_path / "a,b"
    place.mkdir()
    line = " ".join(lay_bait(place, place).arguments)
    assert "a,,b" in line


def test_what_this_host_cannot_attach_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("blindbuild.machine.probe.bait._VSOCK_DEVICE", tmp_path / "absent")
    assert dict(missing_bait()).keys() == {"vsock"}
    assert "vhost-vsock" not in " ".join(lay_bait(tmp_path, tmp_path).arguments)
    monkeypatch.setattr("blindbuild.machine.probe.bait._VSOCK_DEVICE", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert "vhost-vsock" in " ".join(lay_bait(other, other).arguments)


def test_consoles_hear_what_was_said_and_write_it_down(tmp_path: Path) -> None:
    sockets = {"one": tmp_path / "1", "two": tmp_path / "2"}
    with BaitConsoles(sockets, tmp_path) as consoles:
        assert consoles.captures() == {}
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(sockets["one"]))
            second.connect(str(sockets["two"]))
            first.sendall(b"hello")
            consoles.start()
    assert consoles.logs["one"].read_bytes() == b"hello"
    assert {name: capture.data for name, capture in consoles.captures().items()} == {
        "one": b"hello",
        "two": b"",
    }


def test_a_gate_that_is_not_there_does_not_speak() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not gate_speaks("127.0.0.1", port)
    with pytest.raises(OSError, match="refused"):
        ask_plainly("127.0.0.1", port, "GET", "/healthz")


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        (
            b"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n",
            "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
        ),
        (b"QEMU emulator version 9.1.0\n", "9.1.0"),
        (b"something else", "unknown"),
        (b"", "unknown"),
    ],
)
def test_the_version_is_what_qemu_prints_behind_that_word(printed: bytes, version: str) -> None:
    assert parse_qemu_version(printed) == version


def test_keys_are_qemu_key_codes_of_a_real_keyboard() -> None:
    assert "ctrl-alt-delete" in KEYS
    assert all(code.isalnum() for combination in KEYS for code in combination.split("-"))


def test_a_digest_of_a_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert hash_file(tmp_path / "x") == Digest.sha256(b"abc")
