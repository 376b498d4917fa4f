"""The client's side of the exchange: ask, judge, and only then send data, on one connection."""

from __future__ import annotations

from blindbuild.client.attest import Attempt, AttestedConnection, Expectation, attest, open_attested
from blindbuild.client.http1 import Response
from blindbuild.client.state import StateStore
from blindbuild.client.transport import Connection

__all__ = [
    "Attempt",
    "AttestedConnection",
    "Connection",
    "Expectation",
    "Response",
    "StateStore",
    "attest",
    "open_attested",
]
