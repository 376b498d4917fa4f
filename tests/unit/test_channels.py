"""The static ledger: every check fires on what it is for, and a product with an open channel is not built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.kernel_policy import load_policy
from blindbuild.assemble.tree import Tree, TreeEntry, device_entry, directory_entry, file_entry
from blindbuild.audit.channels import LedgerInputs, write_ledger
from blindbuild.audit.rules import RULES, State
from blindbuild.errors import PolicyError
from blindbuild.formats.pe import NewSection, append_sections
from tests.fakes.pe_image import make_pe

KERNEL_CONFIG = Path(__file__).resolve().parents[1] / "golden" / "kernel.config"  # of a real product build
CLEAN_SYMBOLS = "ffffffff81000000 T _stext\nffffffff81000010 W __x64_sys_syslog\n"


def tree(**entries: TreeEntry) -> Tree:
    base = {
        b".blindbuild.tree": file_entry(b"blindbuild-tree 1 0\n", 0o400),
        b"dev": directory_entry(),
        b"dev/null": device_entry(1, 3, 0o666),
    }
    return Tree(base | {name.replace("__", "/").encode(): entry for name, entry in entries.items()})


@pytest.fixture
def clean() -> LedgerInputs:
    """Inputs with nothing to find."""
    return LedgerInputs(
        config=KERNEL_CONFIG.read_text(),
        policy=load_policy(debug=False),
        system_map=CLEAN_SYMBOLS,
        tree=tree(),
        uki=append_sections(make_pe(), (NewSection(".linux", b"kernel"),)),
        command_line=kernel_command_line(debug=False),
        debug=False,
    )


def test_a_clean_image_gives_a_row_for_every_rule_and_no_finding(clean: LedgerInputs) -> None:
    ledger = json.loads(write_ledger("hello", "1.0.0", clean))
    assert [row["number"] for row in ledger["channels"]] == [rule.number for rule in RULES]
    assert not any(check["findings"] for row in ledger["channels"] for check in row["checks"])


def test_a_row_without_a_check_is_stated_and_never_closed(clean: LedgerInputs) -> None:
    ledger = json.loads(write_ledger("hello", "1.0.0", clean))
    for row in ledger["channels"]:
        if not row["checks"]:
            assert row["state"] in (State.STATED.value, State.NARROWED.value, State.OPEN.value), row["id"]


@pytest.mark.parametrize("function", [name for rule in RULES for name in rule.absent_functions])
def test_a_forbidden_function_in_the_kernel_is_found(clean: LedgerInputs, function: str) -> None:
    leaky = replace(clean, system_map=f"{CLEAN_SYMBOLS}ffffffff81000020 T {function}\n")
    with pytest.raises(PolicyError, match=rf"the kernel has {function}\b"):
        write_ledger("hello", "1.0.0", leaky)


@pytest.mark.parametrize("call", [name for rule in RULES for name in rule.stub_calls])
def test_an_implemented_system_call_is_found_and_a_stub_is_not(clean: LedgerInputs, call: str) -> None:
    write_ledger("hello", "1.0.0", replace(clean, system_map=f"ffffffff81000020 W __x64_sys_{call}\n"))
    leaky = replace(clean, system_map=f"ffffffff81000020 T __x64_sys_{call}\n")
    with pytest.raises(PolicyError, match=f"the kernel implements {call}"):
        write_ledger("hello", "1.0.0", leaky)


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ({"workload__bin__sh": file_entry(b"\x7fELF", 0o555)}, "workload/bin/sh: an interpreter"),
        ({"workload__bin__python3.13": file_entry(b"\x7fELF", 0o555)}, "python3.13: an interpreter"),
        ({"workload__bin__perl5.40.1": file_entry(b"\x7fELF", 0o555)}, "perl5.40.1: an interpreter"),
        ({"workload__run": file_entry(b"#!/bin/x", 0o555)}, "workload/run: a script"),
        (
            {"workload__x.ko": file_entry(b"\x7fELF", 0o444)},
            "workload/x.ko: an interpreter, a module or a pickle",
        ),
        ({"workload__su-id": file_entry(b"\x7fELF", 0o4555)}, "workload/su-id: set-id bits"),
        ({"workload__data": file_entry(b"", 0o666)}, "workload/data: writable"),
        ({"dev__mem": device_entry(1, 1, 0o600)}, "dev/mem: device 1:1 is not allowed"),
    ],
)
def test_a_file_that_should_not_be_there_is_found(
    clean: LedgerInputs, entries: dict[str, TreeEntry], finding: str
) -> None:
    with pytest.raises(PolicyError) as found:
        write_ledger("hello", "1.0.0", replace(clean, tree=tree(**entries)))
    assert finding in found.value.message


@pytest.mark.parametrize("word", ["console=ttyS0", "earlyprintk=serial", "init=/x", "efi=runtime", "debug"])
def test_a_word_that_opens_a_channel_on_the_command_line_is_found(clean: LedgerInputs, word: str) -> None:
    with pytest.raises(PolicyError, match=f"the command line has {word}"):
        write_ledger("hello", "1.0.0", replace(clean, command_line=f"{clean.command_line} {word}"))


def test_a_missing_word_on_the_command_line_is_found(clean: LedgerInputs) -> None:
    with pytest.raises(PolicyError, match="the command line lacks quiet"):
        write_ledger("hello", "1.0.0", replace(clean, command_line=clean.command_line.replace("quiet ", "")))


def test_an_unknown_section_of_the_boot_image_is_found(clean: LedgerInputs) -> None:
    extra = append_sections(make_pe(), (NewSection(".profile", b"x"), NewSection(".linux", b"kernel")))
    with pytest.raises(PolicyError, match=r"the boot image has a section \.profile"):
        write_ledger("hello", "1.0.0", replace(clean, uki=extra))


def test_an_opened_kernel_option_is_found_by_its_channel(clean: LedgerInputs) -> None:
    leaky = replace(clean, config=clean.config.replace("# CONFIG_PRINTK is not set", "CONFIG_PRINTK=y"))
    assert leaky.config != clean.config
    with pytest.raises(PolicyError, match=r"channel 3 \(kernel-log\)"):
        write_ledger("hello", "1.0.0", leaky)


def test_a_debug_image_gets_its_ledger_and_the_ledger_says_open(clean: LedgerInputs) -> None:
    leaky = replace(clean, debug=True, command_line=kernel_command_line(debug=True))
    ledger = json.loads(write_ledger("hello", "1.0.0+debug", leaky))
    row = next(row for row in ledger["channels"] if row["id"] == "serial-console")
    assert row["state"] == "open"
    assert ledger["debug"] is True
