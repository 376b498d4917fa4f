"""`blindbuild channels`: the same bytes from the same outputs, and every other output is told."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785
from click.testing import CliRunner

from blindbuild.assemble.tree import file_entry
from blindbuild.audit.channels import LedgerInputs, Waiver, write_ledger
from blindbuild.cli.channels import command
from blindbuild.errors import BlindbuildError, FormatError, UsageError, VerificationError
from tests.fakes.ledger_image import Parts, clean_parts, dynamic_elf
from tests.fakes.published import statement_value


def write_image(
    place: Path, inputs: LedgerInputs, *, debug: bool = False, ledger: bytes | None = None
) -> Path:
    """An image directory as build makes it, with the statement that names these bytes."""
    value = copy.deepcopy(statement_value())
    predicate = value["predicate"]
    ledger = ledger or write_ledger(predicate["name"], predicate["version"], inputs)
    predicate["ledger"] = {"sha256": hashlib.sha256(ledger).hexdigest()}
    predicate["debug"] = debug
    value["subject"] = [{"name": "hello.efi", "digest": {"sha256": hashlib.sha256(inputs.uki).hexdigest()}}]
    place.mkdir()
    (place / "hello.efi").write_bytes(inputs.uki)
    (place / "channels.json").write_bytes(ledger)
    (place / "kernel.config").write_text(inputs.config)
    (place / "System.map").write_text(inputs.system_map)
    (place / "statement.json").write_bytes(rfc8785.dumps(value))
    return place


def run(image: Path, *options: str) -> tuple[str, BlindbuildError | None]:
    """Return stdout and the error that the verb ended with."""
    done = CliRunner().invoke(command, [str(image), *options])
    assert done.exception is None or isinstance(done.exception, BlindbuildError), done.exception
    return done.stdout, done.exception


def refuse(image: Path) -> VerificationError:
    _, error = run(image)
    assert isinstance(error, VerificationError)
    assert (error.exit_code, error.step, error.reason) == (3, "L1", "ledger-differs")
    return error


@pytest.fixture(scope="module")
def clean() -> Parts:
    return clean_parts()


def test_the_ledger_of_an_untouched_image_is_recomputed(clean: Parts, tmp_path: Path) -> None:
    output, error = run(write_image(tmp_path / "image", clean.inputs()))
    assert error is None
    lines = [line for line in output.splitlines() if line.startswith("  ") and line[2:3].isalpha()]
    assert [line.split()[2] for line in lines[:5]] == [
        *("host-reads-memory", "host-supplied-acpi", "tpm", "size-and-timing", "arp")
    ]
    assert len(lines) == 41


def test_a_package_that_reports_home_is_shown_with_what_stops_it(clean: Parts, tmp_path: Path) -> None:
    place = "workload/usr/lib/python3/dist-packages/onnxruntime"
    client = dynamic_elf("connect", "getaddrinfo")
    waivers = tuple(
        Waiver(f"{place}/state.so", name, "no process can make a socket")
        for name in ("connect", "getaddrinfo")
    )
    parts = clean.with_file(f"{place}/state.so", file_entry(client))
    parts = parts.with_file(f"{place}/upload.py", file_entry(b"import http.client\n"))
    image = write_image(tmp_path / "image", replace(parts, waivers=waivers).inputs())
    output, error = run(image)
    assert error is None
    line = next(line for line in output.splitlines() if "onnxruntime reports home" in line)
    assert f"({place}): its libraries ask for connect, getaddrinfo; ORT_DISABLE_TELEMETRY=1 would ask" in line
    assert "Row 32 package-telemetry is " in line
    assert "make a socket" in line
    assert f"  {place}/upload.py: imports http" in output.splitlines()
    output, _ = run(image, "--json")
    assert json.loads(output)["python"] == [
        {"path": f"{place}/upload.py", "imports": ["http"], "readable": True}
    ]
    assert [found["package"] for found in json.loads(output)["ledger"]["telemetry"]] == ["onnxruntime"]


def test_an_image_without_such_packages_says_nothing_of_them(clean: Parts, tmp_path: Path) -> None:
    output, _ = run(write_image(tmp_path / "image", clean.inputs()))
    assert "reports home" not in output
    assert "informative" not in output


def test_json_has_the_published_ledger_and_its_digest(clean: Parts, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    output, error = run(image, "--json")
    published = (image / "channels.json").read_bytes()
    value = json.loads(output)
    assert error is None
    assert value["ledger"] == json.loads(published)
    assert value["sha256"] == hashlib.sha256(published).hexdigest()
    assert value["differences"] == []


def test_another_configuration_than_the_ledgers_is_told_by_channel(clean: Parts, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    opened = clean.with_config("# CONFIG_PRINTK is not set", "CONFIG_PRINTK=y")
    (image / "kernel.config").write_text(opened.config)
    message = refuse(image).message
    assert "channel 3 (kernel-log): CONFIG_PRINTK: expected it to be off, got y" in message
    assert "channels.json: channel kernel-log is not what the outputs give" in message


def test_another_symbol_table_of_a_harmless_kernel_is_told(clean: Parts, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    (image / "System.map").write_text(clean.with_symbol("t", "harmless").system_map)
    assert "channel kernel-log is not what the outputs give" in refuse(image).message


def test_another_boot_image_than_the_statements_is_told(clean: Parts, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    other = clean.with_file("workload/app/more", file_entry(b"more"))
    (image / "hello.efi").write_bytes(other.inputs().uki)
    message = refuse(image).message
    assert "hello.efi is not the image that the statement is about" in message
    assert "channels.json: files is not what the outputs give" in message


def test_a_ledger_that_the_statement_does_not_name_is_told(clean: Parts, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    ledger = json.loads((image / "channels.json").read_bytes())
    ledger["channels"][0]["state"] = "closed"
    (image / "channels.json").write_bytes(rfc8785.dumps(ledger))
    message = refuse(image).message
    assert "channels.json is not the ledger that the statement names" in message
    assert "channel host-reads-memory is not what the outputs give" in message


def test_a_ledger_that_hides_a_row_is_told_although_the_statement_names_it(
    clean: Parts, tmp_path: Path
) -> None:
    inputs = clean.inputs()
    ledger = json.loads(write_ledger("hello", statement_value()["predicate"]["version"], inputs))
    del ledger["channels"][0]
    image = write_image(tmp_path / "image", inputs, ledger=rfc8785.dumps(ledger))
    assert "channel host-reads-memory is not what the outputs give" in refuse(image).message


def test_rows_in_another_order_are_told(clean: Parts, tmp_path: Path) -> None:
    inputs = clean.inputs()
    ledger = json.loads(write_ledger("hello", statement_value()["predicate"]["version"], inputs))
    ledger["channels"].reverse()
    image = write_image(tmp_path / "image", inputs, ledger=rfc8785.dumps(ledger))
    assert "not in the order" in refuse(image).message


@pytest.mark.parametrize("change", ["a row twice", "a key of nothing", "true for one"])
def test_a_ledger_that_only_compares_equal_is_told(clean: Parts, tmp_path: Path, change: str) -> None:
    """Other bytes, of which each part is equal to what the outputs give: Python has True == 1."""
    inputs = clean.inputs()
    ledger = json.loads(write_ledger("hello", statement_value()["predicate"]["version"], inputs))
    if change == "a row twice":
        closed = next(row for row in ledger["channels"] if row["state"] == "closed")
        ledger["channels"].insert(0, ledger["channels"][0] | {"state": "closed", "checks": closed["checks"]})
    elif change == "a key of nothing":
        ledger["certified"] = None
    else:
        check = next(c for row in ledger["channels"] for c in row["checks"] if c["lookedAt"] == 1)
        check["lookedAt"] = True
    image = write_image(tmp_path / "image", inputs, ledger=rfc8785.dumps(ledger))
    assert "channels.json: not the bytes that the outputs give" in refuse(image).message


def test_a_product_cannot_take_the_excuses_of_a_debug_image(clean: Parts, tmp_path: Path) -> None:
    debug = replace(clean, debug=True).inputs()
    assert "the statement says that it is none" in refuse(write_image(tmp_path / "one", debug)).message
    _, error = run(write_image(tmp_path / "two", debug, debug=True))
    assert error is None


def test_the_waivers_of_the_ledger_count(clean: Parts, tmp_path: Path) -> None:
    library = clean.with_file("workload/lib/x.so", file_entry(dynamic_elf("socket")))
    waived = replace(library, waivers=(Waiver("workload/lib/x.so", "socket", "filter F0 refuses it"),))
    _, error = run(write_image(tmp_path / "image", waived.inputs()))
    assert error is None


@pytest.mark.parametrize(
    "ledger",
    [
        b"",
        b"[]",
        b"{}",
        b'{"debug":false}',
        b'{"debug":false,"waivers":[{"path":"x"}]}',
        b'{"debug":false,"waivers":[{"control":1,"path":"x","what":"y"}]}',
        b'{"debug": false,"waivers":[]}',
    ],
)
def test_a_malformed_ledger_is_refused_by_name(clean: Parts, tmp_path: Path, ledger: bytes) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    (image / "channels.json").write_bytes(ledger)
    _, error = run(image)
    assert isinstance(error, FormatError)
    assert "channels.json: " in error.message


@pytest.mark.parametrize(
    "name", ["statement.json", "channels.json", "kernel.config", "System.map", "hello.efi"]
)
def test_a_missing_output_is_wrong_usage(clean: Parts, tmp_path: Path, name: str) -> None:
    image = write_image(tmp_path / "image", clean.inputs())
    (image / name).unlink()
    _, error = run(image)
    assert isinstance(error, UsageError)
    assert name in error.message
