"""Files and bytes as sources: exact ranges, or our error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.source import CHUNK_BYTES, BytesSource, Source, as_source, read_chunks
from blindbuild.host.file_source import FileSource

DATA = bytes(range(200))


@pytest.fixture(params=["bytes", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """The same bytes, in memory and in a file."""
    if request.param == "bytes":
        yield BytesSource(DATA)
        return
    (tmp_path / "data").write_bytes(DATA)
    with FileSource(tmp_path / "data") as file:
        yield file


def test_ranges_are_read_exactly(source: Source) -> None:
    assert source.size == 200
    assert source.read(0, 200) == DATA
    assert source.read(10, 5) == DATA[10:15]
    assert source.read(200, 0) == b""


@pytest.mark.parametrize(("offset", "size"), [(199, 2), (201, 0), (-1, 2), (0, -1), (0, 1 << 40)])
def test_a_range_outside_is_refused(source: Source, offset: int, size: int) -> None:
    with pytest.raises(FormatError, match="cut off"):
        source.read(offset, size)


def test_chunks_are_the_range_in_order(source: Source) -> None:
    assert b"".join(read_chunks(source, 3, 100)) == DATA[3:103]
    with pytest.raises(FormatError, match="cut off"):
        next(read_chunks(source, 150, 51))


def test_long_ranges_come_in_several_chunks() -> None:
    data = bytes(CHUNK_BYTES + 1)
    assert [len(chunk) for chunk in read_chunks(BytesSource(data), 0, len(data))] == [CHUNK_BYTES, 1]


def test_bytes_become_a_source_and_a_source_stays(source: Source) -> None:
    assert as_source(source) is source
    assert as_source(b"abc").read(1, 2) == b"bc"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(FormatError, match="expected a regular file, got something else"):
            FileSource(path)
    with pytest.raises(FormatError, match="expected a file to read, got No such file"):
        FileSource(tmp_path / "missing")
    with pytest.raises(FormatError, match="expected the path of a file"):
        FileSource(tmp_path / "a\0b")


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with FileSource(path) as file:
        path.write_bytes(DATA[:100])
        assert file.read(0, 100) == DATA[:100]
        with pytest.raises(FormatError, match="expected 120 bytes, got 100: it became shorter"):
            file.read(90, 30)


def test_a_closed_file_is_refused_and_can_be_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with FileSource(path) as file:
        pass
    file.close()
    with pytest.raises(FormatError, match="cannot be read at 0"):
        file.read(0, 1)
