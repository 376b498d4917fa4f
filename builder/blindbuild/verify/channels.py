"""Steps P2 and P3: is this the ledger that the statement pins, and are the channels closed that must be?"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from blindbuild.digest import Digest
from blindbuild.errors import ManifestError
from blindbuild.manifest import Channel, ChannelState, Ledger, Statement, parse_ledger
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import Basis, Policy

# what people ask for, in the ledger's ids; docs/spec/verification.md has the same table
CHANNEL_GROUPS = {
    "disk": ("disks-file-systems", "swap-hibernation", "core-dumps", "firmware-storage"),
    "console": ("serial-console", "screen-keyboard", "kernel-log", "sysrq-debugger"),
    "egress": ("outgoing-connections", "hypervisor-side-doors"),
    "admin": ("admin-entry", "command-line", "code-loading", "kexec", "tracing"),
    "memory": ("host-reads-memory", "host-supplied-acpi", "other-processes-memory", "physical-memory"),
}
_HINT = f"name an id of channels.json, or {', '.join(CHANNEL_GROUPS)}"
# the worst first: what is open must not be read last
_ORDER = (ChannelState.OPEN, ChannelState.NARROWED, ChannelState.STATED, ChannelState.CLOSED)


def expand_channels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the ledger ids that names of groups and ids stand for, sorted and unique."""
    return tuple(sorted({identifier for name in names for identifier in CHANNEL_GROUPS.get(name, (name,))}))


def judge_channels(steps: Checklist, basis: Basis, statement: Statement | None) -> None:
    """Run steps P2 and P3; a ledger that is there is judged even when no channel must be closed."""
    data, required = basis.ledger, expand_channels(basis.policy.required_closed)
    if data is None and not required:
        steps.skip("P2", "no ledger at hand, and no channel must be closed")
        steps.skip("P3", "no channel must be closed")
        return
    ledger = steps.run("P2", lambda: _open_ledger(data, found(statement), basis.policy), needs=("M6",))
    if required:
        steps.run("P3", lambda: _all_closed(found(ledger), required), needs=("P2",))
    else:
        steps.skip("P3", "no channel must be closed")


def _open_ledger(data: bytes | None, statement: Statement, policy: Policy) -> tuple[Ledger, str]:
    fail = partial(refuse, "P2")
    if data is None:
        raise fail(
            "ledger-missing",
            "expected the ledger of the channels that must be closed, got none",
            hint="pass the channels.json of the image",
        )
    digest = Digest.sha256(data)
    if not digest.equals(statement.ledger):
        raise fail("other-ledger", f"expected ledger {statement.ledger}, got {digest}")
    try:
        ledger = parse_ledger(data)
    except ManifestError as error:
        raise fail("ledger-malformed", error.message) from error
    expected, said = (statement.name, statement.version), (ledger.name, ledger.image_version)
    if said != expected:
        raise fail("ledger-disagrees", f"expected a ledger of {expected}, got one of {said}")
    # an image can be for debugging without an open channel, as the probe's is, but not the other way round
    if ledger.debug and not statement.debug:
        raise fail("ledger-disagrees", "expected a debug statement for a debug ledger, got another")
    if ledger.debug and not policy.allow_debug:
        raise fail(
            "debug-ledger",
            "expected the ledger of an image for use, got a debug image's",
            hint="pass --allow-debug",
        )
    _check_declared(ledger)
    return ledger, _summary(ledger)


def _check_declared(ledger: Ledger) -> None:
    # whoever signs a ledger with something open in it has to have meant it; a debug image says so as a whole
    undeclared = [channel for channel in ledger.channels if channel.undeclared]
    if undeclared and not ledger.debug:
        said = (
            f"row {channel.number} {channel.identifier} ({_first_finding(channel)})" for channel in undeclared
        )
        raise refuse(
            "P2",
            "channel-undeclared",
            f"expected what is open to be allowed by the recipe, got {'; '.join(said)}",
            hint="the image is not what its recipe says: do not use it",
        )


def _first_finding(channel: Channel) -> str:
    return channel.findings[0] if channel.findings else channel.claim


def _summary(ledger: Ledger) -> str:
    parts = []
    for state in _ORDER:
        named = [_name(channel) for channel in ledger.channels if channel.state is state]
        if named and state in (ChannelState.OPEN, ChannelState.NARROWED):
            parts.append(f"{state.value}: {', '.join(named)}")
        elif named:
            parts.append(f"{len(named)} {state.value}")
    return "; ".join(parts)


def _name(channel: Channel) -> str:
    return f"{channel.identifier} (allowed by the recipe)" if channel.allowed else channel.identifier


def _all_closed(ledger: Ledger, required: tuple[str, ...]) -> tuple[None, str]:
    missing = [identifier for identifier in required if ledger.find(identifier) is None]
    lacking = [f"{identifier} is not in the ledger" for identifier in missing]
    for identifier in required:
        channel = ledger.find(identifier)
        if channel is not None and channel.state is not ChannelState.CLOSED:
            said = f"row {channel.number} {identifier} is {channel.state.value} ({channel.claim})"
            lacking.append(f"{said}: {channel.findings[0]}" if channel.findings else said)
    if lacking:
        raise refuse(
            "P3",
            "channel-missing" if missing else "channel-not-closed",
            f"expected {len(required)} channels to be closed, got: {'; '.join(lacking)}",
            hint=_HINT if missing else None,
        )
    return None, ", ".join(required)
