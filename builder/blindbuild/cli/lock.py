"""`blindbuild lock`: resolve every input of a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.assemble.lock import load_lock, lock_path
from blindbuild.assemble.lock_make import Upgrade
from blindbuild.assemble.recipe import load_recipe
from blindbuild.cli.inputs import write_lock
from blindbuild.cli.options import (
    find_recipe,
    json_option,
    mirror_option,
    print_json,
    recipe_argument,
    user_store,
)
from blindbuild.cli.render import TerminalReporter


@click.command("lock")
@recipe_argument
@click.option("--upgrade", "names", multiple=True, metavar="NAME", help="Take this package's newest version.")
@click.option("--upgrade-all", is_flag=True, help="Take every package's newest version.")
@click.option("--check", is_flag=True, help="Only say whether the lock still belongs to the recipe.")
@mirror_option
@json_option
def command(
    recipe: Path, names: tuple[str, ...], upgrade_all: bool, check: bool, mirror: str | None, as_json: bool
) -> None:
    """Resolve every input of RECIPE to name, version, size and SHA-256, and write recipe.lock beside it.

    Debian packages are resolved by apt in a private state directory; the archive's signature is checked.
    No host name is stored.

    Example: blindbuild lock recipes/hello --upgrade linux-source-6.12
    """
    loaded = load_recipe(find_recipe(recipe))
    if check:
        lock = load_lock(loaded)
    else:
        with TerminalReporter() as reporter:
            upgrade = Upgrade(names=frozenset(names), everything=upgrade_all)
            lock = write_lock(loaded, store=user_store(), reporter=reporter, mirror=mirror, upgrade=upgrade)
    if as_json:
        groups = {name: len(group) for name, group in lock.groups.items()}
        print_json({"lock": str(lock_path(loaded)), "packages": groups, "wheels": len(lock.wheels)})
