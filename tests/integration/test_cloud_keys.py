"""The real gate on a real software TPM provisioned as clouds do it, before the client's own judge.

What is where: google/go-tpm-tools, client/handles.go; sizes and attributes of Google's indices as printed by
tpm2_nvreadpublic in salrashid123/gcp-vtpm-ek-ak; microsoft/openvmm, vm/devices/tpm/tpm_protocol/src/lib.rs.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client import Expectation, attest
from blindbuild.errors import ChannelError
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.verify import Appraisal, Policy
from tests.bad_inputs import record
from tests.fakes.ak_authority import TCG_AK, TCG_EK, AkAuthority, AkProfile
from tests.fakes.published import honest_boot, log_bytes
from tests.fakes.raw_tpm import RawTpm
from tests.fakes.software_tpm import sized
from tests.fakes.world import publisher
from tests.integration.gate_harness import Swtpm, make_tpm_state, need, running_gate

LATER = 1_830_000_000  # swtpm_setup makes certificates that begin now
GCE_ECC, GCE_RSA = (0x01C10002, 0x01C10003), (0x01C10000, 0x01C10001)
AZURE_CERTIFICATE, AZURE_KEY = 0x01C101D0, 0x81000003
# ppwrite, writedefine, ppread, ownerread, authread, no_da, platformcreate; authread, authwrite, ownerread, …
GCE_INDEX, AZURE_INDEX = 0x42072001, 0x42060004
AZURE_PASSWORD = b"platform"  # random in the cloud; the guest never learns it
AZURE_SIZE = 2048  # the most that swtpm keeps; Azure's have up to 4096
AZURE_PURPOSES = ("1.3.6.1.4.1.311.10.3.12", TCG_AK)
RESTRICTED, UNRESTRICTED, AZURE, AZURE_UNRESTRICTED = 0x00050072, 0x00040072, 0x00050472, 0x00040472
LISTED = {0x131, 0x147, 0x14E, 0x151, 0x158, 0x165, 0x169, 0x173, 0x176, 0x17A, 0x17E}
AUTHORITY = AkAuthority()
BOTH = publisher().but(
    attestationKey=publisher().value["predicate"]["attestationKey"]
    | {"schemes": ["ecdsa-p256-sha256", "rsassa-2048-sha256"]},
)
PUBLISHED = BOTH.but(release={"validUntil": "2037-01-01T00:00:00Z"})
STRICT = Policy()
AK_TRUST = parse_trust(publisher().trust(**AUTHORITY.pems))


def ecc_template(attributes: int = RESTRICTED) -> bytes:
    area = struct.pack(">HHI", 0x0023, 0x000B, attributes) + sized(b"")
    area += struct.pack(">HHHHH", 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
    return area + sized(b"\x5a" * 32) + sized(b"\xa5" * 32)


def rsa_template(attributes: int = RESTRICTED) -> bytes:
    area = struct.pack(">HHI", 0x0001, 0x000B, attributes) + sized(b"")
    return area + struct.pack(">HHHHI", 0x0010, 0x0014, 0x000B, 2048, 0) + sized(b"\x5a" * 256)


def key_of(area: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """The key of a public area whose form this module has made."""
    if area[:2] == b"\x00\x23":
        point = b"\x04" + area[-66:-34] + area[-32:]
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    return rsa.RSAPublicNumbers(65537, int.from_bytes(area[-256:], "big")).public_key()


@dataclass(frozen=True)
class Provisioned:
    """What a cloud has left: the key's public area, and its certificate as stored."""

    area: bytes
    certificate: bytes


def google(tpm: RawTpm, template: bytes, indices: tuple[int, int], *, other: bytes = b"") -> Provisioned:
    """As Google does it, with a template of `other` beside a certificate of the right one."""
    handle, area = tpm.create_primary(template)
    tpm.flush(handle)
    certificate = AUTHORITY.issue(key_of(area), AkProfile(extended=(TCG_EK,), instance=b"\x30\x00"))
    tpm.store(indices[0], certificate, GCE_INDEX)
    tpm.store(indices[1], other or template, GCE_INDEX)
    return Provisioned(area, certificate)


