"""Local days of 23, 24 and 25 hours, months, peaks and settlement periods."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import add_device, fetch

from flux.model import SETTLEMENT_PERIOD, settlement_period
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
SPRING, AUTUMN = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)


async def _hourly(conn: Conn, start: datetime, days: int) -> None:
    """A meter that counts 1 kWh an hour, read each half-hour; its power is the hour of the day in UTC."""
    meter = await add_device(conn, "M")
    await conn.execute(
        "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", [start, start + timedelta(days=days)]
    )
    await conn.execute(
        """INSERT INTO flux.mg_meter_readings (device_id, time, energy_imported_active, power_total_active)
           SELECT %s, t, extract(epoch FROM t - %s) / 3600, extract(hour FROM t AT TIME ZONE 'UTC')
           FROM generate_series(%s, %s, interval '30 minutes') t""",
        [meter, start, start, start + timedelta(days=days)],
    )
    await refresh(conn)


@pytest.mark.parametrize(("start", "day", "hours"), [(SPRING, date(2026, 3, 29), 23), (AUTUMN, date(2026, 10, 25), 25)])
async def test_days_when_the_clocks_change(db: Conn, start: datetime, day: date, hours: int) -> None:
    await _hourly(db, start, 3)
    rows = await fetch(
        db,
        "SELECT day, hours, hours_known, energy_imported_active_delta FROM flux.mg_meter_daily_totals ORDER BY day",
    )
    assert rows[1] == (day, hours, hours, pytest.approx(hours))
    periods = await fetch(
        db,
        """SELECT time_b, settlement_date, settlement_period, energy_imported_active_delta
           FROM flux.mg_meter_settlement_periods WHERE settlement_date = %s ORDER BY time_b""",
        [day],
    )
    assert [row[2] for row in periods] == list(range(1, 2 * hours + 1))
    for time_b, on, number, counted in periods:
        same = settlement_period(time_b)
        assert (same.day, same.number) == (on, number)
        assert counted == pytest.approx(SETTLEMENT_PERIOD / timedelta(hours=1))


async def test_a_local_month_and_the_zone_of_the_site(db: Conn) -> None:
    await _hourly(db, AUTUMN, 12)
    months = "SELECT month, hours, energy_imported_active_delta FROM flux.mg_meter_monthly_totals ORDER BY month"
    october, november = await fetch(db, months)
    assert october == (date(2026, 10, 1), 745.0, pytest.approx(8 * 24))
    await db.execute("UPDATE flux.sites SET timezone = 'Asia/Kolkata'")  # 5 h 30 min ahead: its month ends earlier
    october, november = await fetch(db, months)
    assert (october[2], november[2]) == (pytest.approx(8 * 24 - 5.5), pytest.approx(4 * 24 + 5.5))


async def test_daily_peaks_say_when(db: Conn) -> None:
    await _hourly(db, SPRING, 2)
    rows = await fetch(
        db,
        """SELECT day, power_total_active_max_1m, power_total_active_max_1m_at, power_total_active_max_bucket,
                  power_total_active_max_bucket_at FROM flux.mg_meter_daily_peaks ORDER BY day""",
    )
    assert rows[0] == (date(2026, 3, 28), 23.0, SPRING.replace(hour=23), 23.0, SPRING.replace(hour=23))
    # the local day of 29 March ends at 23:00 UTC
    assert rows[1][1:3] == (22.0, SPRING.replace(day=29, hour=22))


async def test_what_people_built_on_a_view_outlives_a_change_of_its_columns(db: Conn) -> None:
    put = "SELECT flux.put_view('mine', %s, 'what it is')"
    await db.execute(put, ["SELECT 1 AS a, 2 AS b"])
    await db.execute('CREATE VIEW public."of 100 %" WITH (security_invoker = true) AS SELECT a FROM flux.mine')
    await db.execute('CREATE VIEW public.further AS SELECT a + 1 AS next FROM public."of 100 %"')
    await db.execute(
        """COMMENT ON VIEW public."of 100 %" IS 'a person''s'; GRANT SELECT ON flux.mine, further TO pg_monitor"""
    )
    await db.execute(put, ["SELECT 10 AS a, 11 AS a_half, 2 AS b"])
    assert await fetch(db, "SELECT next FROM public.further") == [(11,)]
    about = """SELECT has_table_privilege('pg_monitor', c.oid, 'SELECT'), obj_description(c.oid), c.reloptions
               FROM pg_class c WHERE c.relname IN ('mine', 'of 100 %%', 'further') ORDER BY c.relname"""
    assert await fetch(db, about, []) == [
        (True, None, None),
        (True, "what it is", None),
        (False, "a person's", ["security_invoker=true"]),
    ]
    with pytest.raises(psycopg.errors.UndefinedColumn):
        await db.execute(put, ["SELECT 2 AS b"])
    assert await fetch(db, "SELECT next FROM public.further") == [(11,)], "nothing changed"
    await db.execute("CREATE MATERIALIZED VIEW public.stored AS SELECT b FROM flux.mine")
    with pytest.raises(
        psycopg.errors.DependentObjectsStillExist, match=r"public\.stored is built on flux\.mine: drop it"
    ):
        await db.execute(put, ["SELECT 2 AS b, 1 AS a"])
