"""CPU signatures: what CPUID tells an SEV guest about the processor model, and so what QEMU puts into EDX.

Sources: AMD64 Architecture Programmer's Manual 3, CPUID Fn0000_0001_EAX; QEMU target/i386/cpu.c,
builtin_x86_defs, for family, model and stepping of its named models.
"""

from __future__ import annotations

from blindbuild.errors import MeasureError

_EXTENDED_FAMILY = 0xF  # families from here on are split into a base and an extension

# Versions of a model (EPYC-v4, EPYC-Milan-v2) differ in features only, never in these three numbers.
_MODELS = {
    "EPYC": (23, 1, 2),
    "EPYC-IBPB": (23, 1, 2),
    "EPYC-Rome": (23, 49, 0),
    "EPYC-Milan": (25, 1, 1),
    "EPYC-Genoa": (25, 17, 0),
    "EPYC-Turin": (26, 0, 0),
}
MAX_MODEL_VERSION = 9  # QEMU has at most 5 versions of a model


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """Return the 32-bit signature.

    Raises:
        MeasureError: a number that the signature has no room for.
    """
    if not (0 <= family <= 0xFF + _EXTENDED_FAMILY and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise MeasureError(
            f"expected family 0-270, model 0-255 and stepping 0-15, got {family}, {model}, {stepping}"
        )
    extended = max(family - _EXTENDED_FAMILY, 0)
    base = min(family, _EXTENDED_FAMILY)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


def qemu_cpu_signature(name: str) -> int:
    """Return the signature of a QEMU model, such as `EPYC-v4` or `EPYC-Milan`.

    Raises:
        MeasureError: a model that is not known here, such as `host`, which is whatever the machine has.
    """
    base, separator, version = name.rpartition("-v")
    if not separator or not (len(version) == 1 and "1" <= version <= str(MAX_MODEL_VERSION)):
        base = name
    try:
        return cpu_signature(*_MODELS[base])
    except KeyError as error:
        raise MeasureError(
            f"expected a CPU model of {', '.join(sorted(_MODELS))}, got {name[:80]!r}",
            hint="give the signature of another processor as a number",
        ) from error
