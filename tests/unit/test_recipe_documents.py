"""schema.json and the table in recipes/README.md are what the code makes of the same definitions.

To write them anew: `.venv/bin/python tests/unit/test_recipe_documents.py`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from blindbuild.assemble.recipe import load_recipe
from blindbuild.assemble.recipe_schema import json_schema, reference_text, schema_text
from blindbuild.errors import RecipeError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BEGIN, END = "<!-- keys: begin (generated; a test says how) -->\n", "<!-- keys: end -->\n"
UPDATE = "run .venv/bin/python tests/unit/test_recipe_documents.py"

VALID = {
    "name": "hello",
    "version": "1.0.0",
    "sequence": 1,
    "tree": {"compile": [{"from": "hello.c", "to": "/app/hello"}]},
    "service": {"command": ["/app/hello"], "routes": ["/v1/hello"], "memory": "64M"},
    "network": {"address": {"address": "10.0.2.15/24", "router": "10.0.2.2"}},
}

# (path of keys, value or None to remove it, whether it is valid)
CHANGES: list[tuple[str, object, bool]] = [
    ("name", "a", True),
    ("name", "-a", False),
    ("name", "Hello", False),
    ("name", 5, False),
    ("name", None, False),
    ("name", "a" * 63, True),
    ("name", "a" * 64, False),
    ("version", "1.0", True),
    ("version", 1.0, False),
    ("version", "../1", False),
    ("sequence", 0, False),
    ("sequence", 2**53 - 1, True),
    ("sequence", 2**53, False),
    ("sequence", "1", False),
    ("sequence", True, False),
    ("suite", "bookworm", True),
    ("suite", "sid", False),
    ("boot", {"stub": "bookworm"}, True),
    ("boot", {"stub": "bookworm", "kernel": "x"}, False),
    ("kernel", {"features": []}, True),
    ("kernel", {"features": ["virtio-net", "virtio-net"]}, False),
    ("kernel", {"features": ["wifi"]}, False),
    ("kernel", [], False),
    ("tree.debian", ["libc6", "g++"], True),
    ("tree.debian", ["libc6=2.41"], False),
    ("tree.wheels", ["ctranslate2==4.8.5"], True),
    ("tree.wheels", ["ctranslate2"], False),
    ("tree.wheels", ["ctranslate2>=4"], False),
    ("tree.oci", "./app.tar", False),
    ("tree.keep", ["/app/serve"], False),
    ("tree.files", [{"from": "hello.c", "to": "/hello.c"}], True),
    ("tree.files", [{"from": "hello.c", "to": "/a/../b"}], False),
    ("tree.files", [{"from": "hello.c", "to": "/a/..b"}], True),
    ("tree.files", [{"from": "hello.c", "to": "/a/"}], False),
    ("tree.files", [{"from": "hello.c", "to": "hello.c"}], False),
    ("tree.files", [{"from": "/etc/passwd", "to": "/x"}], False),
    ("tree.files", [{"from": "hello.c"}], False),
    ("tree.files", [{"from": "hello.c", "to": "/x", "mode": "0444"}], True),
    ("tree.files", [{"from": "hello.c", "to": "/x", "mode": "4755"}], False),
    ("tree.files", [{"from": "hello.c", "to": "/x", "owner": "root"}], False),
    ("service.command", [], False),
    ("service.command", ["/app/hello", "a b", "a b"], True),
    ("service.command", ["/app/hello", "line\nbreak"], False),
    ("service.command", ["/app/hello"] + ["x"] * 15, True),
    ("service.command", ["/app/hello"] + ["x"] * 16, False),
    ("service.protocol", "frames", True),
    ("service.protocol", "http", False),
    ("service.routes", ["/v1/a/b-c_d"], True),
    ("service.routes", ["/v2/a"], False),
    ("service.routes", ["/v1/A"], False),
    ("service.routes", ["/v1//a"], False),
    ("service.routes", ["/v1/"], False),
    ("service.routes", None, False),
    ("service.memory", 1 << 20, True),
    ("service.memory", (1 << 20) - 1, False),
    ("service.memory", "64MB", False),
    ("service.memory", "0M", False),
    ("service.seconds", 86400, True),
    ("service.seconds", 86401, False),
    ("service.concurrency", 16, True),
    ("service.concurrency", 17, False),
    ("service.max_request", "256M", True),
    ("service.isolation", "resident", False),
    ("service.isolation", "per-request", True),
    ("network.address", "dhcp", True),
    ("network.address", "static", False),
    ("network.address", {"address": "10.0.2.15/24"}, False),
    ("network.address", {"address": "10.0.2.256/24", "router": "10.0.2.2"}, False),
    ("network.address", {"address": "10.0.2.15", "router": "10.0.2.2"}, False),
    ("network.address", {"address": "10.0.2.15/24", "router": "10.0.2"}, False),
    ("network.address", {"address": "10.0.2.15/24", "router": "10.0.2.02"}, False),
    ("network.port", 65535, True),
    ("network.port", 0, False),
    ("network.port", "{{ port }}", True),
    ("network.port", "443", False),
    ("network", None, False),
    ("channels", {"allow": []}, True),
    ("channels", {"allow": ["kexec", "kernel-log"]}, True),
    ("channels", {"allow": ["kexec", "kexec"]}, False),
    ("channels", {"allow": ["Kexec"]}, False),
    ("kernel", {"source": "linux-image-6.12.117+deb13-cloud-amd64"}, True),
    ("kernel", {"source": "linux-image-6.12.115+deb13.1-amd64"}, True),
    ("kernel", {"source": "linux-image-cloud-amd64"}, False),
    ("kernel", {"source": "linux-image-6.1.0-56-cloud-amd64"}, False),
    ("channels", {"waive": [{"path": "/a.so", "what": "socket", "control": "filter F0 refuses it"}]}, True),
    ("channels", {"waive": [{"path": "a.so", "what": "socket", "control": "filter F0 refuses it"}]}, False),
    ("channels", {"waive": [{"path": "/a.so", "what": "socket"}]}, False),
    ("channels", {"waive": []}, False),
    ("platforms", ["uefi-tpm"], True),
    ("platforms", [], False),
    ("platforms", ["tdx"], False),
    ("vars", {"port": 1, "name": "x", "flag": True}, True),
    ("vars", {"port": 1, "Name": "x"}, False),
    ("vars", {"port": 1, "list": []}, False),
    ("extends", "/etc/recipe.yaml", False),
    ("nonsense", 1, False),
]


def changed(path: str, value: object) -> dict[str, object]:
    recipe = copy.deepcopy(VALID)
    recipe.setdefault("vars", {"port": 8443})
    target = recipe
    *parents, last = path.split(".")
    for key in parents:
        target = target[key]  # type: ignore[assignment]
    if value is None:
        del target[last]
    else:
        target[last] = value  # type: ignore[assignment]
    return recipe


def readme_text() -> str:
    text = (RECIPES / "README.md").read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + reference_text() + END + rest.split(END)[1]


def test_schema_json_is_current() -> None:
    assert (RECIPES / "schema.json").read_text() == schema_text(), UPDATE


def test_the_readme_lists_every_key_as_the_code_has_it() -> None:
    assert (RECIPES / "README.md").read_text() == readme_text(), UPDATE


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(("path", "value", "valid"), CHANGES, ids=lambda part: str(part)[:40])
def test_reader_and_schema_agree(path: str, value: object, valid: bool, tmp_path: Path) -> None:
    recipe = changed(path, value)
    (tmp_path / "hello.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    errors = list(jsonschema.Draft202012Validator(json_schema()).iter_errors(recipe))
    assert (not errors) is valid, errors
    if valid:
        load_recipe(tmp_path)
    else:
        with pytest.raises(RecipeError):
            load_recipe(tmp_path)


def test_a_recipe_that_extends_another_need_not_be_complete_for_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid({"extends": "../base/recipe.yaml", "service": {"memory": "1G"}})
    assert not validator.is_valid({"service": {"memory": "1G"}})


def test_every_recipe_here_is_valid_for_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    found = sorted(RECIPES.glob("*/recipe.yaml"))
    assert found
    for path in found:
        assert json.loads(json.dumps(yaml.safe_load(path.read_text()))), path
        assert list(validator.iter_errors(yaml.safe_load(path.read_text()))) == [], path


if __name__ == "__main__":
    (RECIPES / "schema.json").write_text(schema_text())
    (RECIPES / "README.md").write_text(readme_text())
