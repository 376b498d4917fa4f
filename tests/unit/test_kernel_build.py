"""How a kernel build goes, with a fake in the place of the sandbox: what is cached, checked, cleaned up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blindbuild.assemble import kernel
from blindbuild.assemble.kernel import KERNEL_STAGE, KernelInputs, build_kernel, relink_kernel
from blindbuild.assemble.kernel_config import load_fragments, merge_fragments, with_command_line
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, PolicyError, ToolError
from blindbuild.host.store import Store
from tests.fakes.debian_package import lock_deb, write_deb
from tests.fakes.kernel_sandbox import FakeKernelSandbox

COMMAND_LINE = "quiet panic=-1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def options(store: Store, tmp_path: Path) -> dict[str, Any]:
    data = write_deb("linux-source-6.12", "6.12-1", {"usr/src/linux-source-6.12.tar.xz": b"archive"})
    store.add(data)
    return {
        "source": lock_deb("linux-source-6.12", "6.12-1", data),
        "toolchain": tmp_path,
        "toolchain_key": Digest.sha256(b"toolchain"),
        "fragments": load_fragments(debug=False),
        "command_line": COMMAND_LINE,
        "jobs": 2,
        "debug": False,
    }


Use = Callable[..., FakeKernelSandbox]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Put a fake sandbox with these options in place and return it."""

    def put(**fake_options: Any) -> FakeKernelSandbox:
        fake = FakeKernelSandbox(**fake_options)
        monkeypatch.setattr(kernel, "run_in_sandbox", fake)
        return fake

    return put


def test_a_kernel_is_compiled_once_and_then_found(store, options, use):
    fake = use()
    first = build_kernel(store, **options)
    assert [call[-1] for call in fake.calls] == ["--directory=/source", "allnoconfig", "bzImage"]
    assert first.release == "6.12.0-blindbuild"
    assert first.bzimage.read_bytes().startswith(b"kernel of ")
    assert first.system_map.read_text() == "0 T start\n"
    assert f'CONFIG_CMDLINE="{COMMAND_LINE}"\n' in first.config.read_text()
    assert build_kernel(store, **options | {"jobs": 7}) == first
    assert len(fake.calls) == 3


def test_the_result_holds_no_source_and_no_objects(store, options, use):
    use()
    built = build_kernel(store, **options)
    names = sorted(path.name for path in built.bzimage.parent.iterdir())
    assert names == ["System.map", "bzImage", "config", "release", "symbols"]


def test_the_compiler_gets_a_fixed_time_user_and_host(store, options, use):
    fake = use()
    build_kernel(store, **options)
    assert fake.environments[-1] == {
        "KBUILD_BUILD_HOST": "blindbuild",
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KBUILD_BUILD_USER": "blindbuild",
        "KBUILD_BUILD_VERSION": "1",
        "KCONFIG_ALLCONFIG": "/objects/asked.config",
        "ZSTD_NBTHREADS": "1",
    }


def test_progress_is_told_now_and_then(store, options, use):
    use()
    lines: list[str] = []
    build_kernel(store, **options, on_line=lines.append)
    assert lines == [
        "kernel: unpacking the source",
        "kernel: resolving the configuration",
        "kernel: 50 steps done",
        "kernel: 100 steps done",
    ]


def test_a_configuration_that_breaks_the_policy_is_not_even_compiled(store, options, use):
    fake = use(changes={"TTY": "y", "SECURITYFS": "n"})
    with pytest.raises(PolicyError, match="dropped or changed lines of the fragments") as caught:
        build_kernel(store, **options)
    assert "CONFIG_TTY: expected n, got y" in caught.value.message
    assert "CONFIG_SECURITYFS: expected y, got n" in caught.value.message
    assert fake.calls[-1][-1] == "allnoconfig"


def test_a_symbol_that_came_by_selection_is_found(store, options, use):
    use(changes={"HVC_DRIVER": "y"})
    with pytest.raises(PolicyError, match="CONFIG_HVC_DRIVER: expected it to be off, got y"):
        build_kernel(store, **options)


def test_another_command_line_than_the_one_asked_for_is_found(store, options, use):
    use(changes={"CMDLINE": '"quiet"'})
    with pytest.raises(PolicyError, match='CONFIG_CMDLINE: expected "quiet panic=-1", got "quiet"'):
        build_kernel(store, **options)


def test_a_cached_kernel_is_judged_by_the_policy_of_today(store, options, use, monkeypatch):
    use()
    build_kernel(store, **options)
    stricter = kernel.load_policy(debug=False)
    rule = next(rule for rule in stricter.rules if rule.symbol == "TTY")
    harder = replace(stricter, rules=(*stricter.rules, replace(rule, symbol="EPOLL")))
    monkeypatch.setattr(kernel, "load_policy", lambda *, debug: harder)
    with pytest.raises(PolicyError, match="CONFIG_EPOLL: expected it to be off, got y"):
        build_kernel(store, **options)


