"""What a program judges by for as long as it runs: trust file and release, read anew whenever they count."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.client.expectation import Audit, Expectation
from blindbuild.client.published import Published, read_published
from blindbuild.client.state import StateStore
from blindbuild.errors import UsageError
from blindbuild.formats.tpm2 import MAX_CRL
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.manifest.trust import MAX_TRUST
from blindbuild.verify import Policy
from blindbuild.verify.current import CurrentView

DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Following:
    """Gives an expectation each time it is called; attested clients take it as it is.

    Attributes:
        trust: the trust file.
        manifest: the image's directory, or where it is published; not needed when the trust file pins a TUF
            repository, which then says what is current.
        policy: what is asked for beyond the defaults.
        state: the directory in which accepted releases are remembered; None for the user's own.
        audit: told of each decision; see `audit.AuditLog`.
        clock: gives seconds since 1970.
        crls: what authorities of TPMs revoked, DER or PEM: files, which are read anew each time as they must
            be renewed, or their bytes.
    """

    trust: Path
    manifest: Path | str | None = None
    policy: Policy = DEFAULT_POLICY
    state: Path | None = None
    audit: Audit | None = None
    clock: Callable[[], float] = time.time
    crls: Sequence[Path | bytes] = ()

    def __call__(self) -> Expectation:
        """Read what is current.

        Raises:
            UsageError: a file is not there or malformed, or nothing says where the release is.
            VerificationError: the TUF repository is refused.
            ChannelError: a place cannot be reached.
        """
        trust = parse_trust(_read(self.trust, MAX_TRUST))
        state = StateStore.default(os.environ) if self.state is None else StateStore(self.state)
        published, view = self._published(trust, state)
        expectation = Expectation(
            envelope=published.envelope,
            release=published.release,
            trust=trust,
            policy=self.policy,
            state=state,
            clock=self.clock,
            ledger=published.ledger,
            rebuilds=published.rebuilds,
            current=view,
            crls=tuple(_read(each, MAX_CRL) if isinstance(each, Path) else each for each in self.crls),
            probe=published.probe,
            audit=self.audit,
        )
        return self._with_log(expectation, published, state)

    def _published(self, trust: TrustRoots, state: StateStore) -> tuple[Published, CurrentView | None]:
        if trust.tuf_root is None:
            if self.manifest is None:
                raise UsageError("expected a manifest: the trust file pins no TUF repository that has it")
            return read_published(self.manifest, environ=os.environ), None
        from blindbuild.client.tuf import TufRepository  # for those who follow a repository
        from blindbuild.client.tuf_memory import TufMemory

        memory = TufMemory(state.root / "tuf")
        repository = TufRepository(trust, memory=memory, channel=self.policy.channel, clock=self.clock)
        if self.manifest is not None:
            return read_published(self.manifest, environ=os.environ), repository.refresh()
        followed = repository.follow()
        return followed.published, followed.view

    def _with_log(self, expectation: Expectation, published: Published, state: StateStore) -> Expectation:
        if self.policy.required_log is None:
            return expectation
        from blindbuild.client.log_check import LogCheck  # a log is loaded by those who ask for one
        from blindbuild.client.log_memory import LogMemory

        check = LogCheck(
            policy=self.policy.required_log,
            proof=published.log_proof,
            channel=self.policy.channel,
            memory=LogMemory(state.root / "logs"),
        )
        return replace(expectation, log=check)


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise UsageError(f"{path}: expected at most {limit_bytes} bytes, got more")
    return data
