"""Which rule speaks about which kind of event, and in what order."""

from __future__ import annotations

from collections.abc import Callable

from blindbuild.verify.explain_align import Change, Step
from blindbuild.verify.explain_boot import (
    is_exit,
    say_boot,
    say_debug_mode,
    say_exit,
    say_partitions,
    say_separator,
)
from blindbuild.verify.explain_event import DEBUG_MODE, Kind
from blindbuild.verify.explain_firmware import (
    SMBIOS_TAG,
    say_by_register,
    say_configuration,
    say_drivers,
    say_firmware,
    say_secure_boot,
)
from blindbuild.verify.explain_image import say_kernel_inputs, say_sections, say_texts
from blindbuild.verify.explain_view import Comparison, Meaning, View

_Rule = Callable[[View], list[Meaning]]
_MAX_MEANINGS = 5  # a reader stops there; the steps have the rest

_RULES: dict[Kind, _Rule] = {
    Kind.SEPARATOR: say_separator,
    Kind.VARIABLE: say_secure_boot,
    Kind.AUTHORITY: say_secure_boot,
    Kind.BOOT_OPTION: say_configuration,
    Kind.APPLICATION: say_boot,
    Kind.DRIVER: say_drivers,
    Kind.SECTION_NAME: say_sections,
    Kind.SECTION: say_sections,
    Kind.PHASE: say_sections,
    Kind.LOAD_OPTIONS: say_kernel_inputs,
    Kind.INITRD: say_kernel_inputs,
    Kind.TEXT: say_texts,
    Kind.FIRMWARE: say_firmware,
    Kind.FIRMWARE_VERSION: say_firmware,
    Kind.PARTITIONS: say_partitions,
    Kind.CONFIGURATION: say_configuration,
    Kind.TABLES: say_configuration,
    Kind.OTHER: say_texts,
}


def say_steps(register: int, comparison: Comparison) -> list[Meaning]:
    """Return what the differences in one register mean, in the order in which they happened."""
    steps = comparison.steps[register]
    groups: dict[_Rule, list[Step]] = {}
    for step in steps:
        if step.change is not Change.SAME:
            groups.setdefault(_rule(step), []).append(step)
    meanings = [
        meaning
        for rule, group in groups.items()
        for meaning in rule(View(register, steps, tuple(group), comparison))
    ]
    return meanings[:_MAX_MEANINGS] or [say_by_register(register, tpm=comparison.tpm)]


def _rule(step: Step) -> _Rule:
    kind, name = step.event.slot.kind, step.event.slot.name
    if kind is Kind.ACTION:
        if name == DEBUG_MODE:
            return say_debug_mode
        return say_exit if is_exit(name) else say_boot
    if kind is Kind.TAG:
        return say_configuration if name == SMBIOS_TAG else say_texts
    return _RULES[kind]
