"""docs/spec/policy.md and offline-bundle.md say what the readers take."""

from __future__ import annotations

import json
import re
from pathlib import Path

from blindbuild.verify import Policy
from blindbuild.verify.bundle import MAX_BUNDLE
from blindbuild.verify.policy_file import parse_policy, policy_json
from tests.unit.test_policy_file import FULL

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec"
PAGE = (SPEC / "policy.md").read_text()
SHOWN = json.loads(re.search(r"^    (\{.*?\n)\n", PAGE, re.MULTILINE | re.DOTALL)[1])


def test_the_page_shows_every_field_and_no_other() -> None:
    assert SHOWN.keys() == FULL.keys()
    listed = re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)
    assert set(listed) == SHOWN.keys() - {"version"}


def test_the_fields_that_are_shown_are_read() -> None:
    name = "000b" + "ab" * 32
    readable = SHOWN | {
        "requireLog": FULL["requireLog"],
        "machines": SHOWN["machines"] | {"attestationKeys": [name], "endorsementKeys": [name]},
    }
    policy = parse_policy(json.dumps(readable).encode())
    assert policy.machines is not None
    assert policy.machines.instances == set(SHOWN["machines"]["instances"])


def test_the_defaults_are_the_strict_ones() -> None:
    strict = policy_json(Policy())
    said = dict(re.findall(r"^\| `(\w+)` \| (?:`?)([\w]+)", PAGE, re.MULTILINE))
    for name, default in said.items():
        value = strict[name]
        expected = {"none": (None, []), "any": (None, []), "false": (False,)}.get(default)
        assert value in expected if expected else str(value) == default, name


def test_the_limit_of_a_bundle_is_said() -> None:
    assert f"at most {MAX_BUNDLE >> 20} MiB" in (SPEC / "offline-bundle.md").read_text()
