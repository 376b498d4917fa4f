"""What a recipe says when there is no mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindbuild.assemble.recipe import (
    CompileRequest,
    FileRequest,
    StaticAddress,
    load_recipe,
    read_local_file,
    render_recipe,
)
from blindbuild.errors import BuildError, RecipeError

GOOD = """\
name: hello
version: 1.0.0
sequence: 7
tree:
  compile: [{from: hello.c, to: /app/hello}]
service:
  command: [/app/hello, --loud]
  routes: [/v1/hello]
  memory: 64M
network:
  address: {address: 10.0.2.15/24, router: 10.0.2.2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "recipe.yaml").write_text(GOOD)
    return tmp_path


def test_a_short_recipe_gets_all_defaults(folder: Path) -> None:
    recipe = load_recipe(folder)
    assert (recipe.name, recipe.version, recipe.sequence) == ("hello", "1.0.0", 7)
    assert (recipe.suite, recipe.stub_suite, recipe.firmware_suite) == ("trixie", "trixie", "trixie")
    assert recipe.kernel.source == "linux-source-6.12"
    assert recipe.kernel.features == ("tpm-crb", "virtio-net")
    assert recipe.tree.compile == (CompileRequest("hello.c", "/app/hello"),)
    assert recipe.service.command == ("/app/hello", "--loud")
    assert recipe.service.memory_bytes == 64 << 20
    assert (recipe.service.seconds, recipe.service.concurrency) == (30, 4)
    assert (recipe.service.max_request_bytes, recipe.service.max_response_bytes) == (1 << 20, 1 << 20)
    assert (recipe.service.protocol, recipe.service.isolation) == ("frames", "per-request")
    assert recipe.network.address == StaticAddress("10.0.2.15", 24, "10.0.2.2")
    assert (recipe.network.port, recipe.channels, recipe.platforms) == (443, (), ("uefi-tpm",))
    assert recipe.waivers == ()
    assert [(file.source, file.target, file.compiled) for file in recipe.local_files] == [
        ("hello.c", "/app/hello", True)
    ]


def test_the_recipe_file_and_its_directory_name_the_same_recipe(folder: Path) -> None:
    assert load_recipe(folder) == load_recipe(folder / "recipe.yaml")


def test_the_rendered_recipe_reads_as_the_same_recipe(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "no").write_text("x")
    text = GOOD.replace("tree:", "tree:\n  files: [{from: data, to: /data, mode: '0400'}]")
    text = text.replace("--loud", r'"- a: \"b\", #{x}", "no", "1.5"')
    (folder / "recipe.yaml").write_text(text)
    recipe = load_recipe(folder)
    assert recipe.service.command == ("/app/hello", '- a: "b", #{x}', "no", "1.5")
    (folder / "again.yaml").write_text(render_recipe(recipe))
    again = load_recipe(folder / "again.yaml")
    assert render_recipe(again) == render_recipe(recipe)
    assert again.checksum == recipe.checksum
    assert again.local_files == recipe.local_files


def test_a_waiver_is_read_rendered_and_part_of_the_checksum(folder: Path) -> None:
    before = load_recipe(folder)
    waiver = "{path: /lib/x.so, what: socket, control: filter F0 refuses it}"
    (folder / "recipe.yaml").write_text(f"{GOOD}channels: {{waive: [{waiver}]}}\n")
    recipe = load_recipe(folder)
    assert [(item.path, item.what) for item in recipe.waivers] == [("/lib/x.so", "socket")]
    assert recipe.checksum != before.checksum
    (folder / "recipe.yaml").write_text(render_recipe(recipe))
    assert load_recipe(folder).waivers == recipe.waivers


def test_comments_and_layout_do_not_change_the_checksum(folder: Path) -> None:
    before = load_recipe(folder).checksum
    text = GOOD.replace("name: hello", "# greets\nname:   'hello'") + "channels: {allow: []}\n"
    (folder / "recipe.yaml").write_text(text)
    assert load_recipe(folder).checksum == before


@pytest.mark.parametrize(
    ("old", "new"), [("sequence: 7", "sequence: 8"), ("64M", "65M"), ("--loud", "--quiet"), ("2.15", "2.16")]
)
def test_another_value_changes_the_checksum(folder: Path, old: str, new: str) -> None:
    before = load_recipe(folder).checksum
    (folder / "recipe.yaml").write_text(GOOD.replace(old, new))
    assert load_recipe(folder).checksum != before


def test_a_local_file_changes_the_checksum_by_content_and_by_executability_only(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD.replace("tree:", "tree:\n  files: [{from: data, to: /data}]"))
    (folder / "data").mkdir()
    path = folder / "data" / "a"
    path.write_text("x")
    path.chmod(0o600)
    before = load_recipe(folder).checksum
    path.chmod(0o664)
    assert load_recipe(folder).checksum == before
    path.chmod(0o755)
    assert load_recipe(folder).checksum != before
    path.chmod(0o644)
    path.write_text("y")
    assert load_recipe(folder).checksum != before


