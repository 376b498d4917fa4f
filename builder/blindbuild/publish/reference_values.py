"""What a release says about one platform, as far as other verifiers can say it: names, and values allowed."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.measure.classification import (
    Classification,
    Exact,
    Initial,
    OneOf,
    Unconstrained,
    initial_value,
)
from blindbuild.publish.exporters import ExportRequest

NOT_A_VERDICT = (
    "it has values of registers: that a quote is fresh, signed by a TPM that is trusted, and of the machine "
    "at the other end of the connection, its reader must see to"
)


@dataclass(frozen=True, slots=True)
class AllowedValues:
    """A register by its number, or a launch measurement by its name, and the values it may have."""

    name: int | str
    values: tuple[Digest, ...]


def registers_of(request: ExportRequest) -> tuple[Classification, ...]:
    """Return the rules for the 24 registers of the chosen platform and bank.

    Raises:
        UsageError: no platform was chosen, or it has no registers of a TPM, or none in this bank.
    """
    platform = request.chosen_platform()
    if not platform.banks:
        raise UsageError(
            f"{platform.identifier}: expected a platform with the registers of a TPM, got {platform.kind}"
        )
    if request.bank not in platform.banks:
        banks = ", ".join(bank.value for bank in platform.banks)
        raise UsageError(
            f"{platform.identifier}: expected --bank to be one of {banks}, got {request.bank.value}"
        )
    return platform.banks[request.bank]


def allowed_values(request: ExportRequest) -> tuple[AllowedValues, ...]:
    """Return what may be in each register or measurement of the chosen platform, where anything is said.

    A register that must not be extended has its initial value here: left out, others could be loaded unseen.

    Raises:
        UsageError: as `registers_of`, for platforms without named measurements; or nothing is said of any.
    """
    platform = request.chosen_platform()
    if platform.measurements:
        return tuple(
            AllowedValues(name, rule.values)
            for name, rule in sorted(platform.measurements.items())
            if isinstance(rule, OneOf)
        )
    every = (
        AllowedValues(register, _values(rule, register, request.bank))
        for register, rule in enumerate(registers_of(request))
    )
    found = tuple(allowed for allowed in every if allowed.values)
    if not found:
        raise UsageError(f"{platform.identifier}: expected a register that something is said of, got none")
    return found


def left_out(rules: tuple[Classification, ...], *kinds: type[Classification]) -> tuple[str, ...]:
    """Return a note that names the registers with rules of these kinds, if there are any."""
    numbers = [str(register) for register, rule in enumerate(rules) if isinstance(rule, kinds)]
    return (f"left out: registers {', '.join(numbers)}",) if numbers else ()


def _values(rule: Classification, register: int, bank: HashAlgorithm) -> tuple[Digest, ...]:
    match rule:
        case Exact(value, _):
            return (value,)
        case OneOf(values, _):
            return values
        case Initial():
            return (initial_value(register, bank),)
        case Unconstrained():
            return ()
