"""`blindbuild measure` with inputs of others: addons, options without effect, text that is no text."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from blindbuild.errors import UsageError
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.measure.snp_hashes import hash_kernel
from blindbuild.publish import load_certificates, load_rsa_key, sign_boot_image
from tests.cli import test_measure_verb as verb
from tests.cli.test_measure_verb import measured, pcrs, refusal
from tests.fakes.pe_image import OPTIONAL, FakeSection, make_pe
from tests.fakes.secure_boot import OWNER, SecureBootKey, make_key

uki, firmware = verb.uki, verb.firmware
SECURE = "qemu-q35-ovmf-2025.02-secboot"


def signed(image: bytes, key: SecureBootKey) -> bytes:
    return sign_boot_image(image, load_rsa_key(key.pem), load_certificates(key.certificate_pem))


@pytest.fixture
def secure(uki: Path, tmp_path: Path) -> list[object]:
    """Options for a signed UKI with an addon that another key of db signed, and one that the same one did."""
    owner, other = make_key("owner"), make_key("other")
    (tmp_path / "signed.efi").write_bytes(signed(uki.read_bytes(), owner))
    for name, key in (("b", owner), ("a", other)):
        addon = make_pe([FakeSection(b".cmdline", f"{name}=1".encode())])
        (tmp_path / f"{name}.addon.efi").write_bytes(signed(addon, key))
    for name, data in (("pk", owner.esl), ("kek", owner.esl), ("db", owner.esl + other.esl)):
        (tmp_path / f"{name}.esl").write_bytes(data)
    keys = [word for name in ("pk", "kek", "db") for word in (f"--{name}", tmp_path / f"{name}.esl")]
    addons = [word for name in "ba" for word in ("--addon", tmp_path / f"{name}.addon.efi")]
    return [tmp_path / "signed.efi", "--secure-boot", *keys, *addons]


def test_an_addon_that_another_key_signed_is_an_authority_of_its_own(
    secure: list[object], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    events = pcrs(*secure, "--platform", SECURE, "--event-log", log)["7"]["events"]
    sizes = [16 + len(make_key(name).der) for name in ("owner", "other")]
    assert [event["what"] for event in events[-2:]] == [f"authority db: {size} bytes" for size in sizes]
    written = [event.data for event in parse_event_log(log.read_bytes()).events if event.register == 7]
    assert written[-1].endswith(OWNER.bytes_le + make_key("other").der)


@pytest.mark.parametrize("platform", ["nitro-tpm", "gcp"])
def test_a_cloud_with_known_keys_has_the_authorities_of_addons_too(
    platform: str, secure: list[object]
) -> None:
    direct = pcrs(*secure, "--platform", SECURE)
    assert pcrs(*secure, "--platform", platform)["7"]["value"] == direct["7"]["value"]


def test_a_cloud_with_unknown_keys_takes_addons_as_well(secure: list[object]) -> None:
    image, addons = secure[0], secure[-4:]
    found = pcrs(image, "--platform", "nitro-tpm", "--secure-boot", *addons)
    assert found["7"]["rule"] == "unconstrained"
    assert found["4"] == pcrs(*secure, "--platform", "nitro-tpm")["4"]


def test_a_trust_domain_has_the_authorities_of_addons_in_rtmr0(
    secure: list[object], firmware: Path, tmp_path: Path
) -> None:
    for name in ("loader", "rsdp", "tables", "order"):
        (tmp_path / name).write_bytes(name.encode())
    common = (
        *("--platform", "tdx", "--firmware", firmware, "--memory", 2048),
        *("--acpi", tmp_path / "loader", tmp_path / "rsdp", tmp_path / "tables"),
        *("--boot-variable", f"BootOrder={tmp_path / 'order'}"),
    )
    needs = measured(*secure, *common)["measurements"]["RTMR0"]["needs"]
    assert sum(need.startswith("authority db") for need in needs) == 2


def test_an_addon_that_no_key_of_db_signed_has_no_boot_to_predict(
    secure: list[object], tmp_path: Path
) -> None:
    (tmp_path / "a.addon.efi").write_bytes(make_pe([FakeSection(b".cmdline", b"a=1")]))
    assert "none that does" in refusal(*secure, "--platform", SECURE).message


def test_text_that_is_not_utf_8_is_refused_for_a_kernel_and_for_a_uki(uki: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(verb.make_bzimage())
    for image in (kernel, uki):
        error = refusal(image, "--load-options", os.fsdecode(b"quiet \xff"))
        assert isinstance(error, UsageError)
        assert error.message == "--load-options: expected text in UTF-8, got 'quiet \\udcff'"


def test_text_of_others_does_not_steer_the_terminal(uki: Path, firmware: Path, tmp_path: Path) -> None:
    addon = tmp_path / "x.addon.efi"
    addon.write_bytes(make_pe([FakeSection(b".cmdline", "x=\x9b31m\u202e".encode())]))
    done = verb.run(uki, "--platform", "tdx", "--firmware", firmware, "--addon", addon)
    assert "from   command line of addons: x=\\x9b31m\\x202e\n" in done.stdout
    assert not {"\x9b", "\u202e"} & set(done.stdout)


def test_a_kernel_with_a_hundred_profiles_is_still_a_uki(tmp_path: Path) -> None:
    kernel = make_pe()
    sections = [FakeSection(b".linux", kernel), FakeSection(b".cmdline", b"quiet")]
    sections += [FakeSection(b".profile", b"ID=x\n")] * 100
    image = bytearray(make_pe(sections, size_of_headers=8192))
    for line in range(OPTIONAL + 112 + 8 * 16, OPTIONAL + 112 + 8 * 16 + 40 * len(sections), 40):
        struct.pack_into("<I", image, line + 12, struct.unpack_from("<I", image, line + 12)[0] + 8192)
    struct.pack_into("<I", image, OPTIONAL + 56, 1 << 20)  # SizeOfImage
    path = tmp_path / "many.efi"
    path.write_bytes(image)
    assert pcrs(path, "--stub-version", 257, "--profile", 99)["12"]["rule"] == "exact"


def test_an_initrd_that_qemu_registers_reaches_the_stub(uki: Path, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"initrd")
    common = (uki, "--direct", "--initrd", initrd)
    assert "does not start when an initrd is registered" in refusal(*common).message
    initrd.write_bytes(b"")
    assert pcrs(*common)["9"] == pcrs(uki, "--direct")["9"]


NOT_DIRECT = (("--initrd", "FILE"), ("--command-line", "quiet"), ("--qemu", "8.2"))


@pytest.mark.parametrize("option", NOT_DIRECT)
def test_what_qemu_passes_on_is_refused_where_it_passes_nothing(
    option: tuple[str, ...], uki: Path, firmware: Path
) -> None:
    words = [str(uki) if word == "FILE" else word for word in option]
    error = refusal(uki, "--platform", "tdx", "--firmware", firmware, *words)
    assert isinstance(error, UsageError)
    assert error.message == f"{option[0]}: expected --direct with it, got an image on a disk"


WITHOUT_IMAGE = (
    ("--direct",),
    ("--load-options", "quiet"),
    ("--secure-boot",),
    ("--profile", "1"),
    ("--event-log", "log"),
    ("--boot-variable", "BootOrder=x"),
)


@pytest.mark.parametrize("option", WITHOUT_IMAGE)
def test_what_describes_a_boot_is_refused_without_an_image(option: tuple[str, ...], firmware: Path) -> None:
    error = refusal("--platform", "tdx", "--firmware", firmware, *option)
    assert isinstance(error, UsageError)
    assert error.message == f"{option[0]}: expected an image that boots, got none"


NO_PROCESSORS = (
    ("sev", "--processors", "2"),
    ("sev", "--cpu", "EPYC"),
    ("sev", "--guest-features", "0x3"),
    ("sev", "--vmm", "ec2"),
    ("sev-es", "--guest-features", "0x3"),
)


@pytest.mark.parametrize("words", NO_PROCESSORS)
def test_what_a_kind_of_launch_does_not_measure_is_refused(words: tuple[str, ...], firmware: Path) -> None:
    platform, *option = words
    error = refusal("--platform", platform, "--firmware", firmware, *option)
    assert isinstance(error, UsageError)
    assert error.message == f"{option[0]} says nothing about platform {platform}"


def test_a_processor_model_is_refused_where_the_vmm_hides_it(firmware: Path) -> None:
    common = ("--platform", "sev-snp", "--firmware", firmware, "--vmm", "ec2")
    assert refusal(*common, "--cpu", "EPYC").message == "--cpu: expected none with --vmm ec2, got EPYC"


def test_a_trust_domain_with_newer_firmware_has_an_open_rtmr0(
    uki: Path, firmware: Path, tmp_path: Path
) -> None:
    for name in ("loader", "rsdp", "tables", "order"):
        (tmp_path / name).write_bytes(name.encode())
    common = (
        *(uki, "--platform", "tdx", "--firmware", firmware, "--memory", 2048),
        *("--acpi", tmp_path / "loader", tmp_path / "rsdp", tmp_path / "tables"),
        *("--boot-variable", f"BootOrder={tmp_path / 'order'}"),
    )
    assert "RTMR0" in measured(*common, "--edk2", "202502")["measurements"]
    newer = measured(*common, "--edk2", "202505")
    assert "RTMR0" not in newer["measurements"]
    assert any("fw_cfg" in need for need in newer["unpredicted"]["RTMR0"]["needs"])


def test_a_kernel_too_large_to_be_held_is_refused_before_it_is_read(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(make_pe())
    os.truncate(kernel, 1 << 29)
    error = refusal(kernel, "--direct", "--qemu", "7.2", "--memory", 2048)
    assert error.message == "--direct: expected a kernel of at most 268435456 bytes, got 536870912"


def test_a_launch_hashes_kernel_and_initrd_as_qemu_is_given_them(firmware: Path, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(b"kernel")
    initrd.write_bytes(b"initrd")
    common = ("--platform", "sev-snp", "--firmware", firmware, "--cpu", "EPYC-v4")
    found = measured(kernel, *common, "--initrd", initrd, "--command-line", "quiet")
    hashes = hash_kernel(b"kernel", initrd=b"initrd", command_line="quiet")
    needs = found["measurements"]["LAUNCH_DIGEST"]["needs"]
    assert {f"kernel {hashes.kernel}", f"initrd {hashes.initrd}"} < set(needs)
    without = measured(kernel, *common)["measurements"]["LAUNCH_DIGEST"]["needs"]
    assert f"initrd {hash_kernel(b'').initrd}" in without
