"""Who calls: the key of each request, as Supabase clients send it, before anything else is done for the caller.

The key is in ``Authorization: Bearer …``, in ``apikey``, or in both: then both are verified, and the bearer says who
calls. A socket may have it in its URL (``?apikey=``), since browsers can't set headers there; it is taken out of the
URL at once, so that no log and no error can repeat it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from starlette.types import ASGIApp, Receive, Scope, Send

from flux.api.answers import refuse, with_headers
from flux.api.identity import Identity, set_identity
from flux.api.limits import Limiter, TooManySocketsError, headers_of
from flux.api.tokens import TokenError, Verifier

WITHOUT_KEY = ("/healthz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc")
SIGNED_OTHERWISE = "/v1/webhooks/"
"""What comes here is signed by its sender; see :mod:`flux.api.webhooks`."""
UNLIMITED = ("/healthz",)
"""Asked by load balancers, as often as they like."""
_SOCKET_RETRY_S = 10
_PARAMETER = "apikey"
_CHALLENGE = b'Bearer realm="flux"'


@dataclass(frozen=True, slots=True)
class Sent:
    """The keys of one request; None: not there. ``in_url`` counts on sockets alone."""

    bearer: str | None
    apikey: str | None

    @property
    def any(self) -> bool:
        return self.bearer is not None or self.apikey is not None


class Access:
    """ASGI middleware: notes who calls, and answers who has no valid key, or asks too much."""

    def __init__(self, app: ASGIApp, verifier: Verifier, limiter: Limiter) -> None:
        self._app = app
        self._verifier = verifier
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        in_url = take_from_url(scope)
        if scope["path"] in UNLIMITED:
            await self._app(scope, receive, send)
            return
        refusal, identity = None, None
        if not is_open(scope["path"]):
            try:
                identity = await self._identify(scope, in_url)
            except TokenError as error:
                refusal = _Refusal(str(error), "PGRST301", b', error="invalid_token"')
            except _NoKeyError as error:
                refusal = _Refusal(str(error), "PGRST302")
        await self._within_limits(scope, receive, send, identity, refusal)

    async def _within_limits(
        self, scope: Scope, receive: Receive, send: Send, identity: Identity | None, refusal: "_Refusal | None"
    ) -> None:
        standing = self._limiter.take(scope, identity)
        told = headers_of(standing) if standing is not None else []
        if standing is not None and not standing.allowed:
            message = f"too many requests; come back in {standing.retry_in_s} s"
            await refuse(scope, receive, send, 429, message, headers=told)
        elif refusal is not None:
            told.append((b"www-authenticate", _CHALLENGE + refusal.challenge))
            await refuse(scope, receive, send, 401, refusal.message, code=refusal.code, headers=told)
        elif scope["type"] == "http":
            await self._app(scope, receive, with_headers(send, told))
        else:
            await self._socket(scope, receive, with_headers(send, told), identity)

    async def _socket(self, scope: Scope, receive: Receive, send: Send, identity: Identity | None) -> None:
        try:
            with self._limiter.socket(scope, identity):
                await self._app(scope, receive, send)
        except TooManySocketsError as error:
            await refuse(scope, receive, send, 429, str(error), headers=[(b"retry-after", b"%d" % _SOCKET_RETRY_S)])

    async def _identify(self, scope: Scope, in_url: str | None) -> Identity:
        sent = keys_of(scope["headers"])
        if scope["type"] == "websocket" and not sent.any:
            sent = Sent(None, in_url)
        if sent.bearer is not None and sent.apikey is not None and sent.apikey != sent.bearer:
            await self._verifier.verify(sent.apikey)
        token = sent.bearer if sent.bearer is not None else sent.apikey
        if token is None:
            where = "; a key in the URL counts on sockets alone" if in_url is not None else ""
            raise _NoKeyError(f"no key: send one as `apikey` or `Authorization: Bearer`{where}")
        identity = await self._verifier.verify(token)
        set_identity(scope, identity)
        return identity


@dataclass(frozen=True, slots=True)
class _Refusal:
    message: str
    code: str
    challenge: bytes = b""


class _NoKeyError(Exception):
    """Nobody said who they are."""


def is_open(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in WITHOUT_KEY or path.startswith(SIGNED_OTHERWISE)


def keys_of(headers: Iterable[tuple[bytes, bytes]]) -> Sent:
    """The keys in the headers of a request. TokenError where a header comes twice with different ones."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name not in (b"authorization", b"apikey"):
            continue
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            scheme, _, text = text.partition(" ")
            if scheme.lower() != "bearer" or not text.strip():
                raise TokenError("the Authorization header is not `Bearer` and a key")
            text = text.strip()
        if found.setdefault(name, text) != text:
            raise TokenError("two different keys in headers of one name")
    return Sent(found.get(b"authorization"), found.get(b"apikey"))


def take_from_url(scope: Scope) -> str | None:
    """Remove ``apikey`` from the request's URL, and return it."""
    query = scope.get("query_string", b"")
    if _PARAMETER.encode() not in query.lower() and b"%" not in query:
        return None
    kept, found = [], None
    for part in query.split(b"&"):
        name = part.partition(b"=")[0]
        if unquote_plus(name.decode("latin-1")).lower() == _PARAMETER:
            ((_, found),) = parse_qsl(part.decode("latin-1"), keep_blank_values=True) or ((_PARAMETER, ""),)
        else:
            kept.append(part)
    if found is not None:
        scope["query_string"] = b"&".join(kept)
    return found
