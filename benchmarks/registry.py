"""10,000 registered devices: how long the list, a filter and the overview of their health take, p50 and p99.

By the functions that the command line uses, on one connection, until every device is an object in Python. Each device
has a day of records of its health.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.queries import timed

from flux.model import DeviceType
from flux.registry import list_devices, matching_devices
from flux.store.db import connect, connect_sync
from flux.store.health import health_overview
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 10_000
RECORDS = 288
ROUNDS = 40
START = datetime(2026, 1, 15, tzinfo=UTC)

_REGISTER = """
    INSERT INTO flux.mg_device_registry (name, type, site, metadata)
    SELECT s.site || '-METER-' || lpad(n::text, 5, '0'), 'meter', s.site,
           jsonb_build_object('host', '10.0.' || n / 250 || '.' || n %% 250, 'register_map', 'acuvim2_standard',
                              'meter_type', (ARRAY['grid', 'load', 'generation', 'storage'])[n %% 4 + 1],
                              'ct_ratio', 200, 'serial_number', 'AH' || n, 'manufacturer', 'AccuEnergy', 'hall', n %% 7)
    FROM generate_series(1, %s) n CROSS JOIN LATERAL (SELECT 'S' || lpad((n %% 100)::text, 2, '0')) s(site)
"""
_HEALTH = """
    INSERT INTO flux.device_health (device_id, timestamp, status, response_time_ms, last_successful_poll)
    SELECT r.id, %s::timestamptz + n * interval '5 minutes', 'online', 20, now()
    FROM flux.mg_device_registry r CROSS JOIN generate_series(1, %s) n
"""


async def ask_all(dsn: str) -> None:
    async with await connect(dsn, autocommit=True) as conn:
        await timed("list", lambda: list_devices(conn), ROUNDS)
        await timed("list of a site", lambda: list_devices(conn, site="S42"), ROUNDS)
        await timed("list of a type", lambda: list_devices(conn, type=DeviceType.METER), ROUNDS)
        await timed("filter by metadata", lambda: matching_devices(conn, "meter_type=grid,hall=3"), ROUNDS)
        await timed("health overview", lambda: health_overview(conn), ROUNDS)
        await timed("health overview of a site", lambda: health_overview(conn, site="S42"), ROUNDS)


def main() -> None:
    """Print p50 and p99 of each."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            with connect_sync(server.dsn, autocommit=True) as conn:
                conn.execute(_REGISTER, (DEVICES,))
                span = (START, START + timedelta(days=2))
                conn.execute("SELECT flux.ensure_partitions('flux.device_health', %s, %s)", span)
                conn.execute(_HEALTH, (START, RECORDS))
                conn.execute("VACUUM ANALYZE")
            asyncio.run(ask_all(server.dsn))
