"""One repository of an OCI registry: requests that stay there, with a login only where it belongs.

Manifests come from the host that was named and from nowhere else. A blob, whose digest and size are known
before it is asked for, may come from where the registry sends us, as most of them keep blobs elsewhere: over
https, from a host with a public name, and without a login.

Source: OCI distribution-spec 1.1; distribution's token authentication specification.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from blindbuild.client.registry_login import Challenge, Login, parse_challenge, read_login
from blindbuild.client.web import MAX_ANSWER_S, MOVED, NOT_THERE, Reply, exchange, is_loopback
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, FormatError, UsageError
from blindbuild.formats.canonical import parse_json
from blindbuild.formats.oci import INDEX_TYPE, MAX_OCI_INDEX, Descriptor, Reference, referrers_tag

MAX_REDIRECTS = 3  # for one blob; registries use one or two
MAX_TOKEN_ANSWER = 1 << 16  # bytes
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")  # visible characters: it becomes part of a header
_PUBLIC_NAME = re.compile(r"[a-z0-9.-]+\.[a-z][a-z0-9-]*")  # no address, and no name of one label
_CODE = re.compile(r"[A-Z_]{1,40}")
_OK, _UNAUTHORIZED = 200, 401


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry may be spoken to.

    Attributes:
        plain_http: without TLS; what is public needs none to be judged, a login is never sent so except to
            this very machine.
        environ: where a login is looked for, once a registry asks for one.
        token_hosts: servers of tokens, beside the registry itself, that may be given the login.
        push: ask for a token that may write.
    """

    plain_http: bool = False
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_hosts: Collection[str] = ()
    push: bool = False


