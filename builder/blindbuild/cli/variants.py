"""Build the test images of a recipe that go with an image: the hostile one, and the one that leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blindbuild.assemble.lock import load_lock
from blindbuild.assemble.recipe import load_recipe
from blindbuild.assemble.request import BuildRequest
from blindbuild.cli.inputs import InputOptions, build_into
from blindbuild.cli.options import find_recipe, processors
from blindbuild.errors import UsageError
from blindbuild.host.reporter import Reporter
from blindbuild.host.store import Store
from blindbuild.manifest import Statement


def build_variant(
    variant: str, recipe_path: Path, *, beside: Statement, store: Store, build_in: Path, reporter: Reporter
) -> Path:
    """Return the directory of a recipe's test image; built unless the store has it.

    Args:
        variant: `probe` or `leaky` (docs/spec/guest-abi.md, "Variants").
        recipe_path: the recipe or its directory.
        beside: the statement of the image that it goes with.
        store: has the inputs, or gets them.
        build_in: where image directories are made.
        reporter: told about progress.

    Raises:
        UsageError: the recipe of another image.
        BlindbuildError: it cannot be built.
    """
    recipe = load_recipe(find_recipe(recipe_path))
    request = BuildRequest(recipe, load_lock(recipe), jobs=processors())
    said, expected = (recipe.name, request.version), (beside.name, beside.version)
    if said != expected:
        raise UsageError(f"{recipe.path}: expected the recipe of {' '.join(expected)}, got {' '.join(said)}")
    wanted = replace(request, variant=variant)
    return build_into(wanted, build_in, store=store, reporter=reporter, options=InputOptions())
