"""The kernel policy: every rule fires, on a configuration that Kconfig really made, with one symbol changed.

`golden/kernel.config` is the `.config` that a build of linux-source-6.12 6.12.117-1 left; the kernel test
compares a fresh build with it.
"""

from pathlib import Path

import pytest

from blindbuild.assemble.kernel_config import load_fragments, merge_fragments, parse_config
from blindbuild.assemble.kernel_policy import (
    Rule,
    RuleKind,
    check_answer,
    check_policy,
    check_symbols_known,
    judge_config,
    load_policy,
    parse_policy,
)
from blindbuild.errors import BuildError, PolicyError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "kernel.config"
CONFIG = dict(parse_config(GOLDEN.read_text("ascii"), where="golden"))
POLICY = load_policy(debug=False)
DEBUG_POLICY = load_policy(debug=True)
WAIVED = {
    "BINFMT_SCRIPT",
    "DEBUG_BUGVERBOSE",
    "EFI_EARLYCON",
    "KALLSYMS",
    "PRINTK",
    "SERIAL_8250",
    "SERIAL_CORE",
    "SERIAL_EARLYCON",
    "TTY",
}
# What nobody may drop from the file: these are promised by name elsewhere.
PROMISED_OFF = [
    "BLOCK",
    "TTY",
    "PRINTK",
    "MODULES",
    "DEBUG_FS",
    "DEVMEM",
    "PACKET",
    "NETFILTER",
    "FW_LOADER",
    "COREDUMP",
    "SWAP",
    "INPUT",
]
PROMISED_PREFIXES = ["KEXEC", "BPF", "IMA", "VIRTIO", "IPV6", "IO_URING", "USB"]
PROMISED_ON = [
    "CMDLINE_OVERRIDE",
    "EFI_STUB",
    "SECCOMP_FILTER",
    "SECURITY_LANDLOCK",
    "SECURITY_YAMA",
    "SECURITYFS",
    "TCG_CRB",
    "TCG_TIS",
    "IP_MULTIPLE_TABLES",
    "MEMFD_CREATE",
    "INIT_ON_FREE_DEFAULT_ON",
    "RESET_ATTACK_MITIGATION",
    "EFI_DISABLE_RUNTIME",
]


def violations(config: dict[str, str], *, debug: bool = False) -> str:
    with pytest.raises(PolicyError) as caught:
        check_policy(DEBUG_POLICY if debug else POLICY, config)
    return caught.value.message


def of_kind(kind: RuleKind) -> list[Rule]:
    return [rule for rule in POLICY.rules if rule.kind is kind]


def name(rule: Rule) -> str:
    return f"{rule.kind.value}-{rule.symbol}"


def test_the_configuration_of_a_real_build_keeps_both_policies():
    check_policy(POLICY, CONFIG)
    check_policy(DEBUG_POLICY, CONFIG)


@pytest.mark.parametrize("rule", of_kind(RuleKind.REQUIRE), ids=name)
def test_a_required_symbol_that_is_missing_is_named(rule):
    without = {symbol: value for symbol, value in CONFIG.items() if symbol != rule.symbol}
    for config in (without, CONFIG | {rule.symbol: "0"}):
        got = config.get(rule.symbol, "n")
        line = f"\n  CONFIG_{rule.symbol}: expected {rule.value}, got {got} ({rule.reason})"
        assert violations(config) == f"the kernel configuration breaks its policy, 1 times:{line}"
        assert line in violations(config, debug=True)


@pytest.mark.parametrize("rule", of_kind(RuleKind.FORBID), ids=name)
def test_a_forbidden_symbol_that_is_on_is_named(rule):
    config = CONFIG | {rule.symbol: "y"}
    line = f"\n  CONFIG_{rule.symbol}: expected it to be off, got y ({rule.reason})"
    assert line in violations(config)
    if rule.symbol in WAIVED:
        check_policy(DEBUG_POLICY, config)
    else:
        assert line in violations(config, debug=True)


@pytest.mark.parametrize("rule", of_kind(RuleKind.FAMILY), ids=name)
def test_a_new_symbol_of_a_closed_family_is_named(rule):
    line = f"\n  CONFIG_{rule.symbol}_NEW_LEAF: expected it to be off, got y ({rule.reason})"
    for debug in (False, True):
        assert line in violations(CONFIG | {f"{rule.symbol}_NEW_LEAF": "y"}, debug=debug)
    check_policy(POLICY, CONFIG | {f"{rule.symbol}_NUMBER": "17", f"{rule.symbol}_OFF": "n"})


def test_any_module_is_named():
    assert "\n  CONFIG_FOO=m (there are no modules)" in violations(CONFIG | {"FOO": "m"})


def test_all_violations_are_reported_together():
    message = violations(CONFIG | {"TTY": "y", "PRINTK": "y", "EFI_STUB": "n"})
    assert message.startswith("the kernel configuration breaks its policy, 3 times:")
    assert all(f"CONFIG_{symbol}:" in message for symbol in ("TTY", "PRINTK", "EFI_STUB"))


def test_the_debug_policy_differs_only_in_the_named_symbols():
    assert POLICY.rules == DEBUG_POLICY.rules
    assert POLICY.waived == frozenset()
    assert DEBUG_POLICY.waived == WAIVED


