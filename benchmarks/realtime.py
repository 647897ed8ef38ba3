"""Realtime: 500 subscribers on one server process, and what noting changes costs those who write.

The server is a process of its own; its subscribers, and the one who commits, share another, so that commit and
delivery are read off one clock. The delay is from the moment before COMMIT to the whole message at the subscriber.
"""

import asyncio
import multiprocessing
import socket
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.ingest import DEVICES, START, WEEK, add_devices, make_readings
from psycopg import AsyncConnection
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket

from flux.api.app import create_app
from flux.api.identity import Role
from flux.api.serving import Listening, make_server
from flux.api.tokens import Verifier, issue_token
from flux.config import Settings
from flux.store.db import connect
from flux.store.ingest import ingest
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

SECRET = b"the secret of the benchmark's server, long enough"
SUBSCRIBERS = 500
_JOIN = (
    '["1","1","realtime:fleet","phx_join",{"config":{"postgres_changes":'
    '[{"event":"INSERT","schema":"flux","table":"mg_meter_readings"}]}}]'
)


def serve(dsn: str, home: Path, listening: socket.socket) -> None:
    """The server's process."""
    settings = Settings(
        home=home, jwt_secret=SecretStr(SECRET.decode()), max_sockets=2000, max_sockets_per_key=2000, access_log=False
    )
    clock = now
    app = create_app(dsn, settings, Verifier([SECRET], clock), clock=clock)
    make_server(app, Listening()).run([listening])


def now() -> datetime:
    return datetime.now(UTC)