class Registry:
    """One repository.

    Args:
        reference: names it.
        access: how it may be spoken to.
        within_s: for everything that is asked of it, together.
    """

    def __init__(self, reference: Reference, access: Access, *, within_s: float = MAX_ANSWER_S) -> None:
        self.reference = reference
        self._access = access
        self._deadline_s = time.monotonic() + within_s
        self._base = f"{'http' if access.plain_http else 'https'}://{reference.host}"
        self._authorization: str | None = None
        self._withheld = ""

    def request(
        self,
        method: str,
        path: str,
        *,
        limit_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """Send one request to this registry; if it wants a login first, once more with one.

        Args:
            method: such as `GET`.
            path: below the repository, as `manifests/latest`, or what `own_address` returned.
            limit_bytes: of the answer's body.
            headers: beside the usual ones.
            body: what is sent.

        Raises:
            ChannelError: no answer, or it wants a login that there is none for, or that may not be sent.
        """
        url = path if "://" in path else f"{self._base}/v2/{self.reference.repository}/{path}"
        reply = self._send(method, url, limit_bytes, headers or {}, body)
        # a token may have expired since the last request; a password that was refused stays refused
        if reply.status == _UNAUTHORIZED and not (self._authorization or "").startswith("Basic "):
            self._authenticate(reply)
            reply = self._send(method, url, limit_bytes, headers or {}, body)
        return reply

    def manifest(self, name: str, *, media_type: str, limit_bytes: int) -> bytes | None:
        """Return the bytes of a manifest or an index, or None when there is none.

        Args:
            name: a tag or a digest; for a digest the bytes are compared with it.
            media_type: the only one that is accepted.
            limit_bytes: of the whole.

        Raises:
            ChannelError: another type, another digest, a redirect, no access, or no answer.
        """
        reply = self.request(
            "GET", f"manifests/{name}", limit_bytes=limit_bytes, headers={"Accept": media_type}
        )
        if reply.status in NOT_THERE:
            return None
        self.expect(reply, _OK, f"manifest {name}")
        if (kind := reply.headers.get_content_type()) != media_type:
            raise ChannelError(f"{self.reference}: expected {media_type}, got {kind[:120]!r}")
        actual = Digest.sha256(reply.body)
        if name.startswith("sha256:") and str(actual) != name:
            raise ChannelError(f"{self.reference}: expected manifest {name}, got {actual}")
        return reply.body

    def attached(self, subject: Digest, *, artifact_type: str) -> bytes | None:
        """Return the index of what is attached to a manifest, or None when there is none.

        Asked is the registry's own list, and the tag that stands for it where there is no such list.

        Raises:
            ChannelError: it is no index, no access, or no answer.

        Source: distribution-spec 1.1, "Listing Referrers"; further pages of a list are not asked for.
        """
        query = urllib.parse.urlencode({"artifactType": artifact_type})
        reply = self.request("GET", f"referrers/{subject}?{query}", limit_bytes=MAX_OCI_INDEX)
        if reply.status != _OK:
            tag = referrers_tag(subject)
            return self.manifest(tag, media_type=INDEX_TYPE, limit_bytes=MAX_OCI_INDEX)
        if (kind := reply.headers.get_content_type()) != INDEX_TYPE:
            raise ChannelError(f"{self.reference}: expected {INDEX_TYPE}, got {kind[:120]!r}")
        return reply.body

    def blob(self, wanted: Descriptor) -> bytes:
        """Return the bytes of a blob, which are the ones that were asked for.

        Raises:
            ChannelError: another size or digest, a redirect to where none may lead, or no answer.
        """
        url = f"{self._base}/v2/{self.reference.repository}/blobs/{wanted.digest}"
        reply = self.request("GET", url, limit_bytes=wanted.size)
        for _hop in range(MAX_REDIRECTS):
            if reply.status not in MOVED:
                break
            url = self._next_address(url, reply.headers.get("Location", ""))
            reply = exchange("GET", url, limit_bytes=wanted.size, within_s=self._rest_s())
        if reply.status in MOVED:
            raise ChannelError(
                f"{self.reference}: {wanted.digest}: expected at most {MAX_REDIRECTS} redirects, got more"
            )
        self.expect(reply, _OK, f"blob {wanted.digest}")
        if len(reply.body) != wanted.size:
            raise ChannelError(
                f"{self.reference}: blob {wanted.digest}: expected {wanted.size} bytes, got {len(reply.body)}"
            )
        if not Digest.sha256(reply.body).equals(wanted.digest):
            raise ChannelError(f"{self.reference}: blob {wanted.digest}: got other bytes than these")
        return reply.body

    def own_address(self, location: str) -> str:
        """Return where the registry wants an upload to go, if that is at the registry itself.

        Raises:
            ChannelError: it is elsewhere: what is sent there would go along with a login.
        """
        target = _joined(f"{self._base}/v2/{self.reference.repository}/blobs/uploads/", location)
        if not target.startswith(f"{self._base}/"):
            raise ChannelError(f"{self.reference}: expected to upload to {self._base}, got {target[:200]!r}")
        return target

    def expect(self, reply: Reply, status: int, what: str) -> None:
        """Refuse an answer of another status, with the reason that the registry gives and what may help."""
        if reply.status == status:
            return
        if reply.status in MOVED:
            location = reply.headers.get("Location", "")[:200]
            raise ChannelError(
                f"{self.reference}: {what}: expected status {status}, got {reply.status} to {location!r}: "
                "redirects are not followed"
            )
        hint = None
        if reply.status in (_UNAUTHORIZED, 403):
            hint = self._withheld or "check the login: an `auth` entry of docker's configuration"
        raise ChannelError(
            f"{self.reference}: {what}: expected status {status}, got {reply.status}{_reason(reply)}",
            hint=hint,
        )

    def _send(
        self, method: str, url: str, limit_bytes: int, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        sent = dict(headers)
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        return exchange(
            method, url, limit_bytes=limit_bytes, headers=sent, body=body, within_s=self._rest_s()
        )

    def _rest_s(self) -> float:
        rest = self._deadline_s - time.monotonic()
        if rest <= 0:
            raise ChannelError(f"{self.reference}: expected the registry to be done by now")
        return rest

    def _next_address(self, url: str, location: str) -> str:
        target = _joined(url, location)
        parts, own = urllib.parse.urlsplit(target), urllib.parse.urlsplit(self._base)
        if target.startswith(f"{self._base}/"):
            return target
        if parts.scheme != "https":
            raise ChannelError(
                f"{self.reference}: a blob is redirected to {target[:200]!r}: expected https or the registry"
            )
        host = parts.hostname or ""
        if host != own.hostname and not _is_public(host):
            # else a registry could have us ask machines that only we can reach
            raise ChannelError(
                f"{self.reference}: a blob is redirected to {target[:200]!r}: expected a public name"
            )
        return target

    def _authenticate(self, reply: Reply) -> None:
        host = self.reference.host
        challenge = parse_challenge(reply.headers.get("WWW-Authenticate", ""), host=host)
        login = read_login(host, self._access.environ)
        if login is not None and self._access.plain_http and not is_loopback(self.reference.host_name):
            raise ChannelError(f"{host}: expected TLS for a login, got plain http")
        if challenge.bearer:
            self._authorization = f"Bearer {self._token(challenge, login)}"
        elif login is None:
            raise ChannelError(
                f"{host}: the registry wants a login, and there is none",
                hint=f"docker's configuration needs an `auth` entry for {host}; helpers it names are not run",
            )
        else:
            self._authorization = f"Basic {login.encoded}"

    def _token(self, challenge: Challenge, login: Login | None) -> str:
        url = self._token_address(challenge.realm)
        headers = {}
        if login is not None and self._may_have_login(url):
            headers["Authorization"] = f"Basic {login.encoded}"
        elif login is not None:
            self._withheld = (
                f"the login was not sent to the token server {_name(url)}; if it is the registry's own, pass "
                f"--token-host {_name(url)}"
            )
        actions = "pull,push" if self._access.push else "pull"
        query = {"service": challenge.service} if challenge.service else {}
        query["scope"] = f"repository:{self.reference.repository}:{actions}"
        url += f"{'&' if '?' in url else '?'}{urllib.parse.urlencode(query)}"
        reply = exchange("GET", url, limit_bytes=MAX_TOKEN_ANSWER, headers=headers, within_s=self._rest_s())
        self.expect(reply, _OK, "token")
        try:
            value = parse_json(reply.body, max_bytes=MAX_TOKEN_ANSWER)
        except FormatError as error:
            raise ChannelError(f"{self.reference}: token: {error.message}") from error
        token = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ChannelError(f"{self.reference}: token: expected one of visible characters")
        return token

    def _token_address(self, realm: str) -> str:
        parts = _split(realm)
        if "#" in realm or "@" in parts.netloc or not parts.hostname:
            raise ChannelError(
                f"{self.reference}: expected the address of a token server, got {realm[:200]!r}"
            )
        if parts.scheme != "https" and f"{parts.scheme}://{parts.netloc}" != self._base:
            raise ChannelError(f"{self.reference}: expected a token server with https, got {realm[:200]!r}")
        inward = _is_public(_name(self._base)) and not _is_public(parts.hostname)
        if inward and parts.hostname not in self._access.token_hosts:
            # a registry out there does not have us ask machines that only we can reach
            raise ChannelError(
                f"{self.reference}: expected a token server with a public name, got {realm[:200]!r}"
            )
        return realm

    def _may_have_login(self, url: str) -> bool:
        # over https a name is proven whatever its port; over http another port may be anybody's program
        if url.startswith(f"{self._base}/"):
            return True
        return _split(url).scheme == "https" and _name(url) in {
            self.reference.host_name,
            *self._access.token_hosts,
        }


def require_plain_http_allowed(host: str, *, plain_http: bool) -> None:
    """Refuse plain http to another machine unless it was asked for.

    Raises:
        UsageError: it was not.
    """
    if not plain_http and not is_loopback(host):
        raise UsageError(
            f"expected https:// for {host}, got http://",
            hint="what is published proves itself, but whoever is on the way could serve an old release that "
            "is still valid; pass --plain-http to accept that",
        )


def _joined(base: str, location: str) -> str:
    try:
        joined = urllib.parse.urljoin(base, location)
        urllib.parse.urlsplit(joined)
    except ValueError as error:
        raise ChannelError(f"expected an address, got {location[:200]!r}") from error
    return joined


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError as error:
        raise ChannelError(f"expected an address, got {url[:200]!r}") from error


def _name(url: str) -> str:
    return _split(url).hostname or ""


def _is_public(host: str) -> bool:
    return not host.endswith(".localhost") and _PUBLIC_NAME.fullmatch(host) is not None


def _reason(reply: Reply) -> str:
    # for people; the registry's own words stay out, its code is one of a known alphabet
    try:
        value = parse_json(reply.body)
    except FormatError:
        return ""
    errors = value.get("errors") if isinstance(value, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    code = first.get("code") if isinstance(first, dict) else None
    return f" {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
