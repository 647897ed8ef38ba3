"""What happened to each request: an id, a line in the log, and an answer where the program has a bug.

The line has no query and no header: keys and values stand there. The id is the caller's ``X-Request-Id`` where it is
a plain word, so that one request can be followed through a proxy's log and ours.
"""

import re
import secrets
from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux.api.answers import refuse, with_headers
from flux.api.identity import identity_of

_logger = structlog.get_logger(__name__)
_PROBED = "/healthz"
"""Asked every few seconds by whoever watches; told where it fails alone."""
_PLAIN = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class Observed:
    """ASGI middleware; ``monotonic`` in seconds. ``log`` False: only what went wrong is told."""

    def __init__(self, app: ASGIApp, monotonic: Callable[[], float], *, log: bool = True) -> None:
        self._app = app
        self._monotonic = monotonic
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = request_id(scope)
        scope.setdefault("state", {})["request_id"] = request
        began, status = self._monotonic(), 0
        send = with_headers(send, [(b"x-request-id", request.encode())])

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", 101 if message["type"] == "websocket.accept" else status)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            _logger.exception("a request ended with a bug", request=request, path=_path(scope))
            if status:
                raise  # the answer has begun: the server cuts it off, so that nobody takes it for whole
            await refuse(scope, receive, sending, 500, f"an error in Flux; the server's log has it as {request}")
        if status >= 500 or (self._log and scope["path"] != _PROBED):
            self._tell(scope, request, status, self._monotonic() - began)

    def _tell(self, scope: Scope, request: str, status: int, took_s: float) -> None:
        identity = identity_of(scope)
        write = _logger.warning if status >= 500 else _logger.info
        write(
            "request",
            method=scope.get("method", "SOCKET"),
            path=_path(scope),
            status=status,
            ms=round(took_s * 1000, 1),
            role=identity.role.value,
            caller=identity.name,
            address=(scope.get("client") or ("local",))[0],
            request=request,
        )


def request_id(scope: Scope) -> str:
    """The caller's, or a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _PLAIN.fullmatch(given) else secrets.token_hex(8)


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw[:500].decode("latin-1")
