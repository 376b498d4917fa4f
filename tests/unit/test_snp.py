"""Launch digests of SEV-SNP guests: what they depend on, and launches that cannot be are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.measure.snp import (
    SnpLaunch,
    SvsmLaunch,
    predict_sev_launch,
    predict_snp_launch,
    predict_svsm_launch,
    snp_firmware_digest,
)
from blindbuild.measure.snp_cpu import cpu_signature, qemu_cpu_signature
from blindbuild.measure.snp_hashes import KernelHashes, hash_kernel, write_hash_page, write_hash_table
from blindbuild.measure.snp_id import id_key_digest, write_id_block
from blindbuild.measure.snp_vmsa import Vmm, processor_page
from tests.fakes.ovmf_image import AMD_SEV_SECTIONS, SVSM_INFO, OvmfImage, entry

SVSM_SECTIONS = ((0, 0x9E000, 1), (0x9E000, 0x1000, 2), (0x9F000, 0x1000, 3))
FIRMWARE = OvmfImage().build()
MILAN = qemu_cpu_signature("EPYC-Milan-v2")
LAUNCH = SnpLaunch(firmware=FIRMWARE, signature=MILAN)
HASHES = hash_kernel(b"kernel", initrd=b"initrd", command_line="console=ttyS0")


def _value(launch: SnpLaunch) -> str:
    (measurement,) = predict_snp_launch(launch)
    assert measurement.name == "LAUNCH_DIGEST"
    return measurement.digest.hex


def test_every_input_changes_the_launch_digest() -> None:
    other_sections = OvmfImage(sev_sections=AMD_SEV_SECTIONS[:-1]).build()
    launches = [
        LAUNCH,
        replace(LAUNCH, firmware=other_sections),
        replace(LAUNCH, firmware=FIRMWARE[:10] + b"!" + FIRMWARE[11:]),
        replace(LAUNCH, processors=2),
        replace(LAUNCH, processors=3),
        replace(LAUNCH, processors=2, firmware=OvmfImage(reset=0x80B008).build()),
        replace(LAUNCH, signature=qemu_cpu_signature("EPYC-Genoa")),
        replace(LAUNCH, guest_features=0x21),
        replace(LAUNCH, vmm=Vmm.EC2),
        replace(LAUNCH, vmm=Vmm.GCE),
        replace(LAUNCH, hashes=HASHES),
        replace(LAUNCH, hashes=hash_kernel(b"kernel", initrd=b"initrd", command_line="console=ttyS1")),
        replace(LAUNCH, hashes=hash_kernel(b"kernel", command_line="console=ttyS0")),
    ]
    values = {_value(launch) for launch in launches}
    assert len(values) == len(launches)


def test_a_kernel_does_not_change_it_unless_its_hash_is_added() -> None:
    assert _value(LAUNCH) == _value(replace(LAUNCH, hashes=None))


def test_only_qemu_lets_the_processor_model_in() -> None:
    for vmm in (Vmm.EC2, Vmm.GCE):
        without = replace(LAUNCH, vmm=vmm, signature=None)
        assert _value(without) == _value(replace(without, signature=MILAN))


def test_the_end_of_the_image_and_its_digest_are_enough() -> None:
    whole = _value(replace(LAUNCH, processors=4, hashes=HASHES))
    digest = snp_firmware_digest(FIRMWARE)
    short = replace(LAUNCH, processors=4, hashes=HASHES, firmware=FIRMWARE[-4096:], firmware_digest=digest)
    assert _value(short) == whole


def test_what_a_value_depends_on_is_listed() -> None:
    (measurement,) = predict_snp_launch(replace(LAUNCH, processors=2, hashes=HASHES))
    assert measurement.needs == (
        "firmware image (32768 bytes)",
        "VMM: qemu",
        "virtual processors: 2",
        "CPU signature: 0xa00f11",
        "guest features: 0x1",
        f"kernel sha256:{hashlib.sha256(b'kernel').hexdigest()}",
        f"initrd sha256:{hashlib.sha256(b'initrd').hexdigest()}",
        f"command line with its NUL sha256:{hashlib.sha256(b'console=ttyS0' + bytes(1)).hexdigest()}",
    )
    (sev,) = predict_sev_launch(LAUNCH, encrypted_state=False)
    assert sev.needs == ("firmware image (32768 bytes)",)


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        (replace(LAUNCH, processors=0), "expected 1 to 4096 processors, got 0"),
        (replace(LAUNCH, processors=4097), "expected 1 to 4096 processors, got 4097"),
        (replace(LAUNCH, signature=None), "expected the CPU signature"),
        (replace(LAUNCH, signature=-1), "a 32-bit signature"),
        (replace(LAUNCH, guest_features=1 << 64), "expected 64-bit guest features"),
        (replace(LAUNCH, firmware=FIRMWARE[1:]), "firmware: expected whole pages of 4096 bytes, got 32767"),
        (
            replace(LAUNCH, processors=2, firmware=OvmfImage(reset=0).build()),
            "where further processors start",
        ),
        (
            replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(hashes=(0, 0)).build()),
            "expected firmware that checks them",
        ),
        (
            replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(sev_sections=AMD_SEV_SECTIONS[:5]).build()),
            "expected firmware with one page for them",
        ),
        (
            replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(hashes=(0x811C00, 0x400)).build()),
            "at the place of its hash table",
        ),
        (
            replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(hashes=(0x810F80, 0x80)).build()),
            "expected room for 176 bytes, got 128",
        ),
        (replace(LAUNCH, firmware_digest=Digest.sha256(b"")), "firmware digest: expected sha384, got sha256"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(launch: SnpLaunch, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        predict_snp_launch(launch)


def test_firmware_without_tables_is_refused() -> None:
    with pytest.raises(FormatError, match="bytes in its table, got 0"):
        predict_snp_launch(replace(LAUNCH, firmware=bytes(8192)))


def test_plain_sev_does_not_go_on_from_a_digest_of_snp() -> None:
    launch = replace(LAUNCH, firmware_digest=snp_firmware_digest(FIRMWARE))
    with pytest.raises(MeasureError, match="SEV: expected the whole firmware"):
        predict_sev_launch(launch, encrypted_state=True)


def test_plain_sev_measures_the_image_alone() -> None:
    (measurement,) = predict_sev_launch(LAUNCH, encrypted_state=False)
    assert measurement.digest == Digest.sha256(FIRMWARE)


def test_plain_sev_with_hashes_needs_firmware_that_checks_them() -> None:
    launch = replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(hashes=(0, 0)).build())
    with pytest.raises(MeasureError, match="expected firmware that checks them"):
        predict_sev_launch(launch, encrypted_state=False)


def test_firmware_is_no_svsm() -> None:
    launch = SvsmLaunch(firmware=FIRMWARE, svsm=FIRMWARE, variables_bytes=0, processors=1, signature=MILAN)
    with pytest.raises(MeasureError, match="SVSM: expected an SVSM image"):
        predict_svsm_launch(launch)


def _svsm(**options) -> SvsmLaunch:
    sections = options.pop("sections", SVSM_SECTIONS)
    image = OvmfImage(pages=4, sev_sections=sections, extra=entry(SVSM_INFO, bytes(4))).build()
    return replace(
        SvsmLaunch(firmware=FIRMWARE, svsm=image, variables_bytes=8192, processors=2, signature=MILAN),
        **options,
    )


def test_every_input_of_an_svsm_changes_the_launch_digest() -> None:
    launches = [
        _svsm(),
        _svsm(firmware=FIRMWARE[:10] + b"!" + FIRMWARE[11:]),
        _svsm(sections=SVSM_SECTIONS[:2]),
        _svsm(variables_bytes=4096),
        _svsm(processors=3),
        _svsm(signature=qemu_cpu_signature("EPYC-Genoa")),
    ]
    assert len({predict_svsm_launch(launch)[0].digest for launch in launches}) == len(launches)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"variables_bytes": -4096}, "a variable store of whole pages above it"),
        ({"variables_bytes": 100}, "a variable store of whole pages above it"),
        ({"variables_bytes": 1 << 32}, "a variable store of whole pages above it"),
        ({"processors": 0}, "expected 1 to 4096 processors, got 0"),
        ({"svsm": b""}, "SVSM: expected whole pages"),
        ({"sections": ((0x1000, 0x1000, 0x10),)}, "expected no page of kernel hashes, got one"),
    ],
)
def test_an_svsm_that_cannot_be_is_refused(options: dict, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        predict_svsm_launch(_svsm(**options))


@pytest.mark.parametrize("line", ["a\0b", "\ud800"])
def test_a_command_line_that_cannot_be_is_refused(line: str) -> None:
    with pytest.raises(MeasureError, match="kernel hashes: expected a command line"):
        hash_kernel(b"", command_line=line)


def test_hashes_of_another_algorithm_are_refused() -> None:
    digest = Digest.of(HashAlgorithm.SHA384, b"")
    with pytest.raises(MeasureError, match="kernel hashes: expected sha256, got sha384"):
        KernelHashes(kernel=digest, initrd=digest, command_line=digest)


def test_the_hash_table_is_padded_and_placed() -> None:
    table = write_hash_table(HASHES)
    assert len(table) == 176
    assert table[16:18] == bytes((168, 0))
    assert table[-8:] == bytes(8)
    page = write_hash_page(HASHES, 0xC00)
    assert page == bytes(0xC00) + table + bytes(0x400 - 176)


def test_an_id_block_has_its_fields_in_place() -> None:
    digest = Digest.of(HashAlgorithm.SHA384, b"launch")
    block = write_id_block(digest, policy=0x30000, family=b"f" * 16, image=b"i" * 16, security_version=7)
    assert block == digest.value + b"f" * 16 + b"i" * 16 + bytes((1, 0, 0, 0, 7, 0, 0, 0)) + bytes(
        (0, 0, 3, 0, 0, 0, 0, 0)
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"policy": 1 << 64}, "expected a 64-bit policy"),
        ({"policy": 0, "security_version": -1}, "a 32-bit security version"),
        ({"policy": 0, "family": b""}, "expected 16 bytes each, got 0 and 16"),
    ],
)
def test_an_id_block_that_has_no_room_is_refused(options: dict, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        write_id_block(Digest.zero(HashAlgorithm.SHA384), **options)


def test_an_id_block_of_another_algorithm_or_curve_is_refused() -> None:
    with pytest.raises(MeasureError, match="expected a sha384 launch digest, got sha256"):
        write_id_block(Digest.sha256(b""), policy=0)
    with pytest.raises(MeasureError, match="expected the coordinates of a P-384 point"):
        id_key_digest(x=1 << 384, y=0)


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("EPYC", 0x800F12),
        ("EPYC-v4", 0x800F12),
        ("EPYC-Rome", 0x830F10),
        ("EPYC-Milan-v2", 0xA00F11),
        ("EPYC-Genoa", 0xA10F10),
        ("EPYC-Turin", 0xB00F00),
    ],
)
def test_a_processor_model_has_the_signature_that_cpuid_shows(name: str, signature: int) -> None:
    assert qemu_cpu_signature(name) == signature


@pytest.mark.parametrize("name", ["host", "max", "EPYC-v0", "EPYC-v12", "EPYC-v", "epyc", "EPYC-Naples"])
def test_a_model_that_says_nothing_certain_is_refused(name: str) -> None:
    with pytest.raises(MeasureError, match="expected a CPU model of EPYC,"):
        qemu_cpu_signature(name)


def test_numbers_that_no_signature_holds_are_refused() -> None:
    for numbers in ((271, 0, 0), (0, 256, 0), (0, 0, 16), (-1, 0, 0)):
        with pytest.raises(MeasureError, match="expected family 0-270"):
            cpu_signature(*numbers)


def test_a_processor_starts_where_it_is_told() -> None:
    page = processor_page(entry=0x80B004, sev_features=1, signature=0, vmm=Vmm.QEMU)
    assert len(page) == 4096
    assert int.from_bytes(page[0x178:0x180], "little") == 0xB004
    assert int.from_bytes(page[0x18:0x20], "little") == 0x800000


@pytest.mark.parametrize("encrypted_state", [False, True])
def test_room_that_is_too_short_for_the_hashes_is_refused_as_qemu_does(encrypted_state: bool) -> None:
    assert len(write_hash_table(HASHES)) == 176
    launch = replace(LAUNCH, hashes=HASHES, firmware=OvmfImage(hashes=(0x810C00, 176)).build())
    assert predict_sev_launch(launch, encrypted_state=encrypted_state)
    assert predict_snp_launch(launch)
    short = replace(launch, firmware=OvmfImage(hashes=(0x810C00, 175)).build())
    with pytest.raises(MeasureError, match="expected room for 176 bytes, got 175"):
        predict_sev_launch(short, encrypted_state=encrypted_state)