def test_a_directory_brings_all_that_is_in_it_sorted_by_target(folder: Path) -> None:
    for name in ("b/z", "b/a", "a.txt"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(name)
    (folder / "data" / "b" / "z").chmod(0o755)
    (folder / "recipe.yaml").write_text(GOOD.replace("tree:", "tree:\n  files: [{from: data/, to: /data}]"))
    recipe = load_recipe(folder)
    assert recipe.tree.files == (FileRequest("data", "/data", None),)
    assert [(file.target, f"{file.mode:04o}", file.source) for file in recipe.local_files] == [
        ("/app/hello", "0555", "hello.c"),
        ("/data/a.txt", "0444", "data/a.txt"),
        ("/data/b/a", "0444", "data/b/a"),
        ("/data/b/z", "0555", "data/b/z"),
    ]
    assert read_local_file(recipe, recipe.local_files[1]) == b"a.txt"


def test_a_local_file_that_changes_after_loading_is_refused(folder: Path) -> None:
    recipe = load_recipe(folder)
    (folder / "hello.c").write_text("int main(void) { return 1; }\n")
    with pytest.raises(BuildError, match="changed during the build"):
        read_local_file(recipe, recipe.local_files[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("[{from: hello.c, to: /app/hello}]", "/app/hello is made of hello.c already"),
        (
            "[{from: hello.c, to: /app/hello/x}]",
            "/app/hello cannot be a file, because /app/hello/x is below it",
        ),
        ("[{from: link, to: /link}]", "expected regular files with plain ASCII names"),
        ("[{from: odd, to: /odd}]", "expected regular files with plain ASCII names"),
    ],
)
def test_files_that_cannot_be_in_one_tree_are_refused(folder: Path, files: str, message: str) -> None:
    (folder / "link").symlink_to("hello.c")
    (folder / "odd").mkdir()
    (folder / "odd" / "a b").write_text("x")
    (folder / "recipe.yaml").write_text(GOOD.replace("tree:", f"tree:\n  files: {files}"))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(folder)
    assert caught.value.where.startswith(f"{folder}/recipe.yaml:")


def test_dhcp_is_an_address(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD.split("network:")[0] + "network: {address: dhcp, port: 8443}\n")
    recipe = load_recipe(folder)
    assert (recipe.network.address, recipe.network.port) == (None, 8443)


def test_the_channel_is_tls_unless_the_recipe_says_that_somebody_else_ends_it(folder: Path) -> None:
    tls = load_recipe(folder)
    assert tls.network.channel == "tls-spki-quote-v1"
    assert "channel:" not in render_recipe(tls)  # so that the lock of a recipe without one holds
    (folder / "recipe.yaml").write_text(GOOD + "  channel: hpke-quote-v1\n")
    sealed = load_recipe(folder)
    assert sealed.network.channel == "hpke-quote-v1"
    assert "channel: hpke-quote-v1" in render_recipe(sealed)
    assert sealed.checksum != tls.checksum
    assert sealed.network.address == tls.network.address


def test_stub_and_firmware_can_come_from_another_suite(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD + "boot: {stub: bookworm}\n")
    recipe = load_recipe(folder)
    assert (recipe.suite, recipe.stub_suite, recipe.firmware_suite) == ("trixie", "bookworm", "trixie")
    assert "stub: bookworm\n  firmware: trixie" in render_recipe(recipe)


def test_variables_are_put_into_text_and_numbers(folder: Path) -> None:
    text = GOOD.replace("sequence: 7", 'sequence: "{{ base + 1 }}"').replace(
        "--loud", '"{% if loud %}--{{ how | upper }}{% endif %}"'
    )
    (folder / "recipe.yaml").write_text(text + "vars: {base: 41, loud: true, how: 'yes'}\n")
    recipe = load_recipe(folder)
    assert (recipe.sequence, recipe.service.command[1]) == (42, "--YES")


def write_base(folder: Path, text: str) -> Path:
    child = folder / "child"
    child.mkdir()
    (child / "recipe.yaml").write_text(text)
    return child


def test_a_recipe_can_extend_another(folder: Path) -> None:
    child = write_base(
        folder, "extends: ../recipe.yaml\nname: child\nservice: {command: [/app/hello], seconds: 5}\n"
    )
    recipe = load_recipe(child)
    assert (recipe.name, recipe.sequence) == ("child", 7)
    assert (recipe.service.command, recipe.service.seconds) == (("/app/hello",), 5)
    assert recipe.service.memory_bytes == 64 << 20
    assert recipe.local_files[0].source == "../hello.c"
    assert [path.name for path in recipe.sources] == ["recipe.yaml", "recipe.yaml"]
    assert read_local_file(recipe, recipe.local_files[0]).startswith(b"int main")


def test_variables_of_the_extending_recipe_go_first(folder: Path) -> None:
    base = GOOD.replace("sequence: 7", 'sequence: "{{ number }}"') + "vars: {number: 1, other: 2}\n"
    (folder / "recipe.yaml").write_text(base)
    child = write_base(folder, "extends: ../recipe.yaml\nvars: {number: 3}\n")
    assert (load_recipe(folder).sequence, load_recipe(child).sequence) == (1, 3)


def test_a_mistake_in_an_extended_recipe_is_placed_in_its_file(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD.replace("64M", "64X"))
    child = write_base(folder, "extends: ../recipe.yaml\nname: child\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(child)
    assert caught.value.where == f"{child}/../recipe.yaml:9:11"


def test_recipes_that_extend_each_other_are_refused(folder: Path) -> None:
    child = write_base(folder, "extends: ../recipe.yaml\n")
    (folder / "recipe.yaml").write_text("extends: child/recipe.yaml\n")
    with pytest.raises(RecipeError, match="extends itself, directly or through others"):
        load_recipe(child)


def test_a_chain_of_recipes_has_a_limit(folder: Path) -> None:
    for number in range(12):
        (folder / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    (folder / "12.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match="a chain of at most 8"):
        load_recipe(folder / "0.yaml")
