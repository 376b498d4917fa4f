"""The disk that is written, judged by the partitioning tools of two other projects, and theirs by us."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from blindbuild.assemble.disk import DISK_ID, PARTITION_ID, PARTITION_NAME, build_gpt_disk
from blindbuild.formats.gpt import EFI_SYSTEM_PARTITION, parse_gpt
from tests.fakes.pe_image import make_pe


def tool(name: str) -> str:
    """Return the tool's path, or skip: Debian's gdisk and fdisk are not needed for anything else."""
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(build_gpt_disk(make_pe()))
    return path


def test_sgdisk_finds_nothing_wrong_with_the_disk(disk: Path) -> None:
    done = subprocess.run([tool("sgdisk"), "--verify", disk], capture_output=True, text=True, check=False)
    assert "No problems found" in done.stdout, done.stdout + done.stderr
    shown = subprocess.run(
        [tool("sgdisk"), "--info=1", disk], capture_output=True, text=True, check=True
    ).stdout
    assert str(EFI_SYSTEM_PARTITION).upper() in shown
    assert str(PARTITION_ID).upper() in shown
    assert "First sector: 2048" in shown
    assert PARTITION_NAME in shown


def test_sfdisk_reads_the_same_table(disk: Path) -> None:
    done = subprocess.run([tool("sfdisk"), "--json", disk], capture_output=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert (table["label"], table["id"]) == ("gpt", str(DISK_ID).upper())
    (ours,) = parse_gpt(disk.read_bytes()).partitions
    (theirs,) = table["partitions"]
    assert theirs["type"] == str(EFI_SYSTEM_PARTITION).upper()
    assert (theirs["start"], theirs["size"]) == (ours.first_sector, ours.last_sector - ours.first_sector + 1)


def test_a_table_that_sgdisk_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.raw"
    path.write_bytes(bytes(8 << 20))
    arguments = ["--new=1:2048:4095", "--typecode=1:ef00", "--new=3:4096:+1M", "--change-name=3:zwei"]
    subprocess.run([tool("sgdisk"), *arguments, path], capture_output=True, check=True)
    data = path.read_bytes()
    table = parse_gpt(data)
    assert [(p.first_sector, p.last_sector) for p in table.partitions] == [(2048, 4095), (4096, 6143)]
    assert table.partitions[1].name == "zwei"
    # entries 1 and 3 are measured without the empty one between them
    assert table.event_data[100:] == data[1024:1152] + data[1280:1408]
