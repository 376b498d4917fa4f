"""The real kernel, compiled from the locked source by the locked compiler."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.kernel import BuiltKernel, build_kernel, relink_kernel
from blindbuild.assemble.kernel_config import load_fragments, parse_config
from blindbuild.assemble.lock import Lock
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.host.store import Store
from tests.locked import locked_inputs, user_store

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "kernel.config"
MAX_BZIMAGE = 3_000_000  # bytes; 2.25 MB with the fragments as they are

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lock() -> Lock:
    return locked_inputs()


@pytest.fixture(scope="module")
def store() -> Store:
    """The user's store, where the kernel stays for the next run."""
    return user_store()


@pytest.fixture(scope="module")
def product(lock: Lock, store: Store) -> BuiltKernel:
    return build_kernel(store, **options(lock, store), jobs=os.cpu_count() or 1, keep_objects=True)


def options(lock: Lock, store: Store, *, debug: bool = False) -> dict[str, Any]:
    packages = lock.groups["toolchain"]
    return {
        "source": lock.groups["kernel-source"][0],
        "toolchain": prepare_toolchain(store, packages),
        "toolchain_key": toolchain_key(packages),
        "fragments": load_fragments(debug=debug),
        "command_line": kernel_command_line(debug=debug),
        "debug": debug,
    }


def test_the_resolved_configuration_is_the_committed_one(product):
    resolved = dict(parse_config(product.config.read_text("ascii"), where="resolved"))
    golden = dict(parse_config(GOLDEN.read_text("ascii"), where="golden"))
    assert resolved.pop("CMDLINE") == f'"{kernel_command_line(debug=False)}"'
    golden.pop("CMDLINE")
    changed = {symbol for symbol in resolved | golden if resolved.get(symbol) != golden.get(symbol)}
    assert changed == set(), "if the change is meant, copy the new configuration to tests/golden"


def test_the_kernel_is_small_and_of_the_named_release(product):
    assert product.bzimage.stat().st_size <= MAX_BZIMAGE
    assert re.fullmatch(r"6\.12\.[0-9]+-blindbuild", product.release)


def test_the_code_of_closed_channels_is_not_in_the_kernel(product):
    symbols = {line.split()[2] for line in product.system_map.read_text("ascii").splitlines()}
    gone = """
        _printk vprintk_emit tty_register_driver uart_add_one_port input_register_device blk_register_queue
        do_coredump bpf_prog_load register_kprobe kernel_kexec request_firmware packet_create
    """
    assert symbols.isdisjoint(gone.split())
    assert symbols >= {"securityfs_create_dir", "landlock_init", "seccomp_filter_release", "virtnet_probe"}


@pytest.mark.full
def test_another_store_number_of_jobs_umask_and_time_zone_give_the_same_bytes(
    product, lock, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LANG", "tr_TR.UTF-8")
    other = Store(tmp_path / "a rather longer path, with spaces" / "store")
    for package in (*lock.groups["toolchain"], *lock.groups["kernel-source"]):
        other.add(store.read(package.digest))
    old_mask = os.umask(0o077)
    try:
        again = build_kernel(other, **options(lock, other), jobs=3)
    finally:
        os.umask(old_mask)
    assert again.key == product.key
    for name in ("bzimage", "config", "system_map"):
        assert getattr(again, name).read_bytes() == getattr(product, name).read_bytes()


@pytest.mark.full
def test_another_kernel_is_linked_from_kept_objects_in_little_time(product, lock, store):
    inputs = options(lock, store)
    other_line = inputs["command_line"].replace("quiet", "quieT")
    began = time.monotonic()
    other = relink_kernel(store, **inputs, other_command_line=other_line, jobs=2)
    if store.find_stage("kernel-objects", product.key, verify=False) is not None:
        assert time.monotonic() - began < 300
    config = parse_config(other.config.read_text("ascii"), where="relinked")
    assert config["CMDLINE"] == f'"{other_line}"'
    assert other.bzimage.read_bytes() != product.bzimage.read_bytes()
