"""Register 11 of a UKI with profiles against values that systemd-measure computed.

Provenance: systemd-measure of Debian's systemd 257.13-1~deb13u1, `calculate --phase=:` with one option for
each section below, once for the base sections and once for each profile with the base sections that it does
not override. The same tool, and ukify of that version, which joins profiles to one UKI, agreed on one with a
real kernel and stub. There is no `.hwids`: that version takes its option for `.dtbauto`, which its stub does
not.
"""

from __future__ import annotations

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.measure.bank import extend_all
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.stub_inputs import StubInputs
from blindbuild.measure.uki import measure_uki
from tests.fakes.pe_image import FakeSection, make_pe

BASE = {
    ".sbat": b"sbat,1,SBAT Version\n",
    ".osrel": b"ID=test\n",
    ".cmdline": b"console=ttyS0 quiet",
    ".dtb": b"\xd0\x0d\xfe\xed",
    ".uname": b"6.12.0",
    ".pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
    ".pcrsig": b"not measured",
    ".splash": b"BM",
    ".initrd": bytes(range(256)),
    ".ucode": b"microcode",
    ".linux": make_pe((FakeSection(b".text", b"kernel"),)),
}
PROFILES = (
    (".profile", b"ID=main\n"),
    (".profile", b"ID=debug\n"),
    (".cmdline", b"console=tty0 debug"),
    (".profile", b"ID=other\n"),
    (".osrel", b"ID=other\n"),
    (".ucode", b"other"),
)
WITHOUT_PROFILES = {
    "sha1": "585b119222ce4959f564908499e60460e5a9178a",
    "sha256": "de5a0ab30f9ee73cdb2c97662c8378a855ec864c3e7f9619640f6885ee776d9e",
    "sha384": "85d18c127722faaaddd3ef33279bc9d54d560fe180f783635ec9ce77a430de07"
    "c8456346627a9eb014048291b83c6569",
    "sha512": "b6912455c633cbada2fbe83f9e6fbd65600623ef7dba84b697b275ebd175f75f"
    "06f7d02f993385418af6207abe2057bacb2a173f4af540def9e49a3e79124828",
}
OF_PROFILE = (
    {
        "sha1": "84181988b9f4af17fec8a056e9536ae405632ae1",
        "sha256": "26d64ab8d9c0b02d39c27561edfe978f830f3633f8a2b43d0809fe5ee87f3714",
        "sha384": "b368d4f677644c99ef6a572ed34d3cef951333f294bbfd8acc100ccef6c0370f"
        "02d9f2a3524fb0e919762457c5fcdbd3",
        "sha512": "4cc4ee64fe6a538c0b72bb1635622eecf1f5d5155ef0e9f62179989fb2ab9a06"
        "46afd7ea0962078459e23c91f8392dd75a0ce051bec27f69a87bfa30693e3f49",
    },
    {
        "sha1": "2e45d10e9b2cd463b26d4b6ffea8636cbadc82a5",
        "sha256": "2cb56d9791064ed456fa09d9e59b3bdbe64a82e467603c986fc0a3794c994b64",
        "sha384": "e28fb7c1979fd6cbb42d28df5d4ef789658a8bd2aa96561c519e5c65cc44d2a3"
        "4508ff5ecb10ed2fec0327b079e1d333",
        "sha512": "6ec58c42206ccabaaf753af7dd2c24bc9e0956c6e92842b1dddec1bc6fc53fed"
        "cc1fa4a36f4bc4077919c27829299614bf4f4628c667644788b9317861c3d6f0",
    },
    {
        "sha1": "7d779ffe630ef0270aa9462ea019e2b76a3891e0",
        "sha256": "3af1724d6919741026c13c03dad3656918fae6776cd3ca7b6b524b15511def1d",
        "sha384": "a98e50b09ddec0f536b84084a1cb719953d3b71c218108960ba3340e315507f7"
        "067a7601f39422fd2561cef533078a9b",
        "sha512": "0a1bf82a43159936ffb2906d18a0829e5fcf8683c500a902b0b24b06c2f06d11"
        "13b790a6320335650bbc48dd16e59ea5e80e9cc28818d668e2eaf2c6378f3c7b",
    },
)


def register_11(sections: list[tuple[str, bytes]], profile: int = 0) -> dict[str, str]:
    """Predict it in every bank."""
    uki = make_pe([FakeSection(name.encode(), data) for name, data in sections], size_of_headers=2048)
    inputs = StubInputs(profile=profile)
    measured = measure_uki(uki, tuple(HashAlgorithm), inputs=inputs, stub_version=257)
    events = predict_pcr11(measured.sections, measured.rules)
    return {algorithm.value: extend_all(11, events, algorithm).hex for algorithm in HashAlgorithm}


def test_register_11_without_profiles_is_that_of_systemd_measure() -> None:
    assert register_11(list(BASE.items())) == WITHOUT_PROFILES


@pytest.mark.parametrize("profile", [0, 1, 2])
def test_register_11_of_each_profile_is_that_of_systemd_measure(profile: int) -> None:
    assert register_11([*BASE.items(), *PROFILES], profile) == OF_PROFILE[profile]
