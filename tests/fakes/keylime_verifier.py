"""keylime's own verifier, told a tpm_policy and the registers of a quote; run as a program of its own.

It declares no dependencies. Libraries that it imports and that judge no register values (its databases,
OpenPGP, ASN.1 of broken certificates) are stood in for by empty modules where they are not installed; what
judges is keylime's `readPolicy` and `Tpm.check_pcrs`, unchanged.

    python keylime_verifier.py POLICY REGISTERS BANK

prints a JSON list of keylime's reasons to refuse, empty when it has none.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path

ABSENT = ("alembic", "gpg", "lark", "psutil", "pyasn1", "pyasn1_modules", "sqlalchemy", "tornado", "zmq")


class _Nothing:
    """A base class, a decorator or a value, whatever the importing module makes of it at first sight."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        """Take anything."""

    def __call__(self, decorated: object = None) -> object:
        return decorated


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Nothing,), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The last finder: for modules that no other has found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


def main(policy: str, registers: str, bank: str) -> None:
    """Judge, and print the reasons."""
    sys.meta_path.append(_StandIns())
    from keylime.common.algorithms import Hash
    from keylime.mba import mba
    from keylime.tpm import tpm_util
    from keylime.tpm.tpm_main import Tpm

    mba.load_imports(skip_custom_policies=True)
    values = {int(number): value for number, value in json.loads(registers).items()}
    read = tpm_util.readPolicy(Path(policy).read_text())
    failure = Tpm().check_pcrs(None, read, values, None, None, None, None, None, None, Hash(bank), 0)
    sys.stdout.write(json.dumps([event.event_id for event in failure.events]))


if __name__ == "__main__":
    main(*sys.argv[1:])
