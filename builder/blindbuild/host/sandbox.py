"""Run a program of a given root directory with no network, no file of the host, and a fixed environment.

Source: bwrap(1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.errors import ToolError
from blindbuild.host.process import Completed, Tool, run

BWRAP = Tool(name="bwrap", package="bubblewrap")
HOST_NAME = "blindbuild"
SANDBOX_ENVIRONMENT = {"HOME": "/tmp", "LC_ALL": "C", "PATH": "/usr/bin:/usr/sbin", "TZ": "UTC"}  # noqa: S108


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host that the sandbox sees at `target`; read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False


def run_in_sandbox(
    root: Path,
    argv: Sequence[str],
    *,
    binds: Sequence[Bind],
    cwd: str,
    env: Mapping[str, str],
    timeout_s: float | None,
    on_line: Callable[[str], None] | None = None,
    stdin: bytes = b"",
    check: bool = True,
) -> Completed:
    """Run `argv` in namespaces of its own, with `root` as its read-only root directory.

    It sees `root`, the binds, a /proc and /dev of its own and an empty /tmp. It has no network, no
    capability, the host name `blindbuild`, and user id 0, which is the caller's id outside. Mount points for
    the binds need not exist, unless they lie inside a directory of `root`.

    Args:
        root: a directory such as `prepare_toolchain` returns.
        argv: the program, found by the PATH of `SANDBOX_ENVIRONMENT`, and its arguments.
        binds: in this order, a later one may lie inside an earlier one.
        cwd: working directory inside.
        env: added to `SANDBOX_ENVIRONMENT`, or replacing entries of it; there is nothing else.
        timeout_s: after this long everything in the sandbox is killed; None waits for ever.
        on_line: called with every line of output and errors, as they come.
        stdin: all that the program can read.
        check: take any exit status but 0 for an error.

    Raises:
        ToolError: bwrap is missing, the sandbox cannot be made, or the program failed.
    """
    for bind in binds:
        if not bind.source.exists():
            raise ToolError(f"sandbox: {bind.source} is not there, so it cannot be shown at {bind.target}")
    arguments = [
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
        *("--uid", "0", "--gid", "0", "--hostname", HOST_NAME, "--cap-drop", "ALL"),
        *_show_root(root),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108  # the sandbox's own
        *_show_binds(binds),
        *("--remount-ro", "/", "--chdir", cwd, "--clearenv"),
        *_set_environment(SANDBOX_ENVIRONMENT | dict(env)),
        "--",
        *argv,
    ]
    return run(BWRAP, arguments, stdin=stdin, timeout_s=timeout_s, check=check, on_line=on_line)


def _show_root(root: Path) -> Iterator[str]:
    """Bind what is in `root` instead of `root` itself: mount points can then be made beside it."""
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), f"/{path.name}")
        elif path.is_dir():
            yield from ("--ro-bind", str(path), f"/{path.name}")


def _show_binds(binds: Sequence[Bind]) -> Iterator[str]:
    for bind in binds:
        yield from ("--bind" if bind.writable else "--ro-bind", str(bind.source), bind.target)


def _set_environment(env: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(env.items()):
        yield from ("--setenv", name, value)
