"""`blindbuild measure` as people meet it: which options mean something where, and what it prints."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from blindbuild.assemble.uki import build_uki
from blindbuild.cli.measure import command
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, MeasureError, UsageError
from blindbuild.formats.ccel import parse_cc_event_log, replay_cc
from blindbuild.formats.fat import write_fat
from blindbuild.formats.gpt import write_gpt_disk
from blindbuild.formats.tcglog import parse_event_log, replay
from blindbuild.measure import recorded
from blindbuild.publish import load_certificates, load_rsa_key, sign_boot_image
from tests.fakes.enclave_image import image_bytes, make_enclave
from tests.fakes.firmware_flash import DXE, GOOD
from tests.fakes.kernel_image import RELEASE, make_bzimage, make_stub
from tests.fakes.ovmf_image import SVSM_INFO, OvmfImage, entry
from tests.fakes.secure_boot import make_key

LINE = "quiet panic=-1"
SEPARATOR_ONLY = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(item) for item in arguments])


def measured(*arguments: object) -> dict:
    """The one platform that a run with --json printed."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.exception
    (platform,) = json.loads(done.stdout)["platforms"]
    return platform


def pcrs(*arguments: object) -> dict:
    return measured(*arguments, "--bank", "sha256")["banks"]["sha256"]["pcrs"]


def refusal(*arguments: object) -> BlindbuildError:
    error = run(*arguments).exception
    assert isinstance(error, BlindbuildError), error
    return error


@pytest.fixture
def uki(tmp_path: Path) -> Path:
    """A UKI that no machine would run and every tool can measure."""
    path = tmp_path / "test.efi"
    path.write_bytes(
        build_uki(
            stub=make_stub(),
            kernel=make_bzimage(),
            initrd=b"an initrd",
            command_line=LINE,
            built_in_command_line=LINE,
            os_release="ID=test\n",
            uname=RELEASE,
        )
    )
    return path


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(OvmfImage().build())
    return path


def test_a_uki_alone_is_enough(uki: Path) -> None:
    platform = measured(uki)
    assert platform["id"] == "qemu-q35-ovmf-2025.02"
    assert set(platform["banks"]) == {"sha256", "sha384", "sha512"}
    assert "firmwareDigest" not in platform
    registers = platform["banks"]["sha256"]["pcrs"]
    assert registers["2"]["value"] == SEPARATOR_ONLY
    assert registers["0"]["reason"] == "the firmware's code, whose file was not given"
    assert registers["12"] == {"rule": "initial"}


def test_the_terminal_shows_every_register_with_its_whole_value(uki: Path) -> None:
    lines = run(uki, "--bank", "sha256").stdout.splitlines()
    assert lines[0] == "sha256"
    assert [line.split()[0] for line in lines[1:]] == [str(number) for number in range(24)]
    assert lines[3].split()[1] == SEPARATOR_ONLY


def test_the_written_event_log_leads_to_the_printed_values(uki: Path, tmp_path: Path) -> None:
    log = tmp_path / "boot.log"
    registers = pcrs(uki, "--event-log", log)
    replayed = replay(parse_event_log(log.read_bytes()), HashAlgorithm.SHA256)
    exact = {number: rule["value"] for number, rule in registers.items() if rule["rule"] == "exact"}
    assert set(exact) == {"2", "3", "4", "6", "7", "9", "11"}
    assert {number: replayed.values[int(number)].hex for number in exact} == exact


def test_a_firmware_file_tells_its_own_event_of_register_0(uki: Path, tmp_path: Path) -> None:
    code = tmp_path / "code.fd"
    code.write_bytes(GOOD)
    done = json.loads(run(uki, "--firmware", code, "--json", "--bank", "sha256").stdout)
    (event,) = done["partialEvents"]["sha256"]["0"]
    assert event["digest"] == Digest.sha256(DXE).hex
    assert event["type"] == "EV_EFI_PLATFORM_FIRMWARE_BLOB"
    assert f"among its events {event['digest']}" in run(uki, "--firmware", code).stdout
    code.write_bytes(b"something else")
    other = run(uki, "--firmware", code)
    assert other.exit_code == 0
    assert "expected an OVMF build" in " ".join(other.stderr.split())


