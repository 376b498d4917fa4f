"""How the guest's programs are compiled, with a compiler that only writes down what it was given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from blindbuild.assemble import guest
from blindbuild.assemble.guest import GUEST_DIRECTORY, BuiltGuest, build_guest
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, ToolError
from blindbuild.host.process import Completed
from blindbuild.host.sandbox import Bind
from blindbuild.host.store import Store

MAX_CODE_LINES = 800  # of init and launcher: read in one sitting
SOURCES = {"/app/hello": b"int main(void) { return 0; }\n"}


class RecordingCompiler:
    """Has the signature of `run_in_sandbox`; each file it makes is a list of what it saw."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.fails = False
        self.plant: Callable[[Path], None] | None = None

    def __call__(
        self,
        root: Path,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind],
        cwd: str,
        env: Mapping[str, str],
        timeout_s: float | None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        places = {bind.target: bind for bind in binds}
        assert not places["/guest"].writable
        assert [target for target, bind in places.items() if bind.writable] == ["/result"]
        self.calls.append(tuple(argv))
        if self.fails:
            raise ToolError("fake compiler: failed")
        if self.plant is not None:
            self.plant(places["/result"].source)
            return Completed(b"", b"", 0)
        source = places["/guest"].source
        files = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
        seen = [*files, *argv, cwd, *(f"{name}={value}" for name, value in sorted(env.items()))]
        names = guest.FILTERS if "mkfilters" in argv[-1] else ("program",)
        for name in names:
            (places["/result"].source / name).write_text("\n".join([name, *seen]))
        return Completed(b"", b"", 0)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> RecordingCompiler:
    recording = RecordingCompiler()
    monkeypatch.setattr(guest, "run_in_sandbox", recording)
    return recording


def build(store: Store, key: bytes = b"toolchain", **changes: object) -> BuiltGuest:
    options: dict[str, object] = {"workload_sources": SOURCES} | changes
    return build_guest(store, toolchain=Path("/"), toolchain_key=Digest.sha256(key), **options)  # type: ignore[arg-type]


FILTER_FILES = {"filters/filters.h", "filters/mkfilters.c", "filters/rules.c", "init/command.h"}


def files_of(program: bytes) -> set[str]:
    return {line for line in program.decode().splitlines() if re.fullmatch(r"[a-z]+/[\w.]+", line)}


def test_the_product_is_compiled_without_a_line_of_the_probe(
    tmp_path: Path, compiler: RecordingCompiler
) -> None:
    built = build(Store(tmp_path))
    assert {name.partition("/")[0] for name in files_of(built.init)} == {"init"}
    assert {name.partition("/")[0] for name in files_of(built.gate)} == {"gate"}
    assert files_of(built.workload["/app/hello"]) == {"workload/hello.c"}
    assert all(files_of(data) == FILTER_FILES for data in built.filters.values())
    words = ("probe", "leaky", "--wrap")
    arguments = [argument.lower() for call in compiler.calls for argument in call]
    assert not [argument for argument in arguments if any(word in argument for word in words)]


def test_the_probe_variant_adds_the_attempts_and_replaces_every_program(
    tmp_path: Path, compiler: RecordingCompiler
) -> None:
    built = build(Store(tmp_path), variant="probe")
    assert {"probe/attempts.c", "init/launcher.c"} <= files_of(built.init)
    assert "probe/prober.c" not in files_of(built.init)
    assert b"-DBLINDBUILD_PROBE" in built.init
    assert b"-tags\nprobe\n" in built.gate
    assert files_of(built.filters["gate"]) == FILTER_FILES
    assert b"-DBLINDBUILD_PROBE" in built.filters["gate"]
    assert files_of(built.workload["/app/hello"]) == {
        "probe/attempts.c",
        "probe/attempts.h",
        "probe/prober.c",
    }


def test_the_leaky_variant_adds_leaks_that_the_linker_puts_in_place(
    tmp_path: Path, compiler: RecordingCompiler
) -> None:
    built = build(Store(tmp_path), variant="leaky")
    assert {"leaky/leaks.c", "leaky/leaky.h", "probe/attempts.c", "init/main.c"} <= files_of(built.init)
    assert "probe/prober.c" not in files_of(built.init)
    assert b"--wrap=main" in built.init
    assert b"-tags\nprobe,leaky\n" in built.gate
    assert "probe/prober.c" in files_of(built.workload["/app/hello"])
    assert b"-DBLINDBUILD_LEAKY" in built.workload["/app/hello"]


@pytest.mark.parametrize("variant", ["product", "probe"])
def test_only_an_image_with_modules_has_an_init_that_can_load_them(
    tmp_path: Path, compiler: RecordingCompiler, variant: str
) -> None:
    without = build(Store(tmp_path), variant=variant)
    built = build(Store(tmp_path), variant=variant, loads_modules=True)
    assert files_of(built.init) - files_of(without.init) == {"modules/modules.c"}
    assert b"--wrap=set_up_network" in built.init
    assert b"--wrap" not in without.init
    assert (built.gate, built.filters, built.workload) == (without.gate, without.filters, without.workload)


def test_the_leaky_image_has_a_kernel_of_its_own_and_no_modules(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="got 'leaky' with modules"):
        build(Store(tmp_path), variant="leaky", loads_modules=True)


