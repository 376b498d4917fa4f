"""shim's variables and authorities by its own table, and shim as the first image of a boot."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from uuid import UUID

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.formats.siglist import write_signature_lists, x509_list
from blindbuild.formats.tcgevent import parse_variable_data
from blindbuild.measure.event import PredictedEvent, hash_in_banks
from blindbuild.measure.shim import SHIM_LOCK, MokVariable, Shim, ShimAuthority, mok_variables, predict_shim

SHA256 = HashAlgorithm.SHA256
LOCK = UUID("605dab50-e046-4300-abb6-3dd810dd8b23").bytes_le
EMPTY = bytes.fromhex("2616c4c14c509240aca941f936934328") + struct.pack("<III", 76, 0, 48) + LOCK + bytes(32)
SHIM_FILE = hash_in_banks((b"shim",), (SHA256,))
LEVEL = b"sbat,1,2021030218\n"


def shim(*variables: MokVariable, authority: ShimAuthority | None = None, older: bool = False) -> Shim:
    return Shim(authenticode=SHIM_FILE, variables=variables, authority=authority, trust_in_pcr07=older)


def told(events: Iterable[PredictedEvent]) -> list[tuple[int, str]]:
    """Return register and variable of each event."""
    return [
        (e.register, parse_variable_data(e.data).name if e.register == 7 else e.data.decode().rstrip("\0"))
        for e in events
    ]


def test_variables_are_measured_in_shims_order_into_shims_registers() -> None:
    names = ("MokPolicy", "MokListTrusted", "SbatLevel", "MokSBState", "MokListX", "MokList")
    events = predict_shim(shim(*(MokVariable(name, b"data") for name in names)), (SHA256,))
    assert told(events) == [
        (14, "MokList"),
        (14, "MokListX"),
        (7, "MokSBState"),
        (14, "MokSBState"),
        (7, "SbatLevel"),
        (14, "MokListTrusted"),
        (14, "MokPolicy"),
    ]
    assert events[0].digests[SHA256].value == hashlib.sha256(b"data").digest()
    head = LOCK + struct.pack("<QQ", 10, 4) + "MokSBState".encode("utf-16-le")
    assert events[2].digests[SHA256].value == hashlib.sha256(head + b"data").digest()


def test_older_releases_measure_the_trust_in_the_list_as_an_authority_first() -> None:
    events = predict_shim(shim(MokVariable("MokListTrusted", b"\x01"), older=True), (SHA256,))
    assert told(events) == [(7, "MokListTrusted"), (14, "MokListTrusted")]


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("Shim", SHIM_LOCK),
        ("MokListRT", SHIM_LOCK),
        ("db", UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")),
        ("vendor_db", UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")),
    ],
)
def test_the_authority_of_the_second_stage_comes_last_in_its_own_namespace(name: str, vendor: UUID) -> None:
    given = shim(MokVariable("SbatLevel", LEVEL), authority=ShimAuthority(name, b"certificate"))
    last = predict_shim(given, (SHA256,))[-1]
    assert last.data is not None
    found = parse_variable_data(last.data)
    assert (last.register, found.vendor, found.name, found.data) == (7, vendor, name, b"certificate")


def test_key_lists_that_are_empty_hold_one_digest_of_zeros() -> None:
    found = {variable.name: variable.data for variable in mok_variables(sbat_level=LEVEL)}
    assert found == {
        "MokList": EMPTY,
        "MokListX": EMPTY,
        "SbatLevel": LEVEL,
        "MokListTrusted": b"\x01",
    }


def test_what_is_built_into_shim_comes_before_what_the_machine_holds() -> None:
    certificate, own = b"\x30\x82certificate", write_signature_lists([x509_list(b"own", SHIM_LOCK)])
    mok, forbidden = mok_variables(
        sbat_level=LEVEL, vendor=certificate, mok_list=own, vendor_forbidden=own, mok_list_x=own
    )[:2]
    assert mok.data == write_signature_lists([x509_list(certificate, SHIM_LOCK)]) + own
    assert forbidden.data == own + own
    assert mok_variables(sbat_level=LEVEL, vendor=own)[0].data == own


def test_a_machine_that_set_its_trust_aside_does_not_measure_it() -> None:
    names = [variable.name for variable in mok_variables(sbat_level=LEVEL, trusts_mok_list=False)]
    assert names == ["MokList", "MokListX", "SbatLevel"]


def test_a_shim_whose_variables_are_unknown_leaves_registers_7_and_14_open() -> None:
    unknown = Shim(authenticode=SHIM_FILE).unpredictable
    assert set(unknown) == {7, 14}
    assert all("were not given" in reason for reason in unknown.values())
    assert shim().unpredictable == {}


def test_what_is_none_of_shims_is_refused() -> None:
    for name, data in (("MokNew", b"x"), ("MokList", b"")):
        with pytest.raises(MeasureError, match="shim variable: expected one of"):
            MokVariable(name, data)
    for name, data in (("dbx", b"x"), ("Shim", b"")):
        with pytest.raises(MeasureError, match="shim authority: expected db"):
            ShimAuthority(name, data)
    with pytest.raises(MeasureError, match="expected each of them once"):
        predict_shim(shim(MokVariable("MokList", b"1"), MokVariable("MokList", b"2")), (SHA256,))
    for rubbish in ({"vendor": b"x"}, {"mok_list": b"x"}, {"mok_list_x": b"x"}, {"vendor_forbidden": b"x"}):
        with pytest.raises(FormatError, match="signature list at 0"):
            mok_variables(sbat_level=LEVEL, **rubbish)
