"""Frames at random: each is answered or ends its socket, and the server goes on for everybody else."""

import asyncio
import json
import logging
import random
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.api.live import LiveServer
from tests.api.phoenix import on, phoenix
from websockets.exceptions import ConnectionClosed

TOPICS = ["realtime:a", "realtime:b", "realtime:", "phoenix", "x", "realtime:\ud800"]
EVENTS = ["phx_join"] * 4 + ["phx_leave", "heartbeat", "access_token", "broadcast", "presence", "shout", "\x00"]
TABLES: list[Any] = ["alerts", "market_data", "mg_device_registry", "*", None, {}, "a\x00b"]
FILTERS: list[Any] = [
    None,
    4,
    "id=eq.1",
    "id=eq.99999999999999999999",
    "metadata=eq.{",
    'metadata=eq."{}"',
    "text=like.\\",
]
FILTERS += ["raised_at=lt.infinity", "time=gte.294277-01-01", "value=gt.NaN", "site=in.()", "id=in.(1,2", "id=is.null"]
FILTERS += ["text=neq.\ud800", "site=eq.\x00", "a=b", "metadata=eq." + "[" * 3000 + "]" * 3000]
CURSORS: list[Any] = [None, None, "now", "x", "0a1b2c3d/1:1:", 1, [1], {}]


def frame(chance: random.Random) -> str | bytes:
    kind = chance.random()
    if kind < 0.005:
        return chance.randbytes(40)
    any_of = chance.choice
    bindings = [
        {
            "event": any_of(["*", "INSERT", 1]),
            "table": any_of(TABLES),
            "filter": any_of(FILTERS),
            "select": any_of([None, ["id"], [], "id"]),
            "cursor": any_of(CURSORS),
        }
        for _ in range(chance.randint(0, 2))
    ]
    payload: Any = {
        "config": any_of([None, 3, *[{"postgres_changes": bindings}] * 8]),
        "cursor": any_of(CURSORS),
        "access_token": any_of([None] * 8 + ["", "x", 5, "\ud800.a.b"]),
    }
    written = json.dumps([any_of([None, "1"]), any_of([None, "1", 2]), any_of(TOPICS), any_of(EVENTS), payload])
    return written if kind < 0.99 else written[: chance.randint(0, 60)]


@pytest.mark.parametrize("frames", [200, pytest.param(10_000, marks=pytest.mark.long)])
async def test_frames_at_random(module_server: LiveServer, frames: int) -> None:
    chance, left, errors = random.Random(7), frames, _Errors()
    logging.getLogger("uvicorn.error").addHandler(errors)
    with capture_logs() as logged:
        while left > 0:
            async with phoenix(module_server) as client:
                reading = asyncio.create_task(_read(client.connection))
                with suppress(ConnectionClosed):
                    for _ in range(min(left, 60)):
                        left -= 1
                        await client.connection.send(frame(chance))
                    await client.connection.close()
                await reading
        async with phoenix(module_server) as client:
            assert (await client.join(on("alerts")))["status"] == "ok"
    logging.getLogger("uvicorn.error").removeHandler(errors)
    assert errors.found == []
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


async def _read(connection: Any) -> None:
    with suppress(ConnectionClosed):
        async for _ in connection:
            pass
