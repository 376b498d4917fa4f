"""The control kernel's fragment and what is demanded of it, without a compiler: it must break every rule."""

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.kernel_config import (
    DEBUG_FRAGMENT,
    LEAKY_FRAGMENT,
    load_fragments,
    merge_fragments,
    parse_config,
)
from blindbuild.assemble.kernel_policy import (
    RuleKind,
    check_leaks,
    judge_config,
    load_policy,
    load_spared,
    parse_policy,
    parse_spared,
)
from blindbuild.audit.rows import RULES
from blindbuild.audit.rules import FORBIDDEN_WORDS
from blindbuild.errors import BuildError, PolicyError

POLICY = parse_policy("forbid TTY # consoles\nfamily USB = USB_MENU # buses\nrequire EFI = y # boot\n")
OPEN = {"TTY": "y", "USB_STORAGE": "y"}


def test_the_leaky_fragment_is_in_no_product_and_in_no_debug_image():
    assert LEAKY_FRAGMENT not in {fragment.name for fragment in load_fragments(debug=False)}
    assert LEAKY_FRAGMENT not in {fragment.name for fragment in load_fragments(debug=True)}
    names = [fragment.name for fragment in load_fragments(debug=False, leaky=True)]
    assert names[-1] == LEAKY_FRAGMENT
    assert DEBUG_FRAGMENT not in names


def test_the_leaky_kernel_is_asked_for_all_that_the_debug_kernel_has():
    alone = merge_fragments(load_fragments(debug=False, leaky=True))
    assert alone == merge_fragments(load_fragments(debug=True, leaky=True))


def test_a_kernel_that_breaks_every_rule_is_leaky_whatever_it_requires():
    check_leaks(POLICY, OPEN, spared=frozenset())


@pytest.mark.parametrize("kept", ["TTY", "USB_STORAGE"])
def test_a_rule_that_the_leaky_kernel_keeps_is_an_error_because_nothing_shows_that_it_can_fail(kept):
    config = OPEN | {kept: "n"}
    with pytest.raises(PolicyError, match="kept, so nothing shows that it can fail"):
        check_leaks(POLICY, config, spared=frozenset())
    check_leaks(POLICY, config, spared=frozenset({kept.partition("_")[0]}))


def test_a_rule_that_is_spared_without_need_is_an_error():
    with pytest.raises(PolicyError, match="forbid TTY: broken, but spared"):
        check_leaks(POLICY, OPEN, spared=frozenset({"TTY"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spare TTTY # misspelt", "no rule of policy.txt is about CONFIG_TTTY"),
        ("spare EFI # required, not forbidden", "no rule of policy.txt is about CONFIG_EFI"),
        ("waive TTY # another word", "no waive rule may stand here"),
        ("spare TTY", "expected `keyword SYMBOL"),
    ],
)
def test_a_list_of_spared_rules_that_means_nothing_is_refused(text, said):
    with pytest.raises(BuildError, match=said):
        parse_spared(text + "\n", POLICY)


def test_nothing_can_be_spared_in_the_policy_itself():
    with pytest.raises(BuildError, match="no spare rule may stand here"):
        parse_policy("forbid TTY # consoles\nspare TTY # no\n")


def test_every_spared_rule_fires_on_a_configuration_that_breaks_it():
    policy, spared = load_policy(debug=False), load_spared()
    broken = judge_config(policy, dict.fromkeys(spared, "y"))
    fired = {judgement.rule.symbol for judgement in broken if judgement.violations}
    assert fired >= spared.keys()


def test_every_forbidding_rule_fires_on_a_configuration_that_breaks_it():
    policy = load_policy(debug=False)
    forbidding = [rule for rule in policy.rules if rule.kind is not RuleKind.REQUIRE]
    config = {f"{rule.symbol}_X" if rule.kind is RuleKind.FAMILY else rule.symbol: "y" for rule in forbidding}
    broken = {judgement.rule for judgement in judge_config(policy, config) if judgement.violations}
    assert broken >= set(forbidding)


def test_the_leaky_command_line_has_none_of_the_words_that_close_and_some_that_open():
    words = kernel_command_line(debug=False, leaky=True).split()
    assert not {word for rule in RULES for word in rule.words} & set(words)
    assert {"console=ttyS0", "earlyprintk=ttyS0", "efi=runtime"} <= set(words)
    assert sum(word.startswith(FORBIDDEN_WORDS) for word in words) >= 5


def test_the_leaky_fragment_takes_back_what_would_hide_a_leak():
    text = next(fragment.text for fragment in load_fragments(debug=False, leaky=True)[-1:])
    asked = parse_config(text, where="95-leaky.config")
    assert {
        symbol for symbol in ("SECURITY_LOCKDOWN_LSM", "EFI_DISABLE_RUNTIME") if asked[symbol] == "n"
    } == {
        "SECURITY_LOCKDOWN_LSM",
        "EFI_DISABLE_RUNTIME",
    }
