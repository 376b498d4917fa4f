"""What a client reads from servers, registries and files, under fuzz: a line each, as in `targets.py`."""

from __future__ import annotations

import json
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.client.http1 import parse_head
from blindbuild.client.http1_request import parse_request_head
from blindbuild.client.registry_login import parse_challenge
from blindbuild.client.transport import Address, read_peer
from blindbuild.digest import Digest
from blindbuild.errors import VerificationError
from blindbuild.formats.certificate import parse_pem_certificate, trim_padding
from blindbuild.formats.checkpoint import parse_checkpoint_text
from blindbuild.formats.crl import parse_crl
from blindbuild.formats.dsse import SignerKey
from blindbuild.formats.oci import (
    MANIFEST_TYPE,
    Artifact,
    Descriptor,
    Reference,
    attach,
    find_attached,
    parse_artifact,
    write_artifact,
)
from blindbuild.formats.tlog_tiles import parse_tile
from blindbuild.formats.tpm2 import read_sized
from blindbuild.formats.tpmkey import parse_sized_public
from blindbuild.manifest import parse_statement
from blindbuild.manifest.probe import parse_probe
from blindbuild.manifest.rebuild import parse_rebuild, rebuild_bytes
from blindbuild.manifest.release import parse_release, release_bytes
from blindbuild.manifest.revoked import Revocation, parse_revoked, revoked_bytes
from blindbuild.manifest.tuf import check_root
from blindbuild.publish import sign_payload
from blindbuild.verify import parse_endorsement, session_bytes
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from blindbuild.verify.checklist import PROBE_TITLES, Checklist
from blindbuild.verify.policy_file import parse_policy, policy_bytes
from blindbuild.verify.probe import judge_probe
from tests.fakes.ak_authority import make_crl
from tests.fakes.attester import TlsKey
from tests.fakes.log_world import Shown
from tests.fakes.probed import probe_value
from tests.fakes.published import NOW, STATEMENT_TYPE, release_value
from tests.fakes.world import authority, pinned_trust, publisher, session, tpm

_KIND = "application/vnd.blindbuild.publication.v1"


def _artifact() -> bytes:
    layer = Descriptor.of("application/vnd.in-toto+dsse", b"{}", title="manifest.dsse.json")
    return write_artifact(Artifact(_KIND, (layer,), subject=layer))


def _index() -> bytes:
    entry = Descriptor(MANIFEST_TYPE, Digest.sha256(b"x"), 1, artifact_type=_KIND)
    return attach(None, entry)


def _crls() -> list[bytes]:
    name, key = authority().issuer.subject, ec.generate_private_key(ec.SECP256R1())
    return [make_crl(name, key), make_crl(name, key, encoding=Encoding.PEM)]


def _read_crl(data: bytes) -> None:
    assert parse_crl(data).issuer_name.isprintable()


def _read_bundle(data: bytes) -> None:
    assert bundle_bytes(parse_bundle(data)) == data


def _bundles() -> list[bytes]:
    recorded = session(tpm(), b"")
    tuf = {"1.root.json": b"t"}
    bundle = Bundle(recorded, publisher().envelope[:300], NOW, b"r", b"l", b"p", (b"1",), (b"2",), tuf, b"q")
    return [bundle_bytes(bundle), bundle_bytes(Bundle(recorded, b"{}", NOW))]


def _policies() -> list[bytes]:
    lists = {"requireClosed": ["disk"], "platforms": ["q35"], "memoryConfidentiality": ["tdx"]}
    lists |= {"channelProfiles": ["hpke-quote-v1"]}
    machines = {"attestationKeys": ["000b" + "ab" * 32], "instances": ["gce:p/z/1"]}
    more = {"allowTestTpm": True, "minimumTpmFirmware": "0x" + "0" * 16, "sessionSeconds": 60}
    return [json.dumps({"version": 1, **lists, **more, "machines": machines}).encode()]


def _read_policy(data: bytes) -> None:
    policy_bytes(parse_policy(data))


def _endorsements() -> list[bytes]:
    value = json.loads(session_bytes(session(tpm(), b"")))
    return [json.dumps(value["endorsement"]).encode()]


