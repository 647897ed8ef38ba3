"""Answers that are given before any endpoint is asked: to HTTP in JSON, to a socket before it is opened."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

_AS_POSTGREST = "/rest/v1"
_TRY_LATER = 1013
"""What a socket is closed with by a server that can't say it in HTTP."""
_DRAIN_S = 1.0
_DRAIN_BYTES = 4 * 2**20
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with an error: ``{"message"}``, and under /rest/v1 as PostgREST's clients read it."""
    body = json.dumps(_body(scope, message, code)).encode()
    length = (b"content-length", b"%d" % len(body))
    closing = _has_body(scope)
    end = [(b"connection", b"close")] if closing else []
    start = {"status": status, "headers": [(b"content-type", b"application/json"), length, *headers, *end]}
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _TRY_LATER, "reason": message[:100]})
            return
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    shown = b"" if scope["method"] == "HEAD" else body
    if not closing:
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": shown})
        return
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": shown, "more_body": True})
    if status != HTTPStatus.REQUEST_TIMEOUT:
        await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    """Read some of what is still coming: closing at once would reset the connection before the answer is read."""
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while read < _DRAIN_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _body(scope: Scope, message: str, code: str | None) -> dict[str, str | None]:
    if not scope["path"].startswith(_AS_POSTGREST):
        return {"message": message}
    return {"code": code, "message": message, "details": None, "hint": None}


def with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """``send`` that adds these to the answer."""
    if not headers:
        return send

    async def sending(message: Message) -> None:
        if message["type"] in _STARTS:
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sending
