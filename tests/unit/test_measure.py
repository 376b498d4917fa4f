"""Predictions from small inputs, computed by hand, and what cannot be predicted."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError, PeError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.measure import recorded
from blindbuild.measure.bank import exact, extend_all, one_of
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.pcr04 import predict_pcr04
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.pcr09 import combine_initrds, initrd_parts, load_options, predict_pcr09
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.platforms import PLATFORMS, find_platform
from blindbuild.measure.recorded import RecordedFirmware, RecordedValue, classify_pcr00
from blindbuild.measure.reference import reference_values
from blindbuild.measure.separator import predict_separator
from blindbuild.measure.stub import NEWEST, OLDEST, parse_stub_magic, stub_rules
from blindbuild.measure.uki import measure_uki

SHA256, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA512
MAGIC_257 = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"
OVMF_2025 = "qemu-q35-ovmf-2025.02"


def pe_image(sections: list[tuple[str, bytes]]) -> bytes:
    """Write a PE32+ image for x86-64 by hand: headers of 1 KiB, then each section, aligned."""
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 112 + 16 * 8, 0x22E)
    table, body, address, offset = b"", b"", 4096, 1024
    for name, data in sections:
        raw = data.ljust(-(-len(data) // 512) * 512, b"\0")
        fields = (name.encode(), len(data), address, len(raw), offset, 0, 0, 0, 0, 0x40000040)
        table += struct.pack("<8sIIIIIIHHI", *fields)
        body += raw
        address += -(-max(len(data), 1) // 4096) * 4096
        offset += len(raw)
    optional = bytearray(112 + 16 * 8)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, 4096, 512)
    struct.pack_into("<II", optional, 56, address, 1024)
    struct.pack_into("<I", optional, 108, 16)
    return (head + coff + bytes(optional) + table).ljust(1024, b"\0") + body


KERNEL = pe_image([(".text", b"kernel")])
SECTIONS = {
    ".sdmagic": MAGIC_257,
    ".osrel": b"ID=test\n",
    ".cmdline": b"quiet",
    ".initrd": b"initrd",
    ".linux": KERNEL,
}


def uki(changes: dict[str, bytes | None]) -> bytes:
    """Return a UKI with these sections changed, added or (None) left out."""
    sections = {**SECTIONS, **changes}
    return pe_image([(name, data) for name, data in sections.items() if data is not None])


def chain(*measured: bytes) -> bytes:
    """Extend a zero register with the SHA-256 of each of these, without our code."""
    value = bytes(32)
    for data in measured:
        value = hashlib.sha256(value + hashlib.sha256(data).digest()).digest()
    return value


def test_hashing_in_banks_is_hashing_the_concatenation() -> None:
    parts = (b"a" * 300_000, bytearray(b"b"), memoryview(b"c"))
    found = hash_in_banks(parts, (SHA256, SHA512))
    whole = b"a" * 300_000 + b"bc"
    assert found == {
        SHA256: Digest(SHA256, hashlib.sha256(whole).digest()),
        SHA512: Digest(SHA512, hashlib.sha512(whole).digest()),
    }


def test_no_bank_at_all_is_an_error() -> None:
    with pytest.raises(MeasureError, match="at least one bank to predict, got none"):
        hash_in_banks((b"",), ())


def test_the_value_of_a_register_is_the_chain_of_its_events() -> None:
    events = predict_pcr05((SHA256, SHA512))
    success = b"Exit Boot Services Returned with Success"
    assert extend_all(5, events, SHA256).value == chain(bytes(4), b"Exit Boot Services Invocation", success)
    classified = exact(5, events, SHA256)
    assert classified.value.value == chain(bytes(4), b"Exit Boot Services Invocation", success)
    assert [(event.event_type, event.digest.value) for event in classified.events][-1] == (
        0x80000007,
        hashlib.sha256(success).digest(),
    )


def test_an_event_of_another_register_is_refused() -> None:
    with pytest.raises(MeasureError, match="expected events of register 2, got one of 3"):
        extend_all(2, (predict_separator(3, (SHA256,)),), SHA256)


def test_a_register_without_events_is_not_exact() -> None:
    with pytest.raises(MeasureError, match="register 4: expected at least one event, got none"):
        exact(4, (), SHA256)


def test_one_of_sorts_and_drops_doubles_and_refuses_none() -> None:
    low, high = Digest.zero(SHA256), Digest.ones(SHA256)
    assert one_of((high, low, high), why="x") == OneOf((low, high), "x")
    with pytest.raises(MeasureError, match="expected at least one value to choose from, got none"):
        one_of((), why="x")


def test_the_inner_kernel_is_the_last_event_of_register_4_if_the_firmware_loads_it() -> None:
    image, kernel = {SHA256: Digest.sha256(b"uki")}, {SHA256: Digest.sha256(b"kernel")}
    call = b"Calling EFI Application from Boot Option"
    without = predict_pcr04(image=image, inner_kernel=None)
    with_kernel = predict_pcr04(image=image, inner_kernel=kernel)
    assert extend_all(4, without, SHA256).value == chain(call, bytes(4), b"uki")
    assert extend_all(4, with_kernel, SHA256).value == chain(call, bytes(4), b"uki", b"kernel")


def test_the_versions_that_load_the_kernel_through_the_firmware_end_with_257() -> None:
    assert [v for v in range(OLDEST, NEWEST + 1) if stub_rules(v).loads_kernel_through_firmware] == [
        252, 253, 254, 255, 256, 257,
    ]  # fmt: skip


COMMON = [".linux", ".osrel", ".cmdline", ".initrd"]
SINCE_254 = [".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"]
SINCE_257 = [*COMMON, ".ucode", *SINCE_254, ".profile", ".dtbauto", ".hwids"]


@pytest.mark.parametrize(
    ("version", "sections"),
    [
        (252, [*COMMON, ".splash", ".dtb", ".pcrpkey"]),
        (253, [*COMMON, ".splash", ".dtb", ".pcrpkey"]),
        (254, [*COMMON, *SINCE_254]),
        (255, [*COMMON, *SINCE_254]),
        (256, [*COMMON, ".ucode", *SINCE_254]),
        (257, SINCE_257),
        (258, [*SINCE_257, ".efifw"]),
        (262, [*SINCE_257, ".efifw"]),
    ],
)
def test_sections_are_measured_in_the_order_of_the_version(version: int, sections: list[str]) -> None:
    assert list(stub_rules(version).measured_sections) == sections


@pytest.mark.parametrize("version", [OLDEST - 1, NEWEST + 1])
def test_a_version_without_known_rules_is_refused(version: int) -> None:
    with pytest.raises(MeasureError, match="expected version 252 to 262"):
        stub_rules(version)


@pytest.mark.parametrize(
    ("magic", "version"),
    [
        (MAGIC_257, 257),
        (b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0", 252),
        (b"#### LoaderInfo: systemd-stub 262 ####", 262),
        (b"#### LoaderInfo: systemd-stub 258~rc1 ####", 258),
    ],
)
def test_the_version_is_read_from_the_stub(magic: bytes, version: int) -> None:
    assert parse_stub_magic(magic).version == version


@pytest.mark.parametrize(
    "magic",
    [
        b"",
        b"#### LoaderInfo: systemd-boot 257.13 ####",
        b"#### LoaderInfo: systemd-stub 2570 ####",
        b"#### LoaderInfo: systemd-stub 257.13 ####\0\0",
        b"#### LoaderInfo: systemd-stub 257.13 x ####",
        b" #### LoaderInfo: systemd-stub 257.13 ####",
    ],
)
def test_what_is_no_systemd_stub_is_refused(magic: bytes) -> None:
    with pytest.raises(MeasureError, match=r"section \.sdmagic: expected the name of a systemd-stub"):
        parse_stub_magic(magic)


def test_load_options_are_utf_16_with_a_nul() -> None:
    assert load_options(b"a b", stub_rules(252)) == b"a\0 \0b\0\0\0"


@pytest.mark.parametrize("text", [b" a\tb\x7f \n", b"\na\x01b\t\t"])
def test_stub_257_turns_control_characters_into_spaces_and_trims_both_ends(text: bytes) -> None:
    assert load_options(text, stub_rules(257)) == "a b\0".encode("utf-16-le")


@pytest.mark.parametrize(
    ("text", "version", "reason"),
    [
        (b" \n", 257, "command line: expected text, or no command line at all, got an empty one"),
        (
            b"a\x7f",
            255,
            "expected no control characters and no white space at its ends with systemd-stub 255",
        ),
        (b" a", 256, "expected no control characters and no white space at its ends with systemd-stub 256"),
        (b"quiet", 261, "expected console= with systemd-stub 261, which else appends the consoles"),
    ],
)
def test_a_command_line_whose_fate_is_not_known_is_refused(text: bytes, version: int, reason: str) -> None:
    with pytest.raises(MeasureError) as caught:
        load_options(text, stub_rules(version))
    assert reason in caught.value.message


def newc(inode: int, mode: int, name: str, data: bytes) -> bytes:
    """Write one cpio entry as a tool of its own would."""
    size = f"{len(data):08x}"
    head = f"070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size}{0:08x}{0:08x}{0:08x}{0:08x}"
    entry = head.encode() + f"{len(name) + 1:08x}{0:08x}".encode() + name.encode() + b"\0"
    entry += bytes(-len(entry) % 4)
    return entry + data + bytes(-len(data) % 4)


def extra(name: str, data: bytes) -> bytes:
    """Write the archive that the stub generates for one file."""
    trailer = (
        b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B00000000TRAILER!!!\0\0\0\0"
    )
    return newc(1, 0o040555, ".extra", b"") + newc(2, 0o100444, ".extra/" + name, data) + trailer


def test_a_single_initrd_is_left_as_it_is() -> None:
    parts = initrd_parts({".initrd": b"12345", ".osrel": b"x"}, stub_rules(256))
    assert b"".join(combine_initrds(parts)) == b"12345"


def test_stub_257_adds_os_release_as_a_second_initrd() -> None:
    parts = initrd_parts({".initrd": b"12345", ".osrel": b"ID=x\n"}, stub_rules(257))
    assert b"".join(combine_initrds(parts)) == b"12345\0\0\0" + extra("os-release", b"ID=x\n")


def test_generated_initrds_follow_in_the_order_of_the_stub() -> None:
    sections = {".osrel": b"o", ".pcrpkey": b"key", ".pcrsig": b"{}", ".initrd": b"i", ".ucode": b"u"}
    assert initrd_parts(sections, stub_rules(257)) == (
        b"u",
        b"i",
        extra("tpm2-pcr-signature.json", b"{}"),
        extra("tpm2-pcr-public-key.pem", b"key"),
        extra("os-release", b"o"),
    )
    assert initrd_parts(sections, stub_rules(252)) == (
        b"i",
        extra("tpm2-pcr-signature.json", b"{}"),
        extra("tpm2-pcr-public-key.pem", b"key"),
    )


def test_without_an_initrd_only_the_command_line_is_measured() -> None:
    assert initrd_parts({}, stub_rules(257)) == ()
    (event,) = predict_pcr09(options=b"o\0\0\0", initrd=None, algorithms=(SHA256,))
    assert event.digests[SHA256] == Digest.sha256(b"o\0\0\0")
    assert event.data == b"\xed\x22\x3b\x8f\x1a\0\0\0LOADED_IMAGE::LoadOptions\0"


def test_each_section_is_two_events_in_the_stubs_order() -> None:
    sections = {name: {SHA256: Digest.sha256(name[::-1].encode())} for name in (".osrel", ".linux")}
    events = predict_pcr11(sections, stub_rules(257))
    assert extend_all(11, events, SHA256).value == chain(b".linux\0", b"xunil.", b".osrel\0", b"lerso.")
    assert events[0].data == events[1].data == ".linux\0".encode("utf-16-le")


def test_sections_that_the_stub_would_not_measure_are_refused() -> None:
    content = {SHA256: Digest.zero(SHA256)}
    with pytest.raises(MeasureError, match=r"systemd-stub 252 does not measure \.sbat, \.uname"):
        predict_pcr11({".linux": content, ".uname": content, ".sbat": content}, stub_rules(252))
    with pytest.raises(MeasureError, match=r"expected a section \.linux, got none"):
        predict_pcr11({}, stub_rules(252))


def test_a_uki_is_measured_section_by_section() -> None:
    data = uki({".sbat": b"sbat,1\n", ".splash": b""})
    measured = measure_uki(data, (SHA256,))
    assert measured.rules.version == 257
    assert set(measured.sections) == {".linux", ".osrel", ".cmdline", ".initrd", ".sbat"}
    assert measured.sections[".osrel"][SHA256] == Digest.sha256(b"ID=test\n")
    assert measured.kernel_authenticode == authenticode_digests(KERNEL, (SHA256,))
    assert measured.authenticode == authenticode_digests(data, (SHA256,))
    assert measured.load_options == "quiet\0".encode("utf-16-le")
    combined = b"initrd\0\0" + extra("os-release", b"ID=test\n")
    assert measured.initrd == {SHA256: Digest.sha256(combined)}


def test_a_section_that_an_older_stub_ignores_is_left_out() -> None:
    old = MAGIC_257.replace(b"257", b"252")
    measured = measure_uki(uki({".sdmagic": old, ".sbat": b"x", ".uname": b"6.12"}), (SHA256,))
    assert set(measured.sections) == {".linux", ".osrel", ".cmdline", ".initrd"}
    assert measured.initrd == {SHA256: Digest.sha256(b"initrd")}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({".sdmagic": None}, "expected a UKI with a section .sdmagic, got none"),
        ({".linux": None}, "expected a UKI with a section .linux, got none"),
        ({".dtbauto": b"x"}, "section .dtbauto: what is measured of it depends on the machine"),
        (
            {".sdmagic": MAGIC_257.replace(b"257", b"262"), ".efifw": b"x", ".cmdline": b"console=ttyS0"},
            "section .efifw: what is measured of it depends on the machine",
        ),
        (
            {".sdmagic": MAGIC_257.replace(b"257", b"252"), ".dtbauto": b"x"},
            "section .dtbauto: systemd-stub 252 takes it for .dtb",
        ),
    ],
)
def test_a_uki_that_cannot_be_predicted_is_refused(changes: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(MeasureError) as caught:
        measure_uki(uki(changes), (SHA256,))
    assert reason in caught.value.message


def test_a_kernel_that_is_no_pe_image_is_refused() -> None:
    with pytest.raises(PeError):
        measure_uki(uki({".linux": b"not a kernel"}), (SHA256,))


def test_every_register_is_classified_as_decided() -> None:
    reference = reference_values(
        uki({}), firmware_code=b"unknown", platform_id=OVMF_2025, algorithms=(SHA256, SHA512)
    )
    kinds = {2: Exact, 3: Exact, 4: Exact, 6: Exact, 7: Exact, 9: Exact, 11: Exact, 5: OneOf}
    kinds |= dict.fromkeys((0, 1, 16, 23), Unconstrained)
    kinds |= dict.fromkeys((8, 10, 12, 13, 14, 15, *range(17, 23)), Initial)
    for algorithm in (SHA256, SHA512):
        assert {i: type(c) for i, c in enumerate(reference.banks[algorithm])} == kinds
    assert reference.firmware == Digest.sha256(b"unknown")
    assert (reference.identifier, reference.kind) == (OVMF_2025, "uefi-tpm")


@pytest.mark.parametrize("change", [{".cmdline": b"loud"}, {".initrd": b"other"}, {".osrel": b"ID=y\n"}])
def test_a_changed_section_moves_registers_4_9_and_11_and_no_other(change: dict[str, bytes | None]) -> None:
    def banks(changes: dict[str, bytes | None]) -> tuple[object, ...]:
        return reference_values(
            uki(changes), firmware_code=b"f", platform_id=OVMF_2025, algorithms=(SHA256,)
        ).banks[SHA256]

    before, after = banks({}), banks(change)
    assert {i for i in range(24) if before[i] != after[i]} == {4, 9, 11}


def test_a_retry_of_exit_boot_services_is_foreseen_as_the_firmware_logs_it() -> None:
    invocation, failure = b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Failure"
    success = b"Exit Boot Services Returned with Success"
    expected = {
        "qemu-q35-ovmf-2022.11": chain(bytes(4), failure, invocation, success),
        OVMF_2025: chain(bytes(4), invocation, failure, invocation, success),
    }
    for platform_id, retried in expected.items():
        reference = reference_values(
            uki({}), firmware_code=b"f", platform_id=platform_id, algorithms=(SHA256,)
        )
        classified = reference.banks[SHA256][5]
        assert isinstance(classified, OneOf)
        assert {value.value for value in classified.values} == {chain(bytes(4), invocation, success), retried}


def test_an_unknown_platform_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MeasureError, match="unknown platform 'x'") as caught:
        find_platform("x")
    assert caught.value.hint is not None
    assert OVMF_2025 in caught.value.hint


RECORD = RecordedFirmware(
    code=Digest.sha256(b"firmware").hex,
    package="ovmf 1.0",
    platform=OVMF_2025,
    machine="a test",
    values=(
        RecordedValue((2048, 4096), sha256="ff" * 32, sha384="ff" * 48, sha512="ff" * 64),
        RecordedValue((1024,), sha256="11" * 32, sha384="11" * 48, sha512="11" * 64),
    ),
)


def test_recorded_values_of_register_0_are_offered_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "RECORDED", (RECORD,))
    found = classify_pcr00(Digest.sha256(b"firmware"), SHA256, platform=find_platform(OVMF_2025))
    assert isinstance(found, OneOf)
    assert [value.hex for value in found.values] == ["11" * 32, "ff" * 32]
    assert "111111111111 with 1024 MiB" in found.why
    assert "ffffffffffff with 2048, 4096 MiB" in found.why


def test_a_firmware_or_bank_without_a_record_is_said_to_be_unrecorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorded, "RECORDED", (RECORD,))
    platform = find_platform(OVMF_2025)
    other = classify_pcr00(Digest.sha256(b"other"), SHA256, platform=platform)
    assert other == Unconstrained(f"no boot of the firmware with {Digest.sha256(b'other')} was recorded")
    bank = classify_pcr00(Digest.sha256(b"firmware"), HashAlgorithm.SHA1, platform=platform)
    assert isinstance(bank, Unconstrained)
    assert "no sha1 value" in bank.reason


def test_a_firmware_of_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "RECORDED", (RECORD,))
    with pytest.raises(MeasureError, match=f"expected platform {OVMF_2025}, got qemu-q35-ovmf-2022.11"):
        classify_pcr00(Digest.sha256(b"firmware"), SHA256, platform=find_platform("qemu-q35-ovmf-2022.11"))


def test_every_record_is_complete_and_of_a_known_platform() -> None:
    assert len({record.code for record in recorded.RECORDED}) == len(recorded.RECORDED)
    known = {platform.identifier for platform in PLATFORMS}
    for record in recorded.RECORDED:
        assert record.platform in known
        Digest.from_hex(SHA256, record.code)
        sizes = [size for value in record.values for size in value.memory_mib]
        assert len(sizes) == len(set(sizes))
        for algorithm in (SHA256, HashAlgorithm.SHA384, SHA512):
            assert len({value.digest(algorithm) for value in record.values} - {None}) == len(record.values)