class Subscriber:
    """One socket that counts: when each message came, by the clock of whoever commits."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.arrivals: list[float] = []
        self.arrived = asyncio.Event()

    async def join(self) -> None:
        await self._connection.send(_JOIN)
        while "Subscribed" not in str(await self._connection.recv()):
            pass

    async def listen(self) -> None:
        async for message in self._connection:
            if b"postgres_changes" in (message if isinstance(message, bytes) else message[:60].encode()):
                self.arrivals.append(time.perf_counter())
                self.arrived.set()


async def delays(dsn: str, port: int, commits: int, every_s: float) -> list[float]:
    """Seconds from commit to each subscriber, of every commit."""
    token = issue_token(SECRET, role=Role.SERVICE, name="b", issued_at=now(), expires_at=now() + timedelta(hours=1))
    url = f"ws://127.0.0.1:{port}/realtime/v1/websocket?vsn=2.0.0&apikey={token}"
    async with AsyncExitStack() as stack, await connect(dsn, autocommit=True) as conn:
        subscribers = []
        for _ in range(SUBSCRIBERS):
            subscriber = Subscriber(
                await stack.enter_async_context(open_socket(url, compression=None, open_timeout=60))
            )
            await subscriber.join()
            subscribers.append(subscriber)
        tasks = [asyncio.create_task(subscriber.listen()) for subscriber in subscribers]
        cursor = await conn.execute("SELECT id FROM flux.mg_device_registry LIMIT 1")
        ((device,),) = await cursor.fetchall()
        found = []
        for number in range(commits):
            committed = await _commit_one(conn, device, number)
            async with asyncio.timeout(30):
                for subscriber in subscribers:
                    await subscriber.arrived.wait()
                    subscriber.arrived.clear()
            found += [subscriber.arrivals[-1] - committed for subscriber in subscribers]
            await asyncio.sleep(every_s)
        assert all(len(subscriber.arrivals) == commits for subscriber in subscribers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def _commit_one(conn: AsyncConnection[Any], device: UUID, number: int) -> float:
    async with conn.transaction():
        insert = "INSERT INTO flux.mg_meter_readings (device_id, time, frequency) VALUES (%s, %s, 50)"
        await conn.execute(insert, (device, START + 9 * WEEK + timedelta(seconds=number)))
        return time.perf_counter()  # what follows is COMMIT


async def costs(dsn: str, rounds: int, bulk: int) -> tuple[float, float]:
    """Time with the log by time without it: of a minute of 1,000 devices, and of one statement of ``bulk`` rows."""
    minutes: dict[bool, list[float]] = {True: [], False: []}
    bulks: dict[bool, list[float]] = {True: [], False: []}
    async with await connect(dsn, autocommit=True) as conn:
        devices = await add_devices(conn, DEVICES)
        table = "flux.mg_meter_readings"
        await conn.execute(f"SELECT flux.ensure_partitions('{table}', %s, %s)", (START, START + 10 * WEEK))
        for number in range(4 * rounds):
            noted = number % 4 in (0, 3)
            await conn.execute(f"ALTER TABLE {table} {'ENABLE' if noted else 'DISABLE'} TRIGGER log_added")
            batches = [make_readings(devices, START + timedelta(minutes=20 * number + n), DEVICES) for n in range(20)]
            began = time.perf_counter()
            for batch in batches:
                await ingest(conn, batch)
            minutes[noted].append(time.perf_counter() - began)
        for number in range(4):
            noted = number % 4 in (0, 3)
            await conn.execute(f"ALTER TABLE {table} {'ENABLE' if noted else 'DISABLE'} TRIGGER log_added")
            begin = START + (number + 2) * WEEK
            began = time.perf_counter()
            await conn.execute(
                f"""INSERT INTO {table} (device_id, time, frequency, power_total_active, energy_imported_active)
                    SELECT d, %s::timestamptz + n * interval '1 minute', 50, 7, n
                    FROM unnest(%s::uuid[]) d, generate_series(1, %s) n""",
                (begin, devices, bulk // len(devices)),
            )
            bulks[noted].append(time.perf_counter() - began)
    return tuple(statistics.median(of[True]) / statistics.median(of[False]) for of in (minutes, bulks))  # type: ignore[return-value]


async def writers(dsn: str, rounds: int, connections: int = 8, seconds: float = 2.0) -> float:
    """Readings that ``connections`` writers commit one by one, in the same time, with the log by without it."""
    counts: dict[bool, list[int]] = {True: [], False: []}
    async with await connect(dsn, autocommit=True) as conn:
        cursor = await conn.execute("SELECT id FROM flux.mg_device_registry LIMIT %s", (connections,))
        devices = [device for (device,) in await cursor.fetchall()]
        for number in range(2 * rounds):
            noted = number % 4 in (0, 3)
            await conn.execute(
                f"ALTER TABLE flux.mg_meter_readings {'ENABLE' if noted else 'DISABLE'} TRIGGER log_added"
            )
            begin = START + 8 * WEEK + number * timedelta(hours=8)
            counts[noted].append(
                sum(await asyncio.gather(*(_write(dsn, device, begin, seconds) for device in devices)))
            )
        await conn.execute("ALTER TABLE flux.mg_meter_readings ENABLE TRIGGER log_added")
    return statistics.median(counts[True]) / statistics.median(counts[False])


async def _write(dsn: str, device: UUID, begin: datetime, seconds: float) -> int:
    insert = "INSERT INTO flux.mg_meter_readings (device_id, time, frequency) VALUES (%s, %s, 50)"
    count, end = 0, time.monotonic() + seconds
    async with await connect(dsn, autocommit=True) as conn:
        while time.monotonic() < end:
            await conn.execute(insert, (device, begin + timedelta(seconds=count)))
            count += 1
    return count


def main(commits: int = 100, every_s: float = 0.1, rounds: int = 4, bulk: int = 1_000_000) -> None:
    """Print the delays and the ratios."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            minute, million = asyncio.run(costs(server.dsn, rounds, bulk))
            print(f"noting changes: a minute of {DEVICES:,} devices takes {minute:.2f} × the time without, ", end="")
            print(f"one statement of {bulk:,} rows {million:.2f} ×")
            many = asyncio.run(writers(server.dsn, rounds))
            print(f"8 writers of single readings commit {many:.2f} × as many as without")
            with socket.create_server(("127.0.0.1", 0), backlog=SUBSCRIBERS) as listening:
                context = multiprocessing.get_context("spawn")
                process = context.Process(target=serve, args=(server.dsn, Path(folder), listening))
                process.start()
                try:
                    found = sorted(asyncio.run(delays(server.dsn, listening.getsockname()[1], commits, every_s)))
                finally:
                    process.terminate()
                    process.join(20)
    p50, p99 = (1000 * found[int(len(found) * part)] for part in (0.5, 0.99))
    print(f"realtime: {SUBSCRIBERS} subscribers, commit to delivery {p50:.0f} ms (p50), {p99:.0f} ms (p99)")


if __name__ == "__main__":
    main()
