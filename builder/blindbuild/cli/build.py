"""`blindbuild build`: recipe -> images/NAME/VERSION/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from blindbuild.assemble.lock import load_lock
from blindbuild.assemble.recipe import Recipe, load_recipe, render_recipe
from blindbuild.assemble.request import BuildRequest
from blindbuild.cli.installing import find_built, install_image, what_changed
from blindbuild.cli.options import (
    find_recipe,
    json_option,
    mirror_option,
    offline_option,
    print_json,
    processors,
    recipe_argument,
    user_store,
)
from blindbuild.cli.outputs import read_sums


@click.command("build")
@recipe_argument
@click.option(
    "-o",
    "--output",
    default=Path("images"),
    type=click.Path(file_okay=False, path_type=Path),
    show_default=True,
)
@click.option("--debug", is_flag=True, help="An image with a console, to look into; its statement says so.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), help="Compilers at once [default: all processors]."
)
@click.option("--show", is_flag=True, help="Print the merged recipe and stop.")
@click.option("--why", is_flag=True, help="Say which input changed since the last build.")
@click.option(
    "--vendor",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look here for inputs first.",
)
@offline_option
@mirror_option
@json_option
def command(
    recipe: Path,
    output: Path,
    debug: bool,
    jobs: int | None,
    show: bool,
    why: bool,
    vendor: Path | None,
    offline: bool,
    mirror: str | None,
    as_json: bool,
) -> None:
    """Turn RECIPE into a boot image, a disk, and a statement of what a TPM will hold after booting it.

    Example: blindbuild build recipes/hello --offline
    """
    loaded = load_recipe(find_recipe(recipe))
    if show:
        click.echo(render_recipe(loaded), nl=False)
        return
    request = BuildRequest(loaded, load_lock(loaded), debug=debug, jobs=jobs or processors())
    store = user_store()
    if why:
        for reason in what_changed(request, store):
            click.echo(f"changed: {reason}", err=True)
    result = find_built(request, store)
    if result is None:
        place = _build(request, output, mirror=mirror, offline=offline, vendor=vendor)
    else:
        place = install_image(result, request, output, store=store)
    for line in _left_open(place, loaded):
        click.echo(line, err=True)
    sums = read_sums(place)
    if as_json:
        print_json(
            {
                "image": str(place),
                "debug": debug,
                "files": {name: digest.hex for name, digest in sums.items()},
            }
        )
    else:
        click.echo(str(place))


def _left_open(place: Path, recipe: Recipe) -> Iterator[str]:
    """Say what the recipe leaves open, on every build and not only in the ledger."""
    if not recipe.channels:
        return
    names = ", ".join(item.identifier for item in recipe.channels)
    yield f"warning: this recipe leaves {len(recipe.channels)} channels open: {names}"
    yield f"  hint: `blindbuild channels {place}` says why; clients may refuse the image for each of them"


def _build(
    request: BuildRequest, output: Path, *, mirror: str | None, offline: bool, vendor: Path | None
) -> Path:
    # An unchanged rebuild takes half a second, and would spend most of it importing these.
    from blindbuild.cli.inputs import InputOptions, build_into
    from blindbuild.cli.render import TerminalReporter

    options = InputOptions(mirror=mirror, offline=offline, vendor=vendor)
    with TerminalReporter() as reporter:
        return build_into(request, output, store=user_store(), reporter=reporter, options=options)
