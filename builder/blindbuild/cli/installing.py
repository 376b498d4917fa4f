"""Build an image if anything changed, and put it into images/NAME/VERSION/ as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from blindbuild.assemble.request import IMAGE_STAGE, BuildRequest
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT, SUMS, check_image
from blindbuild.errors import BuildError, UsageError
from blindbuild.host.files import remove_tree, write_atomically
from blindbuild.host.store import Store


def find_built(request: BuildRequest, store: Store) -> Path | None:
    """Return the store's result for a request, or None if it was never built."""
    return store.find_stage(IMAGE_STAGE, request.key())


def install_image(result: Path, request: BuildRequest, output: Path, *, store: Store) -> Path:
    """Return the image's directory below `output`, complete and checked; copied there only if it differs."""
    place = output / request.recipe.name / request.version
    if not _holds(place, result):
        _install(result, place)
    _remember(request, store)
    return place


def what_changed(request: BuildRequest, store: Store) -> list[str]:
    """Name what differs from the last build of this image, in words."""
    path = _record(request, store)
    if not path.exists():
        return ["everything: this is the first build here"]
    last = json.loads(path.read_text())
    return [name for name, digest in request.components().items() if last.get(name) != digest.hex]


def _remember(request: BuildRequest, store: Store) -> None:
    record = {name: digest.hex for name, digest in request.components().items()}
    data = json.dumps(record, indent=2).encode()
    path = _record(request, store)
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)


def _record(request: BuildRequest, store: Store) -> Path:
    return store.root / "last-build" / f"{request.recipe.name}-{request.version}.json"


def _holds(place: Path, result: Path) -> bool:
    if not (place / SUMS).is_file() or (place / SUMS).read_bytes() != (result / SUMS).read_bytes():
        return False
    try:
        check_image(place)
    except (BuildError, UsageError):
        return False
    return True


def _install(result: Path, place: Path) -> None:
    """Copy a result to its place by renaming whole directories; envelopes over the same statement stay."""
    aside, old = place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")
    for leftover in (aside, old):
        remove_tree(leftover)
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(result, aside)
    if place.exists():
        if (place / STATEMENT).is_file() and (place / STATEMENT).read_bytes() == (
            aside / STATEMENT
        ).read_bytes():
            for name in (MANIFEST, RELEASE):
                if (place / name).is_file():
                    shutil.copy2(place / name, aside / name)
        place.rename(old)
    aside.rename(place)
    remove_tree(old)
