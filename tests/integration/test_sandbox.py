"""The sandbox, with the real bwrap; its root shows the host's /usr and nothing else of the host."""

import os
import socket
import time
from pathlib import Path

import pytest

from blindbuild.errors import ToolError
from blindbuild.host.process import Completed
from blindbuild.host.sandbox import Bind, run_in_sandbox

USR = Bind(Path("/usr"), "/usr")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory whose programs come from the host's /usr."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "marker").write_text("from the root\n")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def shell(root: Path, script: str, *binds: Bind, timeout_s: float = 30.0, check: bool = True) -> Completed:
    return run_in_sandbox(
        root, ["sh", "-c", script], binds=[USR, *binds], cwd="/", env={}, timeout_s=timeout_s, check=check
    )


def test_the_sandbox_shows_its_root_and_no_file_of_the_host(root, tmp_path):
    (tmp_path / "canary").write_text("host\n")
    names = shell(root, "ls /; cat /etc/marker").stdout.decode().split("\n")
    assert names[:-2] == ["bin", "dev", "etc", "lib", "lib64", "proc", "tmp", "usr"]
    assert names[-2] == "from the root"
    assert shell(root, f"cat {tmp_path}/canary", check=False).returncode != 0
    assert shell(root, "ls -A /tmp").stdout == b""


def test_the_sandbox_has_no_network_but_a_loopback_of_its_own(root):
    devices = shell(root, "cat /proc/net/dev").stdout.decode().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
    assert shell(root, "cat /proc/net/route").stdout.count(b"\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        shell(
            root, f"exec 3<>/dev/tcp/127.0.0.1/{port} || wget -q -T 2 http://127.0.0.1:{port}/", check=False
        )
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_sandbox_has_a_fixed_environment_and_nothing_of_ours(root, monkeypatch):
    monkeypatch.setenv("CANARY", "1")
    completed = run_in_sandbox(
        root, ["env"], binds=[USR], cwd="/etc", env={"EXTRA": "x", "PATH": "/usr/bin"}, timeout_s=30
    )
    assert sorted(completed.stdout.decode().split()) == [
        "EXTRA=x",
        "HOME=/tmp",
        "LC_ALL=C",
        "PATH=/usr/bin",
        "PWD=/etc",
        "TZ=UTC",
    ]


def test_the_sandbox_has_a_fixed_host_name_user_and_process_tree(root):
    output = shell(root, "uname -n; id -u; id -g; ls -d /proc/[0-9]* | wc -l").stdout.decode().split()
    assert output[:3] == ["blindbuild", "0", "0"]
    assert int(output[3]) < 6


def test_the_sandbox_has_no_capability(root):
    status = shell(root, "cat /proc/self/status").stdout.decode()
    sets = {line.split()[0]: line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
    assert set(sets.values()) == {"0000000000000000"}


def test_nothing_but_writable_binds_can_be_written(root, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    shell(
        root,
        "for place in / /usr/ /etc/ /in/; do (: > ${place}file) 2> /dev/null && exit 1; done;"
        " echo made > /out/file",
        Bind(tmp_path / "in", "/in"),
        Bind(tmp_path / "out", "/out", writable=True),
    )
    made = tmp_path / "out" / "file"
    assert made.read_text() == "made\n"
    assert made.stat().st_uid == os.getuid()
    assert list((tmp_path / "in").iterdir()) == []


def test_a_later_bind_may_lie_inside_an_earlier_one(root, tmp_path):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "seen").write_text("yes\n")
    binds = [Bind(tmp_path / "outer", "/outer"), Bind(tmp_path / "other", "/outer/inner")]
    assert shell(root, "cat /outer/inner/seen", *binds).stdout == b"yes\n"


def test_a_bind_that_is_not_there_is_refused(root, tmp_path):
    with pytest.raises(ToolError, match="missing is not there, so it cannot be shown at /x"):
        shell(root, "true", Bind(tmp_path / "missing", "/x"))


def test_a_failed_program_is_an_error_with_its_message(root):
    with pytest.raises(ToolError, match=r"expected exit status 0, got 7:\nwhy"):
        shell(root, "echo why >&2; exit 7")


def test_a_timeout_kills_everything_in_the_sandbox(root, tmp_path):
    (tmp_path / "out").mkdir()
    beat = tmp_path / "out" / "beat"
    script = "(setsid sh -c 'while :; do date +%N > /out/beat; sleep 0.05; done' &) ; sleep 60"
    with pytest.raises(ToolError, match="expected it to end within 2 s"):
        shell(root, script, Bind(tmp_path / "out", "/out", writable=True), timeout_s=2)
    time.sleep(0.3)
    last = beat.read_text()
    time.sleep(0.3)
    assert beat.read_text() == last


def test_lines_and_input_pass_through(root):
    lines: list[str] = []
    completed = run_in_sandbox(
        root, ["cat"], binds=[USR], cwd="/", env={}, timeout_s=30, stdin=b"a\nb\n", on_line=lines.append
    )
    assert completed.stdout == b"a\nb\n"
    assert lines == ["a", "b"]