def test_the_tests_of_the_gate_are_not_compiled_into_it(tmp_path: Path, compiler: RecordingCompiler) -> None:
    assert not any(name.endswith("_test.go") for name in files_of(build(Store(tmp_path)).gate))
    assert "gate/go.mod" in files_of(build(Store(tmp_path)).gate)


def test_nothing_is_compiled_twice(tmp_path: Path, compiler: RecordingCompiler) -> None:
    first = build(Store(tmp_path))
    calls = len(compiler.calls)
    assert build(Store(tmp_path)) == first
    assert len(compiler.calls) == calls == 4


def test_another_toolchain_compiles_everything_again(tmp_path: Path, compiler: RecordingCompiler) -> None:
    build(Store(tmp_path))
    build(Store(tmp_path), key=b"other")
    assert len(compiler.calls) == 8


def test_another_source_compiles_its_program_only(tmp_path: Path, compiler: RecordingCompiler) -> None:
    build(Store(tmp_path))
    build(Store(tmp_path), workload_sources={"/app/hello": b"int main(void) { return 1; }\n"})
    assert len(compiler.calls) == 5


def test_programs_of_one_name_in_two_places_are_both_there(
    tmp_path: Path, compiler: RecordingCompiler
) -> None:
    built = build(Store(tmp_path), workload_sources={"/a/x": b"1", "/b/x": b"2"})
    assert set(built.workload) == {"/a/x", "/b/x"}


def test_a_failed_compilation_leaves_nothing_behind(tmp_path: Path, compiler: RecordingCompiler) -> None:
    compiler.fails = True
    with pytest.raises(ToolError, match="fake compiler"):
        build(Store(tmp_path))
    compiler.fails = False
    assert build(Store(tmp_path)).init


def plant_link(result: Path, secret: Path) -> None:
    (result / "program").symlink_to(secret)


def plant_directory(result: Path, secret: Path) -> None:
    (result / "program").mkdir()


def plant_pipe(result: Path, secret: Path) -> None:
    os.mkfifo(result / "program")


@pytest.mark.parametrize("plant", [plant_link, plant_directory, plant_pipe])
def test_what_a_compiler_leaves_in_place_of_a_program_is_refused_and_not_kept(
    tmp_path: Path, compiler: RecordingCompiler, plant: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "secret").write_text("of the machine that builds")
    compiler.plant = lambda result: plant(result, tmp_path / "secret")
    with pytest.raises(BuildError, match="program: expected a regular file"):
        build(Store(tmp_path / "store"))
    compiler.plant = None
    assert build(Store(tmp_path / "store")).init


def test_a_program_of_any_size_is_not_read(
    tmp_path: Path, compiler: RecordingCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "MAX_PROGRAM_BYTES", 10)
    with pytest.raises(BuildError, match="program: expected at most 10 bytes, got more"):
        build(Store(tmp_path))


def test_nothing_but_the_program_is_kept(tmp_path: Path, compiler: RecordingCompiler) -> None:
    def plant(result: Path) -> None:
        for name in (*guest.FILTERS, "program"):
            (result / name).write_text(name)
        (result / "more").symlink_to("/etc/passwd")

    compiler.plant = plant
    build(Store(tmp_path))
    assert not list((tmp_path / "stages").rglob("more"))


def test_no_path_of_this_machine_decides_about_the_bytes(tmp_path: Path, compiler: RecordingCompiler) -> None:
    one, other = build(Store(tmp_path / "one")), build(Store(tmp_path / "a longer path" / "other"))
    assert one == other
    assert str(tmp_path).encode() not in one.init + one.gate


def test_each_filter_is_the_file_of_its_name(tmp_path: Path, compiler: RecordingCompiler) -> None:
    filters = build(Store(tmp_path)).filters
    assert set(filters) == {"socket-rule", "child", "init", "dhcp", "launcher", "workload", "gate"}
    assert {data.partition(b"\n")[0].decode() for data in filters.values()} == set(filters)


def test_a_filter_that_init_has_no_room_for_is_refused(tmp_path: Path, compiler: RecordingCompiler) -> None:
    def plant(result: Path) -> None:
        for name in (*guest.FILTERS, "program"):
            (result / name).write_bytes(bytes(8 * 1023 + 1))

    compiler.plant = plant
    with pytest.raises(BuildError, match="child: expected at most 8184 bytes, got more"):
        build(Store(tmp_path))


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="expected variant product or probe or leaky, got 'debug'"):
        build(Store(tmp_path), variant="debug")


def test_a_source_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="/app/hello: expected a source of at most 1048576 bytes"):
        build(Store(tmp_path), workload_sources={"/app/hello": b" " * (1 << 20) + b" "})


def test_init_stays_small_enough_to_be_read() -> None:
    """Count what is neither blank, comment, #include nor part of the probe."""
    lines = 0
    for path in sorted((GUEST_DIRECTORY / "init").iterdir()):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        text = re.sub(r"#ifdef BLINDBUILD_PROBE.*?#endif", "", text, flags=re.DOTALL)
        lines += sum(bool(line.strip()) and not line.startswith("#include") for line in text.splitlines())
    assert lines <= MAX_CODE_LINES
