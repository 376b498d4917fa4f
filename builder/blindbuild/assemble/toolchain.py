"""The compiler and its company: locked Debian packages, unpacked as data into one directory.

No maintainer script runs, so what these would have done is done here: the links that make `/bin` and
`/usr/bin` one directory, and the names that Debian's alternatives give to `awk` and `cc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blindbuild.assemble.lock import LockedPackage
from blindbuild.digest import Digest
from blindbuild.errors import BuildError
from blindbuild.formats.deb import read_deb
from blindbuild.formats.tar import EntryKind, TarEntry
from blindbuild.host.store import Store

TOOLCHAIN_STAGE = "toolchain"
_LAYOUT_VERSION = 1  # raise it when the same packages give another directory
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_ALTERNATIVES = {"usr/bin/awk": "gawk", "usr/bin/cc": "gcc"}


def toolchain_key(packages: Sequence[LockedPackage]) -> Digest:
    """Return the digest that stands for this toolchain in the keys of all that it makes."""
    lines = sorted(f"{package.name} {package.version} {package.digest}\n" for package in packages)
    return Digest.sha256(f"toolchain {_LAYOUT_VERSION}\n{''.join(lines)}".encode())


def prepare_toolchain(store: Store, packages: Sequence[LockedPackage]) -> Path:
    """Return a root directory for `run_in_sandbox` that holds the files of all packages.

    Args:
        store: has every package; keeps the result.
        packages: in any order.

    Raises:
        StoreError: a package is not in the store, or is damaged.
        ArchiveError: a package is malformed.
        BuildError: a package is not the one that the lock names, or two packages disagree about a file.
    """
    if not packages:
        raise BuildError("toolchain: expected at least one package, got none")
    return store.ensure_stage(
        TOOLCHAIN_STAGE,
        toolchain_key(packages),
        lambda root: _fill(root, store, packages),
        verify=False,  # 15,000 files; nothing but a build in the sandbox reads them
    )


def _fill(root: Path, store: Store, packages: Sequence[LockedPackage]) -> None:
    for package in sorted(packages, key=lambda package: package.name):
        _unpack(root, store, package)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name, target in _ALTERNATIVES.items():
        path = root / name
        if not path.is_symlink() and (path.parent / target).exists():
            path.symlink_to(target)


def _unpack(root: Path, store: Store, package: LockedPackage) -> None:
    deb = read_deb(store.read(package.digest))
    if (deb.package, deb.version) != (package.name, package.version):
        raise BuildError(
            f"{package.path}: expected {package.name} {package.version}, got {deb.package} {deb.version}",
            hint="the lock names another package than the file holds; run `blindbuild lock`",
        )
    for entry in deb.entries:
        where = f"{package.name}: {entry.path.decode('utf-8', 'replace')}"
        try:
            _place(root, entry, where)
        except FileExistsError as error:
            raise BuildError(f"{where}: another package has a different file of this name") from error


def _place(root: Path, entry: TarEntry, where: str) -> None:
    """Make one file. Permissions are two: executable or not; a set-user-id bit has no business here."""
    path = root / _merge(entry.path)
    for parent in path.relative_to(root).parents:
        if (root / parent).is_symlink():  # another package's, which may lead anywhere
            raise BuildError(f"{where}: {parent} is a symbolic link")
    if entry.kind is EntryKind.DIRECTORY:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind is EntryKind.SYMLINK:
        _place_symlink(path, entry)
    elif entry.kind is EntryKind.HARDLINK:
        path.hardlink_to(root / _merge(entry.target))
    else:
        with path.open("xb") as stream:
            stream.write(entry.data)
        path.chmod(0o755 if entry.mode & 0o111 else 0o644)


def _place_symlink(path: Path, entry: TarEntry) -> None:
    target = entry.target.decode("utf-8", "surrogateescape")
    if entry.path.decode("utf-8", "surrogateescape") in _MERGED:
        return  # base-files brings /bin -> usr/bin and the like; `_fill` makes them for all
    path.symlink_to(target)


def _merge(name: bytes) -> str:
    """Return where a path lies when /bin and its like are links into /usr.

    Source: Debian's usr-merge; packages of Debian 12 still ship files in /bin and /lib.
    """
    text = name.decode("utf-8", "surrogateescape")
    return f"usr/{text}" if text.partition("/")[0] in _MERGED else text