def test_what_the_host_adds_to_the_command_line_moves_9_and_12_only(uki: Path) -> None:
    plain, changed = pcrs(uki), pcrs(uki, "--smbios-command-line", "evil=1")
    assert {number for number in plain if plain[number] != changed[number]} == {"9", "12"}


def test_files_beside_the_uki_move_9_and_the_register_of_their_kind(uki: Path, tmp_path: Path) -> None:
    plain = pcrs(uki)
    for option, name, register in (
        ("--credential", "a.cred", "12"),
        ("--sysext", "a.raw", "13"),
        ("--confext", "a.confext.raw", "12"),
    ):
        (tmp_path / name).write_bytes(b"content")
        changed = pcrs(uki, option, tmp_path / name)
        assert {number for number in plain if plain[number] != changed[number]} == {"9", register}
    assert "*.cred in ASCII" in refusal(uki, "--credential", tmp_path / "a.raw").message


def test_a_stub_that_appends_consoles_needs_to_be_told_which(uki: Path) -> None:
    assert "expected console= with systemd-stub 262" in refusal(uki, "--stub-version", 262).message
    none = pcrs(uki, "--stub-version", 262, "--console", "")
    one = pcrs(uki, "--stub-version", 262, "--console", "console=ttyS0")
    two = pcrs(uki, "--stub-version", 262, "--console", "console=ttyS0", "--console", "console=tty0")
    assert {number for number in none if none[number] != one[number]} == {"9"}
    assert one["9"] != two["9"]


def test_another_stub_version_may_be_stated(uki: Path) -> None:
    plain, older = pcrs(uki), pcrs(uki, "--stub-version", 252)
    assert {number for number in plain if plain[number] != older[number]} == {"9", "11"}