def _revoked() -> list[bytes]:
    entry = Revocation(Digest.sha256(b"x"), "hello", "stable", 7, "broken", NOW)
    return [revoked_bytes([entry]), revoked_bytes([])]


def _read_release(data: bytes) -> None:
    assert release_bytes(parse_release(data)) == data


def _releases() -> list[bytes]:
    import rfc8785

    return [rfc8785.dumps(release_value(publisher().statement, publisher().value))]


def _roots() -> list[bytes]:
    return [json.dumps({"signatures": [], "signed": {"_type": "root", "version": 1}}).encode()]


def _peers() -> list[bytes]:
    pem = TlsKey().pem[1].decode()
    return [parse_pem_certificate(pem).der]


def _probes() -> list[bytes]:
    from tests.unit.test_probe_report import DATA  # a whole report takes a while to make

    return [DATA]


def _judge_probe(data: bytes) -> None:
    steps = Checklist({"M6": "", **PROBE_TITLES})
    steps.run("M6", lambda: (None, ""))
    statement = publisher().statement
    envelope = sign_payload(publisher().key, STATEMENT_TYPE, data)
    judge_probe(steps, envelope, parse_statement(statement), Digest.sha256(statement), trust=pinned_trust())
    for step in steps.failed():
        assert step.reason != "internal-error", step.detail
        raise VerificationError(step.detail, step=step.id, reason=step.reason)


def _judged_probes() -> list[bytes]:
    import rfc8785

    return [rfc8785.dumps(probe_value()), rfc8785.dumps(probe_value(publisher().but(sequence=43)))]


def _read_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("latin-1"))


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPadding: 00"
_REQUEST = b"POST /v1/hello HTTP/1.1\r\nHost: a:1\r\nContent-Type: text/plain\r\nContent-Length: 2"
_CHALLENGE = b'Bearer realm="https://a.example/token",service="registry",scope=x'

CLIENT_TARGETS: tuple[tuple[str, Callable[[bytes], object], Callable[[], list[bytes]]], ...] = (
    ("bundle", _read_bundle, _bundles),
    ("policy-file", _read_policy, _policies),
    ("endorsement", parse_endorsement, _endorsements),
    ("release", _read_release, _releases),
    ("rebuild", parse_rebuild, lambda: [rebuild_bytes(Digest.sha256(b"x"))]),
    ("revoked", parse_revoked, _revoked),
    ("tuf-root", check_root, _roots),
    ("probe", parse_probe, _probes),
    ("required-probe", _judge_probe, _judged_probes),
    ("crl", _read_crl, _crls),
    ("oci-artifact", lambda data: parse_artifact(data, artifact_type=_KIND), lambda: [_artifact()]),
    ("oci-index", lambda data: find_attached(data, artifact_type=_KIND), lambda: [_index()]),
    ("oci-reference", _read_text(Reference.parse), lambda: [b"oci://a.example:5000/b/c:1.0"]),
    ("challenge", _read_text(lambda text: parse_challenge(text, host="a")), lambda: [_CHALLENGE]),
    ("address", _read_text(Address.parse), lambda: [b"https://a.example:8443", b"https://[::1]:1/"]),
    ("http-head", lambda data: parse_head(data, max_body=1 << 16), lambda: [_HEAD]),
    ("http-request-head", parse_request_head, lambda: [_REQUEST]),
    ("peer", lambda data: read_peer("a", data, "TLSv1.3"), _peers),
    ("release-key", SignerKey.from_spki, lambda: [publisher().key.public.spki]),
    ("pem-certificate", _read_text(parse_pem_certificate), lambda: [authority().root_pem.encode()]),
    ("padded-certificate", trim_padding, lambda: [tpm().ek_certificate + bytes(8)]),
    ("sized-public", parse_sized_public, lambda: [tpm().ak_public, tpm().ek_public]),
    ("sized", lambda data: read_sized(data, "x"), lambda: [b"\0\1a"]),
    ("checkpoint-text", parse_checkpoint_text, lambda: [Shown().body.encode()]),
    ("log-tile", lambda data: parse_tile(data, 2), lambda: [bytes(64)]),
)
