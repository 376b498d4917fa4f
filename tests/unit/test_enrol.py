"""Keys in a variable store: all that Secure Boot needs, or none; tests/integration has the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.efivars import EFI_GLOBAL_VARIABLE, EfiVariable, read_variables, set_variables
from blindbuild.machine.enrol import IMAGE_SECURITY_DATABASE, SecureBootKeys, enrol_keys
from tests.fakes.variable_store import empty_store

KEYS = SecureBootKeys(pk=b"platform", kek=b"exchange", db=b"allowed", dbx=b"forbidden")


def variables(keys: SecureBootKeys) -> dict[str, EfiVariable]:
    return {variable.name: variable for variable in read_variables(enrol_keys(empty_store(), keys))}


def test_each_database_is_authenticated_and_in_its_namespace() -> None:
    found = variables(KEYS)
    assert {name: (found[name].vendor, found[name].data, found[name].attributes) for name in found} == {
        "PK": (EFI_GLOBAL_VARIABLE, b"platform", 0x27),
        "KEK": (EFI_GLOBAL_VARIABLE, b"exchange", 0x27),
        "db": (IMAGE_SECURITY_DATABASE, b"allowed", 0x27),
        "dbx": (IMAGE_SECURITY_DATABASE, b"forbidden", 0x27),
        "SecureBootEnable": ("f0a30bc7-af08-4556-99c4-001009c93a44", b"\x01", 3),
        "CustomMode": ("c076ec0c-7028-4399-a072-71ee5c448b9f", b"\x00", 3),
    }


def test_an_empty_dbx_is_no_variable() -> None:
    assert "dbx" not in variables(replace(KEYS, dbx=b""))


def test_the_same_keys_give_the_same_flash() -> None:
    assert enrol_keys(empty_store(), KEYS) == enrol_keys(empty_store(), KEYS)


def test_other_variables_stay() -> None:
    order = EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", b"\x01\x00")
    image = enrol_keys(set_variables(empty_store(), [order]), KEYS)
    assert read_variables(image)[0] == order


@pytest.mark.parametrize("name", ["pk", "kek", "db"])
def test_a_machine_that_would_boot_anything_or_nothing_is_refused(name: str) -> None:
    wanted = {"pk": "PK", "kek": "KEK", "db": "db"}[name]
    with pytest.raises(UsageError, match=f"expected keys for PK, KEK and db, got none for {wanted}"):
        enrol_keys(empty_store(), replace(KEYS, **{name: b""}))


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match="room for"):
        enrol_keys(empty_store(), replace(KEYS, db=bytes(0x4000)))
