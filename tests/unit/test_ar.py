import pytest

from blindbuild.errors import ArchiveError
from blindbuild.formats.ar import read_ar
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.deb import make_ar

TWO = {"debian-binary": b"2.0\n", "odd": b"abc"}
GOOD = make_ar(TWO)


def replace(offset: int, text: bytes) -> bytes:
    return GOOD[:offset] + text + GOOD[offset + len(text) :]


def test_members_come_in_file_order_with_their_content() -> None:
    assert [(member.name, bytes(member.data)) for member in read_ar(GOOD)] == list(TWO.items())


def test_a_gnu_slash_after_a_name_is_not_part_of_it() -> None:
    assert [member.name for member in read_ar(make_ar(TWO, suffix="/"))] == list(TWO)


def test_content_is_a_view_and_not_a_copy() -> None:
    assert read_ar(GOOD)[0].data.obj is GOOD


def test_every_truncation_is_refused() -> None:
    # The cut after the first member leaves a shorter archive that is whole.
    whole = len(make_ar({"debian-binary": b"2.0\n"}))
    assert_all_refused(read_ar, (cut for cut in truncations(GOOD) if len(cut) != whole), ArchiveError)


def test_flipped_bits_raise_nothing_else() -> None:
    assert assert_nothing_else_raised(read_ar, bit_flips(GOOD), ArchiveError) > 20


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"!<thin>\n" + GOOD[8:], "magic"),
        (b"!<arch>\n", "at least one member"),
        (make_ar({"/": b""}), "plain member name"),
        (make_ar({"//": b"long"}), "plain member name"),
        (make_ar({"#1/20": b""}), "plain member name"),
        (make_ar({"../x": b""}), "plain member name"),
        (make_ar({"": b""}), "plain member name"),
        (make_ar({"a": b""}) + make_ar({"a": b""})[8:], "occurs twice"),
        (replace(8 + 16, b"-1  "), "malformed mtime"),
        (replace(8 + 28, b"0x1 "), "malformed uid"),
        (replace(8 + 34, b"1 1 "), "malformed gid"),
        (replace(8 + 40, b"100689"), "malformed mode"),
        (replace(8 + 48, b"04"), "malformed size"),
        (replace(8 + 48, b" 4"), "malformed size"),
        (replace(8 + 48, b"9999"), "expected 9999 bytes"),
        (replace(8 + 58, b"\n`"), "end of a header"),
        (GOOD[:-1] + b"\0", "newline as padding"),
        (GOOD + b"!", "60-byte header"),
        (make_ar({f"m{i}": b"" for i in range(65)}), "at most 64 members"),
    ],
)
def test_a_malformed_archive_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_ar(data)
