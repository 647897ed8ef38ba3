"""Who calls: the key of each request, as Supabase clients send it, before anything else is done for the caller.

The key is in ``Authorization: Bearer …``, in ``apikey``, or in both: then both are verified, and the bearer says who
calls. A socket may have it in its URL (``?apikey=``), since browsers can't set headers there; it is taken out of the
URL at once, so that no log and no error can repeat it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from starlette.types import ASGIApp, Receive, Scope, Send

from flux.api.answers import refuse
from flux.api.identity import set_identity
from flux.api.tokens import TokenError, Verifier

WITHOUT_KEY = ("/healthz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc")
SIGNED_OTHERWISE = "/v1/webhooks/"
"""What comes here is signed by its sender; see :mod:`flux.api.webhooks`."""
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
    """ASGI middleware: notes the identity of each caller; 401 for all others."""

    def __init__(self, app: ASGIApp, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        in_url = take_from_url(scope)
        if is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            await self._identify(scope, in_url)
        except TokenError as error:
            await _unauthorised(scope, send, str(error), b', error="invalid_token"', "PGRST301")
        except _NoKeyError as error:
            await _unauthorised(scope, send, str(error), b"", "PGRST302")
        else:
            await self._app(scope, receive, send)

    async def _identify(self, scope: Scope, in_url: str | None) -> None:
        sent = keys_of(scope["headers"])
        if scope["type"] == "websocket" and not sent.any:
            sent = Sent(None, in_url)
        if sent.bearer is not None and sent.apikey is not None and sent.apikey != sent.bearer:
            await self._verifier.verify(sent.apikey)
        token = sent.bearer if sent.bearer is not None else sent.apikey
        if token is None:
            where = "; a key in the URL counts on sockets alone" if in_url is not None else ""
            raise _NoKeyError(f"no key: send one as `apikey` or `Authorization: Bearer`{where}")
        set_identity(scope, await self._verifier.verify(token))


class _NoKeyError(Exception):
    """Nobody said who they are."""


async def _unauthorised(scope: Scope, send: Send, message: str, why: bytes, code: str) -> None:
    await refuse(scope, send, 401, message, code=code, headers=[(b"www-authenticate", _CHALLENGE + why)])


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
