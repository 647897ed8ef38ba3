"""Axle's dispatch as market data, and what the store can tell Axle of a site."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import add_device, bess_reading, meter_reading

from flux.control.state import ScheduleStep
from flux.errors import NotFoundError
from flux.model import MarketDataType
from flux.store.axle import dispatch_values, newest_telemetry
from flux.store.ingest import ingest
from flux.store.market import market_values, upsert

Conn = AsyncConnection[Any]
SOON = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=5)
MINUTE = timedelta(minutes=1)


async def battery(db: Conn, name: str = "WLCE-BESS-01", **metadata: Any) -> Any:
    return await add_device(db, name, "bess", metadata={"max_power_kw": 100, "capacity_kwh": 500} | metadata)


def step(first: float, last: float, action: str) -> ScheduleStep:
    return ScheduleStep(SOON + first * MINUTE, SOON + last * MINUTE, action)


async def asked(db: Conn) -> list[tuple[float, float]]:
    stored = await market_values(
        db, [MarketDataType.AXLE_DISPATCH], SOON - timedelta(days=1), SOON + timedelta(days=1), site="WLCE"
    )
    return [((value.time - SOON) / MINUTE, value.value) for value in stored]


async def test_full_power_at_each_half_hour_and_nothing_after(db: Conn) -> None:
    await battery(db)
    await battery(db, "WLCE-BESS-02", max_power_kw=50)
    steps = [step(10, 70, "charge_max"), step(70, 90, "discharge_max"), step(90, 120, "avoid_import")]
    await upsert(db, await dispatch_values(db, "WLCE", steps))
    assert await asked(db) == [(10, -150), (30, -150), (60, -150), (70, 150), (90, 0)]


async def test_what_was_withdrawn_becomes_nothing(db: Conn) -> None:
    await battery(db)
    await upsert(db, await dispatch_values(db, "WLCE", [step(0, 30, "discharge_max"), step(60, 90, "charge_max")]))
    await upsert(db, await dispatch_values(db, "WLCE", [step(60, 90, "charge_max")]))
    assert await asked(db) == [(0, 0), (30, 0), (60, -100), (90, 0)]


async def test_batteries_of_unknown_power_give_none(db: Conn) -> None:
    await add_device(db, "WLCE-BESS-01", "bess")
    assert await dispatch_values(db, "WLCE", [step(0, 30, "discharge_max")]) == []


async def test_telemetry_of_a_site(db: Conn) -> None:
    now = datetime.now(UTC)
    grid, storage = await add_device(db, "GRID"), await add_device(db, "STORAGE")
    first, second = await battery(db), await battery(db, "WLCE-BESS-02", capacity_kwh=1500)
    await ingest(
        db,
        [
            meter_reading(grid, now - 2 * MINUTE, power_total_active=1.0),
            meter_reading(grid, now - MINUTE, power_total_active=12.5),
            meter_reading(storage, now - MINUTE, power_total_active=-40.0),
            bess_reading(first, now - MINUTE, soe=100.0),
            bess_reading(second, now - 1.2 * MINUTE, soe=20.0),
        ],
    )
    names = {"site_meter": "GRID", "bess": ["WLCE-BESS-01", "WLCE-BESS-02"], "bess_meter": ["STORAGE"]}
    found = await newest_telemetry(db, "WLCE", **names)  # type: ignore[arg-type]  # names, one and several
    assert found == [
        ("boundary_import_kw", now - MINUTE, 12.5),
        ("battery_inverter_import_kw", now - MINUTE, -40.0),
        ("battery_state_of_charge_pct", now - 1.2 * MINUTE, pytest.approx(40.0)),  # by what they hold
    ]


async def test_old_readings_and_unlike_times_are_left_out(db: Conn) -> None:
    now = datetime.now(UTC)
    grid, first, second = await add_device(db, "GRID"), await battery(db, "A"), await battery(db, "B")
    await ingest(
        db,
        [
            meter_reading(grid, now - 6 * MINUTE, power_total_active=1.0),
            bess_reading(first, now - MINUTE, soe=50.0),
            bess_reading(second, now - 4 * MINUTE, soe=50.0),
        ],
    )
    assert await newest_telemetry(db, "WLCE", site_meter="GRID", bess=["A", "B"]) == []
    with pytest.raises(NotFoundError, match="site WLCE has no device NOPE"):
        await newest_telemetry(db, "WLCE", site_meter="NOPE", bess=["A"])
