"""Kernel configurations as values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.assemble.kernel_config import (
    DEBUG_FRAGMENT,
    MAX_COMMAND_LINE,
    Fragment,
    load_fragments,
    merge_fragments,
    parse_config,
    render_config,
    with_command_line,
)
from blindbuild.errors import BuildError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "kernel.config"


def test_a_configuration_is_read_as_kconfig_writes_it():
    text = (
        '# a comment\nCONFIG_A=y\n# CONFIG_B is not set\n\nCONFIG_C="x \\"y\\""\nCONFIG_D=-1\nCONFIG_E=0x10\n'
    )
    assert dict(parse_config(text, where="x")) == {
        "A": "y",
        "B": "n",
        "C": '"x \\"y\\""',
        "D": "-1",
        "E": "0x10",
    }


def test_the_resolved_configuration_of_a_real_build_is_read_whole():
    text = GOLDEN.read_text("ascii")
    config = parse_config(text, where="golden")
    lines = [line for line in text.splitlines() if line.startswith("CONFIG_") or line.endswith(" is not set")]
    assert len(config) == len(lines) > 1000
    assert render_config(config).splitlines() == lines


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_A",
        "CONFIG_A = y",
        " CONFIG_A=y",
        "A=y",
        'CONFIG_A="x',
        "CONFIG_A=y z",
        "CONFIG_A=",
        "CONFIG_A=y #",
    ],
)
def test_a_line_that_is_no_assignment_is_refused_by_number(line):
    with pytest.raises(BuildError, match=r"^here:2: expected CONFIG_NAME=value or a comment, got "):
        parse_config(f"CONFIG_X=y\n{line}\n", where="here")


def test_a_symbol_that_is_set_twice_is_refused():
    with pytest.raises(BuildError, match=r"^here:2: CONFIG_A is set twice$"):
        parse_config("CONFIG_A=y\n# CONFIG_A is not set\n", where="here")


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z0-9_]{1,20}", fullmatch=True),
        st.from_regex(r'y|n|m|-?[0-9]{1,9}|0x[0-9a-f]{1,8}|"[a-z =.,-]{0,20}"', fullmatch=True),
    )
)
def test_what_is_rendered_is_read_back(config):
    assert dict(parse_config(render_config(config), where="x")) == config


def test_two_fragments_may_not_set_one_symbol():
    with pytest.raises(BuildError, match=r"^b\.config: CONFIG_A is set by another fragment too$"):
        merge_fragments([Fragment("b", "CONFIG_A=y\n"), Fragment("a", "CONFIG_A=y\n")])


def test_only_the_debug_fragment_overrides_others():
    base = Fragment("10-base", "# CONFIG_PRINTK is not set\nCONFIG_A=y\n")
    debug = Fragment(DEBUG_FRAGMENT, "CONFIG_PRINTK=y\n")
    assert dict(merge_fragments([debug, base])) == {"A": "y", "PRINTK": "y"}


def test_fragments_that_ask_for_nothing_are_refused():
    with pytest.raises(BuildError, match="expected fragments that set at least one symbol"):
        merge_fragments([Fragment("10-base", "# nothing\n")])


def test_the_debug_fragment_comes_only_when_asked_for():
    product = load_fragments(debug=False)
    assert load_fragments(debug=True) == (*product, load_fragments(debug=True)[-1])
    assert load_fragments(debug=True)[-1].name == DEBUG_FRAGMENT
    assert [fragment.name for fragment in product] == sorted(fragment.name for fragment in product)
    assert "CONFIG_TTY=y" not in render_config(merge_fragments(product))


def test_the_command_line_becomes_part_of_the_request():
    assert dict(with_command_line({"Z": "y"}, "quiet panic=-1")) == {"CMDLINE": '"quiet panic=-1"', "Z": "y"}


@pytest.mark.parametrize(
    "text", ["", " a", "a ", "a  b", 'a"b', "a\\b", "a\nb", "ä", "a\tb", "a" * (MAX_COMMAND_LINE + 1)]
)
def test_a_command_line_that_would_need_quoting_is_refused(text):
    with pytest.raises(
        BuildError, match="kernel command line: expected 1 to 2047 printable ASCII characters"
    ):
        with_command_line({}, text)


def test_a_command_line_that_disables_the_initramfs_is_refused():
    with pytest.raises(BuildError, match="noinitrd disables the measured initramfs"):
        with_command_line({}, "quiet noinitrd")
