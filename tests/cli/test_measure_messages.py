"""`blindbuild measure` with a wrong file or too little: the message names the file, the hint the options."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindbuild.errors import FormatError, MeasureError, UsageError
from tests.cli import test_measure_verb as verb
from tests.cli.test_measure_verb import refusal
from tests.fakes.kernel_image import make_stub

uki, firmware = verb.uki, verb.firmware
SECURE = ("--platform", "qemu-q35-ovmf-2025.02-secboot")


@pytest.mark.parametrize(
    "options",
    [
        ("{wrong}",),
        ("{wrong}", "--platform", "gcp"),
        ("{wrong}", "--platform", "tdx", "--firmware", "{firmware}"),
        ("{wrong}", "--platform", "nitro-eif"),
        ("{uki}", "--variables", "{wrong}"),
        ("{uki}", "--shim", "{wrong}"),
        ("{uki}", "--addon", "{wrong}"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"only text", b"MZ"])
def test_the_file_that_is_wrong_is_named(
    tmp_path: Path, uki: Path, firmware: Path, options: tuple[str, ...], content: bytes
) -> None:
    wrong = tmp_path / "wrong.addon.efi"
    wrong.write_bytes(content)
    error = refusal(*(text.format(wrong=wrong, uki=uki, firmware=firmware) for text in options))
    assert isinstance(error, FormatError)
    assert error.message.startswith(f"{wrong}: ")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (SECURE, "--variables"),
        (("--secure-boot", *SECURE), "--pk, --kek and --db"),
        (("--platform", "gcp-tdx"), "--disk DISK"),
        (("--platform", "gcp", "--memory-protection", "tdx"), "gcp-tdx"),
    ],
)
def test_what_is_missing_is_named_as_the_option_that_gives_it(
    uki: Path, options: tuple[str, ...], hint: str
) -> None:
    error = refusal(uki, *options)
    assert isinstance(error, MeasureError)
    assert hint in (error.hint or "")


def test_a_launch_under_qemu_asks_for_its_processor_model(firmware: Path) -> None:
    error = refusal("--platform", "sev-snp", "--firmware", firmware)
    assert "--cpu EPYC-v4" in (error.hint or "")


def test_a_uki_is_told_how_it_becomes_an_enclave_image(uki: Path) -> None:
    assert "blindbuild eif" in (refusal(uki, "--platform", "nitro-eif").hint or "")


def test_a_stub_without_a_kernel_has_no_boot_to_predict(tmp_path: Path) -> None:
    stub = tmp_path / "linuxx64.efi.stub"
    stub.write_bytes(make_stub())
    error = refusal(stub)
    assert isinstance(error, UsageError)
    assert error.message.startswith(f"{stub}: expected a UKI or a kernel, got a program of systemd")


def test_an_option_of_other_platforms_says_which_in_words_that_can_be_typed(
    uki: Path, tmp_path: Path
) -> None:
    (tmp_path / "initrd").write_bytes(b"070701")
    error = refusal(uki, "--initrd", tmp_path / "initrd")
    assert error.hint == "it is for qemu-q35-… with --direct, sev, sev-es, sev-snp, tdx"
