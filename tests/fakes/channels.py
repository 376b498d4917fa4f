"""A channel ledger from plain dictionaries, written by `rfc8785` and not by the code under test."""

from __future__ import annotations

import copy
import hashlib

import rfc8785

from tests.fakes.published import Publisher
from tests.fakes.world import publisher

# ids and states as the first ledger of the hello image has them
_STATES = {
    "serial-console": "closed",
    "screen-keyboard": "closed",
    "kernel-log": "closed",
    "standard-streams": "stated",
    "core-dumps": "closed",
    "swap-hibernation": "closed",
    "disks-file-systems": "closed",
    "firmware-storage": "closed",
    "sysrq-debugger": "closed",
    "kexec": "closed",
    "tracing": "closed",
    "other-processes-memory": "closed",
    "physical-memory": "closed",
    "code-loading": "closed",
    "hypervisor-side-doors": "closed",
    "outgoing-connections": "closed",
    "command-line": "closed",
    "admin-entry": "closed",
    "arp": "narrowed",
    "host-reads-memory": "open",
    "host-supplied-acpi": "open",
}


def check(*findings: str, **changes) -> dict:
    source = hashlib.sha256(b"what was read").hexdigest()
    value = {"name": "kernel-config", "sourceSha256": source, "lookedAt": 7, "findings": list(findings)}
    return value | changes


def row(number: int, identifier: str, state: str) -> dict:
    return {
        "number": number,
        "id": identifier,
        "claim": f"what holds of {identifier}",
        "state": state,
        "controls": ["a control"] if state == "stated" else [],
        "checks": [check()] if state in ("closed", "narrowed") else [],
    }


def closed_ledger(version: int = 1) -> dict:
    """The ledger of an honest image, as a dictionary that a test may change."""
    value = {
        "version": version,
        "name": "hello",
        "imageVersion": "1.0.0",
        "debug": False,
        "channels": [row(n, identifier, state) for n, (identifier, state) in enumerate(_STATES.items(), 1)],
    }
    return value if version == 1 else second(value)


def second(value: dict) -> dict:
    """The same ledger in version 2, with the fields that it has besides."""
    rows = [
        entry
        | {
            "closable": entry["state"] in ("closed", "stated"),
            "controls": [{"what": what, "shownBy": [], "secondLayer": False} for what in entry["controls"]],
        }
        for entry in value["channels"]
    ]
    more = {"waivers": [], "files": [], "programs": [], "kernel": {}, "habits": {}}
    return value | {"version": 2, "channels": rows} | more


def but_row(ledger: dict, identifier: str, **changes) -> dict:
    """A copy with one row changed."""
    copied = copy.deepcopy(ledger)
    next(entry for entry in copied["channels"] if entry["id"] == identifier).update(changes)
    return copied


def without_row(ledger: dict, identifier: str) -> dict:
    """A copy with one row left out."""
    return ledger | {"channels": [entry for entry in ledger["channels"] if entry["id"] != identifier]}


def ledger_bytes(value: object) -> bytes:
    return rfc8785.dumps(value)


def publisher_of(ledger: bytes, **predicate) -> Publisher:
    """The usual engineer, whose statement pins this ledger."""
    return publisher().but(ledger={"sha256": hashlib.sha256(ledger).hexdigest()}, **predicate)
