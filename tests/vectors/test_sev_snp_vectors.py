"""Launch digests of SEV, SEV-ES, SEV-SNP and an SVSM guest as virtee/sev-snp-measure's tests state them.

They come from real launches (tests/fixtures/README.md of that project, beside the vectors). The two SVSM
vectors need images that are too large to be beside them; they are skipped where those are missing.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.measure.snp import (
    SnpLaunch,
    SvsmLaunch,
    predict_sev_launch,
    predict_snp_launch,
    predict_svsm_launch,
    snp_firmware_digest,
)
from blindbuild.measure.snp_cpu import qemu_cpu_signature
from blindbuild.measure.snp_hashes import KernelHashes, hash_kernel
from blindbuild.measure.snp_vmsa import Vmm

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "sev-snp-measure"
EXPECTED = VECTORS / "expected_launch_digests.json"

pytestmark = pytest.mark.skipif(not EXPECTED.exists(), reason="the shared vectors are not here")


def _cases() -> list[dict]:
    return json.loads(EXPECTED.read_text()) if EXPECTED.exists() else []


def _names(case: dict) -> str:
    return f"{case['test']}-{case['call'].split('(')[0].rpartition('.')[2]}-{case['expected'][:8]}"


def _fixture(text: str) -> bytes:
    path = VECTORS / Path(ast.literal_eval(text)).name
    if not path.exists():
        pytest.skip(f"{path.name} is too large for the shared vectors and is not here")
    return path.read_bytes()


def _signature(text: str) -> int | None:
    return None if text == "None" else qemu_cpu_signature(text.split("'")[1])


def _hashes(kernel: str, initrd: str, command_line: str) -> KernelHashes | None:
    if kernel == "None":
        return None
    assert (ast.literal_eval(kernel), ast.literal_eval(initrd)) == ("/dev/null", "/dev/null")
    return hash_kernel(b"", command_line=ast.literal_eval(command_line))


def _firmware_digest(case: dict) -> Digest | None:
    if "snp_ovmf_hash_str" not in case["kwargs"]:
        return None
    given = case["vars"].get("ovmf_hash")
    if given is None:
        return snp_firmware_digest(_fixture(case["args"][3]))
    return Digest.from_hex(HashAlgorithm.SHA384, ast.literal_eval(given))


def _predict(case: dict) -> str:
    mode, count, signature, firmware, kernel, initrd, command_line, features, *more = case["args"]
    if mode == "SevMode.SEV_SNP_SVSM":
        launch = SvsmLaunch(
            firmware=_fixture(firmware),
            svsm=_fixture(more[3]),
            variables_bytes=int(more[4]),
            processors=int(count),
            signature=_signature(signature) or 0,
        )
        return predict_svsm_launch(launch)[0].digest.hex
    vmm = case["kwargs"].get("vmm_type", "vmm_types.VMMType.QEMU").rpartition(".")[2].lower()
    snp = SnpLaunch(
        firmware=_fixture(firmware),
        processors=int(count),
        signature=_signature(signature),
        guest_features=int(features),
        vmm=Vmm(vmm),
        hashes=_hashes(kernel, initrd, command_line),
        firmware_digest=_firmware_digest(case),
    )
    if mode == "SevMode.SEV_SNP":
        return predict_snp_launch(snp)[0].digest.hex
    assert mode in ("SevMode.SEV", "SevMode.SEV_ES")
    return predict_sev_launch(snp, encrypted_state=mode == "SevMode.SEV_ES")[0].digest.hex


@pytest.mark.parametrize("case", _cases(), ids=_names)
def test_a_launch_digest_is_the_published_one(case: dict) -> None:
    if case["call"].startswith("guest.calc_snp_ovmf_hash"):
        name = case["call"].split("(")[1].split(")")[0]
        assert snp_firmware_digest(_fixture(name)).hex == case["expected"]
    else:
        assert _predict(case) == case["expected"]


def test_all_published_digests_are_known_here() -> None:
    assert len(_cases()) == 22
