"""The channel ledger, static half: what is closed, by what, and the checks that were run to see it.

Every check reads the finished outputs (resolved kernel configuration, System.map, the UKI with its
initramfs), not the intentions behind them, so that an auditor who holds the same files recomputes the same
bytes.

Source: docs/spec/ledger.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from blindbuild.assemble.kernel_config import parse_config
from blindbuild.assemble.kernel_policy import Judgement, judge_config
from blindbuild.audit import document, files, filters, kernel_symbols, programs
from blindbuild.audit.allowances import check_allowances
from blindbuild.audit.check import Check
from blindbuild.audit.image import Allowance, LedgerInputs, UnpackedImage, Waiver, unpack_image
from blindbuild.audit.ledger import Ledger, Row
from blindbuild.audit.rows import RULES
from blindbuild.audit.rules import (
    ALLOWED_UKI_SECTIONS,
    FORBIDDEN_WORDS,
    ChannelRule,
    Control,
)
from blindbuild.audit.telemetry import find_telemetry
from blindbuild.digest import Digest
from blindbuild.formats.canonical import JsonValue
from blindbuild.manifest import parse_ledger
from blindbuild.manifest.ledger import ChannelState

__all__ = [
    "LEDGER_VERSION",
    "Allowance",
    "Ledger",
    "LedgerInputs",
    "Row",
    "Waiver",
    "compute_ledger",
    "write_ledger",
]

LEDGER_VERSION = 2


def write_ledger(name: str, version: str, inputs: LedgerInputs) -> bytes:
    """Run every static check and return `channels.json` in canonical form.

    Raises:
        RecipeError: the recipe leaves a channel open that there is not, or in which nothing is open.
        PolicyError: a channel is open that should be closed, and the recipe does not leave it open (a debug
            image may); all findings are named.
        FormatError: an image that cannot be taken apart.
        ManifestError: a ledger that readers would refuse, such as one of too many files.
    """
    ledger = compute_ledger(name, version, inputs)
    check_allowances(ledger, inputs)
    data = ledger.render()
    parse_ledger(data)  # what a client could not read must not be built
    return data


def compute_ledger(name: str, version: str, inputs: LedgerInputs) -> Ledger:
    """Run every static check, and return what each found; findings are no error here.

    Raises:
        FormatError, BuildError: an input that cannot be read at all.
    """
    facts = _Facts.gather(inputs)
    common = {name: check(facts) for name, check in CHECKS.items()}
    judged = (_judge_row(rule, facts, common) for rule in RULES)
    # what is open must not be read last: first what no image can close, then what this one leaves open
    rows = tuple(sorted(judged, key=lambda row: row.rule.closable * (2 - bool(row.findings))))
    written: dict[str, JsonValue] = {
        "version": LEDGER_VERSION,
        "name": name,
        "imageVersion": version,
        "debug": inputs.debug,
        "channels": [document.render_row(row) for row in rows],
        "waivers": [document.render_waiver(waiver) for waiver in inputs.waivers],
        "files": [document.render_file(entry) for entry in facts.image.entries],
        "programs": [document.render_program(program) for program in facts.programs],
        "kernel": document.render_kernel(facts.symbols, facts.judgements, facts.config),
        "reachable": document.render_reaches(facts.reaches),
        "habits": {path: list(words) for path, words in programs.find_habits(facts.image).items()},
        "telemetry": [
            document.render_telemetry(found) for found in find_telemetry(facts.image, facts.programs)
        ],
    }
    return Ledger(rows, written)


@dataclass(frozen=True, slots=True)
class _Facts:
    """The inputs, read once for all checks."""

    inputs: LedgerInputs
    image: UnpackedImage
    symbols: kernel_symbols.KernelSymbols
    programs: tuple[programs.Program, ...]
    config: Mapping[str, str]
    judgements: tuple[Judgement, ...]
    reaches: tuple[filters.Reach, ...]

    @classmethod
    def gather(cls, inputs: LedgerInputs) -> _Facts:
        image = unpack_image(inputs.uki)
        config = parse_config(inputs.config, where="kernel.config")
        return cls(
            inputs=inputs,
            image=image,
            symbols=kernel_symbols.read_symbols(inputs.system_map),
            programs=programs.read_programs(image),
            config=config,
            judgements=judge_config(inputs.policy, config),
            reaches=filters.find_reaches(image),
        )


def _check_command_line(facts: _Facts) -> Check:
    text = facts.image.command_line
    words = text.split()
    findings = [f"the command line has {word}" for word in words if word.startswith(FORBIDDEN_WORDS)]
    if facts.config.get("CMDLINE") != f'"{text}"':
        findings.append("the command line is not the one that is compiled into the kernel")
    return Check("command-line", Digest.sha256(text.encode()), len(words), tuple(findings))


def _check_words(rule: ChannelRule, facts: _Facts) -> Check:
    text = facts.image.command_line
    findings = tuple(f"the command line lacks {word}" for word in rule.words if word not in text.split())
    return Check("command-line-words", Digest.sha256(text.encode()), len(rule.words), findings)


def _check_sections(facts: _Facts) -> Check:
    names = [section.name for section in facts.image.pe.sections]
    findings = [f"the boot image has a section {name}" for name in names if name not in ALLOWED_UKI_SECTIONS]
    findings += [
        f"the boot image has section {name} twice" for name in sorted(set(names)) if names.count(name) > 1
    ]
    return Check("boot-image-sections", Digest.sha256(facts.inputs.uki), len(names), tuple(findings))


def _check_names(name: str) -> Callable[[_Facts], Check]:
    return lambda facts: files.check_names(facts.image, name, facts.inputs.waivers)


CHECKS: Mapping[str, Callable[[_Facts], Check]] = {
    "command-line": _check_command_line,
    "boot-image-sections": _check_sections,
    "symbol-table": lambda facts: kernel_symbols.check_symbol_table(facts.symbols),
    "kernel-drivers": lambda facts: kernel_symbols.check_drivers(facts.symbols),
    "kernel-file-systems": lambda facts: kernel_symbols.check_file_systems(facts.symbols),
    "kernel-initcalls": lambda facts: kernel_symbols.check_initcalls(facts.symbols),
    "system-calls": lambda facts: kernel_symbols.check_calls(facts.symbols),
    "system-call-filters": lambda facts: filters.check_filters(facts.image, facts.reaches),
    "file-list": lambda facts: files.check_file_list(facts.image),
    "device-nodes": lambda facts: files.check_devices(facts.image),
    "set-id": lambda facts: files.check_set_id(facts.image),
    "writable": lambda facts: files.check_writable(facts.image),
    "interpreters": lambda facts: files.check_interpreters(facts.image, facts.inputs.waivers),
    "modules": lambda facts: files.check_modules(facts.image),
    "pickles": lambda facts: files.check_pickles(facts.image, facts.inputs.waivers),
    **{name: _check_names(name) for name in files.NAMES},
    "static-programs": lambda facts: programs.check_static(facts.image, facts.programs),
    "elf-imports": lambda facts: programs.check_imports(facts.image, facts.programs, facts.inputs.waivers),
    "key-log": lambda facts: programs.check_key_log(facts.image, facts.programs),
    "waivers": lambda facts: programs.check_waivers(facts.image, facts.programs, facts.inputs.waivers),
}


def _judge_row(rule: ChannelRule, facts: _Facts, common: Mapping[str, Check]) -> Row:
    checks = (*_own_checks(rule, facts), *(common[name] for name in rule.checks))
    named = rule.identifier in (one.identifier for one in facts.inputs.allowed)
    return Row(rule, _state_of(rule, checks), checks, named and any(check.findings for check in checks))


def _state_of(rule: ChannelRule, checks: Sequence[Check]) -> ChannelState:
    if any(check.findings for check in checks):
        return ChannelState.OPEN
    if not rule.closable:
        return rule.state
    ran = {check.name for check in checks}
    shown = all(control.shown_by and ran.issuperset(control.shown_by) for control in _first_layer(rule))
    return ChannelState.CLOSED if checks and shown else ChannelState.STATED


def _first_layer(rule: ChannelRule) -> Iterator[Control]:
    return (control for control in rule.controls if not control.second)


def _own_checks(rule: ChannelRule, facts: _Facts) -> Iterator[Check]:
    judged = [judgement for judgement in facts.judgements if rule.number in judgement.rule.channels]
    if judged:
        findings = tuple(violation for judgement in judged for violation in judgement.violations)
        waived = {judgement.rule.symbol for judgement in judged} & facts.inputs.policy.waived
        findings += tuple(f"CONFIG_{symbol} is waived for debugging" for symbol in sorted(waived))
        yield Check("kernel-config", Digest.sha256(facts.inputs.config.encode()), len(judged), findings)
    if rule.words:
        yield _check_words(rule, facts)
    if rule.absent_functions or rule.stub_calls:
        yield kernel_symbols.check_functions(
            facts.symbols, absent=rule.absent_functions, stubs=rule.stub_calls
        )
    if rule.refused_calls:
        yield filters.check_calls(facts.image, facts.reaches, rule.refused_calls)
