"""Packages known to report home are shown with what they ask for; a word of their makers is no proof."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from blindbuild.assemble.tree import file_entry
from blindbuild.audit.image import UnpackedImage, unpack_image
from blindbuild.audit.programs import read_programs
from blindbuild.audit.python_imports import find_network_imports
from blindbuild.audit.telemetry import (
    RULES_FILE,
    Telemetry,
    find_telemetry,
    load_telemetry_rules,
    parse_telemetry_rules,
)
from blindbuild.errors import PolicyError
from blindbuild.formats.cpio import CpioEntry
from tests.fakes.ledger_image import Parts, clean_parts, dynamic_elf

PLACE = "workload/usr/lib/python3/dist-packages"
RULE = "pkg  module=pkg word=PkgReports  off PKG_QUIET=1  # its makers, 2026-11-22"


@pytest.fixture(scope="module")
def clean() -> Parts:
    return clean_parts()


def image_of(parts: Parts, files: dict[str, bytes]) -> UnpackedImage:
    for path, data in files.items():
        parts = parts.with_file(path, file_entry(data))
    return unpack_image(parts.inputs().uki)


def telemetry(parts: Parts, files: dict[str, bytes]) -> tuple[Telemetry, ...]:
    image = image_of(parts, files)
    return find_telemetry(image, read_programs(image))


def test_an_image_without_such_a_package_has_nothing_to_show(clean: Parts) -> None:
    assert telemetry(clean, {f"{PLACE}/numpy/__init__.py": b"import math\n"}) == ()


def test_a_package_is_known_by_its_module_and_shown_with_what_its_libraries_import(clean: Parts) -> None:
    library = dynamic_elf("connect", "getaddrinfo", "cos")
    found = telemetry(
        clean, {f"{PLACE}/onnxruntime/__init__.py": b"", f"{PLACE}/onnxruntime/capi/state.so": library}
    )
    assert found == (
        Telemetry(
            "onnxruntime",
            (f"{PLACE}/onnxruntime",),
            ("connect", "getaddrinfo"),
            ("ORT_DISABLE_TELEMETRY=1",),
        ),
    )


def test_a_package_is_known_by_a_word_in_a_library_of_another_name(clean: Parts) -> None:
    library = dynamic_elf("connect") + b"\0N11onnxruntime14OneDsTelemetryE\0"
    found = telemetry(clean, {"workload/lib/libengine.so": library})
    assert [(item.package, item.signs, item.imports) for item in found] == [
        ("onnxruntime", ("OneDsTelemetry in workload/lib/libengine.so",), ("connect",))
    ]


def test_the_imports_of_a_neighbour_are_not_the_packages(clean: Parts) -> None:
    found = telemetry(
        clean,
        {f"{PLACE}/onnxruntime/x.py": b"", f"{PLACE}/onnxruntime_other/x.so": dynamic_elf("connect")},
    )
    assert [(item.package, item.imports) for item in found] == [("onnxruntime", ())]


@pytest.mark.parametrize("place", ["workload/usr/lib/python3/dist-packages", "workload/x/site-packages"])
@pytest.mark.parametrize("form", ["vllm/__init__.py", "vllm.py"])
def test_a_module_is_a_directory_or_a_file_where_python_looks(clean: Parts, place: str, form: str) -> None:
    found = telemetry(clean, {f"{place}/{form}": b""})
    assert [(item.package, item.off) for item in found] == [
        ("vllm", ("VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1"))
    ]


@pytest.mark.parametrize("path", ["workload/vllm/x.py", f"{PLACE}/deeper/vllm/x.py", f"{PLACE}/vllm_x/y.py"])
def test_a_name_elsewhere_or_a_longer_one_is_no_sign(clean: Parts, path: str) -> None:
    assert telemetry(clean, {path: b""}) == ()


def test_the_rules_have_a_source_and_a_date_each(clean: Parts) -> None:
    rules = load_telemetry_rules()
    assert {"onnxruntime", "vllm", "huggingface-hub", "transformers"} <= {rule.package for rule in rules}
    for line in RULES_FILE.read_text().splitlines():
        assert not line or line.startswith("#") or re.search(r"  # \S.*, 20\d\d-\d\d-\d\d$", line), line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        RULE.replace("module=", "modul="),
        RULE.replace("  off PKG_QUIET=1", ""),
        RULE.replace(", 2026-11-22", ""),
        RULE.replace("  # its makers", "  #"),
        RULE.replace("PKG_QUIET=1", "pkg_quiet=1"),
        f"{RULE}\n{RULE}\n",
    ],
)
def test_a_malformed_list_of_rules_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"telemetry\.txt:"):
        parse_telemetry_rules(text)
    assert parse_telemetry_rules(RULE)[0].off == ("PKG_QUIET=1",)


# --- Python's imports


def imports(parts: Parts, source: bytes) -> list[tuple[tuple[str, ...], bool]]:
    image = image_of(parts, {f"{PLACE}/pkg/x.py": source})
    return [(item.imports, item.readable) for item in find_network_imports(image)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (b"import socket\n", ("socket",)),
        (b"import os, ssl as tls\n", ("ssl",)),
        (b"from http.client import HTTPSConnection\n", ("http",)),
        (b"import urllib.request\n", ("urllib.request",)),
        (b"from urllib import request\n", ("urllib.request",)),
        (b"def later():\n    try:\n        import requests\n    except ImportError: pass\n", ("requests",)),
        (b"import socket, ssl\nfrom socket import AF_INET\n", ("socket", "ssl")),
    ],
)
def test_an_import_of_a_network_module_is_found(clean: Parts, source: bytes, found: tuple[str, ...]) -> None:
    assert imports(clean, source) == [(found, True)]


@pytest.mark.parametrize(
    "source",
    [
        b"import urllib.parse\n",
        b"from urllib import parse\n",
        b"from . import socket\n",
        b"from .http import Client\n",
        b"x = 'import socket'  # import ssl\n",
        b"import socketpool\n",
        b"import httpx_stub\n",
    ],
)
def test_what_only_looks_like_one_is_not(clean: Parts, source: bytes) -> None:
    assert imports(clean, source) == []


@pytest.mark.parametrize(
    "source",
    [
        b"import socket\nprint 'python 2'\n",
        b"import socket\0\n",
        b"import socket\n" + b"(" * 4000,
        b"import socket\nx = " + b"-" * 200_000 + b"1\n",
        b"# coding: nothing\nimport socket\n",
    ],
)
def test_a_file_that_cannot_be_parsed_is_told_and_ends_nothing(clean: Parts, source: bytes) -> None:
    assert imports(clean, source) == [((), False)]


def test_only_encodings_that_are_quick_to_decode_are_read(clean: Parts) -> None:
    """Python's punycode takes time by the square of the length; utf-7 hides words from the search before."""
    slow = b"# coding: punycode\n# socket\n" + b"a" * 100_000 + b"-" + b"b" * 100_000
    before = time.process_time()
    assert imports(clean, slow) == [((), False)]
    assert time.process_time() - before < 1
    assert imports(clean, b"# coding: utf-7\nimport socket\n") == [((), False)]
    assert imports(clean, b"# -*- coding: Latin-1 -*-\nimport socket  # \xe9\n") == [(("socket",), True)]
    assert imports(clean, b"\xef\xbb\xbfimport socket\n") == [(("socket",), True)]