def azure(tpm: RawTpm, template: bytes) -> Provisioned:
    """As Azure does it: a key the TPM keeps, and a padded certificate that the owner may read."""
    handle, area = tpm.create_primary(template)
    tpm.keep(handle, AZURE_KEY)
    tpm.flush(handle)
    certificate = AUTHORITY.issue(key_of(area), AkProfile(extended=AZURE_PURPOSES, is_authority=None))
    stored = certificate.ljust(AZURE_SIZE, b"\0")
    tpm.store(AZURE_CERTIFICATE, stored, AZURE_INDEX, AZURE_PASSWORD)
    return Provisioned(area, stored)


CLOUDS: dict[str, Callable[[RawTpm], Provisioned]] = {
    "Google's ECC key": lambda tpm: google(tpm, ecc_template(), GCE_ECC),
    "Google's RSA key": lambda tpm: google(tpm, rsa_template(), GCE_RSA),
    "Azure's key": lambda tpm: azure(tpm, rsa_template(AZURE)),
}


@dataclass(frozen=True)
class Cloud:
    """A gate on a provisioned TPM, and what a client finds there."""

    url: str
    provisioned: Provisioned
    tpm: Swtpm
    authority: Path

    def judged(self, trust: TrustRoots = AK_TRUST, policy: Policy = STRICT) -> Appraisal:
        attempt = self.attempt(trust, policy)
        attempt.close()
        return attempt.appraisal

    def attempt(self, trust: TrustRoots = AK_TRUST, policy: Policy = STRICT):
        expected = Expectation(PUBLISHED.envelope, PUBLISHED.release, trust, policy, clock=lambda: LATER)
        return attest(self.url, expected)

    def tpm_trust(self) -> TrustRoots:
        """Believe the endorsement certificates of this TPM."""
        root, issuer = (self.authority / name for name in ("swtpm-localca-rootca-cert.pem", "issuer.pem"))
        return parse_trust(
            publisher().trust(tpm_roots=[root.read_text()], tpm_intermediates=[issuer.read_text()])
        )


