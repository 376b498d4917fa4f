"""The locked inputs of recipes/hello, for tests that compile or boot: fetched once, kept in the store."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from blindbuild.assemble.lock import Lock
from blindbuild.assemble.recipe import load_recipe
from blindbuild.assemble.toolchain import prepare_toolchain
from blindbuild.cli.demo import obtain_inputs
from blindbuild.cli.inputs import InputOptions
from blindbuild.errors import BlindbuildError, FetchError
from blindbuild.host.store import Store

ROOT = Path(__file__).resolve().parents[1]
HELLO = ROOT / "recipes" / "hello"


class QuietReporter:
    """Says nothing; a test's output is its verdict."""

    def begin(self, title: str, total: int | None = None) -> None:
        """Start a stage."""

    def advance(self, done: int, detail: str = "") -> None:
        """Say how far it is."""

    def finish(self, outcome: str = "") -> None:
        """End it."""

    def note(self, text: str) -> None:
        """Say something once."""


QUIET = QuietReporter()


def user_store() -> Store:
    """The store that survives a checkout."""
    return Store.default(os.environ)


@functools.cache
def locked_inputs(recipe: Path = HELLO) -> Lock:
    """A recipe's lock with every input in the store; a local lock where the mirror has moved on."""
    loaded = load_recipe(recipe / "recipe.yaml")
    try:
        return obtain_inputs(loaded, store=user_store(), reporter=QUIET, options=InputOptions(), locked=False)
    except FetchError as error:
        pytest.skip(f"the locked inputs cannot be had: {error.message}")


@functools.cache
def locked_toolchain() -> Path:
    """The unpacked root of the locked compilers."""
    try:
        return prepare_toolchain(user_store(), locked_inputs().groups["toolchain"])
    except BlindbuildError as error:
        pytest.skip(f"the locked toolchain cannot be unpacked: {error.message}")
