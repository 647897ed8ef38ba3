"""supabase-js follows changes: what it hears is what plain SQL finds, and a cut in the middle loses nothing."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests import clients
from tests.api.live import LiveServer
from tests.support import NOON, fetch

pytestmark = pytest.mark.skipif(clients.missing() is not None, reason=f"JavaScript: {clients.missing()}")
Conn = AsyncConnection[Any]
PATIENCE_S = 20


class Follower:
    """A node process with one client; what it tells is kept until it is asked for."""

    def __init__(self, node: asyncio.subprocess.Process) -> None:
        self._node = node

    def tell(self, **told: Any) -> None:
        assert self._node.stdin is not None
        self._node.stdin.write(json.dumps(told).encode() + b"\n")

    async def next(self) -> dict[str, Any]:
        """The next thing that it tells, whatever it is."""
        assert self._node.stdout is not None
        line = await asyncio.wait_for(self._node.stdout.readline(), PATIENCE_S)
        if not line:
            raise EOFError("node has ended")
        told: dict[str, Any] = json.loads(line)
        return told

    async def hear(self, kind: str) -> Any:
        """The next thing of this kind."""
        while kind not in (told := await self.next()):
            pass
        return told[kind]

    async def changes(self, count: int) -> list[dict[str, Any]]:
        return [await self.hear("change") for _ in range(count)]


@asynccontextmanager
async def following(server: LiveServer, key: str, *changes: dict[str, str]) -> AsyncIterator[Follower]:
    """A client that is told of these changes of market data from here on."""
    node = await asyncio.create_subprocess_exec(
        "node",
        "follow.mjs",
        cwd=clients.HERE,
        env={"PATH": os.environ["PATH"], "FLUX_URL": server.url, "FLUX_KEY": key},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.stdin is not None
    follower = Follower(node)
    try:
        asked = [{"schema": "public", "table": "market_data", **change} for change in changes]
        follower.tell(do="follow", changes=asked, cursor="now")
        await follower.hear("ready")
        yield follower
    finally:
        node.stdin.close()
        await asyncio.wait_for(node.wait(), PATIENCE_S)


async def put(db: Conn, number: int, *, site: str | None = None, type: int = 5) -> int:
    """A row of market data; its id."""
    ((row_id,),) = await fetch(
        db,
        "INSERT INTO flux.market_data (time, type, value, site) VALUES (%s, %s, %s, %s) RETURNING id",
        (NOON + timedelta(minutes=number), type, number + 0.25, site),
    )
    return int(row_id)


async def row_of(db: Conn, id: int) -> Any:
    ((row,),) = await fetch(db, "SELECT row_to_json(m)::text FROM flux.market_data m WHERE id = %s", (id,))
    return json.loads(row)


def same(heard: Any, row: Any) -> bool:
    """Times may be written with another number of zeros."""
    return all(heard.get(name) == value or name in {"time", "known_at"} for name, value in row.items())


@pytest.fixture
async def sites(db: Conn) -> None:
    await db.execute("SET TimeZone = 'UTC'")
    await db.execute("INSERT INTO flux.sites (site) VALUES ('WLCE'), ('HMCE')")


async def test_it_hears_each_kind_of_change_by_its_filter(db: Conn, sites: None, live_server: LiveServer) -> None:
    asked = (
        {"event": "INSERT", "filter": "type=eq.5"},
        {"event": "UPDATE", "filter": "value=gt.100"},
        {"event": "DELETE"},
    )
    async with following(live_server, live_server.key("authenticated"), *asked) as follower:
        await put(db, 1, type=2)  # not asked for
        row_id = await put(db, 2)
        (inserted,) = await follower.changes(1)
        assert (inserted["eventType"], inserted["table"]) == ("INSERT", "market_data")
        assert same(inserted["new"], await row_of(db, row_id)), inserted
        await db.execute("UPDATE flux.market_data SET value = 50 WHERE id = %s", (row_id,))  # not asked for
        await db.execute("UPDATE flux.market_data SET value = 150 WHERE id = %s", (row_id,))
        (updated,) = await follower.changes(1)
        assert (updated["eventType"], updated["new"]["value"]) == ("UPDATE", 150)
        assert same(updated["new"], await row_of(db, row_id)), updated
        await db.execute("DELETE FROM flux.market_data WHERE id = %s", (row_id,))
        # a trigger notes when a value was known, which is a change of its own
        while (deleted := await follower.hear("change"))["eventType"] == "UPDATE":
            pass
        assert (deleted["eventType"], deleted["old"]["id"]) == ("DELETE", row_id)


async def test_another_key_shows_another_site_from_then_on(db: Conn, sites: None, live_server: LiveServer) -> None:
    first, second = (live_server.key("authenticated", [site]) for site in ("WLCE", "HMCE"))
    async with following(live_server, first, {"event": "INSERT"}) as follower:
        await put(db, 1, site="HMCE")
        ours = await put(db, 2, site="WLCE")
        (heard,) = await follower.changes(1)
        assert heard["new"]["id"] == ours
        follower.tell(do="token", token=second)
        await follower.hear("token")
        number = 3
        theirs: list[int] = []
        while not theirs:  # it is taken up with the next turn: ask until it is
            row_id = await put(db, number, site="HMCE")
            await put(db, number, site=None)
            for _ in range(2):
                heard = await follower.hear("change")
                theirs += [heard["new"]["id"]] if heard["new"]["site"] == "HMCE" else []
                if heard["new"]["site"] is None:
                    break
            number += 1
        assert theirs == [row_id]
        await put(db, 99, site="WLCE")
        await put(db, 100, site="HMCE")
        (heard,) = await follower.changes(1)
        assert heard["new"]["site"] == "HMCE"


async def test_a_cut_in_the_middle_of_a_stream_loses_nothing(db: Conn, sites: None, live_server: LiveServer) -> None:
    async with following(live_server, live_server.key("authenticated"), {"event": "*"}) as follower:
        stored = [await put(db, number) for number in range(20)]
        heard = {change["new"]["id"] for change in await follower.changes(10)}
        follower.tell(do="cut")
        stored += [await put(db, number) for number in range(20, 40)]  # while it is away, and while it comes back
        stored += [await put(db, number) for number in range(40, 60)]
        states = []
        while heard < set(stored):
            told = await follower.next()
            states += [told["status"]] if "status" in told else []
            if "change" in told:
                heard.add(told["change"]["new"]["id"])
        assert heard == set(stored)
        assert states[0] == "CHANNEL_ERROR"
        assert states[-1] == "SUBSCRIBED"
