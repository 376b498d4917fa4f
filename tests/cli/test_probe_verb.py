"""`blindbuild channels --probe`: what it writes and prints, and when it ends with exit code 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from blindbuild.assemble.rootfs import GateConf, InitConf
from blindbuild.cli.channels import command
from blindbuild.cli.probe_table import render_page, summarize_controls
from blindbuild.cli.probing import PROBE, PROBE_ENVELOPE, _load_variant, _read_network, _read_routes
from blindbuild.errors import BlindbuildError, FormatError, ToolError, UsageError, VerificationError
from blindbuild.machine.probe.checks import CHECKS
from blindbuild.machine.probe.judge import Observations, judge_all
from blindbuild.manifest.probe import Probe, parse_probe
from blindbuild.publish import generate_key
from tests.fakes.probe_world import good
from tests.unit.test_probe_checks import leaky
from tests.unit.test_probe_report import probe

CLOSABLE = sum(check.closable for check in CHECKS)


def clean() -> Probe:
    """A probe in which every check that an image can satisfy is shown."""
    seen = Observations(product=good(), hostile=good(b"hostile"), leaky=leaky())
    return replace(probe(), checks=judge_all(seen))


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, BlindbuildError | None]]:
    """Run the verb on an image whose machines show what is given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(seen: Probe, *options: str) -> tuple[str, BlindbuildError | None]:
        monkeypatch.setattr("blindbuild.cli.probing.probe_image", lambda *_, **__: seen)
        done = CliRunner().invoke(command, [str(tmp_path), "--probe", *options])
        assert done.exception is None or isinstance(done.exception, BlindbuildError), done.exception
        return done.stdout, done.exception

    return run


Play = Callable[..., tuple[str, BlindbuildError | None]]


def test_a_probe_with_every_check_shown_ends_well(play: Play, tmp_path: Path) -> None:
    printed, error = play(clean())
    assert error is None
    assert f"{CLOSABLE} of {CLOSABLE} controls caught" in printed
    assert parse_probe((tmp_path / PROBE).read_bytes()) == clean()
    assert not (tmp_path / PROBE_ENVELOPE).exists()


def test_what_no_image_can_close_is_printed_first(play: Play) -> None:
    printed, _ = play(clean())
    assert printed.index("memory") < printed.index("neighbour") < printed.index("consoles-same")


def test_an_open_or_unproven_check_ends_with_code_3_after_all_was_written(play: Play, tmp_path: Path) -> None:
    _, error = play(probe())
    assert isinstance(error, VerificationError)
    assert (error.exit_code, error.step, error.reason) == (3, "L2", "probe-not-shown")
    assert "tpm is not-proven: the leaky image was not caught" in error.message
    assert "memory" not in error.message  # no image can close it
    assert (tmp_path / PROBE).exists()


def test_json_is_the_very_document_that_was_written(play: Play, tmp_path: Path) -> None:
    printed, error = play(clean(), "--json")
    assert error is None
    assert json.loads(printed) == json.loads((tmp_path / PROBE).read_bytes())


def test_a_key_signs_it_and_a_run_without_one_leaves_no_old_envelope(play: Play, tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    key.write_bytes(generate_key().to_pem())
    play(clean(), "--key", str(key))
    assert (tmp_path / PROBE_ENVELOPE).exists()
    play(clean())
    assert not (tmp_path / PROBE_ENVELOPE).exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("pkcs11:token=releases;object=hello?module-path=/nowhere/token.so", "/nowhere/token.so"),
        ("no-such.key", "no-such.key"),
    ],
)
def test_a_key_that_cannot_sign_is_told_of_before_anything_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    booted: list[object] = []
    monkeypatch.setattr("blindbuild.cli.probing.probe_image", lambda *_, **__: booted.append(1))
    monkeypatch.setenv("BLINDBUILD_PIN", "1234")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CliRunner().invoke(command, [str(tmp_path), "--probe", "--key", key])
    assert isinstance(done.exception, BlindbuildError)
    assert said in done.exception.message
    assert booted == []


def test_a_key_whose_holder_refuses_is_told_of_before_anything_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        public = generate_key().public

        def sign(self, _message: bytes) -> bytes:
            raise ToolError("the service refused")

    booted: list[object] = []
    monkeypatch.setattr("blindbuild.cli.probing.probe_image", lambda *_, **__: booted.append(1))
    monkeypatch.setattr("blindbuild.publish.open_signer", lambda *_, **__: nullcontext(Refusing()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CliRunner().invoke(command, [str(tmp_path), "--probe", "--key", "awskms:x"])
    assert isinstance(done.exception, ToolError)
    assert done.exception.message == "the service refused"
    assert booted == []


def test_a_page_for_people_is_written(play: Play, tmp_path: Path) -> None:
    play(clean(), "--page", str(tmp_path / "probe.md"))
    page = (tmp_path / "probe.md").read_text()
    assert f"**{CLOSABLE} of {CLOSABLE} controls caught.**" in page
    assert "| hostile |" not in page.split("Seconds of each phase")[0]


def test_options_of_the_probe_without_it_are_a_mistake(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path), "--page", str(tmp_path / "x")])
    assert isinstance(done.exception, UsageError)
    assert "--page belongs to --probe" in done.exception.message


def test_findings_that_would_break_a_table_do_not() -> None:
    checks = clean().checks
    odd = replace(checks[0], findings=("a|b<script>",))
    page = render_page(replace(clean(), checks=(odd, *checks[1:])), date="2026-11-23")
    assert "a\\|b&lt;script>" in page


def test_controls_that_were_not_run_count_as_not_caught() -> None:
    alone = replace(clean(), checks=judge_all(Observations(product=good())))
    assert summarize_controls(alone) == f"0 of {CLOSABLE} controls caught"


@pytest.mark.parametrize(
    "text", [b"", b"port 443\n", b"network static 10.0.2.15\nport 443\n", b"port x\nnetwork dhcp\n"]
)
def test_a_machine_cannot_be_made_for_an_unreadable_network(text: bytes) -> None:
    with pytest.raises(FormatError, match=r"init\.conf: expected a network and a port"):
        _read_network(text)


def test_a_fixed_address_and_dhcp_are_told_apart() -> None:
    fixed = _read_network(b"blindbuild-init 1\nnetwork static 192.0.2.7 24 192.0.2.1\nport 8443\nend\n")
    assert fixed.port == 8443
    assert fixed.fixed is not None
    assert [str(part) for part in fixed.fixed] == ["192.0.2.7/24", "192.0.2.1"]
    assert _read_network(b"network dhcp\nport 443\n").fixed is None


def test_what_the_builder_writes_into_an_image_is_understood() -> None:
    gate = GateConf(
        routes=("/v1/hello", "/v1/more"),
        max_request_bytes=1024,
        max_response_bytes=1024,
        seconds=30,
        concurrency=4,
    )
    assert _read_routes(gate.render()) == ("/v1/hello", "/v1/more")
    init = InitConf(
        network=None, port=8443, memory=64 << 20, seconds=30, concurrency=4, arguments=("/app/serve",)
    )
    assert (_read_network(init.render()).port, _read_network(init.render()).fixed) == (8443, None)


def test_an_image_that_was_not_named_is_not_run() -> None:
    assert _load_variant(None, None, "leaky") is None  # type: ignore[arg-type]
