"""A recipe that asks for a partition table: register 5 is another one, and stated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from blindbuild.cli.lock import command as lock
from blindbuild.measure.classification import OneOf
from tests.boot.lab import ROOT, Lab, statement_of

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module")
def partitioned(lab: Lab, product: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """recipes/hello with one key more, locked to the same inputs, built and signed."""
    recipe = tmp_path_factory.mktemp("recipe") / "hello"
    shutil.copytree(ROOT / "recipes" / "hello", recipe)
    text = (recipe / "recipe.yaml").read_text()
    (recipe / "recipe.yaml").write_text(
        text.replace("name: hello\n", "name: hello-gpt\n") + "\nboot: {partitions: gpt}\n"
    )
    done = CliRunner().invoke(lock, [str(recipe)])
    assert done.exit_code == 0, done.exception
    return lab.build(recipe)


def test_a_disk_with_a_partition_table_is_stated_booted_and_verified(
    lab: Lab, product: Path, partitioned: Path
) -> None:
    plain, with_table = (statement_of(image).platforms[0].banks for image in (product, partitioned))
    for algorithm, registers in plain.items():
        before, after = registers[5], with_table[algorithm][5]
        assert isinstance(before, OneOf)
        assert isinstance(after, OneOf)
        assert not set(before.values) & set(after.values)
    with lab.running(lab.machine(partitioned)) as machine:
        attempt = lab.judge(machine.url, lab.expect(partitioned, machine, product="hello-gpt"))
    attempt.close()
    assert attempt.appraisal.reasons == frozenset()
