"""A probe of the usual image from plain dictionaries, written by `rfc8785` and not by the code under test."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import rfc8785

from blindbuild.publish import SigningKey, sign_payload
from tests.fakes.published import STATEMENT_TYPE, Publisher
from tests.fakes.world import publisher

LEAKY = hashlib.sha256(b"leaky").hexdigest()
# as the table of docs/spec/probe.md has them; the first two no image can close
NAMES = (
    *("memory", "neighbour"),
    *("tpm", "tpm-state", "evidence", "consoles-same", "consoles-silent", "screen", "disks", "networks"),
    *("touches", "variables", "frames", "scan", "stranger", "canary", "attempts", "crash"),
)


def check(name: str) -> dict[str, Any]:
    """What an honest run says of one check."""
    closable = name not in NAMES[:2]
    return {
        "name": name,
        "claim": f"what holds if {name} is shown",
        "channels": ["arp"],
        "closable": closable,
        "lookedAt": [{"what": "things", "count": 7}],
        "findings": [] if closable else ["it is as expected"],
        "control": {"image": {"sha256": LEAKY}, "caught": True, "saw": ["a leak"]},
        "verdict": "shown" if closable else "open",
        "reasons": [],
    }


def probe_value(by: Publisher | None = None) -> dict[str, Any]:
    """The probe of an image as a dictionary that a test may change."""
    published = publisher() if by is None else by
    about = published.value["predicate"]
    hostile = {"role": "hostile", "digest": {"sha256": hashlib.sha256(b"hostile").hexdigest()}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": copy.deepcopy(published.value["subject"]),
        "predicateType": "urn:blindbuild:channel-probe:v1",
        "predicate": {
            "name": about["name"],
            "version": about["version"],
            "debug": about["debug"],
            "statement": {"sha256": hashlib.sha256(published.statement).hexdigest()},
            "ledger": about["ledger"],
            "tool": {"name": "blindbuild", "version": "0.1.0"},
            "machine": {"accelerator": "tcg", "qemu": "7.2.22", "memoryMiB": 256},
            "images": [hostile, {"role": "leaky", "digest": {"sha256": LEAKY}}],
            "phases": [
                {"role": role, "phase": "boot", "milliseconds": 11500}
                for role in ("product", "hostile", "leaky")
            ],
            "checks": [check(name) for name in NAMES],
            "notLookedAt": [{"what": "vsock", "why": "this host has none"}],
        },
    }


def check_of(value: dict[str, Any], name: str) -> dict[str, Any]:
    """The check of that name in a probe."""
    (found,) = (each for each in value["predicate"]["checks"] if each["name"] == name)
    return found


def probe_envelope(value: dict[str, Any] | None = None, key: SigningKey | None = None) -> bytes:
    """A probe in an envelope with one signature, the usual release key's."""
    data = rfc8785.dumps(probe_value() if value is None else value)
    return sign_payload(publisher().key if key is None else key, STATEMENT_TYPE, data)
