"""Local days of 23, 24 and 25 hours, months, peaks and settlement periods."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

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
