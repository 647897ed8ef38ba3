"""The queries that a dashboard asks, p50 and p99: 24 h of 5 minutes of one device, a month of 30 minutes of a site.

A site of five meters with a month of readings of 25 metrics, durable settings; each query is asked of another day or
device each time, by the functions that API and CLI use, all columns, and counts until its rows are in Python.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.rollups import CLEAN, START, add_devices, fill
from psycopg import AsyncConnection

from flux.store import queries
from flux.store.db import connect, connect_sync
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 5
DAYS = 31
ROUNDS = 200


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99, ms."""
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


async def timed(name: str, ask: Callable[[], Awaitable[list[Any]]], rounds: int) -> None:
    rows = 0
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        rows = len(await ask())
        seconds.append(time.perf_counter() - began)
    p50, p99 = percentiles(seconds)
    print(f"{name}: {rows:,} rows, p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def ask_all(dsn: str, rounds: int) -> None:
    chance = random.Random(1)
    async with await connect(dsn, autocommit=True) as conn:
        devices = [row[0] for row in await (await conn.execute("SELECT id FROM flux.mg_device_registry")).fetchall()]

        async def rollup(level: str, days: int, ids: list[Any]) -> list[Any]:
            start = START + timedelta(days=chance.randrange(DAYS - days + 1))
            return await fetch(conn, level, start, start + timedelta(days=days), ids)

        await timed("24 h of 5m of one device", lambda: rollup("5m", 1, [chance.choice(devices)]), rounds)
        await timed("a month of 30m of a site of 5", lambda: rollup("30m", DAYS, devices), max(rounds // 10, 20))
        await timed("a month of 1h of one device", lambda: rollup("1h", DAYS, [chance.choice(devices)]), rounds)
        await timed("newest readings of a site", lambda: queries.latest_readings(conn, site="WLCE"), rounds)


async def fetch(conn: AsyncConnection[Any], level: str, start: Any, end: Any, ids: list[Any]) -> list[Any]:
    """All columns; the level is one of ours."""
    cursor = await conn.execute(f"SELECT * FROM flux.get_meter_readings_{level}(%s, %s, %s::uuid[])", (start, end, ids))
    return await cursor.fetchall()


def main(rounds: int = ROUNDS) -> None:
    """Print p50 and p99 of each query."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            with connect_sync(server.dsn, autocommit=True) as conn:
                add_devices(conn, DEVICES)
                span = (START, START + timedelta(days=DAYS))
                conn.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", span)
                fill(conn, DEVICES, 0, DAYS * 1440, CLEAN.counter)
                conn.execute("CALL flux.refresh_rollups()")
                conn.execute("VACUUM ANALYZE")
            asyncio.run(ask_all(server.dsn, rounds))


if __name__ == "__main__":
    main()
