"""What lock, fetch, build and demo do with a recipe's inputs, with progress."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.fetch import Progress, Sources, fetch_inputs, missing_inputs
from blindbuild.assemble.lock import Lock, lock_path, read_lock, render_lock
from blindbuild.assemble.lock_make import Resolution, Upgrade, make_lock
from blindbuild.assemble.recipe import Recipe
from blindbuild.assemble.request import BuildRequest
from blindbuild.cli.installing import find_built, install_image
from blindbuild.host.files import write_atomically
from blindbuild.host.reporter import Reporter
from blindbuild.host.store import Store
from blindbuild.pipeline import build_image


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Where inputs may come from."""

    mirror: str | None = None
    offline: bool = False
    vendor: Path | None = None


def write_lock(
    recipe: Recipe,
    *,
    store: Store,
    reporter: Reporter,
    mirror: str | None = None,
    upgrade: Upgrade | None = None,
    local: bool = False,
) -> Lock:
    """Resolve a recipe's inputs and write the lock beside it; `local` for the file git does not track."""
    path = lock_path(recipe, local=local)
    previous = read_lock(path) if path.exists() else None
    reporter.begin(f"lock {recipe.name}")
    how = Resolution(
        store=store,
        environ=os.environ,
        mirror=mirror,
        on_line=lambda line: reporter.advance(0, line[:60]),
    )
    lock = make_lock(recipe, how, previous=previous, upgrade=upgrade)
    write_atomically(path, render_lock(lock))
    reporter.finish(f"{sum(len(group) for group in lock.groups.values())} packages, {path}")
    return lock


def fill_store(lock: Lock, *, store: Store, reporter: Reporter, options: InputOptions) -> int:
    """Fetch what the store lacks; return how many inputs that were."""
    missing = missing_inputs(lock, store)
    if not missing:
        return 0
    received: dict[str, int] = {}

    def show(progress: Progress) -> None:
        received[progress.name] = progress.received_bytes
        done = sum(received.values())
        reporter.advance(done, f"{done >> 20} MiB, {progress.done}/{progress.total} {progress.name}"[:60])

    sizes = [getattr(item, "size", 0) for item in missing]
    reporter.begin(f"fetch {len(missing)} inputs", total=sum(sizes))
    sources = Sources(
        environ=os.environ, mirror=options.mirror, vendor=options.vendor, offline=options.offline
    )
    count = fetch_inputs(lock, store, sources, on_progress=show)
    reporter.finish(f"{sum(sizes) >> 20} MiB, every file checked against the lock")
    return count


def build_into(
    request: BuildRequest, output: Path, *, store: Store, reporter: Reporter, options: InputOptions
) -> Path:
    """Build if anything changed, and return the image's directory below `output`."""
    result = find_built(request, store)
    if result is None:
        fill_store(request.lock, store=store, reporter=reporter, options=options)
        result = build_image(request, store=store, reporter=reporter)
    return install_image(result, request, output, store=store)
