"""What is fuzzed: each parser of bytes that an attacker may choose. To add one, add a line to `TARGETS`.

A target takes any bytes and may raise nothing but `BlindbuildError`. Its seeds are well-formed inputs, made
by other code than the parser where that is possible; `corpus/<name>/` has more, among them every input that
once raised something else.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from blindbuild.audit.filter_paths import find_ways
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError
from blindbuild.formats.amd_certificate import read_endorsed_key
from blindbuild.formats.ar import read_ar
from blindbuild.formats.bpf import SystemCall, parse_filter, run_filter
from blindbuild.formats.canonical import parse_canonical, parse_json
from blindbuild.formats.cbor import decode_cbor
from blindbuild.formats.ccel import CcEventLog, parse_cc_event_log, replay_cc, write_cc_event_log
from blindbuild.formats.cel import (
    cel_from_log,
    log_from_cel,
    parse_cel_json,
    parse_cel_tlv,
    write_cel_json,
    write_cel_tlv,
)
from blindbuild.formats.certificate import parse_certificate, read_endorsement_profile
from blindbuild.formats.certificate_chain import parse_pem_chain
from blindbuild.formats.cose import parse_sign1, sign_sign1
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc
from blindbuild.formats.deb import read_deb
from blindbuild.formats.der import (
    CONSTRUCTED,
    OBJECT_IDENTIFIER,
    read_members,
    read_object_identifier,
    read_only,
)
from blindbuild.formats.devicepath import parse_image_load, parse_load_option
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.efivars import pack_load_option, read_variables
from blindbuild.formats.eif import EifArchitecture, EifPart, SectionType, read_eif, write_eif
from blindbuild.formats.eif_signature import parse_eif_signature, sign_eif
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.firmware_volume import find_dxe_volume
from blindbuild.formats.gpt import parse_gpt, write_gpt_disk
from blindbuild.formats.image_signature import read_signatures
from blindbuild.formats.intel_certificate import read_platform_tcb
from blindbuild.formats.nitro_document import parse_nitro_document
from blindbuild.formats.ovmf import read_footer_table, read_sev_metadata, read_tdx_metadata
from blindbuild.formats.pcap import parse_pcap
from blindbuild.formats.pe_image import read_pe
from blindbuild.formats.siglist import parse_signature_lists, write_signature_lists, x509_list
from blindbuild.formats.snp_report import parse_snp_report, read_tcb
from blindbuild.formats.source import BytesSource
from blindbuild.formats.tcgevent import parse_variable_data
from blindbuild.formats.tcglog import (
    LogEvent,
    ReplayedLog,
    SpecId,
    UnverifiedLog,
    data_mismatches,
    parse_event_log,
    replay,
)
from blindbuild.formats.tdx_collateral import parse_qe_identity, parse_tcb_info, split_signed
from blindbuild.formats.tdx_quote import parse_tdx_quote, trim_quote
from blindbuild.formats.tpm2 import parse_quote, parse_signature
from blindbuild.formats.tpmkey import parse_public
from blindbuild.manifest import parse_ledger, parse_statement, parse_trust
from blindbuild.manifest.platform_roots import parse_platform_roots
from blindbuild.measure.command_line import decode_command_line
from blindbuild.measure.secure_boot import SecureBootState, find_authority
from blindbuild.measure.snp import SnpLaunch, predict_sev_launch, predict_snp_launch
from blindbuild.measure.stub_inputs import Addon, StubInputs
from blindbuild.measure.tdx import predict_mrtd
from blindbuild.measure.uki import measure_uki
from blindbuild.publish import load_certificates, load_rsa_key, parse_key_uri, sign_boot_image
from blindbuild.verify import parse_session, session_bytes
from blindbuild.verify.explain import describe_event, explain_logs
from tests.fakes.authorities import make_root
from tests.fakes.channels import closed_ledger, ledger_bytes
from tests.fakes.deb import make_ar, make_deb, make_tar, tar_file
from tests.fakes.nitro_enclave import document, fields, hypervisor
from tests.fakes.ovmf_image import OvmfImage
from tests.fakes.pe_image import FakeSection, make_pe
from tests.fakes.published import NOW, Event, honest_boot, log_bytes, variable
from tests.fakes.secure_boot import make_key
from tests.fakes.snp_machine import SnpMachine, Versions, roots_file, snp_product
from tests.fakes.tdx_platform import answer, intel, qe_identity, quote, tcb_info, td_report
from tests.fakes.variable_store import empty_store
from tests.fakes.world import authority, publisher, session, tpm
from tests.fuzz.audit_targets import AUDIT_TARGETS
from tests.fuzz.client_targets import CLIENT_TARGETS
from tests.fuzz.link_targets import LINK_TARGETS
from tests.fuzz.log_targets import LOG_TARGETS
from tests.fuzz.sealed_targets import SEALED_TARGETS
from tests.unit.test_firmware_volume import flash, guided, pack, section, volume

GOLDEN = Path(__file__).parents[1] / "golden" / "boots"
SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384


class Target(NamedTuple):
    """One parser under test; `seeds` are made when they are needed."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def _read_log(data: bytes) -> None:
    log = parse_event_log(data)
    for algorithm in log.algorithms:
        data_mismatches(log, algorithm)
        replay(log, algorithm)


