"""From a recipe to its lock: resolve what must be resolved, keep what can be kept."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.assemble.archives import archives_at, machine_archives
from blindbuild.assemble.lock import (
    Lock,
    LockedFile,
    LockedPackage,
    LockedWheel,
    Request,
    deep_checksum,
    request_checksum,
    requests_of,
)
from blindbuild.assemble.lock_apt import DEBIAN_KEYRING, Pin, open_resolver
from blindbuild.assemble.lock_pypi import resolve_wheels
from blindbuild.assemble.recipe import Recipe
from blindbuild.assemble.recipe_shape import did_you_mean
from blindbuild.errors import LockError
from blindbuild.host.store import Store


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What may change its version though it is locked: these packages (with all of their source), or all."""

    names: frozenset[str] = frozenset()
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.names)


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where and how to resolve.

    Attributes:
        store: keeps package lists between runs.
        environ: the user's environment, for pip's configuration.
        mirror: instead of the machine's own.
        keyring: whose signatures an archive must have.
        on_line: hears what apt says.
    """

    store: Store
    environ: Mapping[str, str]
    mirror: str | None = None
    keyring: Path = DEBIAN_KEYRING
    on_line: Callable[[str], None] | None = None


def make_lock(
    recipe: Recipe, how: Resolution, *, previous: Lock | None = None, upgrade: Upgrade | None = None
) -> Lock:
    """Return the lock of a recipe.

    If nothing that a resolution depends on changed since `previous`, only checksums and local files are
    taken anew, without network.

    Args:
        recipe: what to lock.
        how: where and how to resolve.
        previous: its last lock; versions in it are kept where the archive still has them.
        upgrade: except these.

    Raises:
        LockError: something does not exist, cannot be reached, or its signature is bad.
    """
    upgrade = upgrade or Upgrade()
    _check_names(previous, upgrade)
    files = tuple(
        {file.source: LockedFile(file.source, file.size, file.digest) for file in recipe.local_files}.values()
    )
    files = tuple(sorted(files, key=lambda file: file.source))
    checksum, requests = deep_checksum(recipe), request_checksum(recipe)
    if previous and previous.request_checksum.equals(requests) and not upgrade:
        return replace(previous, recipe_checksum=checksum, files=files)
    kept = previous if previous and not upgrade.everything else None
    return Lock(
        suite=recipe.suite,
        recipe_checksum=checksum,
        request_checksum=requests,
        groups=_resolve_groups(requests_of(recipe), how, kept, upgrade),
        wheels=resolve_wheels(
            recipe.tree.wheels, recipe.suite, keep=_kept_wheels(kept, upgrade), environ=how.environ
        ),
        files=files,
    )


def _resolve_groups(
    requests: Sequence[Request], how: Resolution, kept: Lock | None, upgrade: Upgrade
) -> dict[str, tuple[LockedPackage, ...]]:
    groups: dict[str, tuple[LockedPackage, ...]] = {}
    archives = archives_at(how.mirror) if how.mirror else machine_archives()
    suites = {request.suite: True for request in requests if request.names}
    for suite in suites:
        mine = [request for request in requests if request.suite == suite]
        with open_resolver(how.store, suite, archives, keyring=how.keyring, on_line=how.on_line) as resolver:
            for request in mine:
                before = kept.groups.get(request.group, ()) if kept else ()
                groups[request.group] = resolver.resolve(request, _pins(before, upgrade))
    return {request.group: groups.get(request.group, ()) for request in requests}


def _pins(packages: Collection[LockedPackage], upgrade: Upgrade) -> tuple[Pin, ...]:
    # Binaries of one source depend on each other's exact version: they can only move together. An archive's
    # pool has one directory for each source.
    moving = {posixpath.dirname(item.path) for item in packages if item.name in upgrade.names}
    return tuple(
        Pin(item.name, item.version) for item in packages if posixpath.dirname(item.path) not in moving
    )


def _kept_wheels(kept: Lock | None, upgrade: Upgrade) -> tuple[LockedWheel, ...]:
    wheels = kept.wheels if kept else ()
    return tuple(wheel for wheel in wheels if wheel.name not in upgrade.names)


def _check_names(previous: Lock | None, upgrade: Upgrade) -> None:
    if not upgrade.names:
        return
    packages = [item.name for group in previous.groups.values() for item in group] if previous else []
    known = {*packages, *(wheel.name for wheel in (previous.wheels if previous else ()))}
    if unknown := sorted(upgrade.names - known):
        raise LockError(
            f"{unknown[0]} is not in the lock, so it cannot be upgraded",
            hint=did_you_mean(unknown[0], known) or "run `blindbuild lock --upgrade` to upgrade everything",
        )
