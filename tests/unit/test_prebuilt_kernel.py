"""A kernel out of Debian's package: its parts as data, modules in the order in which they can be loaded."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from blindbuild.assemble.kernel_prebuilt import MAX_MODULES, is_prebuilt, take_prebuilt_kernel
from blindbuild.errors import ArchiveError, BuildError
from blindbuild.host.store import Store
from tests.fakes.debian_package import lock_deb, write_deb
from tests.fakes.kernel_image import RELEASE, make_bzimage

NAME = f"linux-image-{RELEASE}"
MODULES = f"usr/lib/modules/{RELEASE}/kernel"
PLACEHOLDER = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
FEATURES = ("tpm-crb", "virtio-net")


def module(*depends: str, more: bytes = b"") -> bytes:
    """What stands in .modinfo, and a tail like a signature's."""
    return b"\x7fELF license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0" + more


def files(**changes: bytes) -> dict[str, bytes | str | None]:
    """A package like Debian's: the network card's driver is a module that needs two others."""
    parts = {
        "net/virtio_net": module("net-failover"),
        "net/net_failover": module("failover"),
        "net/core/failover": module(),
        "drivers/usb/storage": module("scsi"),
    }
    content: dict[str, bytes | str | None] = {
        f"boot/vmlinuz-{RELEASE}": make_bzimage(),
        f"boot/config-{RELEASE}": b"CONFIG_VIRTIO_NET=m\nCONFIG_TCG_CRB=y\n",
        f"boot/System.map-{RELEASE}": PLACEHOLDER,
        **{f"{MODULES}/{name}.ko.xz": lzma.compress(data) for name, data in parts.items()},
    }
    named = {name.replace("__", "/"): data for name, data in changes.items()}
    return {path: named.get(path, data) for path, data in content.items()}


def taken(tmp_path: Path, content: dict[str, bytes | str | None], features: tuple[str, ...] = FEATURES):
    store = Store(tmp_path / "store")
    data = write_deb(NAME, "6.12.1-1", {path: data for path, data in content.items() if data is not None})
    store.add(data)
    return take_prebuilt_kernel(store, lock_deb(NAME, "6.12.1-1", data), features=features)


def test_the_name_tells_a_built_kernel_from_a_source() -> None:
    assert is_prebuilt("linux-image-6.12.117+deb13-cloud-amd64")
    assert not is_prebuilt("linux-source-6.12")


def test_kernel_configuration_symbols_and_release_are_taken_as_they_are(tmp_path: Path) -> None:
    kernel, _ = taken(tmp_path, files())
    assert kernel.bzimage.read_bytes() == make_bzimage()
    assert kernel.config.read_text() == "CONFIG_VIRTIO_NET=m\nCONFIG_TCG_CRB=y\n"
    assert kernel.system_map.read_bytes() == PLACEHOLDER
    assert kernel.release == RELEASE


def test_modules_stand_behind_what_they_depend_on_and_no_others_are_taken(tmp_path: Path) -> None:
    _, modules = taken(tmp_path, files())
    assert [path.name for path in modules] == ["00-failover.ko", "01-net_failover.ko", "02-virtio_net.ko"]
    assert modules[2].read_bytes() == module("net-failover")


def test_a_driver_that_is_built_in_needs_no_module(tmp_path: Path) -> None:
    content = files() | {f"boot/config-{RELEASE}": b"CONFIG_VIRTIO_NET=y\nCONFIG_TCG_CRB=y\n"}
    assert taken(tmp_path, content)[1] == ()


@pytest.mark.parametrize("part", ["vmlinuz", "config", "System.map"])
def test_a_package_without_a_part_of_a_kernel_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(BuildError, match=rf"6\.12\.1-1: expected a file boot/{part}-RELEASE, got none"):
        taken(tmp_path, files() | {f"boot/{part}-{RELEASE}": None})


def test_a_kernel_without_a_feature_is_refused(tmp_path: Path) -> None:
    content = files() | {f"boot/config-{RELEASE}": b"CONFIG_VIRTIO_NET=m\n# CONFIG_TCG_CRB is not set\n"}
    with pytest.raises(BuildError, match="expected a kernel with tpm-crb, got one without it"):
        taken(tmp_path, content)


def test_a_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="expected a module failover, got none"):
        taken(tmp_path, files() | {f"{MODULES}/net/core/failover.ko.xz": None})


def test_modules_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    circle = lzma.compress(module("virtio_net"))
    with pytest.raises(BuildError, match="virtio_net -> net_failover -> failover -> virtio_net"):
        taken(tmp_path, files() | {f"{MODULES}/net/core/failover.ko.xz": circle})


@pytest.mark.parametrize("name", ["../../etc/x", "a b", "UPPER", "..", "\xff"])
def test_a_dependency_whose_name_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    hostile = lzma.compress(b"\0depends=" + name.encode("latin-1") + b"\0")
    with pytest.raises(BuildError, match=r"expected a module .*, got none"):
        taken(tmp_path, files() | {f"{MODULES}/net/core/failover.ko.xz": hostile})


@pytest.mark.parametrize("damage", ["cut", "flipped", "more", "bomb"])
def test_a_damaged_module_is_refused(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = lzma.compress(module(more=bytes(4096)))
    if damage == "bomb":
        monkeypatch.setattr("blindbuild.assemble.kernel_prebuilt.MAX_MODULE_BYTES", 4096)
    flipped = packed[:40] + bytes([packed[40] ^ 1]) + packed[41:]
    data = {"cut": packed[:-9], "flipped": flipped, "more": packed + b"x", "bomb": packed}[damage]
    with pytest.raises(ArchiveError, match=r"failover\.ko\.xz: (?:damaged|expected one whole stream)"):
        taken(tmp_path, files() | {f"{MODULES}/net/core/failover.ko.xz": data})


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="expected a bzImage as kernel"):
        taken(tmp_path, files() | {f"boot/vmlinuz-{RELEASE}": b"MZ"})


def test_other_features_are_another_result(tmp_path: Path) -> None:
    first, _ = taken(tmp_path, files())
    second, modules = taken(tmp_path, files(), ("tpm-crb",))
    assert modules == ()
    assert first.key != second.key


def test_a_table_of_symbols_that_only_the_package_vouches_for_is_refused(tmp_path: Path) -> None:
    """Nobody compiled this kernel here: what the table leaves out would close rows of the ledger."""
    content = files() | {f"boot/System.map-{RELEASE}": b"ffffffff81000000 T _text\n"}
    with pytest.raises(BuildError, match=r"expected Debian's placeholder as System\.map, got a table"):
        taken(tmp_path, content)


def test_a_configuration_of_other_bytes_than_ascii_is_refused(tmp_path: Path) -> None:
    content = files() | {f"boot/config-{RELEASE}": b"# \xff\nCONFIG_VIRTIO_NET=m\nCONFIG_TCG_CRB=y\n"}
    with pytest.raises(BuildError, match="expected a configuration in ASCII"):
        taken(tmp_path, content)


def test_more_modules_than_two_digits_can_order_are_refused(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(MAX_MODULES)]
    content = files() | {f"{MODULES}/net/{name}.ko.xz": lzma.compress(module()) for name in names}
    content[f"{MODULES}/net/virtio_net.ko.xz"] = lzma.compress(module(*names))
    with pytest.raises(BuildError, match="expected at most 32 modules"):
        taken(tmp_path, content)


def test_a_module_whose_dictionary_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindbuild.assemble.kernel_prebuilt.XZ_MEMORY_LIMIT", 1 << 20)
    with pytest.raises(ArchiveError, match=r"\.ko\.xz: damaged"):
        taken(tmp_path, files())
