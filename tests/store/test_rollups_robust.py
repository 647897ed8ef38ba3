"""Nothing that one device has, metadata or readings, stops the rollups of the others."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs
from tests.support import NOON, add_device, fetch, meter_reading

from flux.store.ingest import ingest
from flux.store.rollups import lag, refresh

Conn = AsyncConnection[Any]
MINUTE = timedelta(minutes=1)


async def counted(conn: Conn, device: Any) -> float | None:
    query = "SELECT sum(energy_imported_active_delta) FROM flux.mg_meter_readings_1h WHERE device_id = %s"
    ((total,),) = await fetch(conn, query, [device])
    return None if total is None else float(total)


async def falling(conn: Conn, device: Any) -> None:
    """A restart from zero, which is judged by the metadata: 5 kWh in all."""
    values = [1000.0, 1001.0, 0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    await ingest(
        conn, [meter_reading(device, NOON + i * MINUTE, energy_imported_active=v) for i, v in enumerate(values)]
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {"gap_limit": "99999999999999999999h"},
        {"gap_limit": "9000000d"},
        {"gap_limit": "1m1m"},
        {"gap_limit": "-5h"},
        {"gap_limit": "a day"},
        {"gap_limit": 5},
        {"gap_limit": ["1h"]},
        {"power_stuck_after": "for ever"},
        {"register_map": "of nobody"},
        {"counter_width": -1},
        {"counter_width": 10**400},
        {"counter_widths": {"energy_imported_active": 10**400}},
        {"counter_widths": "wide"},
    ],
    ids=lambda metadata: str(metadata)[:40],
)
async def test_metadata_that_cannot_be_meant_counts_as_not_given(db: Conn, metadata: dict[str, Any]) -> None:
    meter, other = await add_device(db, "M"), await add_device(db, "N")
    async with db.transaction():
        await db.execute("SET LOCAL session_replication_role = replica")  # past the trigger that refuses it
        await db.execute("UPDATE flux.mg_device_registry SET metadata = %s WHERE id = %s", (Jsonb(metadata), meter))
    await falling(db, meter)
    await falling(db, other)
    await refresh(db)
    assert (await counted(db, meter), await counted(db, other)) == (5.0, 5.0)
    assert await lag(db) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("36h", 129_600), ("1h30m", 5400), ("5m3h", 11_100), ("1.5 H", 5400), ("1m", 600), ("900d", 31_622_400)],
)
async def test_gap_limits_read_as_durations_do(db: Conn, text: str, seconds: float) -> None:
    assert await fetch(db, "SELECT flux.gap_limit_seconds(%s)", [Jsonb({"gap_limit": text})]) == [(seconds,)]


async def test_numbers_beyond_what_can_be_summed_stop_their_device_only(db: Conn) -> None:
    names = ["A", "B", "C"]
    meters = [await add_device(db, name) for name in names]
    for meter in meters:
        await falling(db, meter)
    huge = [1.7e308 if i % 8 == 7 else 0.0 for i in range(30)]  # up and back to zero, again and again
    broken = meters[1]
    await ingest(
        db, [meter_reading(broken, NOON + (30 + i) * MINUTE, energy_imported_active=v) for i, v in enumerate(huge)]
    )
    with capture_logs() as logs:
        await refresh(db)
    assert [await counted(db, meter) for meter in meters] == [5.0, None, 5.0]
    assert [(log["log_level"], str(broken) in log["problem"]) for log in logs] == [("warning", True)]
    failures = await fetch(db, "SELECT device_id FROM flux.rollup_devices WHERE failure LIKE '%overflow%'")
    assert failures == [(broken,)]
    assert await lag(db) is not None, "and it shows that something is not in the rollups"

    await db.execute("CALL flux.refresh_rollups()")  # ends, though there is something left
    await db.execute(
        """SELECT flux.delete_readings(device_id, time, time + interval '1 second')
           FROM flux.mg_meter_readings WHERE energy_imported_active > 1e9"""
    )
    await db.execute("UPDATE flux.rollup_devices SET failed_at = failed_at - interval '6 minutes'")
    await refresh(db)
    assert await counted(db, broken) == 5.0
    assert await fetch(db, "SELECT 1 FROM flux.rollup_devices WHERE failure IS NOT NULL OR failed_at IS NOT NULL") == []
    assert await lag(db) is None


async def test_noting_all_time_of_a_device_without_readings_notes_nothing(db: Conn) -> None:
    meter = await add_device(db, "M")
    await db.execute("SELECT flux.note_rollup_change(%s, '-infinity', 'infinity')", (meter,))
    assert await lag(db) is None


async def test_a_time_limit_of_the_role_does_not_stop_a_refresh(db: Conn) -> None:
    meter = await add_device(db, "M")
    await falling(db, meter)
    await db.execute("SET statement_timeout = '1ms'")
    report = await refresh(db)
    await db.execute("SET statement_timeout = 0")
    assert report.devices == 1
    assert await counted(db, meter) == 5.0
