"""Answers that are given before any endpoint is asked: to HTTP in JSON, to a socket before it is opened."""

import json
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.types import Scope, Send

_AS_POSTGREST = "/rest/v1"
_NO_ROOM = 1013
"""What a socket is closed with by a server that can't say it in HTTP: try again later."""


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with an error: ``{"message"}``, and under /rest/v1 as PostgREST's clients read it."""
    body = json.dumps(_body(scope, message, code)).encode()
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _NO_ROOM, "reason": message[:100]})
        return
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    start: MutableMapping[str, Any] = {
        "type": f"{kind}.start",
        "status": status,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ],
    }
    await send(start)
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


def _body(scope: Scope, message: str, code: str | None) -> dict[str, str | None]:
    if not scope["path"].startswith(_AS_POSTGREST):
        return {"message": message}
    return {"code": code, "message": message, "details": None, "hint": None}
