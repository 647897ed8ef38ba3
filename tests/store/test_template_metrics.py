"""What templates say reaches the database: register widths, ranges, and rollups that follow a template that changes."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs
from tests.support import NOON, add_device, fetch, meter_reading

from flux.store.ingest import ingest
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
MINUTE = timedelta(minutes=1)
WIDTH = 429_496_729.6
BODY = """
type: meter
manufacturer: Somebody
registers:
  - {name: energy_imported_active, address: 10, type: uint16, scale: 1, unit: kWh}
  - {name: power_total_active, address: 20, type: float32, unit: kW, min: -50, max: %s}
"""


async def store_template(conn: Conn, name: str, body: str) -> None:
    await conn.execute(
        """INSERT INTO flux.device_templates (name, hash, body) VALUES (%(name)s, md5(%(body)s), %(body)s)
           ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, body = excluded.body""",
        {"name": name, "body": body},
    )


async def test_the_width_of_a_register_is_known_from_the_template_that_comes_with_flux(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"register_map": "acuvim2_standard"})
    values = [WIDTH - 1, WIDTH - 0.5, 0.25, 0.75, 1, 1, 1, 1, 1]
    await ingest(db, [meter_reading(meter, NOON + k * MINUTE, energy_imported_active=v) for k, v in enumerate(values)])
    await refresh(db)
    assert await fetch(db, "SELECT kind, step FROM flux.counter_events") == [("rollover", pytest.approx(0.75))]


async def test_every_counter_of_a_built_in_template_has_its_width(db: Conn) -> None:
    rows = await fetch(
        db, "SELECT DISTINCT template, width, resolution FROM flux.template_metrics WHERE metric LIKE 'energy%%'"
    )
    assert rows == [("acuvim2_standard", WIDTH, 0.1)]
    assert await fetch(
        db, "SELECT lowest, highest FROM flux.template_metrics WHERE metric = 'power_factor_total' AND signed"
    ) == [(-1.0, 1.0)]


async def test_a_width_in_the_metadata_goes_before_and_ratios_multiply(db: Conn) -> None:
    query = "SELECT flux.counter_width(%s::jsonb, 'energy_imported_active')"
    assert await fetch(db, query, ['{"register_map": "acuvim2_standard", "counter_width": 1000}']) == [(1000.0,)]
    await db.execute("UPDATE flux.template_metrics SET ratio = 'ct'")
    assert await fetch(db, query, ['{"register_map": "acuvim2_standard", "ct_ratio": 4}']) == [(4 * WIDTH,)]
    assert await fetch(db, query, ['{"register_map": "unheard of"}']) == [(None,)]


async def test_a_stored_template_is_followed_by_the_next_refresh(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"register_map": "mine"})
    batch = [meter_reading(meter, NOON + k * MINUTE, power_total_active=p) for k, p in enumerate([10.0, 70.0, 20.0])]
    await ingest(db, batch)
    await refresh(db)
    peak = "SELECT power_total_active_max, power_total_active_avg, samples FROM flux.mg_meter_readings_1h"
    assert await fetch(db, peak) == [(70.0, pytest.approx(100 / 3), 3)]
    await store_template(db, "mine", BODY % 60)
    await refresh(db)
    assert await fetch(db, peak) == [(20.0, 15.0, 3)], "the reading is there, its implausible power is left out"
    assert await fetch(db, "SELECT metric, reason, value, marked_by FROM flux.reading_marks") == [
        ("power_total_active", "range", 70.0, "flux")
    ]
    await store_template(db, "mine", BODY % 80)
    await refresh(db)
    assert await fetch(db, peak) == [(70.0, pytest.approx(100 / 3), 3)]
    assert await fetch(db, "SELECT 1 FROM flux.reading_marks") == []


async def test_a_stored_template_that_cannot_be_read_is_told_once(db: Conn) -> None:
    await store_template(db, "broken", "registers: 7")
    with capture_logs() as logs:
        await refresh(db)
        await refresh(db)
    assert [log["template"] for log in logs] == ["broken"]


async def test_a_meter_mounted_the_wrong_way_round_has_its_ranges_turned(db: Conn) -> None:
    await store_template(db, "mine", BODY % 80)
    meter = await add_device(db, "M", metadata={"register_map": "mine", "invert": True})
    batch = [meter_reading(meter, NOON + k * MINUTE, power_total_active=p) for k, p in enumerate([-70.0, 40.0, 70.0])]
    await ingest(db, batch)
    await refresh(db)
    assert await fetch(db, "SELECT value FROM flux.reading_marks") == [(70.0,)]
