"""`blindbuild eif` as people meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import progress
from blindbuild.cli.eif import command
from blindbuild.errors import BlindbuildError, EifError, UsageError
from tests.fakes.enclave_image import (
    CERTIFICATE,
    COMMAND_LINE,
    RAMDISKS,
    image_bytes,
    make_enclave,
    signing_key_pem,
)
from tests.fakes.enclave_reader import load
from tests.fakes.kernel_image import make_bzimage
from tests.fakes.pe_image import FakeSection, make_pe


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(item) for item in arguments])


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """Options that name a kernel, a command line and three ramdisks."""
    (tmp_path / "kernel").write_bytes(make_bzimage())
    options = ["--kernel", str(tmp_path / "kernel"), "--command-line", COMMAND_LINE]
    for number, data in enumerate(RAMDISKS):
        (tmp_path / f"disk{number}").write_bytes(data)
        options += ["--ramdisk", str(tmp_path / f"disk{number}")]
    return options


def test_parts_become_an_image_whose_registers_are_printed(tmp_path: Path, parts: list[str]) -> None:
    out = tmp_path / "sample.eif"
    done = run(*parts, "--name", "sample", "--image-version", "1.0.0", "-o", out)
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == image_bytes(make_enclave(signed=False))
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [[item.name, item.digest.hex] for item in make_enclave(signed=False).measurements]
    assert run(out).stdout == done.stdout


def test_a_signed_image_is_signed_and_json_says_what_it_is(tmp_path: Path, parts: list[str]) -> None:
    out, key, certificate = (tmp_path / name for name in ("sample.eif", "key.pem", "certificate.pem"))
    key.write_bytes(signing_key_pem())
    certificate.write_bytes(CERTIFICATE)
    signer = ("--sign-key", key, "--sign-certificate", certificate)
    done = run(*parts, "--image-version", "1.0.0", *signer, "-o", out, "--json")
    said = json.loads(done.stdout)
    assert out.read_bytes() == image_bytes(make_enclave())
    assert said["size"] == out.stat().st_size
    assert {name: value["digest"] for name, value in said["measurements"].items()} == {
        item.name: item.digest.hex for item in make_enclave().measurements
    }
    assert json.loads(run(out, "--json").stdout) == said


def test_a_uki_becomes_an_image_of_its_kernel_command_line_and_initrd(tmp_path: Path) -> None:
    uki, out = tmp_path / "hello.efi", tmp_path / "hello.eif"
    sections = {b".cmdline": COMMAND_LINE.encode(), b".initrd": b"070701", b".linux": make_bzimage()}
    uki.write_bytes(make_pe([FakeSection(name, data) for name, data in sections.items()]))
    assert run(uki, "-o", out).exit_code == 0
    enclave = load(out.read_bytes())
    assert (enclave.kernel, enclave.cmdline) == (make_bzimage(), COMMAND_LINE.encode())
    assert enclave.ramdisks == [b"070701"]
    assert enclave.metadata["ImageName"] == "hello"


def test_a_failed_run_leaves_no_file_and_an_old_one_as_it_was(tmp_path: Path, parts: list[str]) -> None:
    out = tmp_path / "sub" / "sample.eif"
    parts[1] = str(tmp_path / "disk0")
    assert run(*parts, "-o", out).exit_code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "expected --output"),
        (("{image}", "--kernel", "{image}"), "expected --output"),
        (("{uki}",), "expected an EIF to read, or --output"),
        (("{image}", "--name", "a"), "expected --output with them"),
        (("-o", "{out}"), "--command-line and --ramdisk, got none"),
        (("--kernel", "{uki}", "--command-line", "a", "-o", "{out}"), "got --kernel, --command-line"),
        (("{image}", "-o", "{out}"), "a.eif: expected a UKI to convert, got an EIF"),
        (("{uki}", "--command-line", "a", "-o", "{out}"), "got both"),
        (("{uki}", "--sign-key", "{uki}", "-o", "{out}"), "together"),
    ],
)
def test_a_call_that_cannot_work_is_wrong_usage(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    names = {"image": tmp_path / "a.eif", "uki": tmp_path / "a.efi", "out": tmp_path / "out.eif"}
    names["image"].write_bytes(image_bytes(make_enclave()))
    names["uki"].write_bytes(make_pe())
    done = run(*(text.format(**names) for text in arguments))
    assert isinstance(done.exception, UsageError)
    assert reason in done.exception.message
    assert not names["out"].exists()


def test_a_damaged_image_is_our_error(tmp_path: Path) -> None:
    image = tmp_path / "damaged.eif"
    image.write_bytes(image_bytes(make_enclave())[:-1])
    error = run(image).exception
    assert isinstance(error, EifError)
    assert error.message.startswith(f"{image}: EIF: ")


def test_a_kernel_without_a_stub_is_told_which_options_take_it(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(make_bzimage())
    error = run(kernel, "-o", tmp_path / "out.eif").exception
    assert isinstance(error, BlindbuildError)
    assert str(kernel) in error.message
    assert "--kernel, --command-line and --ramdisk" in (error.hint or "")


def test_large_files_are_said_to_be_worked_on(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sample.eif"
    assert run(*parts, "-o", out).stderr == ""
    monkeypatch.setattr(progress, "SHOW_FROM", 1)
    done = run(*parts, "-o", out)
    assert "write sample.eif" in done.stderr
    assert "write" not in done.stdout
    assert "read sample.eif" in run(out).stderr
