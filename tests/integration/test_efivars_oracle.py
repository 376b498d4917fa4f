"""The variable store writer against virt-firmware, called as a program, both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    EfiVariable,
    pack_boot_order,
    pack_load_option,
    read_variables,
    set_variables,
)
from tests.fakes.variable_store import empty_store

ORACLE = Path(sys.executable).parent / "virt-fw-vars"
OPTIONS = "evil=1\0".encode("utf-16-le")
BOOT = EfiVariable(
    EFI_GLOBAL_VARIABLE, "Boot0007", pack_load_option("operator", r"\EFI\BOOT\BOOTX64.EFI", OPTIONS)
)
ORDER = EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([7]))

pytestmark = pytest.mark.skipif(not ORACLE.exists(), reason="virt-firmware is not installed")


def run_oracle(*arguments: str | Path) -> str:
    return subprocess.run([ORACLE, *arguments], check=True, capture_output=True, text=True).stdout


def test_virt_firmware_reads_what_we_write(tmp_path: Path) -> None:
    image, listing = tmp_path / "vars.fd", tmp_path / "vars.json"
    image.write_bytes(set_variables(empty_store(), [BOOT, ORDER]))
    run_oracle("-i", image, "--output-json", listing)
    found = {entry["name"]: entry for entry in json.loads(listing.read_text())["variables"]}
    assert {name: bytes.fromhex(entry["data"]) for name, entry in found.items()} == {
        "Boot0007": BOOT.data,
        "BootOrder": b"\x07\x00",
    }
    assert {(entry["guid"], entry["attr"]) for entry in found.values()} == {(EFI_GLOBAL_VARIABLE, 7)}


def test_virt_firmware_understands_the_load_option(tmp_path: Path) -> None:
    image = tmp_path / "vars.fd"
    image.write_bytes(set_variables(empty_store(), [BOOT, ORDER]))
    printed = run_oracle("-i", image, "--print", "--verbose")
    assert 'title="operator"' in printed
    assert r"devpath=FilePath(\EFI\BOOT\BOOTX64.EFI)" in printed
    assert f"optdata={OPTIONS.hex()}" in printed
    assert "boot order: 0007" in printed


def test_we_read_what_virt_firmware_writes(tmp_path: Path) -> None:
    image, listing, written = tmp_path / "in.fd", tmp_path / "vars.json", tmp_path / "out.fd"
    image.write_bytes(empty_store())
    variables = [
        {"name": "BootOrder", "guid": EFI_GLOBAL_VARIABLE, "attr": 7, "data": "0300"},
        {"name": "Boot0003", "guid": EFI_GLOBAL_VARIABLE, "attr": 7, "data": BOOT.data.hex()},
    ]
    listing.write_text(json.dumps({"version": 2, "variables": variables}))
    run_oracle("-i", image, "--set-json", listing, "-o", written)
    found = {variable.name: variable for variable in read_variables(written.read_bytes())}
    assert found == {
        "BootOrder": EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", b"\x03\x00"),
        "Boot0003": EfiVariable(EFI_GLOBAL_VARIABLE, "Boot0003", BOOT.data),
    }
