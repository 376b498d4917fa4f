"""`blindbuild fetch`: fill the store with every locked input."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.assemble.fetch import export_inputs
from blindbuild.assemble.lock import load_lock
from blindbuild.assemble.recipe import load_recipe
from blindbuild.cli.inputs import InputOptions, fill_store
from blindbuild.cli.options import (
    find_recipe,
    json_option,
    mirror_option,
    print_json,
    recipe_argument,
    user_store,
)
from blindbuild.cli.render import TerminalReporter


@click.command("fetch")
@recipe_argument
@click.option(
    "--vendor",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also copy all inputs into this directory, to carry them to another machine.",
)
@mirror_option
@json_option
def command(recipe: Path, vendor: Path | None, mirror: str | None, as_json: bool) -> None:
    """Fill the store with everything RECIPE's lock names; `build --offline` then needs nothing else.

    Example: blindbuild fetch recipes/hello --vendor /media/stick/inputs
    """
    lock, store = load_lock(load_recipe(find_recipe(recipe))), user_store()
    with TerminalReporter() as reporter:
        count = fill_store(lock, store=store, reporter=reporter, options=InputOptions(mirror=mirror))
        if vendor is not None:
            reporter.begin(f"copy inputs to {vendor}")
            reporter.finish(f"{export_inputs(lock, store, vendor)} files")
    if as_json:
        print_json({"fetched": count, "store": str(store.root)})
    elif not count:
        click.echo("the store has every input already", err=True)
