"""Nothing missed, nothing twice: whatever commits in whatever order, wherever the client goes away and comes back."""

import asyncio
import random
from typing import Any

import pytest
from tests.api.live import LiveServer
from tests.api.phoenix import Phoenix, on, phoenix
from websockets.exceptions import ConnectionClosed

from flux.api.realtime.hub import TICK_S
from flux.store.db import connect
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

WRITERS = 4
FOLLOWED = on("device_groups", "INSERT", select=["name"])
INSERT = "INSERT INTO flux.device_groups (name, site) VALUES (%s, 'WLCE')"


class Roll:
    """What was committed, by the writers' own account."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.writing = True


async def write(dsn: str, roll: Roll, writer: int, transactions: int, chance: random.Random) -> None:
    """Transactions of one to three rows; a quarter is rolled back, some stay open for a while."""
    async with await connect(dsn, autocommit=True) as conn:
        for number in range(transactions):
            names = [f"{writer}/{number:04}/{row}" for row in range(chance.randint(1, 3))]
            async with conn.transaction(force_rollback=(undone := chance.random() < 0.25)):
                for name in names:
                    await conn.execute(INSERT, (name,))
                    await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
            if not undone:
                roll.committed += names


async def long_transaction(dsn: str, roll: Roll, until: asyncio.Event) -> None:
    """Begins before all others and commits after them."""
    async with await connect(dsn, autocommit=True) as conn:
        async with conn.transaction():
            await conn.execute(INSERT, ("long",))
            await until.wait()
        roll.committed.append("long")


class Follower:
    """A client that goes away without a word again and again, and comes back with the last cursor that it saw."""

    def __init__(self, live: LiveServer, chance: random.Random) -> None:
        self._live = live
        self._chance = chance
        self.heard: list[str] = []
        self.joins = 0
        self._cursor = "now"
        self.joined = asyncio.Event()

    async def run(self, roll: Roll) -> None:
        while roll.writing or len(self.heard) < len(roll.committed):
            async with phoenix(self._live, sites=["WLCE"]) as client:
                answer = await client.join(FOLLOWED, cursor=self._cursor)
                assert answer["status"] == "ok", answer
                self.joins += 1
                if self._cursor == "now":
                    self._cursor = (await client.until("broadcast"))["payload"]["cursor"]
                self.joined.set()
                await self._listen(client, roll, self._chance.randint(0, 25))
                client.connection.transport.abort()

    async def _listen(self, client: Phoenix, roll: Roll, most: int) -> None:
        for _ in range(most):
            if not roll.writing and len(self.heard) >= len(roll.committed):
                return
            message = await client.receive()
            if message[3] == "postgres_changes":
                record = message[4]["data"]["record"]
                self.heard.append(record["name"])
                self._cursor = record["_cursor"]
            elif message[3] == "broadcast" and self._chance.random() < 0.5:
                self._cursor = message[4]["payload"]["cursor"]


async def check_seams(live: LiveServer, seed: int, transactions: int, followers: int) -> list[Follower]:
    chance = random.Random(seed)
    roll, end = Roll(), asyncio.Event()
    long = asyncio.create_task(long_transaction(live.dsn, roll, end))
    listening = [Follower(live, random.Random(seed + number)) for number in range(followers)]
    tasks = [asyncio.create_task(follower.run(roll)) for follower in listening]
    for follower in listening:
        await follower.joined.wait()
    await asyncio.gather(
        *(write(live.dsn, roll, writer, transactions, random.Random(chance.random())) for writer in range(WRITERS))
    )
    end.set()
    await long
    roll.writing = False
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
    for follower in listening:
        assert sorted(follower.heard) == sorted(roll.committed)
        for writer in range(WRITERS):
            own = [name for name in follower.heard if name.startswith(f"{writer}/")]
            assert own == sorted(own), "those of one writer are in its order"
    return listening


async def test_a_stream_that_breaks_misses_nothing_and_tells_nothing_twice(live_server: LiveServer) -> None:
    (follower,) = await check_seams(live_server, seed=11, transactions=25, followers=1)
    assert follower.joins > 5


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
async def test_many_streams_that_break(live_server: LiveServer, seed: int) -> None:
    assert sum(f.joins for f in await check_seams(live_server, seed, transactions=80, followers=4)) > 60


async def test_who_leaves_the_notification_to_another_is_told_soon(live_server: LiveServer, db: Any) -> None:
    """Long before the turn that is made without any notification: both commit at once, and one of them notifies."""
    async with (
        phoenix(live_server, sites=["WLCE"]) as client,
        await connect(live_server.dsn, autocommit=True) as other,
    ):
        await client.join(FOLLOWED)
        async with other.transaction():
            async with db.transaction():
                await db.execute(INSERT, ("told",))
                await db.execute("SET CONSTRAINTS ALL IMMEDIATE")
                await other.execute(INSERT, ("not told",))
                await other.execute("SET CONSTRAINTS ALL IMMEDIATE")
            assert (await client.change())["record"]["name"] == "told"
        async with asyncio.timeout(TICK_S / 2):
            assert (await client.change())["record"]["name"] == "not told"


async def test_a_client_that_does_not_read_is_dropped_and_no_other_waits_for_it(
    live_server: LiveServer, db: Any
) -> None:
    """Its queue is 8 MiB: more than that is told, in rows of half a megabyte."""
    body = random.Random(1).randbytes(250_000).hex()
    async with phoenix(live_server) as slow, phoenix(live_server) as quick:
        for client in (slow, quick):
            await client.join(on("device_templates"), cursor="now")
        slow.connection.transport.pause_reading()
        for number in range(40):
            await db.execute("INSERT INTO flux.device_templates VALUES (%s, 'h', %s)", (f"t{number:02}", body))
            told = await quick.change()
            assert told["record"]["name"] == f"t{number:02}"
        slow.connection.transport.resume_reading()
        got: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed) as closed:
            await hear_all(slow, got)
        # (whoever does not read for long does not get as far as the reason)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1013
        last = got[-1]
        assert last["name"] < "t39"
    async with phoenix(live_server) as again:
        await again.join(on("device_templates"), cursor=last["_cursor"])
        rest = [(await again.change())["record"]["name"] for _ in range(39 - int(last["name"][1:]))]
        assert rest == [f"t{number:02}" for number in range(int(last["name"][1:]) + 1, 40)]


async def hear_all(client: Phoenix, got: list[dict[str, Any]]) -> None:
    while True:
        got.append((await client.change())["record"])


@pytest.mark.filterwarnings("ignore:ConnectionClosed:DeprecationWarning")  # of the client itself
async def test_the_official_client_misses_nothing_when_its_line_drops(live_server: LiveServer, db: Any) -> None:
    """It joins again by itself, with the cursor that it was handed last."""
    heard: list[str] = []
    states: list[str] = []
    ready = asyncio.Event()
    client = AsyncRealtimeClient(f"{live_server.url}/realtime/v1", live_server.key("authenticated", ["WLCE"]))
    parameters: Any = {"config": {"broadcast": None, "presence": None, "private": False}, "cursor": "now"}
    channel = client.channel("groups", parameters)

    def on_change(message: Any) -> None:
        record = message["data"]["record"]
        channel.join_push.update_payload({"cursor": record["_cursor"]})
        heard.append(record["name"])

    channel.on_postgres_changes(RealtimePostgresChangesListenEvent.Insert, on_change, "device_groups", "flux")

    def on_position(message: Any) -> None:
        channel.join_push.update_payload({"cursor": message["payload"]["cursor"]})
        ready.set()

    channel.on_broadcast("cursor", on_position)
    await channel.subscribe(lambda state, _: states.append(state.value))
    async with asyncio.timeout(20):
        await ready.wait()
        for number in range(30):
            await db.execute(INSERT, (f"{number:02}",))
            if number in (5, 6, 20) and client._ws_connection is not None:
                client._ws_connection.transport.abort()
        while len(heard) < 30:
            await asyncio.sleep(0.01)
    await client.close()
    assert heard == [f"{number:02}" for number in range(30)]
    assert states.count("SUBSCRIBED") >= 2


async def test_a_server_that_stops_waits_for_no_client_that_does_not_read(live_server: LiveServer, db: Any) -> None:
    body = random.Random(1).randbytes(250_000).hex()
    async with phoenix(live_server) as deaf, phoenix(live_server) as quick:
        for client in (deaf, quick):
            await client.join(on("device_templates"))
        deaf.connection.transport.pause_reading()
        for number in range(12):
            await db.execute("INSERT INTO flux.device_templates VALUES (%s, 'h', %s)", (f"t{number:02}", body))
            await quick.change()
        async with asyncio.timeout(8):
            await asyncio.to_thread(live_server.stop)
        with pytest.raises(ConnectionClosed) as closed:
            await quick.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        deaf.connection.transport.abort()
