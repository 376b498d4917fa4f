"""Compile the programs that run inside an image: init, the gate, and the recipe's own C programs.

The sources of init and gate are part of this package and are read as data. Everything is compiled in the
sandbox, at fixed paths, by the locked compilers, so the same bytes come out wherever package and store lie.
"""

from __future__ import annotations

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
VARIANTS = ("product", "probe")
COMPILE_TIMEOUT_S = 1800.0  # the Go standard library takes a minute on two cores
MAX_PROGRAM_BYTES = 256 << 20  # the gate, the largest, has 10 MB; bounds memory
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
PROBE_FLAGS = ("-DBLINDBUILD_PROBE", "-I", "/guest/probe")
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
    """The compiled programs; `workload` has the same keys as the sources it was made from."""

    init: bytes
    gate: bytes
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
            program = read_untrusted(result, "program", limit_bytes=MAX_PROGRAM_BYTES)
            for filled in (guest, result):
                remove_tree(filled)
            write_atomically(result / "program", program)  # and nothing else that a source made it leave

        settings = [f"{name}={value}" for name, value in sorted(env.items())]
        files = [f"{name} {Digest.sha256(data)}" for name, data in sorted(sources.items())]
        lines = [stage, f"toolchain {self.toolchain_key}", *settings, *argv, *files]
        key = Digest.sha256("\n".join(lines).encode())
        made = self.store.ensure_stage(stage, key, make)
        return read_untrusted(made / "result", "program", limit_bytes=MAX_PROGRAM_BYTES)


def build_guest(
    store: Store,
    *,
    toolchain: Path,
    toolchain_key: Digest,
    variant: str = "product",
    workload_sources: Mapping[str, bytes],
    on_line: OnLine | None = None,
) -> BuiltGuest:
    """Return the programs of an image, compiled unless the store has them.

    Args:
        store: keeps the results.
        toolchain: root directory from `prepare_toolchain`, with musl-tools and golang-1.24-go in it.
        toolchain_key: what stands for it in keys.
        variant: `product`, or `probe` for the image whose gate and launcher try to break out and report, and
            whose workload programs are all replaced by the hostile one.
        workload_sources: C sources of one file each, by the path of the program in the image.
        on_line: told what the compilers say.

    Raises:
        BuildError: an unknown variant, a source that is too large, or a compiler that left no regular file.
        ToolError: a compiler failed.
        StoreError: a cached result is damaged; it has been removed.

    Source: docs/spec/guest-abi.md, "Variants".
    """
    if variant not in VARIANTS:
        raise BuildError(f"guest: expected variant {' or '.join(VARIANTS)}, got {variant!r}")
    for target, source in workload_sources.items():
        if len(source) > MAX_SOURCE_BYTES:
            raise BuildError(
                f"{target}: expected a source of at most {MAX_SOURCE_BYTES} bytes, got {len(source)}"
            )
    compiler = _Compiler(store, toolchain, toolchain_key, variant, on_line)
    return BuiltGuest(
        init=_build_init(compiler),
        gate=_build_gate(compiler),
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


def _build_init(compiler: _Compiler) -> bytes:
    sources = _read_sources("init", (".c", ".h"))
    if compiler.variant != "probe":
        return _compile_c(compiler, INIT_STAGE, sources, C_FLAGS)
    # The launcher shares the attempts with the hostile workload, not its main function.
    attempts = {name: data for name, data in _read_probe().items() if name != "probe/prober.c"}
    return _compile_c(compiler, INIT_STAGE, sources | attempts, (*C_FLAGS, *PROBE_FLAGS))


def _build_program(compiler: _Compiler, target: str, source: bytes) -> bytes:
    probing = compiler.variant == "probe"
    sources = _read_probe() if probing else {f"workload/{target.rpartition('/')[2]}.c": source}
    return _compile_c(compiler, WORKLOAD_STAGE, sources, C_FLAGS)


def _read_probe() -> dict[str, bytes]:
    return _read_sources("probe", (".c", ".h"))


def _compile_c(
    compiler: _Compiler, stage: str, sources: Mapping[str, bytes], flags: tuple[str, ...]
) -> bytes:
    files = sorted(f"/guest/{name}" for name in sources if name.endswith(".c"))
    return compiler.compile(stage, sources, ["musl-gcc", *flags, "-o", PROGRAM, *files], {}, "/guest")


def _build_gate(compiler: _Compiler) -> bytes:
    tags = ("-tags", "probe") if compiler.variant == "probe" else ()
    argv = [GO, *GO_ARGUMENTS, *tags, "-o", PROGRAM, "."]
    sources = _read_sources("gate", (".go", "go.mod"))
    return compiler.compile(GATE_STAGE, sources, argv, GO_ENVIRONMENT, "/guest/gate")