def _read_cc(data: bytes) -> None:
    log = parse_cc_event_log(data)
    replay_cc(log, log.log.algorithms[0])


def _explain(data: bytes) -> None:
    log = parse_event_log(data)
    for event in log.events:
        text = describe_event(event)
        assert text.isprintable(), text
        assert len(text) < 1000, text
    if SHA256 in log.algorithms:
        got = replay(log, SHA256)
        for found in (explain_logs(_reference(), got), explain_logs(got, _reference())):
            assert all(difference.cause.isprintable() for difference in found)


@cache
def _reference() -> ReplayedLog:
    return replay(parse_event_log(log_bytes(honest_boot())), SHA256)


def _read_ovmf(data: bytes) -> None:
    table = read_footer_table(data)
    read_sev_metadata(data, table)
    read_tdx_metadata(data, table)


def _read_der(data: bytes) -> None:
    todo = [read_only(data)]
    while todo:
        element = todo.pop()
        if element.tag == OBJECT_IDENTIFIER:
            read_object_identifier(element)
        elif element.tag & CONSTRUCTED:
            todo += read_members(element)


def _find_authority(data: bytes) -> None:
    assert find_authority(_trusting_state(), BytesSource(data))


def _measure_uki(data: bytes) -> None:
    addon = Addon(name="x.addon.efi", image=data)
    failed: list[BlindbuildError] = []
    for version, inputs in ((None, StubInputs()), (257, StubInputs(addons=(addon,))), (252, StubInputs())):
        try:
            measure_uki(BytesSource(data), (SHA256,), inputs=inputs, stub_version=version, threads=0)
        except BlindbuildError as error:
            failed.append(error)
    if failed:
        raise failed[0]  # which tells the fuzzer how far it came


def _launch(data: bytes) -> None:
    failed: list[BlindbuildError] = []
    for predict in (
        lambda: predict_mrtd(data),
        lambda: predict_snp_launch(SnpLaunch(firmware=data, processors=2, signature=0x800F12)),
        lambda: predict_sev_launch(SnpLaunch(firmware=data, signature=0x800F12), encrypted_state=True),
    ):
        try:
            predict()
        except BlindbuildError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _read_key_uri(data: bytes) -> None:
    parse_key_uri(data.decode("latin-1"))


def _read_certificate(data: bytes) -> None:
    read_endorsement_profile(parse_certificate(data))


def _read_report(data: bytes) -> None:
    for tcb in parse_snp_report(data).tcbs.values():
        read_tcb(tcb, with_fmc=False)