def test_a_failed_build_leaves_nothing_and_the_next_one_starts_anew(store, options, use):
    use(compiler_fails=True)
    with pytest.raises(ToolError, match="fake make: failed"):
        build_kernel(store, **options)
    assert not list(store.root.glob(f"stages/{KERNEL_STAGE}*/*"))
    assert not list((store.root / "aside").iterdir())
    use()
    assert build_kernel(store, **options).bzimage.is_file()


def test_a_package_without_kernel_source_is_refused(store, options, use):
    use()
    data = write_deb("other", "1.0-1", {"usr/share/x": b"x"})
    store.add(data)
    with pytest.raises(BuildError, match=r"other: expected a file usr/src/linux-source-VERSION\.tar\.xz"):
        build_kernel(store, **options | {"source": lock_deb("other", "1.0-1", data)})


def test_a_debug_kernel_is_judged_by_the_debug_policy(store, options, use):
    use()
    debug = options | {"fragments": load_fragments(debug=True), "debug": True}
    assert "CONFIG_TTY=y" in build_kernel(store, **debug).config.read_text()
    with pytest.raises(PolicyError, match="CONFIG_TTY: expected it to be off"):
        build_kernel(store, **debug | {"debug": False})


def test_the_key_names_every_input_by_content_and_no_path(options, tmp_path):
    inputs = KernelInputs(
        source=options["source"],
        toolchain=options["toolchain"],
        toolchain_key=options["toolchain_key"],
        asked=with_command_line(merge_fragments(options["fragments"]), COMMAND_LINE),
        debug=False,
    )
    others = [
        replace(inputs, source=replace(inputs.source, digest=Digest.sha256(b"other"))),
        replace(inputs, toolchain_key=Digest.sha256(b"other")),
        replace(inputs, asked=with_command_line(inputs.asked, "loud")),
    ]
    assert len({inputs.key, *(other.key for other in others)}) == 4
    assert replace(inputs, toolchain=tmp_path / "elsewhere", debug=True).key == inputs.key


def test_another_kernel_is_relinked_from_kept_objects_and_kept_apart(store, options, use):
    fake = use()
    product = build_kernel(store, **options, keep_objects=True)
    other = relink_kernel(store, **options, other_command_line="quiet panic=-2")
    assert fake.calls[-1][-1] == "bzImage"
    assert other.bzimage.read_bytes() != product.bzimage.read_bytes()
    assert 'CONFIG_CMDLINE="quiet panic=-2"\n' in other.config.read_text()
    assert build_kernel(store, **options) == product
    assert store.find_stage(KERNEL_STAGE, other.key) is None


def test_keeping_objects_does_not_change_the_kernel(store, options, use, tmp_path):
    use()
    kept = build_kernel(store, **options, keep_objects=True)
    other_store = Store(tmp_path / "other")
    other_store.add(store.read(options["source"].digest))
    plain = build_kernel(other_store, **options)
    assert plain.bzimage.read_bytes() == kept.bzimage.read_bytes()
    assert plain.key == kept.key


def test_without_kept_objects_everything_is_compiled_anew(store, options, use):
    use()
    build_kernel(store, **options)
    assert relink_kernel(store, **options, other_command_line="quiet panic=-2").bzimage.is_file()


@pytest.mark.parametrize(
    "place", [".config", "arch/x86/boot/bzImage", "System.map", "include/config/kernel.release", "arch/x86"]
)
def test_a_link_in_place_of_a_result_is_refused(store, options, use, tmp_path, place):
    def plant(objects: Path) -> None:
        planted, secret = objects / place, tmp_path / "secret"
        if planted.exists():
            planted.rename(secret)
            planted.symlink_to(secret)

    use(plant=plant)
    with pytest.raises(BuildError, match=r"expected a regular file, below no link"):
        build_kernel(store, **options)
    assert not (store.root / "stages" / KERNEL_STAGE).exists()


def test_a_link_in_kept_objects_is_not_written_through(store, options, use, tmp_path):
    def plant(objects: Path) -> None:
        (objects / "asked.config").unlink()
        (objects / "asked.config").symlink_to(tmp_path / "mine")

    (tmp_path / "mine").write_text("mine")
    use(plant=plant)
    build_kernel(store, **options, keep_objects=True)
    use()
    relink_kernel(store, **options, other_command_line="other")
    assert (tmp_path / "mine").read_text() == "mine"
