"""The client's decision: pure, small, and shippable alone with `client`."""

from __future__ import annotations

from blindbuild.verify.appraisal import AcceptedSession, Appraisal
from blindbuild.verify.appraise import appraise, check_publication
from blindbuild.verify.channels import CHANNEL_GROUPS
from blindbuild.verify.checklist import Outcome, Step
from blindbuild.verify.difference import Difference
from blindbuild.verify.policy import History, Policy
from blindbuild.verify.quote import bound_data
from blindbuild.verify.registers import RegisterResult
from blindbuild.verify.session import (
    Endorsement,
    Evidence,
    RecordedSession,
    StoredCertificate,
    parse_endorsement,
    parse_evidence,
    parse_session,
    session_bytes,
)

__all__ = [
    "CHANNEL_GROUPS",
    "AcceptedSession",
    "Appraisal",
    "Difference",
    "Endorsement",
    "Evidence",
    "History",
    "Outcome",
    "Policy",
    "RecordedSession",
    "RegisterResult",
    "Step",
    "StoredCertificate",
    "appraise",
    "bound_data",
    "check_publication",
    "parse_endorsement",
    "parse_evidence",
    "parse_session",
    "session_bytes",
]
