"""The client's side of the exchange: ask, judge, and only then send data, on one connection."""

from __future__ import annotations

from blindbuild.client.attest import Attempt, AttestedConnection, attest, open_attested
from blindbuild.client.expectation import Expectation, Expecting
from blindbuild.client.http1 import Response
from blindbuild.client.state import StateStore
from blindbuild.client.transport import Connection

__all__ = [
    "Attempt",
    "AttestedConnection",
    "Connection",
    "Expectation",
    "Expecting",
    "Response",
    "StateStore",
    "attest",
    "open_attested",
]
