"""The door to other programs, with real programs of the host."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blindbuild.errors import ToolError
from blindbuild.host import process
from blindbuild.host.process import Tool, find_tool, run, start

SH = Tool("sh", "dash")
CAT = Tool("cat", "coreutils")
SLEEP = Tool("sleep", "coreutils")


def test_a_program_gets_the_fixed_environment_and_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("CANARY", "1")
    output = run(Tool("env", "coreutils"), [], extra_env=[("EXTRA", "x")]).stdout
    assert sorted(output.decode().split()) == [
        "EXTRA=x",
        "LC_ALL=C",
        "PATH=/usr/bin:/usr/sbin:/bin:/sbin",
        "TZ=UTC",
    ]


def test_a_program_is_not_looked_for_in_the_callers_path(monkeypatch, tmp_path):
    (tmp_path / "bait").write_text("#!/bin/sh\n")
    (tmp_path / "bait").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="bait is missing"):
        find_tool(Tool("bait", "bait-package"))


def test_a_missing_program_names_its_debian_package():
    with pytest.raises(ToolError, match="no-such-program is missing") as caught:
        run(Tool("no-such-program", "such-package"), [])
    assert caught.value.hint == "apt-get install such-package"


def test_a_failed_program_is_an_error_with_its_last_lines():
    with pytest.raises(ToolError, match=r"sh: expected exit status 0, got 3:\nline 6\n(.*\n)*line 20$"):
        run(SH, ["-c", "for i in $(seq 20); do echo line $i >&2; done; exit 3"])


def test_a_program_ended_by_a_signal_is_an_error_that_says_so():
    with pytest.raises(ToolError, match="sh: expected exit status 0, it was killed by signal 9"):
        run(SH, ["-c", "kill -9 $$"])


def test_an_unchecked_failure_is_returned():
    completed = run(SH, ["-c", "echo out; echo err >&2; exit 4"], check=False)
    assert (completed.stdout, completed.stderr, completed.returncode) == (b"out\n", b"err\n", 4)


def test_much_input_and_output_do_not_block_each_other():
    data = os.urandom(1 << 20) * 8
    assert run(CAT, [], stdin=data, timeout_s=60).stdout == data


def test_a_program_that_does_not_read_its_input_is_no_error():
    assert run(Tool("true", "coreutils"), [], stdin=bytes(1 << 20)).returncode == 0


def test_lines_are_handed_out_before_the_program_ends():
    times: dict[str, float] = {}
    run(
        SH,
        ["-c", "echo a; sleep 0.5; echo b >&2; printf c"],
        on_line=lambda line: times.update({line: time.monotonic()}),
    )
    assert list(times) == ["a", "b", "c"]
    assert times["b"] - times["a"] > 0.3


def test_output_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(process, "MAX_OUTPUT_BYTES", 1000)
    with pytest.raises(ToolError, match="expected at most 1000 bytes of output"):
        run(Tool("yes", "coreutils"), [], timeout_s=30)


def test_a_timeout_kills_the_program_and_what_it_started(tmp_path):
    began = time.monotonic()
    with pytest.raises(ToolError, match=r"sh: expected it to end within 0\.5 s, it did not"):
        run(SH, ["-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], timeout_s=0.5)
    assert time.monotonic() - began < 40
    assert _ends(int((tmp_path / "pid").read_text()))


def test_an_error_in_on_line_kills_the_program(tmp_path):
    def fail(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SH, ["-c", f"echo $$ > {tmp_path}/pid; echo x; exec sleep 60"], on_line=fail)
    assert _ends(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("call", ["start(sleep, ['60'])", "run(sleep, ['60'])"])
def test_a_program_dies_when_we_are_killed(call):
    script = (
        "import threading, time\n"
        "from blindbuild.host.process import Tool, run, start\n"
        "sleep = Tool('sleep', 'coreutils')\n"
        "print('up', flush=True)\n"
        f"child = {call}\n"
        "time.sleep(60)\n"
    )
    source = Path(process.__file__).parents[2]
    ours = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(source)}, stdout=subprocess.PIPE
    )
    try:
        assert ours.stdout is not None
        assert ours.stdout.readline() == b"up\n"
        child = _wait_for_child(ours.pid)
    finally:
        ours.kill()
        ours.wait()
    assert _ends(child)


def test_a_started_program_can_be_watched_and_ended():
    with start(SLEEP, ["60"]) as child:
        assert child.poll() is None
        with pytest.raises(ToolError, match=r"expected it to end within 0\.1 s"):
            child.wait(0.1)
        assert child.terminate() == -signal.SIGTERM
        assert child.terminate() == -signal.SIGTERM
    assert _ends(child.pid)


def test_a_started_program_that_ignores_the_request_is_killed(tmp_path):
    log = tmp_path / "log"
    with start(SH, ["-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], log=log) as child:
        deadline = time.monotonic() + 30
        while log.read_bytes() != b"up\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert child.terminate(grace_s=0.3) == -signal.SIGKILL


def test_a_started_program_writes_its_log_and_inherits_only_named_descriptors(tmp_path):
    reader, writer = os.pipe()
    other, _ = os.pipe()
    log = tmp_path / "log"
    fds = "/proc/self/fd"
    command = f"echo out; echo err >&2; echo given > {fds}/{writer}; [ -e {fds}/{other} ] || echo closed"
    with start(SH, ["-c", command], log=log, pass_fds=[writer]) as child:
        assert child.wait(10) == 0
    os.close(writer)
    assert os.read(reader, 100) == b"given\n"
    lines = log.read_text().splitlines()
    assert lines == ["out", "err", "closed"]


def test_a_program_that_cannot_be_started_is_our_error():
    with pytest.raises(ToolError, match="sh: cannot start: embedded null byte"):
        run(SH, ["-c", "\0"])


def _wait_for_child(parent: int) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            if b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no child appeared")


def _ends(pid: int) -> bool:
    """Wait up to ten seconds for a process to be gone, or to be a zombie that nobody here can reap."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False
