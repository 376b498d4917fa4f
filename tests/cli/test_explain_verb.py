"""`blindbuild explain`: what it reads, what it prints, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli.main import main
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, FormatError, UsageError, VerificationError
from blindbuild.formats.ccel import CcEventLog, write_cc_event_log
from blindbuild.formats.cel import cel_from_log, write_cel_json, write_cel_tlv
from blindbuild.formats.tcglog import LogEvent, SpecId, UnverifiedLog, parse_event_log
from blindbuild.verify import session_bytes
from tests.fakes.published import (
    Event,
    command_line,
    honest_boot,
    log_bytes,
    register_values,
    statement_value,
)
from tests.fakes.world import boot_of, publisher, session
from tests.unit.test_tcglog import sha256_record, spec_id

EVIL = "\x1b]0;evil\x07<script>alert('&\"')</script>\u202e"


def added_line(text: str) -> Event:
    return Event(12, "EV_IPL", text.encode("utf-16-le") + b"\0\0", text)


def attacked_boot(text: str = "evil=1") -> list[Event]:
    """The honest boot, to which the host added a command line through SMBIOS."""
    events = [command_line(f"quiet {text}") if e.what == "command line" else e for e in honest_boot()]
    return [*events[:-4], added_line(text), *events[-4:]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "honest.bin").write_bytes(log_bytes(honest_boot()))
    (tmp_path / "evil.bin").write_bytes(log_bytes(attacked_boot()))
    (tmp_path / "statement.json").write_bytes(publisher().statement)
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    return tmp_path


def explain(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)], env={"COLUMNS": "300"})


def refused(result: Result, kind: type[BlindbuildError]) -> BlindbuildError:
    assert isinstance(result.exception, kind), result.output
    return result.exception


def test_a_log_alone_gives_the_replayed_values_and_the_events(place: Path) -> None:
    done = explain(place / "honest.bin", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["format"] == "tcg"
    for bank in ("sha256", "sha384"):
        values = [value.hex() for value in register_values(honest_boot(), bank)]
        assert found["replayed"][bank] == {str(n): value for n, value in enumerate(values)}
    assert [event["index"] for event in found["events"]] == list(range(len(honest_boot())))
    assert found["events"][0]["what"] == "EV_S_CRTM_VERSION '2025.02'"
    assert "differences" not in found


def test_only_the_registers_asked_for_are_shown(place: Path) -> None:
    found = json.loads(explain(place / "honest.bin", "--json", "--register", "4", "--register", "9").stdout)
    assert {event["register"] for event in found["events"]} == {4, 9}
    assert found["replayed"]["sha256"].keys() == {"4", "9"}
    table = explain(place / "honest.bin", "--register", "4").stdout
    assert "PCR 4" in table
    assert "PCR 11" not in table


@pytest.mark.parametrize("target", ["statement.json", "manifest.dsse.json", "."])
def test_an_honest_boot_equals_its_statement(place: Path, target: str) -> None:
    done = explain(place / "honest.bin", "--statement", place / target)
    assert done.exit_code == 0, done.output
    assert "equal: bank sha256 (platform qemu-q35-ovmf-2025.02)" in done.stdout


def test_what_the_host_added_is_told_and_the_exit_code_is_3(place: Path) -> None:
    done = explain(place / "evil.bin", "--statement", place / "statement.json")
    error = refused(done, VerificationError)
    assert error.exit_code == 3
    assert error.message.endswith("got other values in PCR 9, PCR 12")
    assert "the host added a kernel command line through SMBIOS: `evil=1`" in done.stdout
    assert "do: refuse this boot" in done.stdout


def test_two_logs_are_compared_and_all_is_in_the_json(place: Path) -> None:
    done = explain(place / "honest.bin", place / "evil.bin", "--json", "--bank", "sha384")
    refused(done, VerificationError)
    found = json.loads(done.stdout)
    assert (found["bank"], found["equal"], found["platform"]) == ("sha384", False, None)
    assert [d["name"] for d in found["differences"]] == ["PCR 9", "PCR 12"]
    steps = found["differences"][0]["steps"]
    assert [step["change"] for step in steps] == ["changed", "same"]
    line = "quiet evil=1\0".encode("utf-16-le")
    assert steps[0]["got"]["digest"] == hashlib.sha384(line).hexdigest()
    assert explain(place / "honest.bin", place / "honest.bin").exit_code == 0


def test_a_register_that_was_not_asked_for_does_not_count(place: Path) -> None:
    assert explain(place / "honest.bin", place / "evil.bin", "--register", "4").exit_code == 0


def test_a_recorded_session_is_explained_by_its_quoted_values(place: Path) -> None:
    machine, log = boot_of(attacked_boot())
    (place / "session.json").write_bytes(session_bytes(session(machine, log)))
    done = explain(place / "session.json", "--statement", place)
    refused(done, VerificationError)
    assert "`evil=1`" in done.stdout
    quoted = json.loads(explain(place / "session.json", "--json").stdout)["quoted"]["sha256"]
    assert quoted["9"] == register_values(attacked_boot(), "sha256")[9].hex()


def test_a_value_without_an_event_in_register_10_is_told_as_ima(place: Path) -> None:
    # Linux ima_init.c: template ima-sig over the aggregate of PCR 0-9
    machine, log = boot_of(honest_boot())
    values = {bank: [*registers] for bank, registers in machine.registers.items()}
    aggregate = hashlib.sha256(b"".join(values["sha256"][:10])).digest()
    field = b"sha256:\0" + aggregate
    template = len(field).to_bytes(4, "little") + field + b"\x0f\0\0\0boot_aggregate\0" + bytes(4)
    values["sha256"][10] = hashlib.sha256(bytes(32) + hashlib.sha256(template).digest()).digest()
    (place / "session.json").write_bytes(session_bytes(session(machine.but(registers=values), log)))
    done = explain(place / "session.json", "--statement", place)
    refused(done, VerificationError)
    words = "PCR 10 has a value and no event: the kernel has IMA; it is exactly the boot aggregate of PCR 0-9"
    assert words in done.stdout
    values["sha256"][10] = b"\x07" * 32
    (place / "session.json").write_bytes(session_bytes(session(machine.but(registers=values), log)))
    assert "IMA, which logs elsewhere" in explain(place / "session.json", "--statement", place).stdout


@pytest.mark.parametrize("form", ["cel.tlv", "cel.json"])
def test_a_canonical_log_says_the_same(place: Path, form: str) -> None:
    log = parse_event_log(log_bytes(attacked_boot()))
    write = write_cel_tlv if form == "cel.tlv" else write_cel_json
    (place / form).write_bytes(write(cel_from_log(log)))
    done = explain(place / form, "--statement", place)
    refused(done, VerificationError)
    assert "`evil=1`" in done.stdout
    assert json.loads(explain(place / form, "--json").stdout)["format"] == form.replace(".", "-")


def cc_log(*texts: bytes) -> bytes:
    sha384 = HashAlgorithm.SHA384
    events = tuple(LogEvent(2, 0x80000007, {sha384: Digest.of(sha384, text)}, text) for text in texts)
    return write_cc_event_log(CcEventLog(UnverifiedLog((sha384,), events, SpecId()), padding_bytes=100))


def test_logs_of_confidential_guests_have_registers_of_their_own(place: Path) -> None:
    calling = b"Calling EFI Application from Boot Option"
    (place / "one").write_bytes(cc_log(calling))
    (place / "two").write_bytes(cc_log(calling, b"Returning from EFI Application from Boot Option", calling))
    found = json.loads(explain(place / "one", "--json").stdout)
    assert found["format"] == "ccel"
    assert found["replayed"]["sha384"].keys() == {"RTMR0", "RTMR1", "RTMR2", "RTMR3"}
    done = explain(place / "one", place / "two")
    assert "got other values in RTMR1" in refused(done, VerificationError).message
    assert "the firmware started another boot option first" in done.stdout
    assert "registers of the same" not in done.output
    error = refused(explain(place / "one", place / "honest.bin"), UsageError)
    assert "expected two logs of the same registers" in error.message
    error = refused(explain(place / "one", "--statement", place), UsageError)
    assert "expected a TPM's log" in error.message


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("evil.bin", "--statement", "statement.json"), "either a second log or --statement"),
        (("--statement", "statement.json", "--platform", "other"), "expected a platform of the statement"),
        (("--bank", "sha512"), "expected a bank that all sides have (sha256, sha384), got sha512"),
        (("--register", "24"), "expected registers 0 to 23, got [24]"),
        (("--platform", "other"), "expected --statement with it"),
        ((".",), ".: expected a log, got a directory"),
        (("statement.json",), "statement.json: expected a log, got a statement or a manifest"),
        (("manifest.dsse.json",), "manifest.dsse.json: expected a log, got a statement or a manifest"),
    ],
)
def test_wrong_usage_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(place)
    error = refused(explain("honest.bin", *more), UsageError)
    assert reason in error.message
    assert error.exit_code == 2


def test_a_number_means_the_rtmr_of_that_number(place: Path) -> None:
    (place / "one").write_bytes(cc_log(b"Calling EFI Application from Boot Option"))
    found = json.loads(explain(place / "one", "--json", "--register", "1").stdout)
    assert found["replayed"]["sha384"].keys() == {"RTMR1"}
    error = refused(explain(place / "one", "--register", "4"), UsageError)
    assert "expected registers 0 to 3, got [4]" in error.message


def test_a_log_of_tcg_1_2_that_begins_with_the_firmwares_version_is_no_canonical_log(place: Path) -> None:
    version = "v2\0".encode("utf-16-le")
    digest = hashlib.sha1(version).digest()  # noqa: S324
    head = (0).to_bytes(4, "little") + (8).to_bytes(4, "little")  # PCR 0, EV_S_CRTM_VERSION
    (place / "old").write_bytes(head + digest + len(version).to_bytes(4, "little") + version)
    found = json.loads(explain(place / "old", "--json").stdout)
    assert (found["format"], found["bank"]) == ("tcg", "sha1")
    assert found["replayed"]["sha1"]["0"] == hashlib.sha1(bytes(20) + digest).hexdigest()  # noqa: S324


def test_what_is_no_log_is_named_and_what_one_is_is_said(place: Path) -> None:
    (place / "notes.txt").write_text("not a log")
    error = refused(explain(place / "honest.bin", place / "notes.txt"), FormatError)
    assert error.message.startswith(f"{place / 'notes.txt'}: ")
    assert "binary_bios_measurements" in (error.hint or "")
    error = refused(explain(place / "honest.bin", "--statement", place / "notes.txt"), FormatError)
    assert error.message.startswith(f"{place / 'notes.txt'}: ")
    assert "statement.json" in (error.hint or "")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"rubbish", b"\0\0\0\0\x08"])
def test_what_is_no_log_is_refused_with_our_error(place: Path, data: bytes) -> None:
    (place / "bad").write_bytes(data)
    error = refused(explain(place / "bad"), FormatError)
    assert error.exit_code == 1


def test_a_log_that_cannot_be_replayed_is_still_shown(place: Path) -> None:
    locality = sha256_record(0, 3, b"StartupLocality\0\x07", bytes(32))
    (place / "bad").write_bytes(spec_id() + locality + sha256_record(0, 4, bytes(4)))
    done = explain(place / "bad", "--html", place / "page.html")
    assert done.exit_code == 0
    assert "cannot be replayed: event 0: expected a startup locality" in done.stdout
    assert "cannot be replayed" in (place / "page.html").read_text()


def test_a_log_that_cannot_be_replayed_is_not_compared(place: Path) -> None:
    locality = sha256_record(0, 3, b"StartupLocality\0\x07", bytes(32))
    (place / "bad").write_bytes(spec_id() + locality + sha256_record(0, 4, bytes(4)))
    error = refused(explain(place / "bad", "--statement", place), FormatError)
    assert "expected a startup locality of 0, 3 or 4" in error.message
    error = refused(explain(place / "honest.bin", place / "bad"), FormatError)
    assert error.exit_code == 1


def test_an_event_whose_data_was_not_hashed_is_marked(place: Path) -> None:
    (place / "odd").write_bytes(spec_id() + sha256_record(0, 4, bytes(4), b"\7" * 32))
    assert json.loads(explain(place / "odd", "--json").stdout)["events"][0]["dataMatches"] is False
    assert "≠" in explain(place / "odd").stdout


class _Page(HTMLParser):
    """Collects what a browser would see as tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_text_of_a_log_can_neither_steer_a_terminal_nor_a_page(place: Path) -> None:
    (place / "evil.bin").write_bytes(log_bytes(attacked_boot(EVIL)))
    done = explain(place / "honest.bin", place / "evil.bin", "--html", place / "page.html")
    refused(done, VerificationError)
    for output in (done.stdout, (place / "page.html").read_text()):
        assert "\x1b]0" not in output
        assert "\u202e" not in output
    text = (place / "page.html").read_text()
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    # nothing is loaded from anywhere
    assert not {name for name, _ in page.attributes} & {"src", "href", "onload", "onclick", "onerror"}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_timeline_has_one_box_an_event_and_marks_every_difference(place: Path) -> None:
    refused(
        explain(place / "evil.bin", place / "honest.bin", "--html", place / "page.html"), VerificationError
    )
    text = (place / "page.html").read_text()
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])  # noqa: S314
    name = "{http://www.w3.org/2000/svg}"
    boxes = [box.get("class") for box in svg.iter(f"{name}rect")]
    assert len(boxes) == len(honest_boot()) + 1
    assert (boxes.count("missing"), boxes.count("changed"), boxes.count("added")) == (1, 1, 0)
    width = int(svg.get("width") or 0)
    assert all(0 <= int(box.get("x") or -1) <= width for box in svg.iter(f"{name}rect"))
    assert len(list(svg.iter(f"{name}title"))) == len(boxes)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_client_half_does_not_import_the_builder() -> None:
    import subprocess
    import sys

    code = (
        "import sys, blindbuild.cli.explain; print([n for n in ('lief','yaml','jinja2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_platform_of_the_statement_is_the_closest(place: Path) -> None:
    value = statement_value()
    other = json.loads(json.dumps(value["predicate"]["platforms"][0])) | {"id": "another"}
    value["predicate"]["platforms"].insert(0, other)
    for bank in other["banks"].values():
        bank["pcrs"]["2"] = {"rule": "initial"}
    import rfc8785

    (place / "statement.json").write_bytes(rfc8785.dumps(value))
    done = explain(place / "honest.bin", "--statement", place / "statement.json")
    assert "platform qemu-q35-ovmf-2025.02" in done.stdout
    named = explain(place / "honest.bin", "--statement", place / "statement.json", "--platform", "another")
    refused(named, VerificationError)
    assert "PCR 2" in named.stdout
