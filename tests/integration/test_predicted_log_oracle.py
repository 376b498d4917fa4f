"""The predicted log, read and replayed by tpm2_eventlog."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.gpt import parse_gpt, write_gpt_disk
from blindbuild.formats.siglist import write_signature_lists, x509_list
from blindbuild.formats.tcglog import write_event_log
from blindbuild.measure.bank import extend_all
from blindbuild.measure.boot import BootPath, UefiBoot, boot_events, events_by_register
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.kernel import MeasuredKernel
from blindbuild.measure.log import predicted_log
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.secure_boot import SecureBootState
from blindbuild.measure.shim import Shim, ShimAuthority, mok_variables

BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
OWNER = UUID(int=7)
DB = write_signature_lists([x509_list(b"\x30\x82" + bytes(600), OWNER)])
KEYS = SecureBootState(
    enabled=True, pk=DB, kek=DB, db=DB, dbx=b"", authority=OWNER.bytes_le + b"\x30\x82" + bytes(600)
)
TABLE = parse_gpt(write_gpt_disk(bytes(1 << 20), disk_id=OWNER, partition_id=OWNER, name="esp")).event_data
PLAIN = find_platform("qemu-q35-ovmf-2025.02")
SECURE = find_platform("qemu-q35-ovmf-2025.02-secboot")
BOOTS = {
    "disk": UefiBoot(platform=PLAIN),
    "gpt": UefiBoot(platform=PLAIN, partition_table=TABLE),
    "secure": UefiBoot(platform=SECURE, secure_boot=KEYS),
    "direct": UefiBoot(platform=PLAIN, path=BootPath.DIRECT),
    "shim": UefiBoot(
        platform=SECURE,
        secure_boot=KEYS,
        shim=Shim(
            authenticode=hash_in_banks((b"shim",), BANKS),
            variables=mok_variables(sbat_level=b"sbat,1,2021030218\n"),
            authority=ShimAuthority("Shim", b"\x30\x82" + bytes(600)),
        ),
    ),
}


@pytest.mark.parametrize("name", BOOTS)
def test_another_tool_reads_the_log_and_replays_it_to_our_values(name: str, tmp_path: Path) -> None:
    tool = shutil.which("tpm2_eventlog")
    if tool is None:
        pytest.skip("needs tpm2_eventlog of Debian's tpm2-tools")
    kernel = MeasuredKernel(
        hash_in_banks((b"kernel",), BANKS),
        load_options="quiet\0".encode("utf-16-le"),
        initrd=hash_in_banks((b"initrd",), BANKS),
    )
    events = boot_events(kernel, BOOTS[name])
    path = tmp_path / "predicted.bin"
    path.write_bytes(write_event_log(predicted_log(events, BANKS)))
    done = subprocess.run([tool, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert len(read["events"]) == len([event for event in events if event.register > 1]) + 1
    for bank in BANKS:
        expected = {
            register: extend_all(register, found, bank).hex
            for register, found in events_by_register(events).items()
            if register > 1
        }
        # a number in YAML for people who write digests as numbers
        replayed = {int(i): f"{value:0{2 * bank.size}x}" for i, value in read["pcrs"][bank.value].items()}
        assert replayed == expected
