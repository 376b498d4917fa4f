"""Wheels as data: library files in their place, nothing run, hostile archives refused."""

from __future__ import annotations

import io
import zipfile

import pytest

from blindbuild.assemble import wheel
from blindbuild.assemble.wheel import PLACE, from_wheel
from blindbuild.errors import ArchiveError, PolicyError


def make_wheel(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def paths(files: dict[str, bytes]) -> dict[str, int]:
    tree = from_wheel(make_wheel(files), name="x.whl")
    return {path.decode(): entry.mode for path, entry in tree.items() if entry.data}


def test_library_files_go_where_debians_python_looks_and_shared_objects_can_be_mapped() -> None:
    found = paths({"pkg/__init__.py": b"1", "pkg/_native.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"})
    assert found == {
        f"{PLACE}/pkg/__init__.py": 0o444,
        f"{PLACE}/pkg/_native.cpython-311-x86_64-linux-gnu.so": 0o555,
    }


def test_library_parts_of_the_data_directory_are_moved_and_scripts_and_byte_code_left_out() -> None:
    found = paths(
        {
            "x-1.data/purelib/pure.py": b"1",
            "x-1.data/platlib/native.so": b"2",
            "x-1.data/scripts/run": b"#!python",
            "x-1.data/data/share/man": b"3",
            "pkg/__pycache__/a.cpython-311.pyc": b"4",
        }
    )
    assert set(found) == {f"{PLACE}/pure.py", f"{PLACE}/native.so"}


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "a//b.py", "a/./b.py", "a/../../b.py"])
def test_a_path_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError, match="unsafe path"):
        from_wheel(make_wheel({name: b"x"}), name="x.whl")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ArchiveError, match="more than 1000 bytes"):
        from_wheel(make_wheel({"a.py": bytes(2000)}), name="x.whl")


def test_a_damaged_wheel_gives_only_our_error() -> None:
    whole = make_wheel({"pkg/a.py": b"print()" * 50, "pkg/b.py": b"x"})
    for size in range(len(whole)):
        with pytest.raises(ArchiveError):
            from_wheel(whole[:size], name="x.whl")
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x40
        try:
            from_wheel(bytes(flipped), name="x.whl")
        except (ArchiveError, PolicyError):
            continue
