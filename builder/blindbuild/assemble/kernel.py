"""Compile the kernel: locked source and locked compiler in, the same bytes out on every machine.

The source package is unpacked as data, and everything else happens in the sandbox, at fixed paths, as a fixed
user at a fixed time. The configuration starts from `allnoconfig`, so that a symbol is on only if a fragment,
a selection or a default without a question turns it on; its policy is checked before anything is compiled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.assemble.kernel_config import (
    Fragment,
    merge_fragments,
    parse_config,
    render_config,
    with_command_line,
)
from blindbuild.assemble.kernel_policy import (
    check_answer,
    check_leaks,
    check_policy,
    check_symbols_known,
    load_policy,
    load_spared,
)
from blindbuild.assemble.lock import LockedPackage
from blindbuild.digest import Digest
from blindbuild.errors import BuildError
from blindbuild.formats.deb import read_deb
from blindbuild.formats.tar import EntryKind
from blindbuild.host.files import read_untrusted, remove_tree, write_atomically
from blindbuild.host.sandbox import Bind, run_in_sandbox
from blindbuild.host.store import Store

KERNEL_STAGE = "kernel"
RELINKED_STAGE = "kernel-relinked"
OBJECTS_STAGE = "kernel-objects"
CONFIGURE_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 3 * 3600.0  # 7 minutes on two cores; a slow machine must not fail for that
MAX_RESULT_BYTES = 256 << 20  # a kernel has 15 MB; bounds memory
PROGRESS_STEPS = 50  # compile steps between two lines of progress

_RECIPE_VERSION = 1  # raise it when the same inputs give other bytes
_SOURCE, _OBJECTS, _ARCHIVE = "/source", "/objects", "/archive"  # the only paths that the compiler sees
_ASKED = "asked.config"
_SOURCE_ARCHIVE = re.compile(rb"usr/src/linux-source-[0-9.]+\.tar\.xz")
_STEP = re.compile(r"  [A-Z0-9]+ +\S.*")
_KCONFIG_SYMBOL = re.compile(r"^\s*(?:menu)?config\s+(\w+)\s*$", re.MULTILINE)
_ENVIRONMENT = {
    "KBUILD_BUILD_HOST": "blindbuild",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "blindbuild",
    "KBUILD_BUILD_VERSION": "1",
    # From 1.5.7 on, zstd counts processors; one thread and several give different bytes.
    "ZSTD_NBTHREADS": "1",
}

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """The files of a compiled kernel, its release as `uname -r` says it, and its key in the store."""

    bzimage: Path
    config: Path
    system_map: Path
    release: str
    key: Digest


@dataclass(frozen=True, slots=True)
class KernelInputs:
    """All that decides about the bytes of a kernel; `toolchain` is where `toolchain_key` was unpacked."""

    source: LockedPackage
    toolchain: Path
    toolchain_key: Digest
    asked: Mapping[str, str]
    debug: bool
    leaky: bool = False

    @property
    def key(self) -> Digest:
        """The digest of all inputs by content; paths, processors, users and times are not among them."""
        lines = (
            f"kernel {_RECIPE_VERSION}",
            f"source {self.source.digest}",
            f"toolchain {self.toolchain_key}",
            *(f"{name}={value}" for name, value in sorted(_ENVIRONMENT.items())),
            render_config(self.asked),
        )
        return Digest.sha256("\n".join(lines).encode("ascii"))


def build_kernel(
    store: Store,
    *,
    source: LockedPackage,
    toolchain: Path,
    toolchain_key: Digest,
    fragments: Sequence[Fragment],
    command_line: str,
    jobs: int,
    debug: bool,
    leaky: bool = False,
    on_line: OnLine | None = None,
    keep_objects: bool = False,
) -> BuiltKernel:
    """Return the kernel of these inputs, compiled unless the store has it; its policy is checked either way.

    Args:
        store: has the source package; keeps the result.
        source: a Debian `linux-source-*` package.
        toolchain: root directory from `prepare_toolchain`.
        toolchain_key: what stands for it in keys.
        fragments: from `load_fragments`.
        command_line: built into the kernel; no other one will count.
        jobs: compilers at once; does not change the result.
        debug: judge by the debug policy.
        leaky: the control kernel, which must break the policy.
        on_line: told about progress.
        keep_objects: also keep what `relink_kernel` needs, 135 MB; does not change the result.

    Raises:
        StoreError: an input is missing or damaged.
        BuildError: malformed fragments or command line, or a package that is no kernel source.
        PolicyError: the resolved configuration is not the promised one.
        ToolError: the compiler failed.
    """
    asked = with_command_line(merge_fragments(fragments), command_line)
    inputs = KernelInputs(source, toolchain, toolchain_key, asked, debug, leaky)
    tell = on_line or _ignore
    result = store.ensure_stage(
        KERNEL_STAGE,
        inputs.key,
        lambda directory: _compile(store, directory, inputs, jobs, tell, keep_objects=keep_objects),
    )
    return _open_result(result, inputs)


def relink_kernel(
    store: Store,
    *,
    source: LockedPackage,
    toolchain: Path,
    toolchain_key: Digest,
    fragments: Sequence[Fragment],
    command_line: str,
    other_command_line: str,
    jobs: int,
    debug: bool,
    on_line: OnLine | None = None,
) -> BuiltKernel:
    """Return another kernel: the one that `build_kernel` makes of these inputs, with another command line.

    If that one was made with `keep_objects`, only what holds the command line is compiled anew. For tests
    that need a kernel which a verifier must tell from the product's; the result is kept apart, and no product
    is ever made of it.

    Raises:
        StoreError, BuildError, PolicyError, ToolError: as for `build_kernel`.
    """
    merged = merge_fragments(fragments)
    first = KernelInputs(source, toolchain, toolchain_key, with_command_line(merged, command_line), debug)
    inputs = replace(first, asked=with_command_line(merged, other_command_line))
    tell = on_line or _ignore
    objects = store.find_stage(OBJECTS_STAGE, first.key, verify=False)
    result = store.ensure_stage(
        RELINKED_STAGE,
        inputs.key,
        lambda directory: _compile(store, directory, inputs, jobs, tell, objects=objects),
    )
    return _open_result(result, inputs)


def _open_result(result: Path, inputs: KernelInputs) -> BuiltKernel:
    """Check a result, fresh or cached, against the policy as it is now."""
    config = parse_config((result / "config").read_text("ascii"), where="resolved kernel configuration")
    known = frozenset((result / "symbols").read_text("ascii").split())
    _check(config, known, inputs)
    release = (result / "release").read_text("ascii").rstrip("\n")
    return BuiltKernel(result / "bzImage", result / "config", result / "System.map", release, inputs.key)


def _check(config: Mapping[str, str], known: frozenset[str], inputs: KernelInputs) -> None:
    policy = load_policy(debug=inputs.debug)
    check_symbols_known(policy, known)
    check_answer(inputs.asked, config)
    if inputs.leaky:
        check_leaks(policy, config, spared=load_spared().keys())
    else:
        check_policy(policy, config)


def _compile(
    store: Store,
    directory: Path,
    inputs: KernelInputs,
    jobs: int,
    tell: OnLine,
    *,
    keep_objects: bool = False,
    objects: Path | None = None,
) -> None:
    """Fill the stage's directory; its scratch part is gone at the end, and with the directory on failure."""
    scratch = directory / "scratch"
    scratch.mkdir()
    bench = _Bench(scratch / "source", scratch / "objects", inputs)
    bench.source.mkdir()
    if objects is None:
        bench.objects.mkdir()
    else:
        shutil.copytree(objects, bench.objects, symlinks=True)  # copies times too: make compares them
    tell("kernel: unpacking the source")
    _unpack_source(store, bench, scratch / "source.tar.xz")
    tell("kernel: resolving the configuration")
    known = _configure(bench)
    bench.make([f"-j{jobs}", "bzImage"], timeout_s=COMPILE_TIMEOUT_S, on_line=_Progress(tell).take)
    _collect(bench, known, directory)
    if keep_objects:
        with store.make_stage(OBJECTS_STAGE, inputs.key) as kept:
            shutil.copytree(bench.objects, kept, symlinks=True, dirs_exist_ok=True)
    remove_tree(scratch)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where a kernel is compiled: source tree, object tree, and the sandbox that sees both."""

    source: Path
    objects: Path
    inputs: KernelInputs

    def make(self, arguments: Sequence[str], *, timeout_s: float, on_line: OnLine | None = None) -> None:
        """Run make in the source tree, which it can only read."""
        run_in_sandbox(
            self.inputs.toolchain,
            ["make", f"O={_OBJECTS}", *arguments],
            binds=[Bind(self.source, _SOURCE), Bind(self.objects, _OBJECTS, writable=True)],
            cwd=_SOURCE,
            env=_ENVIRONMENT | {"KCONFIG_ALLCONFIG": f"{_OBJECTS}/{_ASKED}"},
            timeout_s=timeout_s,
            on_line=on_line,
        )


def _unpack_source(store: Store, bench: _Bench, archive: Path) -> None:
    """Take the archive out of the package, and unpack it with the locked tar, which sees nothing else."""
    deb = read_deb(store.read(bench.inputs.source.digest))
    for entry in deb.entries:
        if entry.kind is EntryKind.FILE and _SOURCE_ARCHIVE.fullmatch(entry.path):
            archive.write_bytes(entry.data)
            break
    else:
        raise BuildError(f"{deb.package}: expected a file usr/src/linux-source-VERSION.tar.xz, got none")
    options = ["--extract", "--xz", "--no-same-owner", "--no-same-permissions", "--strip-components=1"]
    run_in_sandbox(
        bench.inputs.toolchain,
        ["tar", *options, f"--file={_ARCHIVE}", f"--directory={_SOURCE}"],
        binds=[Bind(archive, _ARCHIVE), Bind(bench.source, _SOURCE, writable=True)],
        cwd="/",
        env={},
        timeout_s=CONFIGURE_TIMEOUT_S,
    )
    archive.unlink()


def _configure(bench: _Bench) -> frozenset[str]:
    """Resolve the configuration, check it, and return all symbols that the source knows."""
    known = frozenset(
        symbol
        for path in sorted(bench.source.rglob("Kconfig*"))
        if path.is_file() and not path.is_symlink()
        for symbol in _KCONFIG_SYMBOL.findall(path.read_text("utf-8", "replace"))
    )
    # Kept objects are the work of a sandbox: a link there must not be written through.
    write_atomically(bench.objects / _ASKED, render_config(bench.inputs.asked).encode("ascii"))
    bench.make(["allnoconfig"], timeout_s=CONFIGURE_TIMEOUT_S)
    config = read_untrusted(bench.objects, ".config", limit_bytes=MAX_RESULT_BYTES)
    _check(
        parse_config(config.decode("ascii", "replace"), where="resolved kernel configuration"),
        known,
        bench.inputs,
    )
    return known


def _collect(bench: _Bench, known: frozenset[str], directory: Path) -> None:
    places = {
        "bzImage": "arch/x86/boot/bzImage",
        "config": ".config",
        "System.map": "System.map",
        "release": "include/config/kernel.release",
    }
    for name, place in places.items():
        data = read_untrusted(bench.objects, place, limit_bytes=MAX_RESULT_BYTES)
        write_atomically(directory / name, data)
    (directory / "symbols").write_text("".join(f"{symbol}\n" for symbol in sorted(known)), "ascii")


class _Progress:
    """Turns the lines of a kernel build into a line of progress now and then."""

    def __init__(self, tell: OnLine) -> None:
        self._tell = tell
        self._steps = 0

    def take(self, line: str) -> None:
        """Count a line that reports a finished step."""
        if _STEP.fullmatch(line):
            self._steps += 1
            if self._steps % PROGRESS_STEPS == 0:
                self._tell(f"kernel: {self._steps} steps done")


def _ignore(_line: str) -> None:
    """Say nothing."""