def test_a_file_that_is_too_long_is_told(clean: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindbuild.audit.python_imports.MAX_SOURCE_BYTES", 10)
    assert imports(clean, b"import socket\n") == [((), False)]


def test_the_ledger_shows_a_package_and_no_row_changes_by_it(clean: Parts) -> None:
    from tests.unit.test_channels import write

    quiet, shown = (
        write(clean),
        write(replace(clean).with_file(f"{PLACE}/vllm/__init__.py", file_entry(b"import socket\n"))),
    )
    assert quiet["telemetry"] == []
    assert [(item["package"], item["imports"]) for item in shown["telemetry"]] == [("vllm", [])]
    assert {row["id"]: row["state"] for row in quiet["channels"]} == {
        row["id"]: row["state"] for row in shown["channels"]
    }


def test_a_path_of_many_parts_takes_no_time_by_the_square(clean: Parts) -> None:
    deep = {f"{PLACE}/{number:03}{'/a' * 1900}": b"" for number in range(200)}
    place = image_of(clean, {f"{PLACE}/vllm/x.py": b""})
    entries = tuple(CpioEntry(path.encode(), 0o100444, data) for path, data in deep.items())
    before = time.process_time()
    assert [found.package for found in find_telemetry(replace(place, entries=(*place.entries, *entries)), ())]
    assert time.process_time() - before < 1
