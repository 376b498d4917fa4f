"""Checked values back to YAML, in one fixed form: for people to read, and for the checksum."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from blindbuild.assemble.recipe_shape import Value

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._=+-]*")
_SPECIAL = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def render_values(values: Mapping[str, Value]) -> str:
    """Return the values as YAML: keys in the order given, text quoted wherever YAML could misread it."""
    return "".join(_lines(values, ""))


def _lines(values: Mapping[str, Value], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:\n", *_lines(value, indent + "  ")]
        elif isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            lines += [f"{indent}{key}:\n", *(f"{indent}  - {_flow(item)}\n" for item in value)]
        else:
            lines.append(f"{indent}{key}: {_flow(value)}\n")
    return lines


def _flow(value: Value) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {_flow(item)}" for key, item in value.items() if item is not None)
        return f"{{{inner}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or value.lower() in _SPECIAL):
        return json.dumps(value)
    return str(value)
