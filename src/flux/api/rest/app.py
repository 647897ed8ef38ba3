"""The ASGI application of ``/rest/v1``: finds the handler of a request, and answers what it says."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any

import structlog

from flux.api.identity import identity_of
from flux.api.rest.errors import ApiError
from flux.api.rest.exchange import Receive, Reply, Request, while_there
from flux.api.rest.execute import Pool
from flux.api.rest.prefer import parse_prefer
from flux.api.rest.reading import allowed, read_table
from flux.api.rest.room import Limits, Room
from flux.api.rest.root import describe_root
from flux.api.rest.rpc import call_function
from flux.api.rest.writing import write_table

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Room, Request], Awaitable[Reply]]

TABLES: Mapping[str, Handler] = {
    "GET": read_table,
    "HEAD": read_table,
    "POST": write_table,
    "PATCH": write_table,
    "PUT": write_table,
    "DELETE": write_table,
    "OPTIONS": allowed,
}
"""By method, of ``/{table}``."""
FUNCTIONS: Mapping[str, Handler] = {"GET": call_function, "HEAD": call_function, "POST": call_function}
"""Of ``/rpc/{function}``."""
ROOT: Mapping[str, Handler] = {"GET": describe_root, "HEAD": describe_root}
"""Of ``/``."""
_PERHAPS_NEW = frozenset({"PGRST200", "PGRST202", "PGRST204", "PGRST205", "42703", "42704", "42883", "42P01"})
"""Codes of names that are not known: a migration may have made them since the catalogue was read."""
_logger = structlog.get_logger(__name__)


class RestApp:
    """PostgREST's interface to schema ``flux_api``; the scope's identity says who asks."""

    def __init__(
        self, pool: Pool, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.room = Room(pool, limits or Limits(), clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a connection of type {scope['type']} came to /rest/v1")
        answering = self._answer(scope, receive, send)
        # (a write is not given up: who sent it would not know whether it was done)
        await (while_there(receive, answering) if scope["method"] in {"GET", "HEAD"} else answering)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._reply(scope, receive)
        except ApiError as error:
            reply = _refusal(error)
        await self._send(reply, send, head=scope["method"] == "HEAD")

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        handler, name = _route(scope)
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            known = key.decode("latin-1").lower()
            text = value.decode("latin-1")
            headers[known] = f"{headers[known]},{text}" if known in headers else text
        request = Request(
            method=scope["method"],
            name=name,
            query=scope["query_string"],
            headers=headers,
            prefer=parse_prefer([headers.get("prefer", "")]),
            identity=identity_of(scope),
            receive=receive,
            most_bytes=self.room.limits.body_bytes,
        )
        try:
            return await handler(self.room, request)
        except ApiError as error:
            if error.code not in _PERHAPS_NEW or not await self.room.refreshed():
                raise
        return await handler(self.room, request)

    async def _send(self, reply: Reply, send: Send, *, head: bool) -> None:
        headers = [(name.lower().encode("latin-1"), _latin(value)) for name, value in reply.headers]
        if isinstance(reply.body, bytes):
            if not head:
                headers.append((b"content-length", str(len(reply.body)).encode()))
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if head else reply.body})
            return
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async with asyncio.timeout(self.room.limits.stream_s):
            await _stream(reply.body, send)


async def _stream(chunks: AsyncGenerator[bytes, None], send: Send) -> None:
    async with aclosing(chunks):  # whatever becomes of the client, the connection goes back
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _route(scope: Scope) -> tuple[Handler, str]:
    """The handler and the name of the table or function."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    parts = [part for part in path.split("/") if part]
    method = scope["method"]
    if not parts:
        handlers, name = ROOT, ""
    elif len(parts) == 1:
        handlers, name = TABLES, parts[0]
    elif len(parts) == 2 and parts[0] == "rpc":
        handlers, name = FUNCTIONS, parts[1]
    else:
        raise ApiError(404, "PGRST125", "Invalid path specified in request URL")
    handler = handlers.get(method)
    if handler is None:
        if handlers is FUNCTIONS:
            raise ApiError(405, "PGRST101", f"Cannot use the {method} method on RPC")
        may = (("Allow", ", ".join(handlers)),)
        raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {method[:20]}", headers=may)
    return handler, name


def _refusal(error: ApiError) -> Reply:
    if error.status >= 500:
        _logger.warning("a request of /rest/v1 failed", code=error.code, cause=str(error.__cause__ or error))
    headers = (("Content-Type", "application/json; charset=utf-8"), *error.headers)
    return Reply(error.status, headers, error.body())


def _latin(value: str) -> bytes:
    """A header's value; what it cannot hold is left out."""
    return "".join(mark for mark in value if mark.isprintable()).encode("latin-1", "ignore")
