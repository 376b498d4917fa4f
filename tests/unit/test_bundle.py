"""One file for an auditor: what is in it comes back, and nothing else is taken."""

from __future__ import annotations

import base64
import json

import pytest
import rfc8785

from blindbuild.errors import ManifestError, VerificationError
from blindbuild.verify import bundle as bundles
from blindbuild.verify import session_bytes
from blindbuild.verify.bundle import Bundle, bundle_bytes, looks_like_bundle, parse_bundle
from tests.fakes.damage import truncations
from tests.fakes.published import NOW
from tests.fakes.world import publisher, session

SMALL = Bundle(session(), publisher().envelope, NOW)
FULL = Bundle(
    session(credential=False),
    publisher().envelope,
    NOW,
    release=publisher().release,
    ledger=b"ledger",
    log_proof=b"proof",
    rebuilds=(b"one", b"two"),
    crls=(b"crl",),
    tuf={"metadata/1.root.json": b"{}", "timestamp.json": b""},
    probe=b"probe",
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refuse(data: bytes, message: str = "") -> None:
    with pytest.raises(VerificationError) as caught:
        parse_bundle(data)
    assert (caught.value.step, caught.value.reason) == ("Q10", "malformed")
    assert message in caught.value.message


@pytest.mark.parametrize("made", [SMALL, FULL])
def test_a_bundle_comes_back_as_it_was_but_not_live(made: Bundle) -> None:
    read = parse_bundle(bundle_bytes(made))
    assert bundle_bytes(read) == bundle_bytes(made)
    assert made.session.live
    assert not read.session.live
    assert (read.envelope, read.release, read.ledger, read.log_proof, read.probe) == (
        made.envelope,
        made.release,
        made.ledger,
        made.log_proof,
        made.probe,
    )
    assert (read.rebuilds, read.crls, read.tuf, read.saved_at) == (
        made.rebuilds,
        made.crls,
        dict(made.tuf),
        NOW,
    )


def test_a_bundle_is_the_json_that_its_page_says() -> None:
    made = session(credential=False)
    expected = {
        "version": 1,
        "savedAt": "2026-09-21T14:13:20Z",
        "session": json.loads(session_bytes(made)),
        "manifest": b64(FULL.envelope),
        "release": b64(publisher().release),
        "ledger": b64(b"ledger"),
        "logProof": b64(b"proof"),
        "probe": b64(b"probe"),
        "rebuilds": [b64(b"one"), b64(b"two")],
        "crls": [b64(b"crl")],
        "tuf": {"metadata/1.root.json": b64(b"{}"), "timestamp.json": ""},
    }
    data = bundle_bytes(
        Bundle(**{f: getattr(FULL, f) for f in FULL.__dataclass_fields__} | {"session": made})
    )
    assert data == rfc8785.dumps(expected)


def test_a_bundle_is_told_from_a_session_by_its_start() -> None:
    assert looks_like_bundle(bundle_bytes(SMALL))
    assert looks_like_bundle(bundle_bytes(FULL))
    assert not looks_like_bundle(session_bytes(SMALL.session))


def changed(**changes: object) -> bytes:
    value = json.loads(bundle_bytes(FULL))
    for key, new in changes.items():
        if new is None:
            del value[key]
        else:
            value[key] = new
    return rfc8785.dumps(value)


REFUSED = {
    "another version": ({"version": 2}, "expected 1 to 1"),
    "no manifest": ({"manifest": None}, "missing manifest"),
    "no session": ({"session": None}, "missing session"),
    "a session that is none": ({"session": {}}, "session: missing"),
    "a policy": ({"policy": {}}, "unknown 'policy'"),
    "a trust file": ({"trust": ""}, "unknown 'trust'"),
    "live": ({"live": True}, "unknown 'live'"),
    "a time that is none": ({"savedAt": "now"}, ""),
    "base64 of another alphabet": ({"release": "-_-_"}, "base64"),
    "a probe as a list": ({"probe": []}, "expected a string"),
    "an empty list": ({"crls": []}, "expected 1 to"),
    "too many lists": ({"crls": ["AA=="] * 65}, "expected 1 to 64"),
    "too many rebuilders": ({"rebuilds": ["AA=="] * 17}, "expected 1 to 16"),
    "a number in a list": ({"rebuilds": [1]}, "list of strings"),
    "tuf as a list": ({"tuf": []}, "expected an object"),
    "tuf without files": ({"tuf": {}}, "expected an object"),
    "a way out of the directory": ({"tuf": {"../x": ""}}, "expected names of files"),
    "an absolute name": ({"tuf": {"/x": ""}}, "expected names of files"),
    "a file that is a number": ({"tuf": {"x": 1}}, "expected names of files"),
    "a proof of 145 KiB": ({"logProof": b64(bytes(145 << 10))}, "at most"),
    "a file of the repository of 4 MiB": ({"tuf": {"x": b64(bytes((4 << 20) + 3))}}, "at most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bundle_that_breaks_a_rule_is_refused(name: str) -> None:
    changes, message = REFUSED[name]
    refuse(changed(**changes), message)


def test_a_bundle_in_another_form_is_refused() -> None:
    value = json.loads(bundle_bytes(FULL))
    refuse(json.dumps(value).encode(), "RFC 8785")
    refuse(bundle_bytes(FULL) + b"\n", "RFC 8785")
    refuse(b'{"version":1,' + bundle_bytes(FULL)[1:], "duplicate")


def test_a_bundle_that_is_too_long_is_not_parsed_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_BUNDLE", 1000)
    refuse(bundle_bytes.__doc__.encode() * 20, "at most 1000")
    with pytest.raises(ManifestError, match="at most 1000"):
        bundle_bytes(FULL)


def test_a_bundle_cut_off_anywhere_is_refused() -> None:
    data = bundle_bytes(FULL)
    for cut in (*truncations(data, step=211), data[:-1]):
        refuse(cut)
