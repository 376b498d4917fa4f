"""docs/keys.md: its commands are run in the order of the page, and its refusals refuse."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.manifest import parse_trust
from blindbuild.publish import generate_key
from blindbuild.publish.signers import SERVICES
from tests.cli.test_image_directory import write_image
from tests.fakes.world import authority

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "keys.md").read_text()
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for block in BLOCKS for line in block.splitlines()]
_PLAY = """
import json, sys
from click.testing import CliRunner
from blindbuild.cli.main import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    print(json.dumps([done.exit_code, done.output, str(done.exception)]))
"""


def needs_a_service(words: list[str]) -> bool:
    return any(word.startswith(tuple(f"{name}:" for name in SERVICES)) or word == "kms.key" for word in words)


@pytest.fixture
def token(tmp_path: Path) -> dict[str, str]:
    pytest.importorskip("pkcs11", reason="needs python-pkcs11 (the extra `pkcs11`)")
    if not SOFTHSM.exists():
        pytest.skip(f"needs {SOFTHSM} (Debian package libsofthsm2)")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration), "PYTHONPATH": os.pathsep.join(sys.path)}
    made = ["softhsm2-util", "--init-token", "--free", "--label", "releases", "--so-pin", "5678"]
    subprocess.run([*made, "--pin", "1234"], env=environment, check=True, capture_output=True)
    return {**environment, "BLINDBUILD_PIN": "1234"}


def test_the_commands_of_the_page_run_in_its_order(tmp_path: Path, token: dict[str, str]) -> None:
    place = tmp_path / "work"
    (place / "images" / "hello").mkdir(parents=True)
    image = write_image(place / "images" / "hello" / "1.0.0")
    (place / "maker.pem").write_text(authority().root_pem)
    (place / "dora.key.pub").write_bytes(generate_key().public.spki)
    commands = [words for words in COMMANDS if not needs_a_service(words)]
    assert len(commands) == len(COMMANDS) - 3
    done = subprocess.run(
        [sys.executable, "-c", _PLAY],
        input=json.dumps(commands),
        env=token,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    for words, line in zip(commands, done.stdout.splitlines(), strict=True):
        assert json.loads(line)[0] == 0, (words, line)
    signatures = json.loads((image / "manifest.dsse.json").read_text())["signatures"]
    assert len(signatures) == 2
    assert len(list((image / "rebuilds").iterdir())) == 1
    files = {path.name: parse_trust(path.read_bytes()) for path in place.glob("trust*.json")}
    assert len(files) == 3
    assert len({trust.domain for trust in files.values()}) == 1
    assert files["trust-with-rebuilders.json"].rebuilder_threshold == 1
    assert {key.key_id for key in files["trust-2.json"].release_keys} & {
        key.key_id for key in files["trust.json"].release_keys
    }


def test_the_page_lists_every_kind_of_key_that_is_understood() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([a-z0-9]+):", row)}
    assert listed == {"pkcs11", *SERVICES}
