"""AWS Nitro Enclave images: layout, registers, signature; what is read is exactly what would be measured."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from blindbuild.assemble.eif import (
    NO_TIME,
    EifMetadata,
    build_eif,
    inspect_kernel,
    load_signer,
    split_uki,
)
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import (
    BuildError,
    EifError,
    FormatError,
    ManifestError,
    MeasureError,
    PeError,
    UsageError,
)
from blindbuild.formats import eif
from blindbuild.formats.certificate import parse_pem_certificate
from blindbuild.formats.eif import EifArchitecture, EifPart, SectionType, read_eif, write_eif
from blindbuild.formats.eif_signature import parse_eif_signature, sign_eif
from blindbuild.formats.source import BytesSource
from blindbuild.measure.eif import measure_eif, measure_parts
from tests.fakes.damage import assert_all_refused, bit_flips, truncations
from tests.fakes.enclave_image import (
    CERTIFICATE,
    COMMAND_LINE,
    METADATA,
    RAMDISKS,
    image_bytes,
    make_enclave,
    signing_key,
    signing_key_pem,
)
from tests.fakes.enclave_reader import load, measure
from tests.fakes.kernel_image import RELEASE, make_bzimage
from tests.fakes.pe_image import FakeSection, make_pe

# Printed for the sample image by main.py of fabienpe/aws-nitro-verify-pcr-signature (commit 453f7e43), a
# third party's reader that also agreed on the checksum; run by hand on 2026-11-22.
BY_A_THIRD_PARTY = {
    "PCR0": "c3401c39bf5034812888ebcce49ab7fec82a4d25bdfb6c22"
    "8ab4eab3f3f2abcd2a8afa59b8bee0d87bc6045ac7f52979",
    "PCR1": "09debd07d79f85799d734bf0f2f60ba344ad4aa818c0aa41"
    "3dd8857d365718a258d0519f4b5b5651e35c862d31f3a773",
    "PCR2": "def077a0f8275a3991f437cfb9fe9a586706a003c0d35f9a"
    "12b4ff428a23acb21da489fb0df45105aeadb756a50b9b43",
    "PCR8": "67b8be52e84deb6282a742c3a5a549a7a2cdd0c4b377d850"
    "018b21b5f1afc4f4d0b9cc9477537f891c4dc0efd8b297e2",
}
# PCR2 of every enclave that has one ramdisk only, as published with many of them, such as the mock values of
# tkhq/qos and the documents of MystenLabs/nautilus.
NO_SECOND_RAMDISK = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)
COUNT = 26  # offsets in the header
OFFSETS = 28
SIZES = 284
UNUSED = 540
CHECKSUM = 544


def registers(data: bytes) -> dict[str, str]:
    return {item.name: item.digest.hex for item in measure_eif(BytesSource(data))}


def with_checksum(data: bytes | bytearray) -> bytes:
    """Return the image with a checksum that is right, so that something else must refuse it."""
    fixed = bytearray(data)
    struct.pack_into(">I", fixed, CHECKSUM, zlib.crc32(bytes(fixed[:CHECKSUM]) + bytes(fixed[548:])))
    return bytes(fixed)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    changed = bytearray(data)
    changed[offset : offset + len(value)] = value
    return with_checksum(changed)


def part(section_type: SectionType, data: bytes) -> EifPart:
    return EifPart(section_type, BytesSource(data))


def written(*parts: EifPart) -> bytes:
    return b"".join(write_eif(parts, EifArchitecture.X86_64))


KERNEL = part(SectionType.KERNEL, b"kernel")
LINE = part(SectionType.COMMAND_LINE, b"line")
DISK = part(SectionType.RAMDISK, b"disk")
ABOUT = part(SectionType.METADATA, b"{}")


def test_the_registers_are_those_that_a_third_party_computed() -> None:
    built = make_enclave()
    assert registers(image_bytes(built)) == BY_A_THIRD_PARTY
    assert {item.name: item.digest.hex for item in built.measurements} == BY_A_THIRD_PARTY


def test_a_second_reader_accepts_the_image_and_computes_the_same_registers() -> None:
    data = image_bytes(make_enclave())
    enclave = load(data)
    assert (enclave.kernel, enclave.cmdline) == (make_bzimage(), COMMAND_LINE.encode())
    assert tuple(enclave.ramdisks) == RAMDISKS
    assert enclave.order == ["kernel", "cmdline", "metadata", "ramdisk", "ramdisk", "ramdisk", "signature"]
    assert (enclave.arch, enclave.default_mem, enclave.default_cpus) == ("x86_64", 1 << 30, 2)
    assert enclave.registers(parse_pem_certificate(CERTIFICATE.decode()).der) == registers(data)


def test_one_ramdisk_gives_the_published_pcr2_and_pcr1_equal_to_pcr0() -> None:
    values = registers(image_bytes(make_enclave(ramdisks=RAMDISKS[:1])))
    assert values["PCR2"] == NO_SECOND_RAMDISK
    assert values["PCR0"] == values["PCR1"]


def test_no_register_tells_where_kernel_command_line_and_first_ramdisk_end() -> None:
    # a limit of the format: contents are hashed one after the other, without their lengths
    one = written(KERNEL, part(SectionType.COMMAND_LINE, b"a=1 lockdown=1"), DISK, ABOUT)
    other = written(
        KERNEL, part(SectionType.COMMAND_LINE, b"a=1 "), part(SectionType.RAMDISK, b"lockdown=1disk"), ABOUT
    )
    assert one != other
    assert registers(one) == registers(other)


def test_pcr8_of_an_unsigned_image_is_zero() -> None:
    assert registers(image_bytes(make_enclave(signed=False)))["PCR8"] == "00" * 48


def test_the_same_parts_give_the_same_bytes_also_when_signed() -> None:
    assert image_bytes(make_enclave()) == image_bytes(make_enclave())


def test_metadata_has_every_field_that_the_schema_wants_and_no_time() -> None:
    metadata = load(image_bytes(make_enclave())).metadata
    assert set(metadata) == {"ImageName", "ImageVersion", "BuildMetadata", "DockerInfo", "CustomMetadata"}
    assert metadata["BuildMetadata"]["BuildTime"] == NO_TIME
    assert metadata["BuildMetadata"]["KernelVersion"] == RELEASE
    assert set(metadata["BuildMetadata"]) == {
        "BuildTime",
        "BuildTool",
        "BuildToolVersion",
        "OperatingSystem",
        "KernelVersion",
    }


def test_metadata_and_signature_change_no_other_register() -> None:
    timed = dataclasses.replace(METADATA, build_time="2026-11-22T20:00:00Z")
    other = build_eif(
        kernel=make_bzimage(), command_line=COMMAND_LINE, ramdisks=RAMDISKS, metadata=timed, signer=None
    )
    data = image_bytes(other)
    assert load(data).metadata["BuildMetadata"]["BuildTime"] == "2026-11-22T20:00:00Z"
    assert {k: v for k, v in registers(data).items() if k != "PCR8"} == {
        k: v for k, v in BY_A_THIRD_PARTY.items() if k != "PCR8"
    }


def test_an_arm64_image_says_so() -> None:
    kernel = bytearray(128)
    kernel[0x38:0x3C] = b"ARM\x64"
    built = build_eif(kernel=bytes(kernel), command_line="a", ramdisks=(b"disk",), metadata=METADATA)
    data = image_bytes(built)
    assert load(data).arch == "aarch64"
    assert read_eif(BytesSource(data)).architecture is EifArchitecture.AARCH64


def test_sections_count_in_the_order_of_the_file() -> None:
    data = written(LINE, KERNEL, DISK, ABOUT)
    assert registers(data)["PCR0"] == measure(b"line" + b"kernel" + b"disk")


def test_older_versions_need_no_metadata_and_the_oldest_takes_no_signature() -> None:
    body = written(KERNEL, LINE, DISK, ABOUT)[:-14]  # without the metadata's header and data
    cut = bytearray(body)
    struct.pack_into(">H", cut, COUNT, 3)
    struct.pack_into(">Q", cut, OFFSETS + 8 * 3, 0)
    struct.pack_into(">Q", cut, SIZES + 8 * 3, 0)
    with pytest.raises(EifError, match="expected 1 sections of type metadata, got 0"):
        read_eif(BytesSource(with_checksum(cut)))
    for version in (2, 3):
        struct.pack_into(">H", cut, 4, version)
        assert read_eif(BytesSource(with_checksum(cut))).version == version


def test_every_truncation_and_every_flipped_bit_is_refused() -> None:
    data = image_bytes(make_enclave())
    assert_all_refused(lambda bad: measure_eif(BytesSource(bad)), truncations(data, step=7), EifError)
    assert_all_refused(lambda bad: measure_eif(BytesSource(bad)), bit_flips(data, step=3), EifError)


def test_with_the_checksum_put_right_damage_to_headers_is_refused_all_the_same() -> None:
    data = image_bytes(make_enclave())
    for offset in (*range(8), *range(24, CHECKSUM), *range(548, 560)):
        for bit in range(8):
            bad = patched(data, offset, bytes((data[offset] ^ 1 << bit,)))
            if (offset, bit) == (7, 0):  # the architecture: another image, but a well-formed one
                assert read_eif(BytesSource(bad)).architecture is EifArchitecture.AARCH64
                continue
            with pytest.raises(EifError):
                measure_eif(BytesSource(bad))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:547], "expected a header of 548 bytes, got 547"),
        (lambda data: patched(data, 0, b".elf"), "expected b'.eif' at the start"),
        (lambda data: patched(data, 4, b"\0\1"), "expected version 2 to 4, got 1"),
        (lambda data: patched(data, 4, b"\0\5"), "expected version 2 to 4, got 5"),
        (lambda data: patched(data, 6, b"\0\2"), "expected only flag bit 0, got 0x0002"),
        (lambda data: patched(data, 24, b"\0\1"), "expected zeros in reserved fields"),
        (lambda data: patched(data, UNUSED, b"\1"), "expected zeros in reserved fields"),
        (lambda data: patched(data, OFFSETS + 31 * 8, b"\1"), "expected zeros in reserved fields"),
        (lambda data: patched(data, SIZES + 31 * 8, b"\1"), "expected zeros in reserved fields"),
        (lambda data: patched(data, COUNT, b"\0\0"), "expected 1 to 32 sections, got 0"),
        (lambda data: patched(data, COUNT, b"\0\x21"), "expected 1 to 32 sections, got 33"),
        (lambda data: patched(data, OFFSETS + 7, b"\0"), "expected section 0 at 548, got 512"),
        (lambda data: patched(data, SIZES, b"\xff" * 8), "cut off: section 0 of 18446744073709551615 bytes"),
        (lambda data: patched(data, SIZES + 7, b"\5"), "expected 5 bytes as in the header, got 6"),
        (lambda data: patched(data, 548 + 2, b"\0\1"), "expected no flags, got 0x0001"),
        (lambda data: patched(data, 548, b"\0\0"), "unknown type 0"),
        (lambda data: patched(data, 548, b"\0\6"), "unknown type 6"),
        (lambda data: with_checksum(data + b"\0"), "expected an end at"),
        (lambda data: data[:-1] + b"!", "expected checksum"),
    ],
)
def test_each_rule_of_the_layout_is_checked(damage: Callable[[bytes], bytes], reason: str) -> None:
    data = written(KERNEL, LINE, DISK, ABOUT)
    assert read_eif(BytesSource(data)).sections[0].size == 6
    with pytest.raises(EifError, match=reason):
        read_eif(BytesSource(damage(data)))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((LINE, DISK, ABOUT), "expected 1 sections of type kernel, got 0"),
        ((KERNEL, KERNEL, LINE, DISK, ABOUT), "expected 1 sections of type kernel, got 2"),
        ((KERNEL, DISK, ABOUT), "expected 1 sections of type command line, got 0"),
        ((KERNEL, LINE, LINE, DISK, ABOUT), "expected 1 sections of type command line, got 2"),
        ((KERNEL, LINE, ABOUT), "expected 1 to 32 sections of type ramdisk, got 0"),
        ((KERNEL, LINE, DISK), "expected 1 sections of type metadata, got 0"),
        ((KERNEL, LINE, DISK, ABOUT, ABOUT), "expected 1 sections of type metadata, got 2"),
        ((KERNEL, LINE, ABOUT, *[DISK] * 30), "expected at most 32 sections, got 33"),
        ((LINE, DISK, KERNEL, ABOUT), "expected the kernel before the ramdisks"),
        (
            (KERNEL, LINE, DISK, ABOUT, *[part(SectionType.SIGNATURE, b"s")] * 2),
            "expected 0 to 1 sections of type signature, got 2",
        ),
        (
            (KERNEL, LINE, DISK, ABOUT, part(SectionType.SIGNATURE, bytes(32769))),
            "signature: expected at most 32768 bytes",
        ),
        (
            (KERNEL, part(SectionType.COMMAND_LINE, bytes(65537)), DISK, ABOUT),
            "command line: expected at most 65536 bytes",
        ),
    ],
)
def test_what_no_reader_would_accept_is_not_written(parts: tuple[EifPart, ...], reason: str) -> None:
    with pytest.raises(EifError, match=reason):
        written(*parts)


def test_a_part_that_changes_while_it_is_read_leaves_no_whole_image() -> None:
    class Changing(BytesSource):
        readings = 0

        def read(self, offset: int, size: int) -> bytes:
            self.readings += 1
            return bytes((self.readings,)) * size

    with pytest.raises(EifError, match="changed while it was read"):
        written(KERNEL, LINE, EifPart(SectionType.RAMDISK, Changing(b"disk")), ABOUT)


def test_a_signature_over_another_image_is_refused() -> None:
    mine, other = make_enclave(), make_enclave(ramdisks=RAMDISKS[:1])
    parts = (*mine.parts[:-1], other.parts[-1])
    with pytest.raises(EifError, match="got one over something else"):
        registers(written(*parts))


def test_the_signature_of_another_key_under_this_certificate_is_refused() -> None:
    pcr0 = make_enclave().measurements[0].digest
    stranger = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(EifError, match="not this key's"):
        sign_eif(pcr0, key=stranger, certificate_pem=CERTIFICATE)


def test_two_signatures_in_one_section_are_refused() -> None:
    one = sign_eif(make_enclave().measurements[0].digest, key=signing_key(), certificate_pem=CERTIFICATE)
    assert parse_eif_signature(one)
    with pytest.raises(EifError, match="expected a list of one signature"):
        parse_eif_signature(b"\x82" + one[1:] * 2)
    with pytest.raises(EifError, match="expected a list of one signature"):
        parse_eif_signature(b"\x80")


def test_damage_to_a_signature_section_gives_our_error_only() -> None:
    pcr0 = make_enclave().measurements[0].digest
    data = sign_eif(pcr0, key=signing_key(), certificate_pem=CERTIFICATE)

    def judge(bad: bytes) -> bytes:
        certificate = parse_eif_signature(bad).verify(pcr0)
        if certificate.der == parse_pem_certificate(CERTIFICATE.decode()).der:
            return b""  # white space around the certificate may differ; PCR8 is over the DER form
        raise EifError("another certificate")

    assert_all_refused(judge, truncations(data, step=5), EifError)
    accepted = 0
    for bad in bit_flips(data, step=5):
        try:
            judge(bad)
            accepted += 1
        except EifError:
            pass
    assert accepted <= 1


def test_a_register_of_another_bank_is_not_signed() -> None:
    with pytest.raises(EifError, match="expected a sha384 value, got sha256"):
        sign_eif(Digest.zero(HashAlgorithm.SHA256), key=signing_key(), certificate_pem=CERTIFICATE)


def test_a_signer_is_an_elliptic_curve_key_and_its_certificate() -> None:
    assert load_signer(signing_key_pem(), CERTIFICATE).certificate_pem == CERTIFICATE
    edwards = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(UsageError, match="expected a key on P-384"):
        load_signer(edwards, CERTIFICATE)
    with pytest.raises(UsageError, match="expected an unencrypted private key in PEM"):
        load_signer(b"nothing", CERTIFICATE)
    with pytest.raises(FormatError, match="expected one PEM certificate"):
        load_signer(signing_key_pem(), b"\xff")


@pytest.mark.parametrize("line", ["", "a\0b", "a\nb", "ä", "x" * 2048])
def test_a_command_line_that_the_kernel_would_read_otherwise_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match="command line: expected 1 to 2047 characters of printable ASCII"):
        build_eif(kernel=make_bzimage(), command_line=line, ramdisks=(b"d",), metadata=METADATA)


@pytest.mark.parametrize("ramdisks", [(), (b"",), (b"disk", b"")])
def test_an_image_without_ramdisks_or_with_an_empty_one_is_not_built(ramdisks: tuple[bytes, ...]) -> None:
    with pytest.raises(BuildError, match="expected at least one ramdisk"):
        build_eif(kernel=make_bzimage(), command_line="a", ramdisks=ramdisks, metadata=METADATA)


@pytest.mark.parametrize("kernel", [b"", b"MZ" + bytes(0x300), b"\x1f\x8b" + bytes(100), b"\x7fELF" * 300])
def test_what_is_no_kernel_image_is_refused(kernel: bytes) -> None:
    with pytest.raises(BuildError, match="expected a bzImage"):
        inspect_kernel(BytesSource(kernel))


def test_a_kernel_without_a_release_in_its_header_is_of_an_unknown_one() -> None:
    assert inspect_kernel(BytesSource(make_bzimage())) == (EifArchitecture.X86_64, RELEASE)
    assert inspect_kernel(BytesSource(make_bzimage(pointer=0)))[1] == "unknown"
    assert inspect_kernel(BytesSource(make_bzimage(release="v<script>")))[1] == "unknown"


def test_a_uki_gives_its_kernel_command_line_and_initrd() -> None:
    sections = [
        FakeSection(b".linux", make_bzimage()),
        FakeSection(b".cmdline", b"console=ttyS0 quiet\n\0"),
        FakeSection(b".initrd", b"070701"),
    ]
    kernel, line, initrd = split_uki(make_pe(sections))
    assert (kernel.read(0, kernel.size), line) == (make_bzimage(), "console=ttyS0 quiet")
    assert initrd.read(0, initrd.size) == b"070701"
    for missing in range(3):
        with pytest.raises(PeError):
            split_uki(make_pe(sections[:missing] + sections[missing + 1 :]))
    sections[1] = FakeSection(b".cmdline", "ä".encode())
    with pytest.raises(BuildError, match=r"expected ASCII in section \.cmdline"):
        split_uki(make_pe(sections))


def test_a_uki_with_two_kernels_or_an_endless_command_line_is_refused() -> None:
    kernel, line, initrd = (
        FakeSection(b".linux", make_bzimage()),
        FakeSection(b".cmdline", b"quiet"),
        FakeSection(b".initrd", b"070701"),
    )
    with pytest.raises(PeError, match=r"expected one section \.linux, got 2"):
        split_uki(make_pe([kernel, kernel, line, initrd]))
    with pytest.raises(BuildError, match="expected at most 2047 characters"):
        split_uki(make_pe([kernel, FakeSection(b".cmdline", b"a" * 70_000), initrd]))


def test_a_build_time_in_another_form_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected a time such as"):
        dataclasses.replace(METADATA, build_time="yesterday")


def test_parts_without_a_kernel_have_no_registers() -> None:
    with pytest.raises(MeasureError, match="expected a section kernel, got none"):
        measure_parts((LINE, DISK))


def test_names_in_the_metadata_are_text_of_any_kind() -> None:
    named = EifMetadata(name='ü"\n', version="\\")
    built = build_eif(kernel=make_bzimage(), command_line="a", ramdisks=(b"d",), metadata=named)
    data = image_bytes(built)
    section = read_eif(BytesSource(data)).only(SectionType.METADATA)
    assert section is not None
    assert json.loads(data[section.offset : section.offset + section.size])["ImageName"] == 'ü"\n'


def test_the_header_has_the_size_of_the_specification() -> None:
    assert (eif.HEADER_BYTES, eif.SECTION_HEADER_BYTES) == (548, 12)