def test_what_is_promised_elsewhere_has_its_rule():
    forbidden = {rule.symbol for rule in of_kind(RuleKind.FORBID)}
    families = {rule.symbol for rule in of_kind(RuleKind.FAMILY)}
    required = {rule.symbol for rule in of_kind(RuleKind.REQUIRE)}
    assert forbidden >= set(PROMISED_OFF)
    assert families >= set(PROMISED_PREFIXES)
    assert required >= set(PROMISED_ON)


def test_everything_that_a_fragment_turns_on_for_safety_is_required():
    hardening = [fragment for fragment in load_fragments(debug=False) if fragment.name == "30-hardening"]
    asked = {symbol for symbol, value in merge_fragments(hardening).items() if value not in ("n",)}
    required = {rule.symbol for rule in of_kind(RuleKind.REQUIRE)}
    implied = {"INTEL_IOMMU", "RANDOMIZE_KSTACK_OFFSET", "SLUB", "STACKPROTECTOR", "UBSAN"}
    assert asked - required <= implied


def test_a_judgement_says_which_channels_a_rule_closes():
    judged = {judgement.rule.symbol: judgement for judgement in judge_config(POLICY, CONFIG | {"TTY": "y"})}
    assert judged["TTY"].rule.channels == (1,)
    assert judged["TTY"].violations == ("CONFIG_TTY: expected it to be off, got y",)
    assert judged["PRINTK"].violations == ()


def test_a_configuration_without_symbols_is_refused():
    with pytest.raises(BuildError, match="expected a configuration, got one without symbols"):
        check_policy(POLICY, {})


def test_a_dropped_line_of_a_fragment_is_named():
    asked = {"A": "y", "B": "n", "C": '"x"', "D": "y"}
    check_answer(asked, {"A": "y", "C": '"x"', "D": "y"})
    with pytest.raises(PolicyError) as caught:
        check_answer(asked, {"A": "y", "B": "y", "C": '"z"'})
    assert caught.value.message == (
        "the kernel dropped or changed lines of the fragments, 3 times:"
        '\n  CONFIG_B: expected n, got y\n  CONFIG_C: expected "x", got "z"'
        "\n  CONFIG_D: expected y, got nothing"
    )


def test_a_misspelt_symbol_of_a_rule_is_named():
    policy = parse_policy(
        "forbid TYT  # a\nrequire EFI = y  # b\nfamily VIRTO =   # c\n"
        "family USB = USB_X  # d\nforbid OLD?  # e\n"
    )
    known = {"TTY", "EFI", "VIRTIO", "USB"}
    with pytest.raises(PolicyError, match="3 times") as caught:
        check_symbols_known(policy, known)
    lines = "\n  CONFIG_TYT (forbid: a)\n  CONFIG_VIRTO* (family: c)\n  CONFIG_USB_X (family: d)"
    assert caught.value.message.endswith(f":{lines}")
    check_symbols_known(policy, known | {"TYT", "VIRTO", "USB_X"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one rule, got none"),
        ("# only a comment\n", "expected at least one rule, got none"),
        ("forbid TTY\n", "policy.txt:1: expected `keyword SYMBOL"),
        ("forbid TTY  #\n", "policy.txt:1: expected `keyword SYMBOL"),
        ("prohibit TTY  # x\n", "policy.txt:1: expected `keyword SYMBOL"),
        ("forbid CONFIG TTY  # x\n", "policy.txt:1: expected `keyword SYMBOL"),
        ("forbid TTY = y  # x\n", "policy.txt:1: require and family need `= value`"),
        ("require TTY  # x\n", "policy.txt:1: require and family need `= value`"),
        ("require TTY =  # x\n", "policy.txt:1: require and family need `= value`"),
        ("family TTY  # x\n", "policy.txt:1: require and family need `= value`"),
        ("family USB = USB_A SUB_B  # x\n", "policy.txt:1: expected members that begin with USB"),
        ("forbid TTY @41  # x\n", "policy.txt:1: expected rows 1 to 40, got 41"),
        ("forbid TTY @1  # x\n\nforbid TTY @2  # y\n", "policy.txt:3: a second rule about TTY"),
        ("forbid TTY @1  # x\nrequire TTY = y  # y\n", "policy.txt:2: a second rule about TTY"),
        ("waive TTY  # x\n", "policy.txt:1: no waive rule may stand here"),
    ],
)
def test_a_malformed_policy_is_refused(text, message):
    with pytest.raises(BuildError) as caught:
        parse_policy(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("waivers", "message"),
    [
        ("waive PRINKT  # x\n", "policy-debug.txt: no rule of policy.txt forbids CONFIG_PRINKT"),
        ("waive EFI  # x\n", "policy-debug.txt: no rule of policy.txt forbids CONFIG_EFI"),
        ("forbid TTY  # x\n", "policy-debug.txt:1: no forbid rule may stand here"),
    ],
)
def test_a_waiver_that_waives_nothing_is_refused(waivers, message):
    with pytest.raises(BuildError) as caught:
        parse_policy("forbid TTY @1  # x\nrequire EFI = y  # y\n", waivers=waivers)
    assert caught.value.message == message