def test_a_disk_with_a_partition_table_moves_5_only(uki: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(
        write_gpt_disk(bytes(1 << 20), disk_id=UUID(int=1), partition_id=UUID(int=2), name="esp")
    )
    plain, changed = pcrs(uki), pcrs(uki, "--disk", disk)
    assert {number for number in plain if plain[number] != changed[number]} == {"5"}
    disk.write_bytes(write_fat({"A": b"a"}, volume_id=1, label="TEST"))
    assert pcrs(uki, "--disk", disk) == plain
    disk.write_bytes(bytes(1 << 20))
    assert "a partition table or a FAT file system" in refusal(uki, "--disk", disk).message


def test_secure_boot_moves_4_and_7_and_needs_a_key_that_signed_the_image(uki: Path, tmp_path: Path) -> None:
    owner, other = make_key("owner"), make_key("other")
    signed = tmp_path / "signed.efi"
    signed.write_bytes(
        sign_boot_image(uki.read_bytes(), load_rsa_key(owner.pem), load_certificates(owner.certificate_pem))
    )
    lists = {}
    for name in ("pk", "kek", "db"):
        lists[name] = tmp_path / f"{name}.esl"
        lists[name].write_bytes(owner.esl)
    options = [word for name, path in lists.items() for word in (f"--{name}", path)]
    on = ["--platform", "qemu-q35-ovmf-2025.02-secboot", "--secure-boot", *options]
    plain, secured = pcrs(signed), pcrs(signed, *on)
    assert {number for number in plain if plain[number] != secured[number]} == {"4", "7"}
    assert "and none that does" in refusal(uki, *on).message
    lists["db"].write_bytes(other.esl)
    assert "and none that does" in refusal(signed, *on).message
    lists["db"].write_bytes(owner.esl)
    assert "-secboot" in (refusal(signed, "--secure-boot", *options).hint or "")


def test_a_plain_kernel_is_one_application_and_has_no_stub(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(make_bzimage())
    registers = pcrs(kernel)
    assert [event["what"] for event in registers["4"]["events"]][-1] == "Authenticode digest of the image"
    assert registers["9"] == registers["11"] == {"rule": "initial"}
    assert refusal(kernel, "--stub-version", 257).message.startswith("--stub-version: expected a UKI")


def test_direct_boot_of_a_kernel_needs_the_machine_and_says_so(tmp_path: Path, uki: Path) -> None:
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(patchable_kernel())
    initrd.write_bytes(b"initrd")
    assert "expected --qemu and --memory" in refusal(kernel, "--direct").message
    common = (kernel, "--direct", "--initrd", initrd, "--command-line", "quiet", "--memory")
    values = {
        (qemu, memory): pcrs(*common, memory, "--qemu", qemu)["4"]["value"]
        for qemu in ("7.2", "10.0.3")
        for memory in (512, 1024)
    }
    assert values["7.2", 512] != values["7.2", 1024]
    assert values["10.0.3", 512] == values["10.0.3", 1024]
    platform = measured(uki, "--direct", "--command-line", "evil=1")
    assert (platform["id"], platform["kind"]) == ("qemu-direct-ovmf-2025.02", "qemu-direct")
    assert refusal(kernel, "--direct", "--qemu", "new", "--memory", 512).message.startswith(
        "--qemu: expected"
    )


def patchable_kernel() -> bytes:
    """A kernel that is loaded high, as every one since Linux 1.3.73."""
    kernel = bytearray(make_bzimage())
    kernel[0x211] = 1
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    return bytes(kernel)


def test_clouds_say_what_is_not_known_of_them(uki: Path) -> None:
    for name in ("gcp", "azure", "nitro-tpm"):
        registers = pcrs(uki, "--platform", name)
        assert registers["9"]["rule"] == registers["11"]["rule"] == "exact"
        assert registers["7"]["rule"] == "unconstrained"
    assert measured(uki, "--platform", "gcp")["kind"] == "gcp"
    with_sev = pcrs(uki, "--platform", "gcp", "--memory-protection", "sev-snp")
    assert with_sev["0"] != pcrs(uki, "--platform", "gcp")["0"]


def test_a_launch_digest_covers_the_kernel_only_where_there_is_one(uki: Path, firmware: Path) -> None:
    common = ("--platform", "sev-snp", "--firmware", firmware, "--cpu", "EPYC-v4")
    alone = measured(*common)["measurements"]["LAUNCH_DIGEST"]
    with_kernel = measured(uki, *common, "--command-line", "quiet")["measurements"]["LAUNCH_DIGEST"]
    assert alone["digest"] != with_kernel["digest"]
    assert (alone["algorithm"], "kernel" in alone["what"]) == ("sha384", False)
    assert "kernel" in with_kernel["what"]
    assert measured(*common, "--cpu", "0x800f12")["measurements"]["LAUNCH_DIGEST"] == alone
    assert "expected the kernel as well" in refusal(*common, "--command-line", "quiet").message
    assert "expected --firmware" in refusal("--platform", "sev-es").message
    assert "--guest-features: expected 0x" in refusal(*common, "--guest-features", "21").message


def test_an_svsm_below_the_firmware_is_measured_with_it(uki: Path, firmware: Path, tmp_path: Path) -> None:
    svsm, variables = tmp_path / "svsm.bin", tmp_path / "vars.fd"
    svsm.write_bytes(
        OvmfImage(
            sev_sections=((0x800000, 0x9000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3)),
            extra=entry(SVSM_INFO, struct.pack("<I", 0x1000)),
        ).build()
    )
    variables.write_bytes(bytes(0x4000))
    common = ("--platform", "sev-snp", "--firmware", firmware, "--svsm", svsm, "--cpu", "EPYC-v4")
    with_store = measured(*common, "--variables", variables)["measurements"]["LAUNCH_DIGEST"]
    assert "size of the variable store (16384 bytes)" in with_store["needs"]
    assert "expected --cpu and --variables" in refusal(*common).message
    assert "and no image" in refusal(uki, *common, "--variables", variables).message
    plain = ("--platform", "sev-snp", "--firmware", firmware, "--cpu", "EPYC-v4")
    assert "only with --svsm" in refusal(*plain, "--variables", variables).message


def test_a_trust_domain_shows_what_is_predicted_and_what_is_missing(uki: Path, firmware: Path) -> None:
    alone = measured("--platform", "tdx", "--firmware", firmware)
    assert set(alone["measurements"]) == {"MRTD", "RTMR3"}
    assert set(alone["unpredicted"]) == {"RTMR0", "RTMR1", "RTMR2"}
    booted = measured(uki, "--platform", "tdx", "--firmware", firmware, "--memory", 2048)
    assert set(booted["measurements"]) == {"MRTD", "RTMR1", "RTMR2", "RTMR3"}
    assert booted["measurements"]["MRTD"] == alone["measurements"]["MRTD"]
    assert any("ACPI" in need for need in booted["unpredicted"]["RTMR0"]["needs"])


def test_a_trust_domain_with_every_input_has_no_open_register(
    uki: Path, firmware: Path, tmp_path: Path
) -> None:
    for name in ("loader", "rsdp", "tables", "order", "entry"):
        (tmp_path / name).write_bytes(name.encode())
    log = tmp_path / "ccel"
    everything = measured(
        uki,
        *("--platform", "tdx", "--firmware", firmware, "--memory", 2048, "--event-log", log),
        *("--acpi", tmp_path / "loader", tmp_path / "rsdp", tmp_path / "tables"),
        *("--boot-variable", f"BootOrder={tmp_path / 'order'}"),
        *("--boot-variable", f"Boot0000={tmp_path / 'entry'}"),
    )
    assert everything["unpredicted"] == {}
    replayed = replay_cc(parse_cc_event_log(log.read_bytes()))
    for number in range(4):
        assert replayed.values[number + 1].hex == everything["measurements"][f"RTMR{number}"]["digest"]
    bad = refusal(uki, "--platform", "tdx", "--firmware", firmware, "--boot-variable", "BootOrder")
    assert "NAME=FILE" in bad.message


def test_a_trust_domain_that_is_given_a_kernel_takes_it_directly(firmware: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(patchable_kernel())
    common = (kernel, "--platform", "tdx", "--firmware", firmware, "--memory", 2048, "--direct")
    older, newer = (measured(*common, "--qemu", version)["measurements"] for version in ("8.2", "10.2"))
    assert older["MRTD"] == newer["MRTD"]
    assert older["RTMR1"] != newer["RTMR1"]  # QEMU 8.2 changes the kernel
    two_pass = measured(*common, "--qemu", "8.2", "--page-order", "two-pass")["measurements"]
    assert two_pass["MRTD"] != older["MRTD"]


def test_an_enclave_image_has_its_own_registers(tmp_path: Path) -> None:
    path = tmp_path / "test.eif"
    path.write_bytes(image_bytes(make_enclave()))
    values = measured(path, "--platform", "nitro-eif")["measurements"]
    assert set(values) == {"PCR0", "PCR1", "PCR2", "PCR8"}


FOREIGN = {
    ("--cpu", "EPYC"): "qemu-q35-ovmf-2025.02",
    ("--initrd", "FILE"): "qemu-q35-ovmf-2025.02",
    ("--shim", "FILE"): "gcp",
    ("--firmware", "FILE"): "azure",
    ("--disk", "FILE"): "sev-snp",
    ("--bank", "sha256"): "tdx",
    ("--secure-boot",): "nitro-eif",
    ("--console", "console=tty0"): "nitro-eif",
    ("--qemu", "7.2"): "qemu-q35-ovmf-2022.11",
}


@pytest.mark.parametrize("option", FOREIGN)
def test_an_option_that_would_be_ignored_is_refused(option: tuple[str, ...], uki: Path) -> None:
    words = [str(uki) if word == "FILE" else word for word in option]
    error = refusal(uki, "--platform", FOREIGN[option], *words)
    assert isinstance(error, UsageError)
    assert error.message == f"{option[0]} says nothing about platform {FOREIGN[option]}"


def test_platforms_of_registers_need_an_image() -> None:
    assert refusal("--platform", "gcp").message == "platform gcp: expected an image to measure, got none"


def test_a_firmware_of_another_platform_is_refused(uki: Path, tmp_path: Path, monkeypatch) -> None:
    code = tmp_path / "code.fd"
    code.write_bytes(b"code")
    known = recorded.RecordedFirmware(
        code=Digest.sha256(b"code").hex,
        package="a package",
        platform="qemu-q35-ovmf-2022.11",
        machine="q35",
        values=(),
    )
    monkeypatch.setattr(recorded, "RECORDED", (known,))
    error = refusal(uki, "--firmware", code)
    assert isinstance(error, MeasureError)
    assert "expected platform qemu-q35-ovmf-2022.11" in error.message
