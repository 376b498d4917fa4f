"""On the kernel with every door open each check of a finished kernel fires: no name is misspelt."""

import os

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.kernel import BuiltKernel, build_kernel
from blindbuild.assemble.kernel_config import load_fragments, parse_config
from blindbuild.assemble.kernel_policy import RuleKind, judge_config, load_policy, load_spared
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.audit.kernel_symbols import (
    KernelSymbols,
    check_calls,
    check_drivers,
    check_file_systems,
    check_functions,
    check_initcalls,
    check_symbol_table,
    read_symbols,
)
from blindbuild.audit.rows import RULES
from tests.locked import locked_inputs, user_store

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def leaky() -> BuiltKernel:
    lock, store = locked_inputs(), user_store()
    packages = lock.groups["toolchain"]
    return build_kernel(
        store,
        source=lock.groups["kernel-source"][0],
        toolchain=prepare_toolchain(store, packages),
        toolchain_key=toolchain_key(packages),
        fragments=load_fragments(debug=False, leaky=True),
        command_line=kernel_command_line(debug=False, leaky=True),
        jobs=os.cpu_count() or 1,
        debug=False,
        leaky=True,
    )


@pytest.fixture(scope="module")
def symbols(leaky: BuiltKernel) -> KernelSymbols:
    return read_symbols(leaky.system_map.read_text("ascii"))


def test_every_function_that_a_row_says_is_absent_is_in_the_leaky_kernel(symbols):
    looked_for = {(rule.identifier, name) for rule in RULES for name in rule.absent_functions}
    assert len(looked_for) > 40
    assert sorted(pair for pair in looked_for if not symbols.has(pair[1])) == []


def test_every_call_that_a_row_says_is_a_stub_is_implemented_in_the_leaky_kernel(symbols):
    looked_for = {(rule.identifier, call) for rule in RULES for call in rule.stub_calls}
    assert len(looked_for) >= 10
    implemented = set(symbols.found["call"])
    assert sorted(pair for pair in looked_for if pair[1] not in implemented) == []


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, id=rule.identifier) for rule in RULES if rule.absent_functions or rule.stub_calls],
)
def test_the_symbols_of_every_row_are_found_one_by_one(rule, symbols):
    check = check_functions(symbols, absent=rule.absent_functions, stubs=rule.stub_calls)
    assert len(check.findings) == check.looked_at


@pytest.mark.parametrize("check", [check_drivers, check_file_systems, check_initcalls, check_calls])
def test_every_allow_list_of_the_kernel_fires(check, symbols):
    assert len(check(symbols).findings) >= 5


def test_the_leaky_kernel_is_a_whole_one(symbols):
    assert check_symbol_table(symbols).findings == ()


def test_every_rule_of_the_policy_that_forbids_fires_save_those_spared_with_a_reason(leaky):
    config = parse_config(leaky.config.read_text("ascii"), where="leaky")
    kept = {
        judgement.rule.symbol
        for judgement in judge_config(load_policy(debug=False), config)
        if judgement.rule.kind is not RuleKind.REQUIRE
        and not judgement.rule.optional
        and not judgement.violations
    }
    assert kept == load_spared().keys()


def test_much_of_what_the_policy_requires_is_missing_too(leaky):
    config = parse_config(leaky.config.read_text("ascii"), where="leaky")
    required = [j for j in judge_config(load_policy(debug=False), config) if j.rule.kind is RuleKind.REQUIRE]
    assert sum(bool(judgement.violations) for judgement in required) >= 50


def test_every_row_that_the_policy_is_about_is_open_in_the_leaky_kernel(leaky):
    config = parse_config(leaky.config.read_text("ascii"), where="leaky")
    judged = judge_config(load_policy(debug=False), config)
    rows = {row for judgement in judged for row in judgement.rule.channels}
    open_rows = {row for judgement in judged if judgement.violations for row in judgement.rule.channels}
    assert rows - open_rows == set()
