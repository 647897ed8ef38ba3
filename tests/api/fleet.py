"""Two sites with something in every table that API clients read: what their tests look at, and what must not show.

Everything of HMCE carries the word ``CANARY``, so that it is found wherever it comes out.
"""

import asyncio
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, meter_reading

from flux.model import BessReading, MeterReading
from flux.store import rollups
from flux.store.db import connect
from flux.store.ingest import ingest

MINUTES = 60
"""Of readings, one a minute, the last one at noon."""
CANARY = "CANARY"

DEVICES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("WLCE-BESS-01", "bess", "WLCE", {"manufacturer": "Tesla", "capacity_kwh": 500, "max_power_kw": 105}),
    ("WLCE-GRID-METER", "meter", "WLCE", {"manufacturer": "Accuenergy", "meter_type": "grid", "phases": 3}),
    ("WLCE-SOLAR-METER", "meter", "WLCE", {"meter_type": "generation", "note": 'roof "B", 12% (tilted)'}),
    ("HMCE-BESS-01", "bess", "HMCE", {"manufacturer": CANARY, "capacity_kwh": 250}),
    ("HMCE-GRID-METER", "meter", "HMCE", {"meter_type": "grid", "note": CANARY}),
)


def fill_fleet(dsn: str) -> None:
    """:func:`add_fleet`, for tests that are not async."""

    async def fill() -> None:
        async with await connect(dsn, application_name="test", autocommit=True) as db:
            await add_fleet(db)

    asyncio.run(fill())


async def add_fleet(db: AsyncConnection[Any]) -> None:
    """Devices, an hour of readings with rollups, health, groups, market data and decisions."""
    ids = {name: await add_device(db, name, kind, site=site, metadata=meta) for name, kind, site, meta in DEVICES}
    await db.execute("UPDATE flux.sites SET name = %s WHERE site = 'HMCE'", (CANARY,))
    readings: list[BessReading | MeterReading] = []
    for number, (name, kind, _, _) in enumerate(DEVICES):
        for minute in range(MINUTES + 1):
            time = NOON - timedelta(minutes=MINUTES - minute)
            if kind == "bess":
                values = {"soe": 50 + minute / 4, "target_power": -20.125 * number, "command_source": minute % 5}
                readings.append(bess_reading(ids[name], time, **values))
            else:
                power = 60.0 - 0.5 * minute
                counter = 1000.0 * number + minute
                readings.append(
                    meter_reading(ids[name], time, power_total_active=power, energy_imported_active=counter)
                )
    await ingest(db, readings)
    await rollups.refresh(db)
    await _add_health_and_groups(db)
    await _add_market_and_decisions(db)


async def _add_health_and_groups(db: AsyncConnection[Any]) -> None:
    for table in ("device_health", "control_decisions"):
        await db.execute(
            "SELECT flux.ensure_partitions(%s, %s, %s)", (f"flux.{table}", NOON - timedelta(hours=1), NOON)
        )
    await db.execute(
        """INSERT INTO flux.device_health (device_id, timestamp, status, response_time_ms, error_count, diagnostics)
           SELECT d.id, %(noon)s - n * interval '5 minutes', (ARRAY['online', 'degraded', 'offline'])[1 + n %% 3],
                  nullif(n, 2) * 1.5, n,
                  jsonb_build_object('site', coalesce(s.name, d.site), 'tags', ARRAY['a', n::text])
           FROM flux.mg_device_registry d JOIN flux.sites s USING (site), generate_series(0, 3) n""",
        {"noon": NOON},
    )
    await db.execute(
        """INSERT INTO flux.device_groups (name, site, metadata) VALUES
           ('WLCE batteries', 'WLCE', '{"purpose": "peak"}'), ('HMCE CANARY', 'HMCE', '{"purpose": "CANARY"}'),
           ('both sites', 'ALL', '{}')"""
    )
    await db.execute(
        """INSERT INTO flux.device_group_members (group_id, device_id, role, priority)
           SELECT g.id, d.id, (ARRAY['primary', 'backup'])[row_number() OVER (PARTITION BY g.id ORDER BY d.name)],
                  row_number() OVER (PARTITION BY g.id ORDER BY d.name)
           FROM flux.device_groups g JOIN flux.mg_device_registry d
             ON d.type = 'bess' AND (g.name = 'both sites' OR starts_with(g.name, d.site))"""
    )


async def _add_market_and_decisions(db: AsyncConnection[Any]) -> None:
    await db.execute(
        """INSERT INTO flux.market_data (time, type, value, metadata, site)
           SELECT %(noon)s - n * interval '30 minutes', 2, 71.25 - n, '{"source": "simulated"}', NULL
           FROM generate_series(0, 7) n
           UNION ALL
           SELECT %(noon)s - n * interval '30 minutes', 4, 40 + n, jsonb_build_object('of', coalesce(name, site)), site
           FROM flux.sites, generate_series(0, 1) n""",
        {"noon": NOON},
    )
    await db.execute(
        """INSERT INTO flux.control_decisions (time, device_id, target_power_kw, command_source, active, effective,
               limits, reason, stale, events, faults, plan_hash, inputs)
           SELECT %(noon)s - n * interval '1 minute', id, 10 * n, 3, '{import_avoidance,niv_chase}',
                  'import_avoidance', CASE n WHEN 0 THEN '{}' ELSE '{inverter,soe_max}'::text[] END,
                  'of ' || coalesce(s.name, d.site), false, '{}', '{}', 'a-plan', '{}'
           FROM flux.mg_device_registry d JOIN flux.sites s USING (site), generate_series(0, 2) n
           WHERE type = 'bess'""",
        {"noon": NOON},
    )
