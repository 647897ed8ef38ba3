"""A client of the channel protocol that hides nothing: frames of version 2.0.0, as supabase-js sends them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.api.live import LiveServer
from websockets.asyncio.client import ClientConnection, connect

TOPIC = "realtime:fleet"
WAIT_S = 10


class Phoenix:
    """One socket. ``heard``: messages that were passed over while another one was waited for."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[list[Any]] = []
        self._ref = 0

    async def send(self, event: str, payload: dict[str, Any] | None = None, topic: str = TOPIC) -> str:
        """Returns the ref."""
        self._ref += 1
        join_ref = None if topic == "phoenix" else "1"
        await self.connection.send(json.dumps([join_ref, str(self._ref), topic, event, payload or {}]))
        return str(self._ref)

    async def receive(self) -> list[Any]:
        async with asyncio.timeout(WAIT_S):
            return list(json.loads(await self.connection.recv()))

    async def until(self, event: str, topic: str = TOPIC) -> dict[str, Any]:
        """The payload of the next message of this event."""
        while True:
            message = await self.receive()
            if message[2:4] == [topic, event]:
                return dict(message[4])
            self.heard.append(message)

    async def ask(self, event: str, payload: dict[str, Any] | None = None, topic: str = TOPIC) -> dict[str, Any]:
        """The payload of the reply: status and response."""
        ref = await self.send(event, payload, topic)
        while True:
            message = await self.receive()
            if message[3] == "phx_reply" and message[1] == ref:
                return dict(message[4])
            self.heard.append(message)

    async def join(self, *bindings: dict[str, Any], topic: str = TOPIC, **more: Any) -> dict[str, Any]:
        """The reply, after the server said that changes are being told (where it accepted)."""
        answer = await self.ask("phx_join", {"config": {"postgres_changes": list(bindings)}, **more}, topic)
        if answer["status"] == "ok" and bindings:
            assert (await self.until("system", topic))["message"] == "Subscribed to PostgreSQL"
        return answer

    async def change(self) -> dict[str, Any]:
        """The next change: its data."""
        return dict((await self.until("postgres_changes"))["data"])

    async def changes(self, count: int) -> list[dict[str, Any]]:
        return [await self.change() for _ in range(count)]


def on(table: str = "*", event: str = "*", **more: Any) -> dict[str, Any]:
    """A subscription."""
    return {"event": event, "schema": "flux", "table": table, **more}


@asynccontextmanager
async def phoenix(
    live: LiveServer, key: str | None = None, *, role: str = "authenticated", sites: Any = None
) -> AsyncIterator[Phoenix]:
    """An open socket with this key in its URL, or one of this role and these sites."""
    token = key or live.key(role, sites)
    url = f"ws://127.0.0.1:{live.port}/realtime/v1/websocket?apikey={token}&vsn=2.0.0"
    async with connect(url, max_size=None) as connection:
        yield Phoenix(connection)