def _read_quote(data: bytes) -> None:
    parse_tdx_quote(trim_quote(data))


def _read_collateral(data: bytes) -> None:
    name = "tcbInfo" if data.startswith(b'{"tcbInfo"') else "enclaveIdentity"
    raw = split_signed(data, name).raw
    parse_tcb_info(raw) if name == "tcbInfo" else parse_qe_identity(raw)


def _logs() -> list[bytes]:
    texts = ("Returning from EFI Application from Boot Option", "UEFI Debug Mode")
    more = [Event(4, "EV_EFI_ACTION", text.encode(), text) for text in texts]
    more += [
        Event(12, "EV_IPL", "evil=1\0".encode("utf-16-le"), "x"),
        Event(11, "EV_IPL", b"enter-initrd", "x"),
    ]
    old = struct.pack("<II20sI", 4, 5, b"\7" * 20, 3) + b"abc"
    return [log_bytes(honest_boot(), ("sha256",)), log_bytes([*honest_boot(), *more], ("sha256",)), old]


def _cc_logs() -> list[bytes]:
    texts = (b"Calling EFI Application from Boot Option", bytes(4), b"x")
    events = tuple(
        LogEvent(register, 5, {SHA384: Digest.of(SHA384, text)}, text)
        for register, text in zip((1, 2, 3), texts, strict=True)
    )
    log = UnverifiedLog((SHA384,), events, SpecId())
    return [write_cc_event_log(CcEventLog(log, spec, 255 * spec, 8)) for spec in (0, 1)]


def _cels(write: Callable[..., bytes]) -> list[bytes]:
    return [write(cel_from_log(parse_event_log(data))) for data in _logs()]


def _load_options() -> list[bytes]:
    return [pack_load_option("Linux", "\\EFI\\BOOT\\BOOTX64.EFI", b"quiet")]


def _image_loads() -> list[bytes]:
    path = bytes.fromhex("02010c00d041030a0000000001010600000204040a0041004200000077ff0400")
    path = path.replace(b"\x77\xff", b"\x7f\xff")
    return [struct.pack("<QQQQ", 1, 2, 3, len(path)) + path]


def _signature_lists() -> list[bytes]:
    return [write_signature_lists([x509_list(b"0" * 40, uuid.UUID(int=1))])]


def _eifs() -> list[bytes]:
    kinds = (SectionType.KERNEL, SectionType.COMMAND_LINE, SectionType.METADATA, SectionType.RAMDISK)
    parts = [EifPart(kind, BytesSource(b"{}" if kind is SectionType.METADATA else b"xy")) for kind in kinds]
    return [b"".join(write_eif(parts, EifArchitecture.X86_64))]


