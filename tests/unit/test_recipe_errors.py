"""Every mistake in a recipe is named with its place, what was expected, and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindbuild.assemble.recipe import load_recipe
from blindbuild.assemble.recipe_yaml import MAX_DEPTH, MAX_TEXT_BYTES, parse_yaml
from blindbuild.errors import RecipeError

GOOD = """\
name: hello
version: 1.0.0
sequence: 1
tree:
  compile: [{from: hello.c, to: /app/hello}]
service:
  command: [/app/hello]
  routes: [/v1/hello]
  memory: 64M
network:
  address: {address: 10.0.2.15/24, router: 10.0.2.2}
"""

# (text to replace, replacement, place, message, hint)
MISTAKES = [
    ("name: hello", "nmae: hello", "1:1", "unknown key `nmae`", "did you mean `name`?"),
    ("name: hello", "xyz: 1\nname: hello", "1:1", "unknown key `xyz`", "known keys: name, version, sequence"),
    (
        "name: hello",
        "name: hello\nname: x",
        "2:1",
        "key `name` stands here twice, first in line 1",
        "remove one",
    ),
    ("name: hello\n", "", "1:1", "`name` is missing: expected a name of lower-case", "Name of the image."),
    ("name: hello", "name: NO", "1:7", "got `NO`, which YAML reads as false", 'write "NO" in quotes'),
    ("name: hello", "name:", "1:6", "got nothing", "such as hello"),
    ("name: hello", "name: ~", "1:7", "got nothing", "such as hello"),
    ("name: hello", "name: [a]", "1:7", "name: expected a name of lower-case", None),
    ("name: hello", "name: Hello", "1:7", "got `Hello`", "such as hello"),
    ("name: hello", "name: 2026-02-01", "1:7", "which YAML reads as the date 2026-02-01", "in quotes"),
    ("name: hello", "name: 2026-02-31", "1:7", "which YAML reads as a date", "in quotes"),
    ("name: hello", "name: &a hello", "1:7", "anchors and aliases are not used", "`vars`"),
    ("name: hello", "name: !!str hello", "1:7", "tags are not used in recipes, got !!str", "quotes"),
    ("name: hello", "name: !x hello", "1:7", "tags are not used in recipes, got !x", "quotes"),
    ("name: hello", "name: he: llo", "1:9", "not valid YAML: mapping values are not allowed", "indent"),
    ("name: hello", "name: 'hello", "1:7", "not valid YAML: found unexpected end of stream", "indent"),
    ("name: hello", "name: a\x01", "1:8", "not valid YAML: control characters are not allowed", None),
    ("name: hello", "? [a]\n: b", "1:3", "expected a word as key, got a list or a table", None),
    (
        "router: 10.0.2.2}",
        "router: 10.0.2.2}\n  channel: hpke-quote-v2",
        "12:12",
        "network.channel: expected `tls-spki-quote-v1` or `hpke-quote-v1`, got `hpke-quote-v2`",
        "did you mean `hpke-quote-v1`?",
    ),
    ("version: 1.0.0", "version: 1.0", "2:10", "got `1.0`, which YAML reads as the number 1.0", "in quotes"),
    ("sequence: 1", "sequence: 010", "3:11", "got `010`, which YAML reads as the number 8", "decimal digits"),
    ("sequence: 1", "sequence: 1_0", "3:11", "got `1_0`, which YAML reads as the number 10", "decimal"),
    ("sequence: 1", "sequence: 12:30:45", "3:11", "which YAML reads as the number 45045", "decimal digits"),
    ("sequence: 1", "sequence: 0x10", "3:11", "which YAML reads as the number 16", "decimal digits"),
    ("sequence: 1", "sequence: -1", "3:11", "a whole number from 1 to 9007199254740991", None),
    ("sequence: 1", "sequence: 1.5", "3:11", "got `1.5`", None),
    ("sequence: 1", 'sequence: "1"', "3:11", 'got "1"', "remove the quotes"),
    ("sequence: 1", "sequence: true", "3:11", "which YAML reads as true", None),
    ("sequence: 1", "sequence: 0", "3:11", "got 0", None),
    (
        "sequence: 1",
        "sequence: 1\nsuite: trixi",
        "4:8",
        "expected `trixie` or `bookworm`",
        "did you mean `trixie`",
    ),
    (
        "tree:",
        "tree:\n  oci: ./app.tar",
        "5:3",
        "`tree.oci` is not implemented in this version",
        "tree.files",
    ),
    ("tree:", "tree:\n  keep: [/x]", "5:3", "`tree.keep` is not implemented in this version", "tree.files"),
    ("tree:", "tree:\n  wheels: [numpy]", "5:12", "expected a PyPI project with its version", "=="),
    ("hello.c,", "gone.c,", "5:20", "tree.compile[0].from: there is no file", None),
    ("hello.c,", "/hello.c,", "5:20", "a path relative to the file it stands in", "absolute path"),
    ("to: /app/hello}", "to: app}", "5:33", "an absolute path inside the workload's root", "/app/hello"),
    ("to: /app/hello}", "too: /app/hello}", "5:29", "unknown key `too` in `tree.compile[0]`", "`to`?"),
    (", to: /app/hello}", "}", "5:13", "`tree.compile[0].to` is missing", "Where the program is"),
    ("[/app/hello]", "/app/hello", "7:12", "service.command: expected a list (1 to 16)", "[one, two]"),
    (
        "[/app/hello]",
        "[/app/helo]",
        "7:12",
        "expected a program that `tree` brings",
        "did you mean `/app/hello`?",
    ),
    ("[/app/hello]", "[hello]", "7:12", "service.command[0]: expected an absolute path, got 'hello'", None),
    (
        "[/app/hello]",
        "[/app/hello, 5]",
        "7:25",
        "service.command[1]: expected an argument",
        'write "5" in quotes',
    ),
    (
        "[/v1/hello]",
        "[/v1/hello, /v1/hello]",
        "8:23",
        "service.routes[1]: `/v1/hello` stands here twice",
        None,
    ),
    ("[/v1/hello]", "[]", "8:11", "service.routes: expected a list (1 to 32)", None),
    ("memory: 64M", "memory: 64MB", "9:11", "expected a size from 1M to 1024G, got `64MB`", "512M"),
    ("memory: 64M", "memory: 1K", "9:11", "expected a size from 1M to 1024G, got 1K", None),
    (
        "memory: 64M",
        "isolation: resident",
        "9:14",
        "`resident` is not implemented in this version",
        "per-request",
    ),
    ("memory: 64M", "protocol: http", "9:13", "`http` is not implemented in this version", "`frames`"),
    ("router: 10.0.2.2}", "router: 10.0.3.2}", "11:44", "expected another address in 10.0.2.15/24", None),
    ("router: 10.0.2.2}", "router: 10.0.2.15}", "11:44", "expected another address in 10.0.2.15/24", None),
    ("router: 10.0.2.2}", "router: 10.0.2.255}", "11:44", "expected a host's address, got 10.0.2.255", None),
    ("10.0.2.15/24", "127.0.0.1/24", "11:22", "expected a host's address, got 127.0.0.1", None),
    ("10.0.2.15/24", "10.0.2.0/24", "11:22", "expected a host's address, got 10.0.2.0", None),
    ("10.0.2.15/24", "224.0.2.1/24", "11:22", "expected a host's address, got 224.0.2.1", None),
    (
        "network:",
        "channels: {allow: [Kernel log]}\nnetwork:",
        "10:20",
        "channels.allow[0]: expected the id of a channel, got `Kernel log`",
        "such as kernel-log",
    ),
    (
        "network:",
        "channels: {allow: [kexec, kexec]}\nnetwork:",
        "10:27",
        "channels.allow[1]: `kexec` stands here twice",
        None,
    ),
    (
        "network:",
        "kernel: {source: linux-image-cloud-amd64}\nnetwork:",
        "10:18",
        "kernel.source: expected `linux-source-6.12`, or a kernel that Debian built",
        "linux-image-6.12.117+deb13-cloud-amd64",
    ),
    (
        "network:",
        "platforms: [tdx]\nnetwork:",
        "10:13",
        "`tdx` is not implemented in this version",
        "`uefi-tpm`",
    ),
    (
        "network:",
        "vars: {a: '{{ b }}'}\nnetwork:",
        "10:11",
        "vars.a: expected a value without `{{`",
        "cannot use",
    ),
    ("network:", "vars: {a: 0x1}\nnetwork:", "10:11", "which YAML reads as the number 1", "in quotes"),
    ("network:", "vars: {A: 1}\nnetwork:", "10:8", "lower-case letters, digits and `_`, got `A`", None),
    ("network:", "vars: [a]\nnetwork:", "10:7", "vars: expected a table of names and values", None),
    (
        "name: hello",
        'name: "{{ nmae }}"\nvars: {name: x}',
        "1:7",
        "'nmae' is undefined",
        "did you mean `name`?",
    ),
    ("name: hello", 'name: "{{ zzz }}"', "1:7", "'zzz' is undefined", "variables defined in `vars`: none"),
    ("name: hello", 'name: "{{ a"', "1:7", "cannot be rendered: unexpected end of template", None),
    ("name: hello", 'name: "{{ 1 // 0 }}"', "1:7", "cannot be rendered: integer division", None),
    (
        "name: hello",
        "name: \"{{ ''.__class__.__mro__ }}\"",
        "1:7",
        "cannot be rendered: access to attribute",
        None,
    ),
    ("name: hello", "name: \"{{ 'ab' | random }}\"", "1:7", "No filter named 'random'", None),
    ("name: hello", "name: \"{{ 'a' * 5000 }}\"", "1:7", "at most 4096 characters from the template", None),
    ("name: hello", "extends: gone.yaml", "1:10", "extends: there is no file", None),
    ("name: hello", "extends: recipe.yaml", "1:10", "extends itself, directly or through others", None),
    (
        "name: hello",
        "extends: /etc/x.yaml",
        "1:10",
        "extends: expected a path relative to this file",
        "../base",
    ),
    ("name: hello", "<<: {a: b}", "1:1", "unknown key `<<`", "known keys"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hello.c").write_text("int main(void) { return 0; }\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(text: str | bytes) -> RecipeError:
    Path("recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("recipe.yaml"))
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "place", "message", "hint"), MISTAKES, ids=[row[1][:30] for row in MISTAKES]
)
def test_a_mistake_is_named_with_its_place(
    folder: Path, old: str, new: str, place: str, message: str, hint: str | None
) -> None:
    assert GOOD.count(old) >= 1
    error = refused(GOOD.replace(old, new, 1))
    assert error.where == f"recipe.yaml:{place}"
    assert message in error.message
    assert hint is None or (error.hint is not None and hint in error.hint)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "source", ["..", "../..", "../outside.c", "sub/../../outside.c", "link.c", "links/outside.c"]
)
@pytest.mark.parametrize("how", ["files", "compile"])
def test_a_source_outside_of_the_recipes_directory_is_refused(folder: Path, source: str, how: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "outside.c").write_text("")
    (inner / "link.c").symlink_to("../outside.c")
    (inner / "links").symlink_to("..")
    text = GOOD.replace("compile: [{from: hello.c,", f"{how}: [{{from: {source},")
    (inner / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("inner/recipe.yaml"))
    expected = f"tree.{how}[0].from: expected something in inner, where this recipe file is, got inner/"
    assert expected.removesuffix("inner/") in caught.value.message
    column = 5 + len(f"{how}: [{{from")
    assert caught.value.where == f"inner/recipe.yaml:5:{column}"


def test_an_extended_recipe_names_only_what_is_beside_it(folder: Path) -> None:
    for name in ("base", "child"):
        (folder / name).mkdir()
        (folder / name / "own.c").write_text("")
    (folder / "child" / "recipe.yaml").write_text("extends: ../base/recipe.yaml\n")
    base = folder / "base" / "recipe.yaml"
    base.write_text(GOOD.replace("hello.c", "own.c"))
    assert load_recipe(folder / "child").local_files[0].source == "../base/own.c"
    base.write_text(GOOD.replace("hello.c", "../child/own.c"))
    with pytest.raises(
        RecipeError, match=r"expected something in .*/base, where this recipe file is"
    ) as caught:
        load_recipe(folder / "child")
    assert (caught.value.where or "").endswith("/base/recipe.yaml:5:20")
    base.write_text(GOOD)
    child = "extends: ../base/recipe.yaml\ntree:\n  compile: [{from: ../base/own.c, to: /app/hello}]\n"
    (folder / "child" / "recipe.yaml").write_text(child)
    with pytest.raises(RecipeError, match=r"expected something in .*/child, where") as caught:
        load_recipe(folder / "child")
    assert (caught.value.where or "").endswith("/child/recipe.yaml:3:20")


def test_links_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    assert "expected something in" in refused(GOOD.replace("hello.c", "loop")).message


def test_the_recipe_that_all_mistakes_are_made_in_is_right(folder: Path) -> None:
    Path("recipe.yaml").write_text(GOOD)
    assert load_recipe(Path("recipe.yaml")).name == "hello"


def test_a_second_document_is_refused(folder: Path) -> None:
    assert "expected one document" in refused(GOOD + "---\nname: x\n").message


def test_an_alias_is_refused(folder: Path) -> None:
    error = refused(GOOD.replace("sequence: 1", "sequence: *a"))
    assert error.where == "recipe.yaml:3:11"
    assert "anchors and aliases" in error.message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_an_empty_file_is_refused(folder: Path, text: str) -> None:
    assert "expected a recipe, got nothing" in refused(text).message


@pytest.mark.parametrize("text", ["- a\n- b\n", "hello\n"])
def test_a_recipe_must_be_a_table(folder: Path, text: str) -> None:
    assert "expected a table of keys" in refused(text).message


def test_text_that_is_not_utf_8_is_refused_with_its_line(folder: Path) -> None:
    error = refused(GOOD.encode() + b"# \xff\n")
    assert (error.where, error.message) == ("recipe.yaml:12:1", "recipe.yaml:12:1: expected UTF-8 text")


def test_a_missing_recipe_is_named(folder: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read: no such file") as caught:
        load_recipe(Path("recipe.yaml"))
    assert caught.value.where == "recipe.yaml"


def test_a_pipe_in_place_of_a_recipe_is_an_error_and_no_endless_wait(folder: Path) -> None:
    import os

    os.mkfifo("recipe.yaml")
    with pytest.raises(RecipeError, match="expected a regular file"):
        load_recipe(Path("recipe.yaml"))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_without_end_is_refused_and_does_not_overflow_the_stack(opening: str) -> None:
    with pytest.raises(RecipeError, match=f"at most {MAX_DEPTH} levels|not valid YAML"):
        parse_yaml((opening * (MAX_TEXT_BYTES // len(opening) - 1)).encode(), "x")


def test_a_recipe_without_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected at most"):
        parse_yaml(b"#" * (MAX_TEXT_BYTES + 1), "x")


def test_every_prefix_of_a_recipe_is_read_or_refused_with_our_error(folder: Path) -> None:
    assert all(read_or_place(GOOD[:end].encode()) for end in range(len(GOOD) - 1))


def test_every_flipped_bit_is_read_or_refused_with_our_error(folder: Path) -> None:
    for position in range(len(GOOD)):
        for bit in (0, 2, 5, 7):
            altered = bytearray(GOOD.encode())
            altered[position] ^= 1 << bit
            assert read_or_place(bytes(altered))


def read_or_place(data: bytes) -> bool:
    Path("recipe.yaml").write_bytes(data)
    try:
        load_recipe(Path("recipe.yaml"))
    except RecipeError as error:
        return error.where.startswith("recipe.yaml")
    return True
