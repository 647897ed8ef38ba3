"""Readings joined with market data."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, fetch

from flux.model import CommandSource, DeviceId, MarketDataType, MarketValue
from flux.store.correlate import correlate, points
from flux.store.ingest import ingest
from flux.store.market import upsert

Conn = AsyncConnection[Any]
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
JOINED = """SELECT time, type, value FROM flux.bess_with_market(%s, %s, ARRAY[%s::uuid], ARRAY[3], as_then => %s)
            ORDER BY time"""


def market(
    type: int, minute: float, value: float, *, known: float | None = None, site: str | None = None
) -> MarketValue:
    known_at = NOON + (minute if known is None else known) * MINUTE
    return MarketValue(type=type, time=NOON + minute * MINUTE, value=value, known_at=known_at, site=site)


async def battery_in(db: Conn, *readings: tuple[float, float, int]) -> DeviceId:
    """The same inside a transaction, which ingest will not have."""
    device = await add_device(db, "WLCE-BESS-01", "bess")
    await db.execute("SELECT flux.ensure_partitions('flux.mg_bess_readings', %s, %s)", (NOON, NOON))
    for at, kw, source in readings:
        await db.execute(
            "INSERT INTO flux.mg_bess_readings (device_id, time, target_power, command_source) VALUES (%s, %s, %s, %s)",
            (device, NOON + at * MINUTE, kw, source),
        )
    return device


async def battery(db: Conn, *readings: tuple[float, float, int]) -> DeviceId:
    """A battery with readings: minute after noon, target power, command source."""
    device = await add_device(db, "WLCE-BESS-01", "bess")
    await ingest(
        db,
        [
            bess_reading(device, NOON + at * MINUTE, target_power=kw, command_source=source)
            for at, kw, source in readings
        ],
    )
    return device


async def joined(db: Conn, device: DeviceId, *, as_then: bool) -> list[tuple[float, float | None]]:
    rows = await fetch(db, JOINED, (NOON - HOUR, NOON + 3 * HOUR, device, as_then))
    return [((time - NOON) / MINUTE, value) for time, _, value in rows]


async def test_a_value_is_in_force_for_its_settlement_period(db: Conn) -> None:
    device = await battery(db, *((minute, 10, 1) for minute in (-1, 0, 29, 30, 59, 60)))
    await upsert(db, [market(3, 0, 50), market(3, 30, 60)])
    expected = [(-1, None), (0, 50), (29, 50), (30, 60), (59, 60), (60, None)]
    assert await joined(db, device, as_then=False) == expected


async def test_as_then_shows_nothing_before_it_was_known(db: Conn) -> None:
    device = await battery(db, *((minute, 10, 1) for minute in (0, 14, 15, 40)))
    await upsert(db, [market(3, 0, 50, known=15), market(3, 0, 99, known=25), market(3, 30, 70, known=45)])
    assert await joined(db, device, as_then=True) == [(0, None), (14, None), (15, 50), (40, None)]
    assert await joined(db, device, as_then=False) == [(0, 99), (14, 99), (15, 99), (40, 70)]


async def test_a_sites_own_value_goes_before(db: Conn) -> None:
    device = await battery(db, (5, 10, 1))
    await add_device(db, "N", site="HMCE")
    await upsert(db, [market(3, 0, 50), market(3, 0, 70, site="WLCE"), market(3, 0, 90, site="HMCE")])
    for as_then in (False, True):
        assert await joined(db, device, as_then=as_then) == [(5, 70)]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 100), st.integers(-9, 9)), unique_by=lambda v: v[:2]),
    now=st.integers(0, 90),
    later=st.lists(st.tuples(st.integers(-2, 3), st.integers(1, 60), st.integers(-9, 9)), max_size=8),
)
async def test_nothing_known_later_changes_what_was_seen_then(
    db: Conn, values: list[tuple[int, int, int]], now: int, later: list[tuple[int, int, int]]
) -> None:
    """Readings until ``now`` are joined; then whatever becomes known after it, of any time; they see the same."""
    seen = []
    async with db.transaction(force_rollback=True):
        device = await battery_in(db, *((minute, 10, 1) for minute in range(0, 91, 10)))
        await upsert(db, [market(3, 30 * half, value, known=known) for half, known, value in values if known <= now])
        for _ in range(2):
            seen.append([row for row in await joined(db, device, as_then=True) if row[0] <= now])
            await upsert(db, [market(3, 30 * half, value, known=now + after) for half, after, value in later])
        assert seen[0] == seen[1]
        in_force = {minute: _plainly(values, minute, now) for minute, _ in seen[0]}
        assert dict(seen[0]) == in_force


def _plainly(values: list[tuple[int, int, int]], minute: float, now: int) -> float | None:
    """The value of the half hour that holds ``minute``, stated last of those known by then."""
    known = [v for v in values if v[1] <= min(minute, now) and v[0] == minute // 30]
    return float(max(known, key=lambda v: v[1])[2]) if known else None


async def test_a_type_says_how_long_its_values_hold(db: Conn) -> None:
    device = await battery(db, (89, 10, 1), (90, 10, 1))
    await db.execute("UPDATE flux.market_data_types SET holds = '90 minutes' WHERE id = 3")
    await upsert(db, [market(3, 0, 50)])
    assert await joined(db, device, as_then=False) == [(89, 50), (90, None)]


async def test_the_join_is_by_index(db: Conn) -> None:
    """However long the history: it reads as many of its rows as it joins."""
    device = await battery(db, *((minute, 10, 1) for minute in range(20)))
    await upsert(db, [market(3, -30 * n, n) for n in range(2000)])
    await db.execute("ANALYZE flux.market_data, flux.market_data_history")
    for as_then in (False, True):
        plan = await fetch(
            db, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + JOINED, (NOON, NOON + HOUR, device, as_then)
        )
        buffers = plan[0][0][0]["Plan"]["Shared Hit Blocks"]
        assert buffers < 20 * 15, plan  # a few pages for each of 20 readings, of the forty and more that the table has


async def test_what_the_battery_earned_at_which_price(db: Conn) -> None:
    chase, idle = CommandSource.NIV_CHASE, CommandSource.MANUAL
    minutes = [(m, -60, chase) for m in range(30)] + [(m, 30, chase) for m in range(30, 60)]
    device = await battery(db, *minutes, (60, 0, idle), (61, 0, idle))
    niv = MarketDataType.NIV
    await upsert(db, [market(3, 0, 20), market(3, 30, 100), market(niv, 0, -300), market(niv, 30, 200)])
    every, manual, chasing = await correlate(db, NOON, NOON + 2 * HOUR, devices=[device])
    assert (every.every_source, manual.command_source, chasing.command_source) == (True, idle, chase)
    assert (chasing.readings, chasing.with_price, every.with_price) == (60, 60, 60)
    assert chasing.hours == pytest.approx(1)
    assert [chasing.charged_kwh, chasing.discharged_kwh] == pytest.approx([30, 15])
    assert [chasing.charge_price, chasing.discharge_price] == pytest.approx([20, 100])
    assert [chasing.mean_price, chasing.share_short] == pytest.approx([60, 0.5])
    assert [chasing.power_price_corr, chasing.power_niv_corr] == pytest.approx([1, 1])
    assert (manual.mean_price, manual.power_price_corr, manual.discharge_price) == (None, None, None)
    assert len(await points(db, NOON, NOON + 2 * HOUR)) == 62


async def test_a_gap_counts_ten_minutes(db: Conn) -> None:
    device = await battery(db, (0, 60, 1), (120, 60, 1))
    every, _ = await correlate(db, NOON, NOON + 3 * HOUR, devices=[device])
    assert every.discharged_kwh == pytest.approx(10)
