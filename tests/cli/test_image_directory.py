"""What `sign` and `run` take for an image directory: complete, as hashed, and what the statement is about."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import rfc8785

from blindbuild.cli.booting import BootOptions, configure_machine
from blindbuild.cli.outputs import check_image
from blindbuild.cli.sign import sign_image
from blindbuild.errors import BlindbuildError, BuildError, UsageError
from blindbuild.formats.dsse import parse_envelope
from blindbuild.host.store import Store
from blindbuild.publish import generate_key
from tests.fakes.published import IMAGE, statement_value

LEDGER = b'{"channels":[]}'


def write_image(place: Path, **changes: bytes) -> Path:
    """An image directory as build makes it; each file can be another one."""
    value = copy.deepcopy(statement_value())
    value["predicate"]["ledger"] = {"sha256": hashlib.sha256(LEDGER).hexdigest()}
    files = {
        "hello.efi": IMAGE,
        "hello.raw": b"disk",
        "channels.json": LEDGER,
        "kernel.config": b"",
        "System.map": b"",
        "statement.json": rfc8785.dumps(value),
        **{name.replace("__", "."): data for name, data in changes.items()},
    }
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    write_sums(place, files)
    return place


def write_sums(place: Path, files: dict[str, bytes]) -> None:
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    (place / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image")


def signed(image: Path) -> bytes:
    sign_image(image, generate_key(), days=1)
    return parse_envelope((image / "manifest.dsse.json").read_bytes()).payload


def test_a_complete_image_is_signed(image: Path) -> None:
    assert signed(image) == (image / "statement.json").read_bytes()
    assert json.loads((image / "release.dsse.json").read_bytes())["payloadType"]


@pytest.mark.parametrize(
    "missing",
    ["hello.efi", "hello.raw", "channels.json", "kernel.config", "System.map", "statement.json"],
)
def test_a_list_that_leaves_a_file_out_is_refused(image: Path, missing: str) -> None:
    lines = (image / "SHA256SUMS").read_text().splitlines(keepends=True)
    (image / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {missing}\n")))
    for use in (lambda: signed(image), lambda: boot(image), lambda: check_image(image)):
        with pytest.raises(BuildError, match="SHA256SUMS: expected"):
            use()
    assert not (image / "manifest.dsse.json").exists()


def boot(image: Path) -> object:
    return configure_machine(image, store=Store(image.parent / "store"), options=BootOptions())


def test_an_empty_list_promises_nothing_and_is_refused(image: Path) -> None:
    (image / "SHA256SUMS").write_bytes(b"")
    with pytest.raises(BuildError, match=r"expected one NAME\.efi, got 0"):
        check_image(image)


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"\xc3\xa9", b"0" * 64 + b"  ../x\n", b"0" * (1 << 17)])
def test_a_list_that_is_none_is_wrong_usage(image: Path, data: bytes) -> None:
    (image / "SHA256SUMS").write_bytes(data)
    with pytest.raises(UsageError, match="SHA256SUMS"):
        check_image(image)


@pytest.mark.parametrize("name", ["hello.efi", "statement.json", "kernel.config"])
def test_a_file_that_changed_is_refused(image: Path, name: str) -> None:
    (image / name).write_bytes(b"changed")
    with pytest.raises(BuildError, match="not the file that SHA256SUMS names"):
        signed(image)


def test_what_is_signed_is_what_was_hashed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (image / "statement.json").read_bytes()

    def check_then_swap(place: Path):
        files = check_image(place)
        (place / "statement.json").write_bytes(b"swapped")
        return files

    monkeypatch.setattr("blindbuild.cli.signing.check_image", check_then_swap)
    assert signed(image) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hello__efi": b"another"}, "not the image that the statement is about"),
        ({"channels__json": b"{}"}, "not the ledger that the statement names"),
    ],
)
def test_files_of_another_image_with_a_list_of_their_own_are_not_signed(
    tmp_path: Path, changes: dict[str, bytes], message: str
) -> None:
    image = write_image(tmp_path / "image", **changes)
    check_image(image)
    with pytest.raises(BuildError, match=message):
        signed(image)
    assert not (image / "manifest.dsse.json").exists()


def test_a_statement_about_an_image_of_another_name_is_not_signed(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image")
    (image / "hello.efi").rename(image / "other.efi")
    (image / "hello.raw").rename(image / "other.raw")
    names = [path.name for path in image.iterdir() if path.name != "SHA256SUMS"]
    write_sums(image, {name: (image / name).read_bytes() for name in names})
    with pytest.raises(BlindbuildError, match=r"expected a statement about hello\.efi"):
        signed(image)
