"""A kernel that Debian built, taken out of its package as data: nothing is compiled, and nothing is closed.

Its configuration is what the distribution needs on any machine, its System.map is a placeholder of one line,
and its drivers are modules. The channel ledger says what that opens. The modules that the kernel's features
need are taken along, in the order in which they have to be loaded.

Source: deb(5); Linux Documentation/kbuild/modules.rst and include/linux/module.h for `depends=`.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping
from pathlib import Path

from blindbuild.assemble.kernel import BuiltKernel
from blindbuild.assemble.kernel_config import parse_config
from blindbuild.assemble.lock import LockedPackage
from blindbuild.assemble.uki import read_kernel_release
from blindbuild.digest import Digest
from blindbuild.errors import ArchiveError, BuildError
from blindbuild.formats.deb import XZ_MEMORY_LIMIT, read_deb
from blindbuild.formats.tar import EntryKind
from blindbuild.host.store import Store

PREBUILT_STAGE = "kernel-prebuilt"
# Behind the command line of every image: IMA would extend register 10 with a value made of registers 0 to 9,
# and register 1 is the operator's.
PREBUILT_WORDS = ("initcall_blacklist=init_ima",)
MAX_MODULES = 32  # one feature needs three; names order up to 100, and a chain of dependencies has an end
MAX_MODULE_BYTES = 64 << 20  # unpacked; the largest of Debian's has 8 MB

# What Debian ships as System.map; the table itself is in a package of debugging symbols.
PLACEHOLDER = re.compile(r"[0-9a-f]{16} B The real System\.map is in the [!-~]+ package\n?")

_LAYOUT_VERSION = 2  # raise it when the same package gives another result
_WANTED = re.compile(rb"boot/(?:vmlinuz|config|System\.map)-[!-.0-~]+")
_MODULE = re.compile(rb"usr/lib/modules/[!-.0-~]+/kernel/(?:[!-.0-~]+/)*([!-.0-~]+)\.ko\.xz")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_NAME = re.compile(r"[a-z0-9_]+")
# what a feature of the recipe is to Kconfig, and to the module loader
_FEATURES = {"tpm-crb": ("TCG_CRB", "tpm_crb"), "virtio-net": ("VIRTIO_NET", "virtio_net")}


def is_prebuilt(source: str) -> bool:
    """Say whether a recipe's `kernel.source` names a kernel that Debian built."""
    return source.startswith("linux-image-")


def take_prebuilt_kernel(
    store: Store, package: LockedPackage, *, features: tuple[str, ...]
) -> tuple[BuiltKernel, tuple[Path, ...]]:
    """Return the kernel of a package, and the modules that the features need, in the order of loading.

    Args:
        store: has the package; keeps the result.
        package: a Debian `linux-image-*` package.
        features: from the recipe.

    Raises:
        StoreError: the package is missing or damaged.
        ArchiveError: it is malformed, or a module in it is.
        BuildError: it is no kernel package, or lacks a feature or a module.
    """
    lines = (f"prebuilt {_LAYOUT_VERSION}", str(package.digest), *sorted(features))
    key = Digest.sha256("\n".join(lines).encode())
    result = store.ensure_stage(
        PREBUILT_STAGE, key, lambda directory: _Package(store, package).write_to(directory, features)
    )
    release = (result / "release").read_text("ascii").rstrip("\n")
    kernel = BuiltKernel(result / "bzImage", result / "config", result / "System.map", release, key)
    return kernel, tuple(sorted((result / "modules").iterdir()))


class _Package:
    """The parts of a kernel package that an image may need; modules stay packed until they are asked for."""

    def __init__(self, store: Store, package: LockedPackage) -> None:
        self._name = f"{package.name} {package.version}"
        self._files: dict[str, bytes] = {}
        self._modules: dict[str, bytes] = {}
        for entry in read_deb(store.read(package.digest)).entries:
            if entry.kind is not EntryKind.FILE:
                continue
            if _WANTED.fullmatch(entry.path):
                self._files[entry.path.decode("ascii").removeprefix("boot/").partition("-")[0]] = entry.data
            elif match := _MODULE.fullmatch(entry.path):
                # the loader takes hyphens and underscores for one another, and names have underscores
                self._modules[match[1].decode("ascii").replace("-", "_")] = entry.data

    def write_to(self, directory: Path, features: tuple[str, ...]) -> None:
        """Write kernel, configuration, symbols, release and modules."""
        kernel = self._file("vmlinuz")
        config = parse_config(self._config(), where=f"{self._name}: config")
        # Nobody here compiled this kernel: what its package's table lacks would close rows of the ledger.
        if not PLACEHOLDER.fullmatch(self._file("System.map").decode("ascii", "replace")):
            raise BuildError(
                f"{self._name}: expected Debian's placeholder as System.map, got a table of symbols"
            )
        (directory / "bzImage").write_bytes(kernel)
        (directory / "config").write_bytes(self._file("config"))
        (directory / "System.map").write_bytes(self._file("System.map"))
        (directory / "release").write_text(f"{read_kernel_release(kernel)}\n", "ascii")
        (directory / "modules").mkdir()
        for number, (name, data) in enumerate(self._needed(config, features).items()):
            (directory / "modules" / f"{number:02}-{name}.ko").write_bytes(data)

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            raise BuildError(f"{self._name}: expected a file boot/{name}-RELEASE, got none")
        return self._files[name]

    def _config(self) -> str:
        try:
            return self._file("config").decode("ascii")
        except UnicodeDecodeError as error:
            raise BuildError(f"{self._name}: expected a configuration in ASCII, got other bytes") from error

    def _needed(self, config: Mapping[str, str], features: tuple[str, ...]) -> dict[str, bytes]:
        order: dict[str, bytes] = {}
        for feature in sorted(features):
            symbol, module = _FEATURES[feature]
            if config.get(symbol) == "m":
                self._add(module, order, ())
            elif config.get(symbol) != "y":
                raise BuildError(f"{self._name}: expected a kernel with {feature}, got one without it")
        return order

    def _add(self, name: str, order: dict[str, bytes], path: tuple[str, ...]) -> None:
        """Add a module behind all that it depends on."""
        if name in order:
            return
        if name in path or len(path) >= MAX_MODULES:
            raise BuildError(f"{self._name}: expected modules in an order, got {' -> '.join((*path, name))}")
        if name not in self._modules or not _NAME.fullmatch(name):
            raise BuildError(f"{self._name}: expected a module {name}, got none")
        data = self._unpack(name)
        for before in _read_depends(data):
            self._add(before, order, (*path, name))
        if len(order) == MAX_MODULES:
            raise BuildError(f"{self._name}: expected at most {MAX_MODULES} modules, got more")
        order[name] = data

    def _unpack(self, name: str) -> bytes:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT)
        try:
            data = stream.decompress(self._modules[name], max_length=MAX_MODULE_BYTES)
        except lzma.LZMAError as error:
            raise ArchiveError(f"{self._name}: {name}.ko.xz: damaged") from error
        if not stream.eof or stream.unused_data:
            raise ArchiveError(f"{self._name}: {name}.ko.xz: expected one whole stream, got more or less")
        return data


def _read_depends(module: bytes) -> tuple[str, ...]:
    match = _DEPENDS.search(module)
    if match is None:
        return ()
    names = match[1].decode("ascii", "replace").split(",")
    return tuple(name.replace("-", "_") for name in names if name)
