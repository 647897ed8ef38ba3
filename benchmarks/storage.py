"""What a site of 5 devices needs on disk for a month: the simulator's readings, a reading a minute, rollups included.

On native partitions, and, where TimescaleDB is there (`make node-packages`), compressed by its own policies:
the same readings in both. Sizes are of tables with their indexes and TOAST, as `flux db status` shows them.
"""

import asyncio
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from tests import timescale

from flux.control.plan import ControllerPlan
from flux.devices.simulator import SimulatedSite, demo_site
from flux.edge.fast import at_interval, run_fast
from flux.local.demo import DemoFiles, register_devices, write_site_file
from flux.model import Reading
from flux.store.db import connect
from flux.store.ingest import ingest
from flux.store.lifecycle import storage_status
from flux.store.migrate import migrate
from flux.store.rollups import refresh
from flux.store.server import EmbeddedServer

START = datetime(2026, 1, 1, tzinfo=UTC)  # long enough ago for every chunk to be compressed
MINUTE = timedelta(minutes=1)
CONTROL = timedelta(seconds=15)
Sizes = dict[str, float]
AIM_MB = 100.0
AIM_RATIO = 0.1


async def simulate(conn: AsyncConnection[Any], plan: ControllerPlan | None, days: int) -> dict[str, list[Reading]]:
    """The demo's site, controlled, in fast time: the readings of each device by its name."""
    config = demo_site()
    devices = await register_devices(conn, config)
    names = {device.id: device.name for device in devices}
    made: dict[str, list[Reading]] = {name: [] for name in names.values()}

    async def sink(readings: list[Reading]) -> None:
        for reading in readings:
            made[names[reading.device_id]].append(reading)

    end = START + timedelta(days=days)
    site = SimulatedSite(config, START)
    await run_fast(site, plan, devices, START, end, control_interval=CONTROL, record_interval=MINUTE, sink=sink)
    return made


async def store(conn: AsyncConnection[Any], made: dict[str, list[Reading]]) -> None:
    """Hour by hour of all devices, as it comes in, and the rollups after each day."""
    ids = {device.name: device.id for device in await register_devices(conn, demo_site())}
    hours: dict[datetime, list[Reading]] = {}
    for name, readings in made.items():
        for reading in readings:
            hour = reading.time.replace(minute=0, second=0, microsecond=0)
            hours.setdefault(hour, []).append(replace(reading, device_id=ids[name]))
    for hour in sorted(hours):
        await ingest(conn, hours[hour])
        if hour.hour == 0:
            await refresh(conn)
    await refresh(conn)


async def sizes(conn: AsyncConnection[Any]) -> Sizes:
    """MB, of what grows with time."""
    return {s.table_name: s.bytes / 1e6 for s in await storage_status(conn) if s.oldest is not None}


async def plain_tables(dsn: str, plan: ControllerPlan | None, days: int) -> tuple[dict[str, list[Reading]], Sizes]:
    async with await connect(dsn, autocommit=True) as conn:
        made = await simulate(conn, plan, days)
        await store(conn, made)
        return made, await sizes(conn)


async def compressed(dsn: str, made: dict[str, list[Reading]]) -> Sizes:
    """By TimescaleDB's own policies, run now."""
    async with await connect(dsn, autocommit=True) as conn:
        await conn.execute("SET client_min_messages = warning")
        await store(conn, made)
        jobs = "SELECT job_id, flux.timescale('run_job') FROM timescaledb_information.jobs WHERE proc_name = %s"
        for job, run_job in await (await conn.execute(jobs, ("policy_compression",))).fetchall():
            await conn.execute(f"CALL {run_job}({job})")
        return await sizes(conn)


def main(days: int = 30) -> float:
    """Print the figures; returns MB for a month on native partitions."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        config = write_site_file(DemoFiles(Path(folder))).config
        plan = config.controller and at_interval(config.controller, CONTROL)
        with EmbeddedServer(Path(folder), fast_unsafe=True) as server:
            migrate(server.dsn)
            made, plain = asyncio.run(plain_tables(server.dsn, plan, days))
    readings, total = sum(map(len, made.values())), sum(plain.values())
    month = total * 30 / days
    print(
        f"storage: {readings:,} readings of {len(made)} devices in {days} days, {total * 1e6 / readings:.0f} bytes each"
    )
    print(f"storage: native partitions {month:.1f} MB a month, rollups included (aim < {AIM_MB:.0f} MB)")
    _print_tables(plain)
    if (why := timescale.missing()) is not None:
        print(f"storage: TimescaleDB is not measured: {why}")
        return month
    with timescale.timescale_server() as dsn:
        migrate(dsn)
        packed = asyncio.run(compressed(dsn, made))
    print(
        f"storage: TimescaleDB, compressed: {sum(packed.values()) * 30 / days:.1f} MB a month, "
        f"{sum(packed.values()) / total:.3f} × of plain (aim < {AIM_RATIO})"
    )
    _print_tables(packed)
    return month


def _print_tables(tables: Sizes) -> None:
    for name, size in sorted(tables.items(), key=lambda pair: -pair[1]):
        print(f"   {name:36}{size:8.2f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
