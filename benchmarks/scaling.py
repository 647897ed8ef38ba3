"""What one machine carries: ingest by one, two and four sessions, refresh by one and two, bytes per reading and bucket.

Sessions are processes of their own, as edges and workers are. Durable settings; readings of 25 metrics.
"""

import asyncio
import multiprocessing
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.ingest import BATCH, WEEK, add_devices, make_readings
from benchmarks.rollups import START

from flux.store.db import connect, connect_sync
from flux.store.ingest import ingest
from flux.store.migrate import migrate
from flux.store.rollups import LEVELS, refresh
from flux.store.server import EmbeddedServer

DEVICES = 200
ROWS = 100_000


def feed(dsn: str, devices: list[Any], week: int, started: Any, done: Any) -> None:
    """Ingest ROWS readings of these devices, when all are ready."""
    readings = make_readings(devices, START + week * WEEK, ROWS)

    async def run() -> None:
        async with await connect(dsn, autocommit=True) as conn:
            started.wait()
            for at in range(0, len(readings), BATCH):
                await ingest(conn, readings[at : at + BATCH])

    asyncio.run(run())
    done.put(time.perf_counter())


def work(dsn: str, started: Any, done: Any) -> None:
    """Refresh until nothing is left."""

    async def run() -> None:
        async with await connect(dsn, autocommit=True) as conn:
            started.wait()
            await refresh(conn, max_devices=20)

    asyncio.run(run())
    done.put(time.perf_counter())


def together(jobs: list[tuple[Any, tuple[Any, ...]]]) -> float:
    """Seconds from the moment that all processes are ready until the last one is done."""
    context = multiprocessing.get_context("spawn")
    started, done = context.Barrier(len(jobs) + 1), context.Queue()
    processes = [context.Process(target=target, args=(*args, started, done)) for target, args in jobs]
    for process in processes:
        process.start()
    started.wait()
    began = time.perf_counter()
    for _ in processes:
        done.get(timeout=900)
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return seconds


def ingest_by(dsn: str, devices: list[Any], sessions: int, week: int) -> None:
    share = len(devices) // sessions
    parts = [devices[at * share : (at + 1) * share] for at in range(sessions)]
    seconds = together([(feed, (dsn, part, week)) for part in parts])
    print(f"scaling: ingest by {sessions}: {ROWS * sessions / seconds:,.0f} rows/s", flush=True)


def refresh_by(dsn: str, sessions: int, readings: int) -> None:
    seconds = together([(work, (dsn,))] * sessions)
    print(f"scaling: refresh by {sessions}: {readings / seconds:,.0f} readings/s, all three levels", flush=True)


def sizes(dsn: str) -> None:
    """Bytes per row with its keys, uncompressed."""
    query = """
        SELECT coalesce(sum(pg_total_relation_size(t.relid)), pg_total_relation_size(%(name)s::regclass))
        FROM pg_partition_tree(%(name)s::regclass) t WHERE t.isleaf"""
    with connect_sync(dsn, autocommit=True) as conn:
        for table in ("mg_meter_readings", *(level.table for level in LEVELS)):
            ((size,),) = conn.execute(query, {"name": f"flux.{table}"}).fetchall()
            ((rows,),) = conn.execute(f"SELECT count(*) FROM flux.{table}".encode()).fetchall()
            print(f"scaling: {table}: {size / rows:,.0f} bytes/row ({rows:,} rows)", flush=True)


def main() -> None:
    """Print what was measured."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            devices = asyncio.run(_devices(server.dsn))
            with connect_sync(server.dsn, autocommit=True) as conn:
                span = (START, START + timedelta(weeks=8))
                conn.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", span)
            for number, sessions in enumerate((1, 2, 4)):
                # devices of their own: where a counter falls over a gap of weeks, a refresh has other work to do
                ingest_by(server.dsn, devices[number * DEVICES : (number + 1) * DEVICES], sessions, 2 * number)
                refresh_by(server.dsn, min(sessions, 2), sessions * ROWS)
            sizes(server.dsn)


async def _devices(dsn: str) -> list[Any]:
    async with await connect(dsn, autocommit=True) as conn:
        return list(await add_devices(conn, 3 * DEVICES))


if __name__ == "__main__":
    main()
