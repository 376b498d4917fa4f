"""What docs/client.md says to type and to write works: every block is run, against a server on loopback."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from blindbuild.client import following
from blindbuild.client.advice import MIDDLE
from tests.fakes.attester import Attester
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.recording_server import RecordingServer, Request, answer
from tests.fakes.world import authority, publisher, tpm
from tests.integration.test_proxy import RUN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"^```([a-z]*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BALANCER = "https://balancer.example"  # of an image whose requests are sealed: test_httpx_sealed.py runs that
SEALED_PYTHON = [text for language, text in BLOCKS if language == "python" and BALANCER in text]
PYTHON = [text for language, text in BLOCKS if language == "python" and BALANCER not in text]
SHELL = [text for language, text in BLOCKS if language == ""]
CURL = shutil.which("curl")


def both(request: Request) -> bytes:
    """The page's two services: a greeting, and a model."""
    if request.target == "/v1/hello":
        return answer(200, b"hello, " + request.body)
    said = json.loads(request.body)["messages"][0]["content"]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": f"hello, {said}"},
    }
    value = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return answer(200, json.dumps(value).encode(), Content_Type="application/json")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingServer]:
    """The page's server, and its release and trust file below the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "images" / "hello" / "1.0.0"
    place.mkdir(parents=True)
    (place / "manifest.dsse.json").write_bytes(publisher().envelope)
    (place / "release.dsse.json").write_bytes(publisher().release)
    # as for a machine of a provider: the page's reader has no test TPM
    roots = {"tpm_roots": [authority().root_pem], "tpm_intermediates": [authority().issuer_pem]}
    (tmp_path / "trust.json").write_bytes(publisher().trust(**roots))
    with RecordingServer(Attester(tpm=tpm(), event_log=log_bytes(honest_boot())), both) as running:
        yield running


def test_every_block_of_python_runs(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "Following", partial(following.Following, clock=lambda: NOW))
    names: dict[str, object] = {}
    assert len(PYTHON) + len(SEALED_PYTHON) + len(SHELL) == len(BLOCKS)
    assert (len(PYTHON), len(SEALED_PYTHON)) == (5, 1)
    for block in PYTHON:
        exec(block.replace("https://server.example", server.url), names)  # noqa: S102 our own page
    assert capsys.readouterr().out.splitlines() == [
        "hello, Ada",
        "hello, Ada",
        "hello, Ada",
        "hello b'hello, Ada'",
    ]
    [line] = Path("decisions.jsonl").read_text().splitlines()
    assert json.loads(line)["accepted"] is True
    assert all(visit.requests[1].of_the_exchange for visit in server.visits)


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_every_command_runs(server: RecordingServer, tmp_path: Path) -> None:
    (proxy, *printed), (curl, answered) = (block.splitlines() for block in SHELL)
    words = shlex.split(proxy.removeprefix("$ blindbuild "))
    words[words.index("https://server.example")] = server.url
    words[words.index("127.0.0.1:8090")] = "127.0.0.1:0"
    with subprocess.Popen(
        [sys.executable, "-c", RUN.format(now=NOW), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        endpoint = process.stdout.readline().strip()
        asked = shlex.split(curl.removeprefix("$ curl ").replace(printed[0], endpoint))
        done = subprocess.run([CURL or "", "--silent", *asked], capture_output=True, text=True, check=True)
        assert done.stdout == answered
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert printed[1] in process.stderr.read()


def test_the_page_shows_what_a_refusal_says() -> None:
    shown = re.sub(r"\n +", " ", PAGE)
    for line in MIDDLE.text.splitlines():
        assert line[:110] in shown
