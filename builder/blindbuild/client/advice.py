"""What a refusal means, in sentences for whoever runs the network: what happened, what it means, what to do.

All such sentences are here. The reasons of the checklist decide which of them is said; the checklist alone
decides whether a server is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blindbuild.errors import BlindbuildError, ChannelError, VerificationError
from blindbuild.formats.printable import visible
from blindbuild.verify import AcceptedSession, Appraisal

_NOTHING_SENT = "Nothing of your data was sent."
_TELL = "tell your security team and the provider, and send nothing until it is explained"


@dataclass(frozen=True, slots=True)
class Advice:
    """Three sentences about one situation."""

    happened: str
    means: str
    do: str

    @property
    def text(self) -> str:
        """The sentences, one a line."""
        return f"what happened: {self.happened}\nwhat it means: {self.means}\nwhat to do: {self.do}"


MIDDLE = Advice(
    "the machine that was asked is genuine and answered just now, but this encrypted connection ends "
    "somewhere else: something in between passes its answers on",
    f"whatever is in between could read and change all that is sent. {_NOTHING_SENT}",
    "look for what opens encrypted connections on the way: an inspecting firewall or proxy, a load "
    "balancer, a CDN, an antivirus product. Exempt this address from inspection, or connect directly. "
    f"If nobody knows of one, take it for an attack: {_TELL}",
)
OTHER_KEY = Advice(
    "the machine that was asked is genuine and answered just now, but something in between put a key of its "
    "own in the place of the machine's",
    f"whoever did it could have read and changed all that is sent. {_NOTHING_SENT}",
    f"whatever ends TLS on the way has no honest reason for this. Take it for an attack: {_TELL}",
)
CHANGED_ANSWER = Advice(
    "an answer came that the genuine machine did not make for this request",
    "something in between changed it, made it up, or mixed up two answers. What you sent stays sealed, but "
    "the machine may have done what was asked",
    f"send it again yourself if it may be done twice. If it happens again, take it for an attack: {_TELL}",
)
COPIED_REQUEST = Advice(
    "the machine refused this request, because one with its number, or a much later one, had come before: "
    "something in between kept a copy and sent that first, or used the number up with a request of its own",
    "if it was a copy, what was asked was done once, and no more; else it was not done. Which of the two "
    "cannot be known. Nobody but this client can read the answer to a copy",
    f"send it again yourself if it may be done twice. If this happens again, take it for an attack: {_TELL}",
)
UNSEALED_ANSWER = Advice(
    "an answer came that nobody has sealed. Whoever is between this client and the image can make one up, so "
    "what it says is shown and not believed",
    "the machine may have done what was asked or not. It was not repeated, so that nothing happens twice "
    "without your knowledge",
    "send it again yourself if it may be done twice; the server is judged anew before anything is sent",
)
OLD_ANSWER = Advice(
    "the server's answer was not made for this question; it is an old one, or another machine's",
    f"the genuine machine may be gone, and somebody plays back what it once said. {_NOTHING_SENT}",
    "ask the provider whether the machine was replaced or its TPM cleared. If not, take it for an "
    f"attack: {_TELL}",
)
MIDDLE_OR_OLD = Advice(
    "the server's answer was not made for this connection: it is an old one, or something in between "
    "passes on the answers of the genuine machine",
    f"whoever does this could read and change all that is sent. {_NOTHING_SENT}",
    "look for what opens encrypted connections on the way, such as an inspecting firewall, a load "
    f"balancer or a CDN, and exempt this address. If nobody knows of one, take it for an attack: {_TELL}",
)
OTHER_MACHINE = Advice(
    "the answer is signed by a key that does not belong to the certified security chip",
    f"a machine without a genuine chip pretends to have one. {_NOTHING_SENT}",
    _TELL,
)
OTHER_SOFTWARE = Advice(
    "the machine is genuine, but it started something else than the release you trust",
    f"its operator changed the image, its settings or the firmware, or runs another release. {_NOTHING_SENT}",
    "check that you have the manifest of the release that is running. If you have, ask the operator "
    "what was changed; `blindbuild explain` shows the first difference of each register",
)
UNKNOWN_CHIP = Advice(
    "the server's security chip is not one that your trust file believes",
    "a chip of an unknown maker, or one made of software, can be told to say anything by whoever runs "
    f"it. {_NOTHING_SENT}",
    "ask the provider which chips its machines have, and get the trust file for them from somebody you "
    "trust. A test machine needs --allow-test-tpm, and proves nothing about its operator",
)
CHIP_STATE = Advice(
    "the server's security chip is genuine, but its clock went back or its firmware is older than you allow",
    f"its state may have been put back from a copy, it lost power, or it has known faults. {_NOTHING_SENT}",
    "ask the provider what happened to the machine's TPM, and ask the server again later",
)
BAD_RELEASE = Advice(
    "the release that you have may not be used: its signatures, its dates or its place in the history "
    "are wrong",
    "either your files are out of date, or somebody wants you to accept a release that its publisher "
    "did not make or has withdrawn. No server was asked",
    "fetch the current release from the publisher and check this computer's clock. If it is refused "
    "again, tell the publisher which step refused it",
)
UNSIGNED_RELEASE = Advice(
    "the release that you have is signed by too few of its publisher's keys",
    "somebody who has none of these keys, or not enough of them, may have made it: a stolen key is not "
    "enough. No server was asked",
    "fetch the current release from the publisher. If it is refused again, the publisher may have new keys, "
    "or one of them is in wrong hands: ask by telephone or letter, never by the way the release came",
)
NOT_REBUILT = Advice(
    "too few of the independent rebuilders that your trust file names have found this release to be what its "
    "sources give",
    "its publisher, or whoever has his keys, may have put something else into it. No server was asked",
    "ask the publisher for the rebuilders' files of this very release, in rebuilds/. If they do not exist, "
    "ask the rebuilders themselves what they found before you use it",
)
OPEN_RELEASE = Advice(
    "the release is genuine, but it is not as closed as your policy asks for",
    "the image itself says that some way out of it is open, or that it is for debugging. No server was asked",
    "ask the publisher for an image that closes it, or ask whoever owns the policy whether it may stay open",
)
OTHER_PROFILE = Advice(
    "the release is genuine, but encrypts what you send in another way than your policy asks for",
    f"its image has only that one way, and there is no falling back to another. {_NOTHING_SENT}",
    "ask the publisher for an image with the other profile, or ask whoever owns the policy whether this one "
    "will do",
)
PINNED_CHIP = Advice(
    "your policy asks for revocation lists, but your trust file names the server's key itself",
    "no authority certified this key, so that none can revoke it: there is nothing to look up. "
    f"{_NOTHING_SENT}",
    "decide which of the two you want. Whoever keeps the trust file revokes a key in it by taking it out; "
    "if an authority is to revoke keys, trust its certificate instead",
)
NOT_PROBED = Advice(
    "the release has no signed report that its machine was watched and did no more than it should, or the "
    "report says otherwise",
    "what the image's bytes promise was not seen to hold while it ran. No server was asked",
    "ask the publisher for the probe.dsse.json of this very release, or ask whoever owns the policy whether "
    "the release will do without",
)
BROKEN_EVIDENCE = Advice(
    "the server's proof is malformed or incomplete",
    f"it is damaged, of another version, or made up. {_NOTHING_SENT}",
    "try again; if it stays, send the provider what `blindbuild verify --save` writes",
)
REDIRECT = Advice(
    "the server answered with a redirect to another address",
    "the address it names has proven nothing, and is not asked. Your data went nowhere else",
    "an attested server never redirects: look for a login page, a proxy or a load balancer that answers"
    " in its place, or correct the address",
)
OTHER_SERVER = Advice(
    "the program wanted to send a request to another server than the one that was judged",
    "a redirect or a wrong base address leads elsewhere, where nobody has proven anything. Nothing was "
    "sent there",
    "use a client of its own for each server, and switch redirects off",
)
EARLY_ANSWER = Advice(
    "the server sent an answer before it was asked",
    "what it sent belongs to no request, and would be taken for the answer to the next one. The "
    "connection was closed",
    "try again; if it stays, something in between or the server itself does not keep to the protocol: "
    "tell the provider",
)
LOST = Advice(
    "the connection ended in the middle of a request or its answer",
    "the server may have worked on the request or not. It was not repeated, so that nothing happens "
    "twice without your knowledge",
    "send it again yourself if it may be done twice; the new connection is judged before anything is sent",
)
SLOW = Advice(
    "the server did not answer in time",
    "it is overloaded, or held up on the way. It may have worked on the request or not; the request was not "
    "repeated",
    "send it again yourself if it may be done twice, with a longer time limit if the work takes long",
)
UNPROVEN = Advice(
    "the connection ended, or no answer came in time, before the server had proven what it is",
    "it could not be judged, so that it is not believed. Nothing of this request was sent",
    "try again, with a longer time limit if the server is slow. If it happens each time, ask the provider "
    "whether the server is up, and whoever runs the network what ends connections on the way",
)
EXPIRED = Advice(
    "the time for which this server was believed is over",
    f"what was true then need not be true now. {_NOTHING_SENT}",
    "ask again: the server is judged anew. If it comes at once, check this computer's clock",
)
UNREACHABLE = Advice(
    "nothing answers at this address",
    "the server is off, the address is wrong, or something on the way does not let it through. "
    f"{_NOTHING_SENT}",
    "check address and port, and whether the firewall lets this computer connect there directly: "
    "proxies are never used",
)
BUSY = Advice(
    "all connections to the server are in use, and none became free in time",
    f"there is more to do than the server does at once. {_NOTHING_SENT}",
    "try again later, or ask for less at once",
)
NO_TLS = Advice(
    "something answers at this address, but does not speak TLS 1.3",
    f"it is not an attested server, or something in between only speaks older protocols. {_NOTHING_SENT}",
    "check address and port; then look for a proxy or firewall that opens encrypted connections on the way",
)


def advise(appraisal: Appraisal) -> Advice | None:
    """Return the sentences for a refusal, or None when nothing failed."""
    failed = {step.id for step in appraisal.failed}
    for applies, advice in _RULES:
        if applies(appraisal.reasons, failed):
            return advice
    return BROKEN_EVIDENCE if failed else None


_Applies = Callable[[frozenset[str], set[str]], bool]
# The first one that applies is said: a release before a machine, the machine's identity before its software.
_RULES: tuple[tuple[_Applies, Advice], ...] = (
    (lambda reasons, _failed: "M4:envelope-refused" in reasons, UNSIGNED_RELEASE),
    (lambda _reasons, failed: {step for step in failed if step.startswith("M")} == {"M14"}, NOT_REBUILT),
    (lambda _reasons, failed: any(step.startswith("M") for step in failed), BAD_RELEASE),
    (lambda _reasons, failed: {step for step in failed if step.startswith("P")} == {"P5"}, NOT_PROBED),
    (lambda _reasons, failed: any(step.startswith("P") for step in failed), OPEN_RELEASE),
    (lambda reasons, _failed: "C1:profile-not-allowed" in reasons, OTHER_PROFILE),
    (lambda reasons, _failed: "C3:other-tls-key" in reasons, MIDDLE),
    (lambda reasons, _failed: "C3:other-hpke-key" in reasons, OTHER_KEY),
    (lambda reasons, failed: "A8:credential-mismatch" in reasons and "Q7" in failed, OLD_ANSWER),
    (lambda _reasons, failed: bool(failed & {"Q2", "A2", "A8"}), OTHER_MACHINE),
    (lambda reasons, failed: failed == {"A7"} and "A7:key-pinned" in reasons, PINNED_CHIP),
    (lambda _reasons, failed: bool(failed & {"A4", "A5", "A7", "A9", "A10", "A11"}), UNKNOWN_CHIP),
    (lambda _reasons, failed: "Q7" in failed, MIDDLE_OR_OLD),
    (lambda _reasons, failed: bool(failed & {"Q12", "Q14"}), CHIP_STATE),
    (lambda _reasons, failed: bool(failed & {"E1", "E2", "E10"}), OTHER_SOFTWARE),
)


def accepted_or_advice(appraisal: Appraisal, *, issuer: str = "") -> AcceptedSession:
    """Return what may be relied upon.

    Args:
        issuer: who issued the certificate that the server showed, when it did not issue it itself.

    Raises:
        VerificationError: a step failed; the hint says what that means.
    """
    try:
        return appraisal.accepted()
    except VerificationError as error:
        advice = advise(appraisal)
        lines = [error.hint, advice.text if advice else ""]
        if issuer and advice in (MIDDLE, MIDDLE_OR_OLD):
            lines.append(f"a trace: the certificate of this connection was issued by {visible(issuer[:200])}")
        raise VerificationError(
            error.message,
            step=error.step,
            reason=error.reason,
            hint="\n".join(line for line in lines if line) or None,
        ) from error


def before_data(error: Exception) -> Exception:
    """Return the error with other sentences if it says that a request may have been worked on: none was sent.

    Args:
        error: of a connection on which a server was being asked what it is. One of a library keeps its class,
            and gets the sentences as a note.
    """
    if isinstance(error, ChannelError):
        early = error.hint in (LOST.text, SLOW.text)
        return channel_error(error.message, UNPROVEN) if early else error
    if not isinstance(error, BlindbuildError):
        error.add_note(UNPROVEN.text)
    return error


def channel_error(message: str, advice: Advice) -> ChannelError:
    """Return the error of a channel with the sentences that belong to it."""
    return ChannelError(message, hint=advice.text)
