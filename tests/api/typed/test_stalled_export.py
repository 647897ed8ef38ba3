"""A client that asks for a file and does not read it keeps no connection of the database."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.types import Message

from flux.api.typed.transfer import _Streamed


async def test_what_is_not_read_is_given_up() -> None:
    ended = asyncio.Event()
    begun: list[str] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"a piece"
        finally:
            ended.set()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        begun.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # as a full socket

    class Impatient(_Streamed):
        stalled_s = 0.01

    scope: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/v1/export"}
    await asyncio.wait_for(Impatient(pieces(), "text/csv", {})(scope, receive, send), 5)
    assert ended.is_set()
    assert begun == ["http.response.start", "http.response.body"]
