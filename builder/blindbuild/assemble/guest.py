"""Make what runs inside an image: init, the gate, their system call filters, and the recipe's own programs.

The sources of init and gate are part of this package and are read as data. Everything is compiled in the
sandbox, at fixed paths, by the locked compilers, so the same bytes come out wherever package and store lie.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.digest import Digest
from blindbuild.errors import BuildError
from blindbuild.host.files import read_untrusted, remove_tree, write_atomically
from blindbuild.host.sandbox import Bind, run_in_sandbox
from blindbuild.host.store import Store

GUEST_DIRECTORY = Path(__file__).resolve().parents[1] / "guest"
INIT_STAGE, GATE_STAGE, WORKLOAD_STAGE = "guest-init", "guest-gate", "guest-workload"
FILTER_STAGE = "guest-filters"
# Of each process, as guest/filters/mkfilters.c names them; docs/spec/guest-abi.md, "Filters".
FILTERS = ("child", "dhcp", "gate", "init", "launcher", "socket-rule", "workload")
VARIANTS = ("product", "probe", "leaky")
COMPILE_TIMEOUT_S = 1800.0  # the Go standard library takes a minute on two cores
MAX_PROGRAM_BYTES = 256 << 20  # the gate, the largest, has 10 MB; bounds memory
MAX_FILTER_BYTES = 8 * 1023  # init has room for so many instructions; the largest has 541
MAX_SOURCE_BYTES = 1 << 20  # of one of the recipe's programs; what is larger wants a build system

# musl has no fortified headers, so _FORTIFY_SOURCE would do nothing here.
C_FLAGS = (
    *("-std=gnu17", "-Os", "-Wall", "-Wextra", "-Werror"),
    *("-static-pie", "-fPIE", "-fstack-protector-strong", "-ftrivial-auto-var-init=zero", "-fno-ident"),
    *("-Wl,-z,relro,-z,now,-z,noexecstack,--build-id=none", "-s"),
    # After musl's own: the kernel's headers, which no libc brings.
    *("-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"),
)
PROGRAM = "/result/program"
MKFILTERS = "/tmp/mkfilters"  # noqa: S108  # the sandbox's own, as in GO_ENVIRONMENT
PROBE = "-DBLINDBUILD_PROBE"
PROBE_FLAGS = (PROBE, "-I", "/guest/probe")
# The leaky image reports attempts too, which work there. guest/leaky puts functions of its own in place of
# init's; the sources of init know nothing of it.
LEAKY = "-DBLINDBUILD_LEAKY"
LEAKY_FLAGS = (LEAKY, "-Wl,--wrap=main,--wrap=install_filter,--wrap=confine_files,--wrap=set_up_network")
# An image with a kernel of modules: guest/modules loads them before init sets up the network.
MODULE_FLAGS = ("-Wl,--wrap=set_up_network",)
GATE_TAGS = {"product": (), "probe": ("-tags", "probe"), "leaky": ("-tags", "probe,leaky")}
GO = "/usr/lib/go-1.24/bin/go"
GO_ARGUMENTS = ("build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w -buildid=")
GO_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOAMD64": "v1",
    "GOARCH": "amd64",
    "GOCACHE": "/tmp/cache",  # noqa: S108  # the sandbox's own, as the next one
    "GOENV": "off",
    "GOOS": "linux",
    "GOPATH": "/tmp/path",  # noqa: S108
    "GOPROXY": "off",
    "GOTELEMETRY": "off",
    "GOTOOLCHAIN": "local",
}

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuiltGuest:
    """The compiled programs and filters.

    Attributes:
        filters: the system call filters by the names in FILTERS.
        workload: has the same keys as the sources it was made from.
    """

    init: bytes
    gate: bytes
    filters: Mapping[str, bytes]
    workload: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Where the compilers are, what stands for them in keys, and who is told about progress."""

    store: Store
    toolchain: Path
    toolchain_key: Digest
    variant: str
    on_line: OnLine | None

    def compile(
        self,
        stage: str,
        sources: Mapping[str, bytes],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
    ) -> bytes:
        """Return the program that `argv` leaves at PROGRAM, with nothing but `sources` below /guest."""
        kept = {"program": MAX_PROGRAM_BYTES}
        return self.run(stage, sources, argv, env, cwd, kept)["program"]

    def run(
        self,
        stage: str,
        sources: Mapping[str, bytes],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        kept: Mapping[str, int],
    ) -> dict[str, bytes]:
        """Return the files `kept` that `argv` leaves below /result, of up to as many bytes as it says."""

        def make(directory: Path) -> None:
            guest, result = directory / "guest", directory / "result"
            result.mkdir()
            for name, data in sources.items():
                (guest / name).parent.mkdir(parents=True, exist_ok=True)
                (guest / name).write_bytes(data)
            binds = [Bind(guest, "/guest"), Bind(result, "/result", writable=True)]
            run_in_sandbox(
                self.toolchain,
                argv,
                binds=binds,
                cwd=cwd,
                env=env,
                timeout_s=COMPILE_TIMEOUT_S,
                on_line=self.on_line,
            )
            made = {name: read_untrusted(result, name, limit_bytes=limit) for name, limit in kept.items()}
            for filled in (guest, result):
                remove_tree(filled)
            for name, data in made.items():  # and nothing else that a source made it leave
                write_atomically(result / name, data)

        settings = [f"{name}={value}" for name, value in sorted(env.items())]
        files = [f"{name} {Digest.sha256(data)}" for name, data in sorted(sources.items())]
        lines = [stage, f"toolchain {self.toolchain_key}", *settings, *argv, *files]
        key = Digest.sha256("\n".join(lines).encode())
        result = self.store.ensure_stage(stage, key, make) / "result"
        return {name: read_untrusted(result, name, limit_bytes=limit) for name, limit in kept.items()}


