"""The one door to other programs: found in fixed places, empty environment, nothing outlives us.

A program is looked for in `TOOL_DIRECTORIES`, never in the caller's PATH. It gets `BASE_ENVIRONMENT` and
what the caller adds, and nothing that this process inherited. It runs in a process group of its own, which is
killed on a timeout, on an error and on an interrupt; if this process dies without a chance to do so, the
kernel kills the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blindbuild.errors import ToolError

TOOL_DIRECTORIES = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
BASE_ENVIRONMENT = (("LC_ALL", "C"), ("PATH", ":".join(TOOL_DIRECTORIES)), ("TZ", "UTC"))
MAX_OUTPUT_BYTES = (
    256 << 20
)  # a kernel build prints < 1 MB, a compressed initramfs may pass here; bounds memory
TAIL_LINES = 15  # of a failed program's output that an error repeats
GRACE_S = 5.0  # between asking a program to end and making it

_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec no lock may be taken


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of the host, and the Debian package that brings it."""

    name: str
    package: str


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left: its output and its exit status (negative: the signal that ended it)."""

    stdout: bytes
    stderr: bytes
    returncode: int


def find_tool(tool: Tool) -> Path:
    """Return the absolute path of a program.

    Raises:
        ToolError: it is in none of `TOOL_DIRECTORIES`; the hint names its Debian package.
    """
    for directory in TOOL_DIRECTORIES:
        path = Path(directory, tool.name)
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise ToolError(f"{tool.name} is missing", hint=f"apt-get install {tool.package}")


def run(
    tool: Tool,
    args: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes = b"",
    extra_env: Iterable[tuple[str, str]] = (),
    timeout_s: float | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        tool: what to run.
        args: its arguments, without its name.
        cwd: where; the root directory if not given.
        stdin: all that it can read.
        extra_env: added to `BASE_ENVIRONMENT`.
        timeout_s: after this long it is killed, with all that it started.
        check: take any exit status but 0 for an error.
        on_line: called with every line of its output and errors, as they come, without the newline.

    Raises:
        ToolError: missing, cannot be started, took too long, printed too much, or failed (with `check`).
    """
    child = _spawn(tool, args, cwd=cwd, extra_env=extra_env, streams=(subprocess.PIPE,) * 3)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        stdout, stderr = _exchange(child, stdin, deadline, on_line)
        child.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, TimeoutError) as error:
        raise ToolError(f"{tool.name}: expected it to end within {timeout_s:g} s, it did not") from error
    except _OutputTooLongError as error:
        raise ToolError(f"{tool.name}: expected at most {MAX_OUTPUT_BYTES} bytes of output") from error
    finally:
        _end(child)
        _close_pipes(child)
    completed = Completed(stdout, stderr, child.returncode)
    if check and completed.returncode != 0:
        raise ToolError(describe_failure(tool.name, completed))
    return completed


def describe_failure(name: str, completed: Completed) -> str:
    """Return one message for a failed program: how it ended, and the last lines that it printed."""
    text = (completed.stderr.strip() or completed.stdout.strip()).decode("utf-8", "replace")
    tail = "\n".join(text.splitlines()[-TAIL_LINES:])
    status = completed.returncode
    ending = f"got {status}" if status >= 0 else f"it was killed by signal {-status}"
    return f"{name}: expected exit status 0, {ending}" + (f":\n{tail}" if tail else "")


class Process:
    """A program that runs beside us until it ends or is ended; a context manager that ends it.

    The kernel also kills it when the thread that called `start` ends: start it from a thread that stays.
    """

    def __init__(self, tool: Tool, child: subprocess.Popen[bytes]) -> None:
        self._tool = tool
        self._child = child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._child.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its exit status.

        Raises:
            ToolError: it still runs after `timeout_s`.
        """
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ToolError(
                f"{self._tool.name}: expected it to end within {timeout_s:g} s, it did not"
            ) from error

    def terminate(self, *, grace_s: float = GRACE_S) -> int:
        """Ask it to end, make it end after `grace_s`, return its exit status; harmless if it has ended."""
        if self._child.poll() is None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(grace_s)
        return _end(self._child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()


def start(
    tool: Tool,
    args: Sequence[str],
    *,
    cwd: Path | None = None,
    extra_env: Iterable[tuple[str, str]] = (),
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a program and return at once; it reads nothing and dies with this process.

    Args:
        tool: what to run.
        args: its arguments, without its name.
        cwd: where; the root directory if not given.
        extra_env: added to `BASE_ENVIRONMENT`.
        log: file that its output and errors are appended to; discarded if not given.
        pass_fds: descriptors that it inherits under the same numbers.

    Raises:
        ToolError: it is missing or cannot be started.
    """
    with contextlib.ExitStack() as stack:
        output: IO[bytes] | int = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))
        streams = (subprocess.DEVNULL, output, output)
        return Process(
            tool, _spawn(tool, args, cwd=cwd, extra_env=extra_env, streams=streams, pass_fds=pass_fds)
        )