def _eif_signatures() -> list[bytes]:
    signer = make_root("eif", ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    pcr0 = Digest.zero(SHA384)
    return [sign_eif(pcr0, key=signer.key, certificate_pem=signer.pem.encode())]


def _gpts() -> list[bytes]:
    disk = write_gpt_disk(bytes(512), disk_id=uuid.UUID(int=1), partition_id=uuid.UUID(int=2), name="x")
    return [disk[: 34 * 512]]  # up to the first partition


def _debs() -> list[bytes]:
    return [make_deb(make_tar([tar_file("./x", b"y")]), suffix=""), make_ar({"x": b"y"})]


def _sessions() -> list[bytes]:
    return [session_bytes(session(tpm(), log_bytes(honest_boot()[:3], ("sha256",))))]


def _quotes() -> list[bytes]:
    return [session(tpm(), b"").evidence.quote]


def _signatures() -> list[bytes]:
    return [session(tpm(), b"").evidence.signature]


def _publics() -> list[bytes]:
    return [session(tpm(), b"").endorsement.ak_public[2:]]


def _signed_eif() -> list[bytes]:
    return [sign_sign1(b"payload", ec.generate_private_key(ec.SECP384R1()))]


def _certificates() -> list[bytes]:
    return [stored.data for stored in session(tpm(), b"").endorsement.ek_certificates]


def _archives() -> list[bytes]:
    return [write_newc((CpioEntry(path=b"x", mode=0o100644, data=b"y"),))]


def _captures() -> list[bytes]:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return [head + struct.pack("<IIII", 1, 2, 14, 14) + bytes(14)]


def _flashes() -> list[bytes]:
    inner = section(0x17, volume(bytes(64))) + section(0x17, volume(bytes(128)))
    return [flash(guided(pack(inner)))]


def _ovmf_images() -> list[bytes]:
    return [OvmfImage().build()]


@cache
def _trusting_state() -> SecureBootState:
    lists = make_key("db").esl
    return SecureBootState(enabled=True, pk=lists, kek=lists, db=lists, dbx=make_key("other").esl)


def _signed_images() -> list[bytes]:
    key, pair = load_rsa_key(make_key("db").pem), load_certificates(make_key("db").der)
    return [sign_boot_image(make_pe(), key, pair)]


def _ukis() -> list[bytes]:
    kernel = make_pe([FakeSection(b".text", b"kernel")])
    magic = b"#### LoaderInfo: systemd-stub 257.13 ####\0"
    sections = [FakeSection(b".sdmagic", magic), FakeSection(b".linux", kernel)]
    texts = {b".osrel": b"ID=x", b".cmdline": b"quiet", b".initrd": b"initrd", b".uname": b"6.1"}
    sections += [FakeSection(name, data) for name, data in texts.items()]
    return [make_pe(sections), make_pe([FakeSection(b".cmdline", b"more"), FakeSection(b".ucode", b"u")])]


def _reports() -> list[bytes]:
    machine = SnpMachine()
    turin = machine.but(product="Turin", version=5, cpu=b"\x1a\x02\x01", versions=Versions(fmc=1))
    return [machine.but(version=2).report(), machine.report(), turin.report()]


def _tdx_quotes() -> list[bytes]:
    later = quote(td_report(bytes(64), later=True), version=5)
    return [quote(td_report(bytes(64))), later, later + bytes(64)]


def _collaterals() -> list[bytes]:
    return [answer("tcbInfo", tcb_info()), answer("enclaveIdentity", qe_identity())]


def _roots_files() -> list[bytes]:
    tdx = {"roots": [intel().root.pem], "acceptedTcbStatus": ["UpToDate"]}
    nitro = {"roots": [hypervisor().root.pem], "maximumAgeSeconds": 60}
    return [roots_file(sevSnp={"products": [snp_product()], "allowSmt": True}, tdx=tdx, nitroEnclaves=nitro)]


def _run_filter(data: bytes) -> None:
    program = parse_filter(data)
    run_filter(program, SystemCall(1, (2, 3)))
    if len(program) <= 16:  # of more the ways may be many
        find_ways([program])


def _filters() -> list[bytes]:
    steps = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 1 << 31), (0x20, 0, 0, 0)]
    steps += [
        (0x15, 0, 3, 41),
        (0x20, 0, 0, 16),
        (0x45, 0, 1, 6),
        (0x06, 0, 0, 0x50001),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    computing = [
        (0x01, 0, 0, 3),
        (0x03, 0, 0, 2),
        (0x60, 0, 0, 2),
        (0x3C, 0, 0, 0),
        (0x05, 0, 0, 0),
        (0x16, 0, 0, 0),
    ]
    return [b"".join(struct.pack("<HBBI", *step) for step in program) for program in (steps, computing)]


def _key_uris() -> list[bytes]:
    return [b"pkcs11:token=a%20b;object=c;id=%01?module-path=/m&pin-value=1234"]


TARGETS = (
    Target("tcglog", _read_log, _logs),
    Target("ccel", _read_cc, _cc_logs),
    Target("cel-tlv", lambda data: log_from_cel(parse_cel_tlv(data)), lambda: _cels(write_cel_tlv)),
    Target("cel-json", lambda data: log_from_cel(parse_cel_json(data)), lambda: _cels(write_cel_json)),
    Target("explain", _explain, _logs),
    Target("variable-data", parse_variable_data, lambda: [variable(bytes(16), "db", b"x")]),
    Target("load-option", parse_load_option, _load_options),
    Target("image-load", parse_image_load, _image_loads),
    Target("signature-lists", parse_signature_lists, _signature_lists),
    Target("gpt", parse_gpt, _gpts),
    Target("pe", read_pe, lambda: [make_pe()]),
    Target("image-signature", read_signatures, lambda: [make_pe(), *_signed_images()]),
    Target("authority", _find_authority, _signed_images),
    Target("der", _read_der, lambda: [make_key("db").der, bytes.fromhex("300b06092a864886f70d010702")]),
    Target("uki", _measure_uki, _ukis),
    Target("launch", _launch, _ovmf_images),
    Target("command-line", decode_command_line, lambda: ["quiet \u00e9\u20ac\U0001f600".encode()]),
    Target("key-uri", _read_key_uri, _key_uris),
    Target("eif", lambda data: read_eif(BytesSource(data)), _eifs),
    Target("eif-signature", parse_eif_signature, _eif_signatures),
    Target("cbor", decode_cbor, lambda: [bytes.fromhex("a261610161628241004101")]),
    Target("cose", parse_sign1, _signed_eif),
    Target("ovmf", _read_ovmf, _ovmf_images),
    Target("firmware-volume", find_dxe_volume, _flashes),
    Target("variables", read_variables, lambda: [empty_store()]),
    Target("ar", read_ar, lambda: [make_ar({"x": b"y"})]),
    Target("deb", read_deb, _debs),
    Target("bpf", _run_filter, _filters),
    Target("cpio", read_newc, _archives),
    Target("fat", read_fat, lambda: [write_fat({"A/B": b"x"}, volume_id=1, label="X")]),
    Target("pcap", parse_pcap, _captures),
    Target("json", parse_json, lambda: [b'{"a":[1,null,"x"]}']),
    Target("canonical-json", parse_canonical, lambda: [b'{"a":[1,null,"x"]}']),
    Target("envelope", parse_envelope, lambda: [publisher().envelope]),
    Target("statement", parse_statement, lambda: [publisher().statement]),
    Target("ledger", parse_ledger, lambda: [ledger_bytes(closed_ledger(version)) for version in (1, 2)]),
    Target("trust", parse_trust, lambda: [publisher().trust(test_tpm_roots=[authority().root_pem])]),
    Target("session", parse_session, _sessions),
    Target("quote", parse_quote, _quotes),
    Target("signature", parse_signature, _signatures),
    Target("public", parse_public, _publics),
    Target("certificate", _read_certificate, _certificates),
    *(Target(*one) for one in LINK_TARGETS),
    *(Target(*one) for one in LOG_TARGETS),
    *(Target(*one) for one in SEALED_TARGETS),
    *(Target(*one) for one in CLIENT_TARGETS),
    *(Target(*one) for one in AUDIT_TARGETS),
    Target(
        "amd-certificate",
        lambda data: read_endorsed_key(parse_certificate(data)),
        lambda: [SnpMachine().certificate(), SnpMachine(loaded=True).certificate()],
    ),
    Target(
        "intel-certificate",
        lambda data: read_platform_tcb(parse_certificate(data)),
        lambda: [intel().platform_certificate()],
    ),
    Target(
        "pem-chain",
        lambda data: parse_pem_chain(data.decode("latin-1")),
        lambda: [intel().chain().encode()],
    ),
    Target("snp-report", _read_report, _reports),
    Target("tdx-quote", _read_quote, _tdx_quotes),
    Target("tdx-collateral", _read_collateral, _collaterals),
    Target("nitro-document", parse_nitro_document, lambda: [document(fields(NOW, bytes(32)))]),
    Target("platform-roots", parse_platform_roots, _roots_files),
)