def build_guest(
    store: Store,
    *,
    toolchain: Path,
    toolchain_key: Digest,
    variant: str = "product",
    loads_modules: bool = False,
    workload_sources: Mapping[str, bytes],
    on_line: OnLine | None = None,
) -> BuiltGuest:
    """Return the programs of an image, compiled unless the store has them.

    Args:
        store: keeps the results.
        toolchain: root directory from `prepare_toolchain`, with musl-tools and golang-1.24-go in it.
        toolchain_key: what stands for it in keys.
        variant: `product`, or `probe` for the image whose gate and launcher try to break out and report, and
            whose workload programs are all replaced by the hostile one, or `leaky` for the same without any
            confinement, which tells all it hears besides.
        loads_modules: init loads what is in `/modules`; not in the leaky image, whose kernel has none.
        workload_sources: C sources of one file each, by the path of the program in the image.
        on_line: told what the compilers say.

    Raises:
        BuildError: an unknown variant, a source that is too large, or a compiler that left no regular file.
        ToolError: a compiler failed.
        StoreError: a cached result is damaged; it has been removed.

    Source: docs/spec/guest-abi.md, "Variants".
    """
    if variant not in VARIANTS or (loads_modules and variant == "leaky"):
        more = " with modules" if loads_modules else ""
        raise BuildError(f"guest: expected variant {' or '.join(VARIANTS)}, got {variant!r}{more}")
    for target, source in workload_sources.items():
        if len(source) > MAX_SOURCE_BYTES:
            raise BuildError(
                f"{target}: expected a source of at most {MAX_SOURCE_BYTES} bytes, got {len(source)}"
            )
    compiler = _Compiler(store, toolchain, toolchain_key, variant, on_line)
    return BuiltGuest(
        init=_build_init(compiler, loads_modules=loads_modules),
        gate=_build_gate(compiler),
        filters=_build_filters(compiler),
        workload={
            target: _build_program(compiler, target, source)
            for target, source in sorted(workload_sources.items())
        },
    )


def _read_sources(directory: str, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Return the package's own sources, by path below GUEST_DIRECTORY; Go's tests are not among them."""
    return {
        f"{directory}/{path.name}": path.read_bytes()
        for path in sorted((GUEST_DIRECTORY / directory).iterdir())
        if path.name.endswith(suffixes) and not path.name.endswith("_test.go")
    }


def _build_init(compiler: _Compiler, *, loads_modules: bool) -> bytes:
    sources = _read_sources("init", (".c", ".h"))
    flags: tuple[str, ...] = C_FLAGS
    if loads_modules:
        sources |= _read_sources("modules", (".c",))
        flags = (*flags, *MODULE_FLAGS)
    if compiler.variant == "product":
        return _compile_c(compiler, INIT_STAGE, sources, flags)
    # The launcher shares the attempts with the hostile workload, not its main function.
    sources |= {name: data for name, data in _read_probe().items() if name != "probe/prober.c"}
    flags = (*flags, *PROBE_FLAGS)
    if compiler.variant == "leaky":
        sources |= _read_sources("leaky", (".c", ".h"))
        flags = (*flags, *LEAKY_FLAGS)
    return _compile_c(compiler, INIT_STAGE, sources, flags)


def _build_filters(compiler: _Compiler) -> dict[str, bytes]:
    """Run the program that translates the tables, so that the image has programs and not what makes them."""
    sources = _read_sources("filters", (".c", ".h")) | _read_sources("init", ("command.h",))
    flags = C_FLAGS if compiler.variant == "product" else (*C_FLAGS, PROBE)
    files = sorted(f"/guest/{name}" for name in sources if name.endswith(".c"))
    steps = f"musl-gcc {shlex.join((*flags, '-o', MKFILTERS, *files))} && {MKFILTERS}"
    kept = dict.fromkeys(FILTERS, MAX_FILTER_BYTES)
    return compiler.run(FILTER_STAGE, sources, ["sh", "-c", steps], {}, "/result", kept)


def _build_program(compiler: _Compiler, target: str, source: bytes) -> bytes:
    if compiler.variant == "product":
        sources = {f"workload/{target.rpartition('/')[2]}.c": source}
        return _compile_c(compiler, WORKLOAD_STAGE, sources, C_FLAGS)
    flags = (*C_FLAGS, LEAKY) if compiler.variant == "leaky" else C_FLAGS
    return _compile_c(compiler, WORKLOAD_STAGE, _read_probe(), flags)


def _read_probe() -> dict[str, bytes]:
    return _read_sources("probe", (".c", ".h"))


def _compile_c(
    compiler: _Compiler, stage: str, sources: Mapping[str, bytes], flags: tuple[str, ...]
) -> bytes:
    files = sorted(f"/guest/{name}" for name in sources if name.endswith(".c"))
    return compiler.compile(stage, sources, ["musl-gcc", *flags, "-o", PROGRAM, *files], {}, "/guest")


def _build_gate(compiler: _Compiler) -> bytes:
    argv = [GO, *GO_ARGUMENTS, *GATE_TAGS[compiler.variant], "-o", PROGRAM, "."]
    sources = _read_sources("gate", (".go", "go.mod"))
    return compiler.compile(GATE_STAGE, sources, argv, GO_ENVIRONMENT, "/guest/gate")