@pytest.fixture(scope="module")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TPM's state and its maker's authority, from which each test takes a copy."""
    directory = tmp_path_factory.mktemp("manufactured")
    make_tpm_state(directory)
    return directory


@pytest.fixture
def cloud(gate_binary: Path, manufactured: Path) -> Callable:
    @contextmanager
    def start(provision: Callable[[RawTpm], Provisioned]) -> Iterator[Cloud]:
        # a short path: that of a socket may have 107 bytes
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            shutil.copytree(manufactured / "state", directory / "state")
            tpm = Swtpm(directory / "state", directory)
            try:
                with tpm.connect() as channel:
                    raw = RawTpm(channel)
                    provisioned = provision(raw)
                    raw.extend(honest_boot())
                    tpm.log.write_text("")  # what follows is the gate's
                    log = log_bytes(honest_boot())
                    with running_gate(gate_binary, directory, channel, event_log=log) as gate:
                        yield Cloud(f"https://127.0.0.1:{gate.port}", provisioned, tpm, manufactured / "ca")
                        assert gate.alive(), f"the gate ended with {gate.process.returncode}"
            finally:
                tpm.stop()

    return start


@pytest.mark.parametrize("name", CLOUDS)
def test_a_clouds_certificate_is_believed_through_the_real_gate(
    cloud: Callable, name: str, tmp_path: Path
) -> None:
    with cloud(CLOUDS[name]) as machine:
        attempt = machine.attempt()
        session = attempt.session
        assert attempt.accept().post("/v1/hello", b"x") == b"x"
        attempt.close()
        assert session.endorsement.ak_certificate == machine.provisioned.certificate
        assert session.endorsement.ak_public == sized(machine.provisioned.area)
        assert session.credential_secret is None
        # a certificate of somebody else, in the same name
        refusal = machine.judged(parse_trust(publisher().trust(**AkAuthority().pems)))
        assert refusal.reasons == {"A4:certificate-path"}
        codes = {code for code, _ in machine.tpm.commands()}
        assert codes <= LISTED
        assert (0x173 in codes) == (name == "Azure's key")
    need("tpm2_checkquote")
    quote = session.evidence.quote
    extra = quote[42 : 42 + 34][2:].hex()  # after magic, type and the signer's name of 34 bytes
    pem = key_of(machine.provisioned.area).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for file, data in (("ak", pem), ("q", quote), ("s", session.evidence.signature)):
        (tmp_path / file).write_bytes(data)
    subprocess.run(
        ["tpm2_checkquote", "-u", "ak", "-m", "q", "-s", "s", "-g", "sha256", "-q", extra],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("Google's ECC key", set()),
        ("Google's RSA key", {"A2:key-template"}),
        ("Azure's key", {"A2:key-attributes"}),
    ],
)
def test_a_credential_proves_only_a_key_like_our_own(cloud: Callable, name: str, reasons: set[str]) -> None:
    with cloud(CLOUDS[name]) as machine:
        assert machine.judged(machine.tpm_trust()).reasons == reasons


OPERATORS = {
    "an unrestricted template": (
        lambda t: google(t, ecc_template(UNRESTRICTED), GCE_ECC),
        "A2:key-attributes",
    ),
    "an unrestricted RSA template": (
        lambda t: google(t, rsa_template(UNRESTRICTED), GCE_RSA),
        "A2:key-attributes",
    ),
    "an unrestricted key that is kept": (
        lambda t: azure(t, rsa_template(AZURE_UNRESTRICTED)),
        "A2:key-attributes",
    ),
    "a template of another key": (
        lambda t: google(t, ecc_template(), GCE_ECC, other=ecc_template()[:-1] + b"\0"),
        "A5:certificate-of-other-key",
    ),
    "an RSA template beside an ECC certificate": (
        lambda t: google(t, ecc_template(), GCE_ECC, other=rsa_template()),
        "A5:certificate-of-other-key",
    ),
}


@pytest.mark.bad_input(109)
@pytest.mark.parametrize("name", list(OPERATORS)[:3])
def test_a_key_that_signs_anything_is_refused_although_it_is_certified(cloud: Callable, name: str) -> None:
    # no authority certifies such a key; here one does, and only the key's attributes speak against it
    provision, reason = OPERATORS[name]
    with cloud(provision) as machine:
        appraisal = machine.judged()
    assert appraisal.reasons == {reason}
    assert appraisal.verdict is None
    record(reason)


@pytest.mark.bad_input(115)
@pytest.mark.parametrize("name", list(OPERATORS)[3:])
def test_a_template_of_another_key_than_the_certified_one_is_refused(cloud: Callable, name: str) -> None:
    provision, reason = OPERATORS[name]
    with cloud(provision) as machine:
        appraisal = machine.judged()
    assert appraisal.reasons == {reason}
    assert appraisal.verdict is None
    record(reason)


BROKEN = {
    "nonsense": b"nonsense",
    "cut": ecc_template()[:-1],
    "a byte too many": ecc_template() + b"\0",
    "a curve that the TPM does not know": ecc_template()[:16] + b"\x7f\xff" + ecc_template()[18:],
    "a restricted key without a scheme": ecc_template()[:12] + b"\x00\x10" + ecc_template()[16:],
    "larger than any template": ecc_template() + bytes(600),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_makes_no_key_is_said_so_and_never_passed_over(cloud: Callable, name: str) -> None:
    with cloud(lambda t: google(t, ecc_template(), GCE_ECC, other=BROKEN[name])) as machine:
        for _ in range(2):
            with pytest.raises(ChannelError, match='"error":"tpm"'):
                machine.attempt()


def test_a_certificate_that_is_not_written_yet_is_waited_for(cloud: Callable) -> None:
    def unwritten(tpm: RawTpm) -> Provisioned:
        tpm.define(AZURE_CERTIFICATE, AZURE_SIZE, AZURE_INDEX, AZURE_PASSWORD)
        return Provisioned(b"", b"")

    with cloud(unwritten) as machine:
        with pytest.raises(ChannelError, match='"error":"tpm"'):
            machine.attempt()


def test_half_of_a_pair_counts_for_nothing(cloud: Callable) -> None:
    def certificates_alone(tpm: RawTpm) -> Provisioned:
        for index in (GCE_ECC[0], GCE_RSA[0], AZURE_CERTIFICATE):
            tpm.store(index, b"a certificate", GCE_INDEX)
        tpm.store(GCE_RSA[1] + 0x10, b"something else", GCE_INDEX)
        return Provisioned(b"", b"")

    with cloud(certificates_alone) as machine:
        assert machine.judged().reasons == {"A6:certificate-missing"}
        assert machine.judged(machine.tpm_trust()).reasons == set()
