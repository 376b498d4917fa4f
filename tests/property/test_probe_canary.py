"""The canary is found wherever it stands and however it is written, and nowhere else."""

from __future__ import annotations

import base64
import io
import quopri
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from blindbuild.machine.probe import canary
from blindbuild.machine.probe.canary import MAX_HITS, MIN_CANARY, Canary, search_files, search_stream

# long enough that chance does not repeat it; the canaries that are used are printable
TEXTS = st.binary(min_size=MIN_CANARY, max_size=64)
NOISE = st.binary(max_size=200)


def spellings_found(data: bytes, text: bytes) -> set[str]:
    hits, size = search_stream(io.BytesIO(data), Canary.of(text), artefact="x")
    assert size == len(data)
    return {hit.spelling for hit in hits}


@given(text=TEXTS, before=NOISE, after=NOISE)
def test_it_is_found_as_it_is_and_at_its_place(text: bytes, before: bytes, after: bytes) -> None:
    assume(before.count(text) == 0)
    data = before + text + after
    hits, _ = search_stream(io.BytesIO(data), Canary.of(text), artefact="x")
    assert data.index(text) in {hit.offset for hit in hits if hit.spelling == "raw"}


@given(text=TEXTS, before=NOISE, after=NOISE)
@example(text=b"\xfb\xff\xbf" * 6, before=b"", after=b"")  # + and / only: another alphabet for URLs
def test_it_is_found_inside_of_any_base64_at_any_place(text: bytes, before: bytes, after: bytes) -> None:
    data = before + text + after
    for encoded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
        assert any(name.startswith("base64") for name in spellings_found(encoded, text))


@given(text=TEXTS, upper=st.booleans(), separator=st.sampled_from(["", " "]))
def test_it_is_found_in_hexadecimal(text: bytes, upper: bool, separator: str) -> None:
    written = text.hex(separator) if separator else text.hex()
    found = spellings_found((written.upper() if upper else written).encode(), text)
    assert any(name.startswith("hexadecimal") for name in found)


@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=MIN_CANARY, max_size=64))
def test_it_is_found_as_utf_16_as_other_programs_write_it(text: str) -> None:
    for codec in ("utf-16-le", "utf-16-be", "utf-16"):
        found = spellings_found(text.encode(codec), text.encode())
        assert any(name.startswith("UTF-16") for name in found)


@given(text=st.binary(min_size=MIN_CANARY, max_size=64).filter(lambda text: not any(map(plain, text))))
def test_it_is_found_where_a_program_has_percent_encoded_it(text: bytes) -> None:
    assert any(name.startswith("percent") for name in spellings_found(quote_from_bytes(text).encode(), text))


def plain(byte: int) -> bool:
    return chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_.-~/")


@given(text=TEXTS)
def test_it_is_found_backwards(text: bytes) -> None:
    assert "reversed" in spellings_found(text[::-1], text)


@given(text=TEXTS, data=NOISE)
def test_data_without_it_has_no_raw_hit(text: bytes, data: bytes) -> None:
    assume(text not in data)
    assert "raw" not in spellings_found(data, text)


@given(text=TEXTS, size=st.integers(1, 80), at=st.integers(0, 300))
def test_it_is_found_across_the_border_of_two_reads(text: bytes, size: int, at: int) -> None:
    data = bytes(at) + text + bytes(40)
    assume(any(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canary, "_CHUNK", size)
        hits, _ = search_stream(io.BytesIO(data), Canary.of(text), artefact="x")
    assert data.index(text) in {hit.offset for hit in hits if hit.spelling == "raw"}


def test_a_fresh_canary_is_found_in_no_encoding_that_it_was_not_put_in() -> None:
    fresh = Canary.fresh()
    assert spellings_found(quopri.encodestring(b"nothing here" * 1000), fresh.text) == set()
    assert fresh.text != Canary.fresh().text
    assert fresh.text.isalnum()


def test_a_canary_that_chance_could_write_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_CANARY} bytes, got {MIN_CANARY - 1}"):
        Canary.of(b"x" * (MIN_CANARY - 1))


def test_the_hits_of_one_artefact_are_bounded() -> None:
    text = b"canary-of-24-letters-abc"
    hits, _ = search_stream(io.BytesIO(text * 1000), Canary.of(text), artefact="x")
    assert len(hits) == MAX_HITS


def test_every_file_below_a_directory_is_searched_and_counted(tmp_path: Path) -> None:
    text = b"canary-of-24-letters-abc"
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_bytes(b"xx" + text)
    (tmp_path / "empty").touch()
    named = {"share": tmp_path / "tree", "empty": tmp_path / "empty"}
    hits, sizes = search_files(named, Canary.of(text))
    assert [str(hit) for hit in hits] == ["share/deep/file has the request's text (raw) at byte 2"]
    assert sizes == {"share/deep/file": 26, "empty": 0}


def test_a_link_out_of_a_searched_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"canary-of-24-letters-abc")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    assert search_files({"share": tmp_path / "tree"}, Canary.of(b"canary-of-24-letters-abc")) == ((), {})