_Stream = IO[bytes] | int


def _spawn(
    tool: Tool,
    args: Sequence[str],
    *,
    cwd: Path | None,
    extra_env: Iterable[tuple[str, str]],
    streams: tuple[_Stream, _Stream, _Stream],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    path = find_tool(tool)
    parent = os.getpid()
    try:
        return subprocess.Popen(
            [str(path), *args],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=cwd or "/",
            env=dict(BASE_ENVIRONMENT) | dict(extra_env),
            process_group=0,
            pass_fds=pass_fds,
            preexec_fn=lambda: _die_with(parent),
        )
    except (OSError, ValueError) as error:
        raise ToolError(f"{tool.name}: cannot start: {error}") from error


def _die_with(parent: int) -> None:
    """In the child: be killed when the parent dies, also if that has happened already.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Kill the child's process group, unless the child was reaped: its number may be another's by then."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _close_pipes(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _OutputTooLongError(Exception):
    """A program printed more than MAX_OUTPUT_BYTES."""


class _Capture:
    """Collects one output stream and hands out its lines."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self.data = bytearray()
        self._on_line = on_line
        self._line_start = 0

    def feed(self, piece: bytes) -> None:
        """Take the next bytes; none mean the end, where an unfinished line counts as a line."""
        self.data += piece
        if len(self.data) > MAX_OUTPUT_BYTES:
            raise _OutputTooLongError
        if self._on_line is None:
            return
        while (end := self.data.find(b"\n", self._line_start)) >= 0:
            self._on_line(self.data[self._line_start : end].decode("utf-8", "replace"))
            self._line_start = end + 1
        if not piece and self._line_start < len(self.data):
            self._on_line(self.data[self._line_start :].decode("utf-8", "replace"))


def _exchange(
    child: subprocess.Popen[bytes],
    stdin: bytes,
    deadline: float | None,
    on_line: Callable[[str], None] | None,
) -> tuple[bytes, bytes]:
    """Feed the child and collect both outputs until it has closed them."""
    if child.stdin is None or child.stdout is None or child.stderr is None:
        raise AssertionError("the child was started without pipes")
    captures = {child.stdout.fileno(): _Capture(on_line), child.stderr.fileno(): _Capture(on_line)}
    unsent = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for descriptor in captures:
            selector.register(descriptor, selectors.EVENT_READ)
        os.set_blocking(child.stdin.fileno(), False)
        selector.register(child.stdin.fileno(), selectors.EVENT_WRITE)
        while selector.get_map():
            for descriptor in _ready(selector, deadline):
                capture = captures.get(descriptor)
                if capture is None:
                    unsent = _send(descriptor, unsent)
                    done = not unsent
                else:
                    piece = os.read(descriptor, _READ_BYTES)
                    capture.feed(piece)
                    done = not piece
                if done:
                    selector.unregister(descriptor)
                    if capture is None:
                        child.stdin.close()
    stdout, stderr = captures.values()
    return bytes(stdout.data), bytes(stderr.data)


def _ready(selector: selectors.BaseSelector, deadline: float | None) -> Iterator[int]:
    remaining = None if deadline is None else deadline - time.monotonic()
    if remaining is not None and remaining <= 0:
        raise TimeoutError
    for key, _ in selector.select(remaining):
        yield key.fd


def _send(descriptor: int, data: memoryview) -> memoryview:
    """Write what the pipe takes and return the rest; a child that stopped reading gets no more."""
    try:
        return data[os.write(descriptor, data[:_READ_BYTES]) :]
    except BrokenPipeError:
        return data[:0]
    except BlockingIOError:
        return data
