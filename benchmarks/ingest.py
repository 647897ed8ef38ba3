"""Ingest against a bare binary COPY: the same rows, the same table with its key, foreign key and trigger.

Bare COPY gets tuples made beforehand, checks nothing and stops at the first duplicate; ingest gets readings. Both run
in the same server with durable settings, alternately, each round in weeks of its own; the figures are medians.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql

from flux.model import METER_METRICS, DeviceId, MeterReading, MetricKind
from flux.store.db import connect
from flux.store.ingest import KIND_BY_NAME, ingest
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 1000
BATCH = 5000
AIM = 0.6
START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(weeks=1)


def make_readings(devices: Sequence[UUID], start: datetime, count: int) -> list[MeterReading]:
    """``count`` readings of all devices, a minute apart, with every metric."""
    levels = {m.name: 12.25 + i for i, m in enumerate(METER_METRICS) if m.kind is MetricKind.LEVEL}
    counters = [m.name for m in METER_METRICS if m.kind is MetricKind.COUNTER]
    readings = []
    for number in range(count):
        minute, device = divmod(number, len(devices))
        values = levels | {name: 123_456.78 + minute * 0.25 + i for i, name in enumerate(counters)}
        instant = start + timedelta(minutes=minute, microseconds=device)
        readings.append(MeterReading(device_id=DeviceId(devices[device]), time=instant, **values))
    return readings


async def add_devices(conn: AsyncConnection[Any], count: int) -> list[UUID]:
    cursor = await conn.execute(
        """INSERT INTO flux.mg_device_registry (name, type, site)
           SELECT 'METER-' || n, 'meter', 'WLCE' FROM generate_series(1, %s) n RETURNING id""",
        (count,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def bare_copy(conn: AsyncConnection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
    """The fastest thing that one can do with these rows."""
    kind = KIND_BY_NAME["meter"]
    columns = sql.SQL(", ").join(sql.Identifier(m.name) for m in kind.metrics)
    statement = sql.SQL("COPY flux.mg_meter_readings (device_id, time, {}) FROM STDIN (FORMAT binary)").format(columns)
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(kind.copy_types[1:])
        for row in rows:
            await copy.write_row(row)


async def measure(dsn: str, rows: int, rounds: int) -> tuple[float, float]:
    """Median rows/s of bare COPY and of ingest."""
    seconds: dict[str, list[float]] = {"bare": [], "ingest": []}
    values = KIND_BY_NAME["meter"].values
    async with await connect(dsn, autocommit=True) as conn:
        devices = await add_devices(conn, DEVICES)
        for number in range(2 * rounds):
            readings = make_readings(devices, START + number * WEEK, rows)
            tuples = [values(reading) for reading in readings]
            first, last = readings[0].time, readings[-1].time
            await conn.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (first, last))
            await conn.execute("CHECKPOINT")
            # A B B A: what drifts while it runs (cache, disk) falls on both alike
            way = "bare" if number % 4 in (0, 3) else "ingest"
            began = time.perf_counter()
            for at in range(0, rows, BATCH):
                if way == "bare":
                    await bare_copy(conn, tuples[at : at + BATCH])
                else:
                    await ingest(conn, readings[at : at + BATCH])
            seconds[way].append(time.perf_counter() - began)
    bare, ours = (rows / statistics.median(seconds[way]) for way in ("bare", "ingest"))
    return bare, ours


def main(rows: int = 200_000, rounds: int = 4) -> float:
    """Print the ratio and return it."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            bare, ours = asyncio.run(measure(server.dsn, rows, rounds))
    ratio = ours / bare
    print(f"ingest: {ours:,.0f} rows/s, bare COPY {bare:,.0f} rows/s: ratio {ratio:.2f} (aim ≥ {AIM})")
    return ratio


if __name__ == "__main__":
    main()
