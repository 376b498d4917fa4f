"""Launch digests agree with virtee's sev-snp-measure, for any firmware, machine and kernel."""

from __future__ import annotations

import base64
import importlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.measure.snp import (
    SnpLaunch,
    SvsmLaunch,
    predict_sev_launch,
    predict_snp_launch,
    predict_svsm_launch,
    snp_firmware_digest,
)
from blindbuild.measure.snp_cpu import cpu_signature, qemu_cpu_signature
from blindbuild.measure.snp_hashes import hash_kernel
from blindbuild.measure.snp_id import id_key_digest, write_id_block
from blindbuild.measure.snp_vmsa import Vmm
from tests.fakes.ovmf_image import AMD_SEV_SECTIONS, SVSM_INFO, OvmfImage, entry

pytest.importorskip("sevsnpmeasure", reason="the Python package sev-snp-measure is not installed")

guest = importlib.import_module("sevsnpmeasure.guest")
id_block = importlib.import_module("sevsnpmeasure.id_block")
modes = importlib.import_module("sevsnpmeasure.sev_mode").SevMode
vmm_types = importlib.import_module("sevsnpmeasure.vmm_types").VMMType
vcpu_types = importlib.import_module("sevsnpmeasure.vcpu_types")

VMMS = {Vmm.QEMU: vmm_types.QEMU, Vmm.EC2: vmm_types.ec2, Vmm.GCE: vmm_types.gce}
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

images = st.builds(
    OvmfImage,
    pages=st.integers(1, 6),
    variable_pages=st.just(0),
    sev_sections=st.permutations(AMD_SEV_SECTIONS),
    hashes=st.integers(0, (4096 - 176) // 16).map(lambda n: (0x810000 + 16 * n, 176)),
    reset=st.integers(1, 0xFFFFFFFF),
)
kernels = st.one_of(
    st.none(),
    st.tuples(
        st.binary(max_size=64),
        st.binary(max_size=64),
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40),
    ),
)


def _files(folder: Path, firmware: bytes, kernel: tuple[bytes, bytes, str] | None) -> tuple:
    (folder / "ovmf").write_bytes(firmware)
    if kernel is None:
        return str(folder / "ovmf"), None, None, None
    (folder / "kernel").write_bytes(kernel[0])
    (folder / "initrd").write_bytes(kernel[1])
    return str(folder / "ovmf"), str(folder / "kernel"), str(folder / "initrd"), kernel[2]


def _launch(image: OvmfImage, kernel: tuple | None, vmm: Vmm, count: int, features: int) -> SnpLaunch:
    hashes = hash_kernel(kernel[0], initrd=kernel[1], command_line=kernel[2]) if kernel else None
    return SnpLaunch(
        firmware=image.build(),
        processors=count,
        signature=qemu_cpu_signature("EPYC-Milan"),
        guest_features=features,
        vmm=vmm,
        hashes=hashes,
    )


@given(images, kernels, st.sampled_from(Vmm), st.integers(1, 5), st.integers(0, 2**64 - 1))
@SETTINGS
def test_a_launch_digest_of_snp_is_the_oracles(tmp_path, image, kernel, vmm, count, features) -> None:
    launch = _launch(image, kernel, vmm, count, features)
    firmware, kernel_file, initrd, line = _files(tmp_path, launch.firmware, kernel)
    expected = guest.calc_launch_digest(
        modes.SEV_SNP,
        count,
        vcpu_types.CPU_SIGS["EPYC-Milan"],
        firmware,
        kernel_file,
        initrd,
        line,
        features,
        vmm_type=VMMS[vmm],
    )
    assert predict_snp_launch(launch)[0].digest.value == expected
    assert snp_firmware_digest(launch.firmware).value == guest.calc_snp_ovmf_hash(firmware)


@given(images, kernels, st.sampled_from(Vmm), st.integers(1, 5), st.booleans())
@SETTINGS
def test_a_launch_digest_of_plain_sev_is_the_oracles(tmp_path, image, kernel, vmm, count, encrypted) -> None:
    launch = _launch(image, kernel, vmm, count, 1)
    firmware, kernel_file, initrd, line = _files(tmp_path, launch.firmware, kernel)
    expected = guest.calc_launch_digest(
        modes.SEV_ES if encrypted else modes.SEV,
        count,
        vcpu_types.CPU_SIGS["EPYC-Milan"],
        firmware,
        kernel_file,
        initrd,
        line,
        1,
        vmm_type=VMMS[vmm],
    )
    assert predict_sev_launch(launch, encrypted_state=encrypted)[0].digest.value == expected


@given(
    st.integers(1, 6),
    st.integers(0, 4).map(lambda pages: pages * 4096),
    st.integers(0, 0xFFFF),
    st.permutations(((0, 0x9E000, 1), (0x9E000, 0x1000, 2), (0x9F000, 0x1000, 3), (0xA0000, 0x1000, 4))),
    st.integers(1, 5),
)
@SETTINGS
def test_a_launch_digest_of_an_svsm_guest_is_the_oracles(
    tmp_path, pages, variables, offset, sections, count
) -> None:
    firmware = OvmfImage(pages=pages, variable_pages=0).build()
    extra = entry(SVSM_INFO, offset.to_bytes(4, "little"))
    svsm = OvmfImage(pages=2, variable_pages=0, sev_sections=sections, extra=extra).build()
    signature = qemu_cpu_signature("EPYC-Milan")
    launch = SvsmLaunch(
        firmware=firmware, svsm=svsm, variables_bytes=variables, processors=count, signature=signature
    )
    (tmp_path / "ovmf").write_bytes(firmware)
    (tmp_path / "svsm").write_bytes(svsm)
    expected = guest.calc_launch_digest(
        modes.SEV_SNP_SVSM,
        count,
        signature,
        str(tmp_path / "ovmf"),
        None,
        None,
        None,
        1,
        svsm_file=str(tmp_path / "svsm"),
        ovmf_vars_size=variables,
    )
    assert predict_svsm_launch(launch)[0].digest.value == expected


@given(st.binary(min_size=48, max_size=48))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_id_block_and_its_key_digests_are_the_oracles(tmp_path, digest: bytes) -> None:
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    for name, key in zip(("id", "author"), keys, strict=True):
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    said = id_block.snp_calc_id_block(digest, str(tmp_path / "id"), str(tmp_path / "author"))
    fields = dict(re.findall(r"(id-block|id_key_hash|author_key)[=:] ?([A-Za-z0-9+/=]+)", said))
    block = write_id_block(Digest(HashAlgorithm.SHA384, digest), policy=0x30000)
    assert block == base64.b64decode(fields["id-block"])
    for name, key in zip(("id_key_hash", "author_key"), keys, strict=True):
        point = key.public_key().public_numbers()
        assert id_key_digest(x=point.x, y=point.y).value == base64.b64decode(fields[name])


def test_every_processor_model_of_the_oracle_has_the_same_signature() -> None:
    assert {name: qemu_cpu_signature(name) for name in vcpu_types.CPU_SIGS} == vcpu_types.CPU_SIGS


@given(st.integers(0, 270), st.integers(0, 255), st.integers(0, 15))
def test_a_signature_is_the_oracles(family: int, model: int, stepping: int) -> None:
    assert cpu_signature(family, model, stepping) == vcpu_types.cpu_sig(family, model, stepping)
