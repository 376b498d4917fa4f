"""The ledger of the real product, recomputed from its outputs; nothing here boots."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.verify import CHANNEL_GROUPS

pytestmark = pytest.mark.kernel


def channels(image: Path) -> subprocess.CompletedProcess[str]:
    """Run the verb as an auditor does."""
    command = [Path(sys.executable).parent / "blindbuild", "channels", image, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_ledger_of_the_product_is_recomputed_and_has_no_finding(product: Path) -> None:
    done = channels(product)
    assert done.returncode == 0, done.stderr
    ledger = json.loads(done.stdout)["ledger"]
    assert ledger == json.loads((product / "channels.json").read_text())
    assert len(ledger["channels"]) == 41
    assert not any(check["findings"] for row in ledger["channels"] for check in row["checks"])
    states = {row["id"]: row["state"] for row in ledger["channels"]}
    assert {states[name] for group in ("egress", "admin") for name in CHANNEL_GROUPS[group]} == {"closed"}
    assert ledger["reachable"]["dhcp"]["sendto"] == ["argument 3 is 0, argument 4 is 0"]
    assert {program["linkage"] for program in ledger["programs"]} == {"static"}
    assert len(ledger["kernel"]["implementedCalls"]) == ledger["kernel"]["allowed"]["call"]


@pytest.mark.parametrize(
    ("name", "old", "new", "finding"),
    [
        (
            "System.map",
            "D virtio_net_driver",
            "D virtio_blk_driver",
            "the kernel has the driver virtio_blk_driver",
        ),
        (
            "System.map",
            "W __x64_sys_io_uring_setup",
            "T __x64_sys_io_uring_setup",
            "implements io_uring_setup",
        ),
        (
            "kernel.config",
            "# CONFIG_PRINTK is not set",
            "CONFIG_PRINTK=y",
            "CONFIG_PRINTK: expected it to be off",
        ),
    ],
)
def test_one_changed_line_of_the_outputs_is_told(
    product: Path, tmp_path: Path, name: str, old: str, new: str, finding: str
) -> None:
    image = shutil.copytree(product, tmp_path / "image")
    text = (image / name).read_text()
    assert old in text or old.replace("D ", "d ") in text
    (image / name).write_text(text.replace(old, new).replace(old.replace("D ", "d "), new))
    done = channels(image)
    assert done.returncode == 3
    assert finding in done.stderr
