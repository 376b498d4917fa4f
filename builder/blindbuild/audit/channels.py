"""The channel ledger, static half: what is closed, by what, and the checks that were run to see it.

Every check reads the finished outputs (resolved kernel configuration, System.map, the tree, the UKI), not the
intentions behind them, so that an auditor who holds the same files recomputes the same bytes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blindbuild.assemble.kernel_config import parse_config
from blindbuild.assemble.kernel_policy import Judgement, Policy, judge_config
from blindbuild.assemble.tree import Kind, Tree
from blindbuild.audit.rules import (
    ALLOWED_DEVICES,
    ALLOWED_UKI_SECTIONS,
    FORBIDDEN_WORDS,
    INTERPRETER_NAME,
    RULES,
    ChannelRule,
    State,
)
from blindbuild.digest import Digest
from blindbuild.errors import PolicyError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.formats.pe import read_pe

LEDGER_VERSION = 1
SET_ID_BITS = 0o6000
WRITE_BITS = 0o222


@dataclass(frozen=True, slots=True)
class LedgerInputs:
    """What the static checks look at.

    Attributes:
        config: the kernel's resolved configuration.
        policy: the kernel policy, whose rules name the channels they belong to.
        system_map: the kernel's symbol table as text.
        tree: the initramfs as a value.
        uki: the boot image.
        command_line: what the UKI and the kernel both hold.
        debug: the image was built to be looked into; the ledger then reports instead of refusing.
    """

    config: str
    policy: Policy
    system_map: str
    tree: Tree
    uki: bytes
    command_line: str
    debug: bool


@dataclass(frozen=True, slots=True)
class Check:
    """One check that was run: its name, the digest of what it read, and what it found wrong."""

    name: str
    source: Digest
    looked_at: int
    findings: tuple[str, ...]


def write_ledger(name: str, version: str, inputs: LedgerInputs) -> bytes:
    """Run every static check and return `channels.json` in canonical form.

    Raises:
        PolicyError: a channel that should be closed is open (a debug image may); all findings are named.
    """
    judgements = judge_config(inputs.policy, parse_config(inputs.config, where="kernel.config"))
    checks = {rule.number: tuple(_checks_of(rule, inputs, judgements)) for rule in RULES}
    findings = [
        f"channel {rule.number} ({rule.identifier}): {finding}"
        for rule in RULES
        for check in checks[rule.number]
        for finding in check.findings
    ]
    if findings and not inputs.debug:
        raise PolicyError(
            f"{len(findings)} findings against the channel ledger:\n  " + "\n  ".join(findings),
            hint="close the channel, or look at it with `blindbuild build --debug`",
        )
    return canonical_bytes(
        {
            "version": LEDGER_VERSION,
            "name": name,
            "imageVersion": version,
            "debug": inputs.debug,
            "channels": [_row(rule, checks[rule.number]) for rule in RULES],
        }
    )


def _row(rule: ChannelRule, checks: Sequence[Check]) -> dict[str, JsonValue]:
    state = rule.state
    if any(check.findings for check in checks):
        state = State.OPEN
    elif not checks and state is State.CLOSED:
        state = State.STATED
    return {
        "number": rule.number,
        "id": rule.identifier,
        "claim": rule.claim,
        "state": state.value,
        "controls": list(rule.controls),
        "checks": [
            {
                "name": check.name,
                "sourceSha256": check.source.hex,
                "lookedAt": check.looked_at,
                "findings": list(check.findings),
            }
            for check in checks
        ],
    }


def _checks_of(rule: ChannelRule, inputs: LedgerInputs, judgements: Sequence[Judgement]) -> Iterator[Check]:
    judged = [judgement for judgement in judgements if rule.number in judgement.rule.channels]
    if judged:
        findings = tuple(violation for judgement in judged for violation in judgement.violations)
        waived = {judgement.rule.symbol for judgement in judged} & inputs.policy.waived
        findings += tuple(f"CONFIG_{symbol} is waived for debugging" for symbol in sorted(waived))
        yield Check("kernel-config", Digest.sha256(inputs.config.encode()), len(judged), findings)
    if rule.absent_functions or rule.stub_calls:
        yield _check_symbols(rule, inputs.system_map)
    if extra := _SPECIAL.get(rule.identifier):
        yield extra(inputs)


def _check_symbols(rule: ChannelRule, system_map: str) -> Check:
    symbols = dict(_read_symbols(system_map))
    findings = [f"the kernel has {name}" for name in rule.absent_functions if name in symbols]
    for call in rule.stub_calls:
        kind = symbols.get(f"__x64_sys_{call}")
        if kind not in (None, "W"):  # scripts/Makefile: COND_SYSCALL makes a weak stub that returns ENOSYS
            findings.append(f"the kernel implements {call}")
    count = len(rule.absent_functions) + len(rule.stub_calls)
    return Check("kernel-symbols", Digest.sha256(system_map.encode()), count, tuple(findings))


def _read_symbols(system_map: str) -> Iterator[tuple[str, str]]:
    for line in system_map.splitlines():
        fields = line.split(" ")
        if len(fields) != 3:
            raise PolicyError(f"System.map: expected address, type and name, got {line[:80]!r}")
        yield fields[2], fields[1]


def _check_files(inputs: LedgerInputs) -> Check:
    findings = []
    for path, entry in inputs.tree.items():
        name = path.decode("ascii")
        if entry.kind is Kind.DEVICE and ALLOWED_DEVICES.get(path) != entry.device:
            findings.append(f"{name}: device {entry.device[0]}:{entry.device[1]} is not allowed")
        if entry.mode & SET_ID_BITS:
            findings.append(f"{name}: set-id bits")
        if entry.kind in (Kind.FILE, Kind.DIRECTORY) and entry.mode & WRITE_BITS:
            findings.append(f"{name}: writable")
        if INTERPRETER_NAME.fullmatch(posixpath.basename(name)) or name.endswith((".ko", ".pkl", ".pickle")):
            findings.append(f"{name}: an interpreter, a module or a pickle")
        if entry.data.startswith(b"#!"):
            findings.append(f"{name}: a script")
    return Check("files", Digest.sha256(_listing(inputs.tree)), len(inputs.tree), tuple(findings))


def _listing(tree: Tree) -> bytes:
    return tree[b".blindbuild.tree"].data


def _check_command_line(inputs: LedgerInputs) -> Check:
    words = inputs.command_line.split()
    findings = [f"the command line has {word}" for word in words if word.startswith(FORBIDDEN_WORDS)]
    findings += [
        f"the command line lacks {word}"
        for word in ("quiet", "panic=-1", "rdinit=/init")
        if word not in words
    ]
    return Check("command-line", Digest.sha256(inputs.command_line.encode()), len(words), tuple(findings))


def _check_sections(inputs: LedgerInputs) -> Check:
    names = [section.name for section in read_pe(inputs.uki).sections]
    findings = [f"the boot image has a section {name}" for name in names if name not in ALLOWED_UKI_SECTIONS]
    findings += [
        f"the boot image has section {name} twice" for name in sorted(set(names)) if names.count(name) > 1
    ]
    return Check("boot-image-sections", Digest.sha256(inputs.uki), len(names), tuple(findings))


_SPECIAL = {
    "serial-console": _check_command_line,
    "admin-entry": _check_files,
    "command-line": _check_sections,
}
