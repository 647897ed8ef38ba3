"""A backtest from the store: the meters' rollups and the market as it became known."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg import AsyncConnection
from tests.support import add_device, meter_reading
from typer.testing import CliRunner

from flux.analysis.known import Release
from flux.analysis.stored import releases_of, site_of
from flux.cli.app import app
from flux.devices.simulator.profiles import to_us
from flux.errors import NotFoundError
from flux.model import MarketDataType, MarketValue
from flux.store import rollups
from flux.store.ingest import ingest
from flux.store.market import upsert

UTC_ZONE = ZoneInfo("UTC")
START = datetime(2026, 1, 14, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
Conn = AsyncConnection[Any]


async def meter(db: Conn, name: str, kind: str, powers_kw: list[float]) -> None:
    """A meter through some hours at so many kW each, read every five minutes; − is out of what it meters."""
    device = await add_device(db, name, metadata={"meter_type": kind})
    imported = exported = 1000.0
    readings = []
    for number in range(12 * len(powers_kw) + 1):
        readings.append(
            meter_reading(
                device,
                START + number * 5 * MINUTE,
                energy_imported_active=imported,
                energy_exported_active=exported,
            )
        )
        power_kw = powers_kw[min(number // 12, len(powers_kw) - 1)]
        imported, exported = imported + max(power_kw, 0) / 12, exported + max(-power_kw, 0) / 12
    await ingest(db, readings)


@pytest.fixture
async def site(db: Conn) -> Conn:
    """Four hours: 30 kW of load, 0 then 50 kW of sun, and a battery that gave 10 kW and took 10 kW."""
    await meter(db, "GRID", "grid", [20.0, 20.0, -10.0, -10.0])
    await meter(db, "SUN", "generation", [0.0, 0.0, -50.0, -50.0])
    await meter(db, "BATTERY", "storage", [-10.0, -10.0, 10.0, 10.0])
    await rollups.refresh(db)
    return db


def powers(profile: Any) -> list[float]:
    return [round(profile.at(to_us(START + hour * HOUR + 7 * MINUTE))[0], 6) for hour in range(4)]


async def test_the_load_is_what_the_other_meters_leave(site: Conn) -> None:
    found = await site_of(site, "WLCE", START, START + 4 * HOUR, UTC_ZONE)
    assert powers(found.load) == [30.0] * 4
    assert powers(found.solar) == [0.0, 0.0, 50.0, 50.0]
    assert found.missing == 0


async def test_a_meter_at_the_load_goes_before(site: Conn) -> None:
    await meter(site, "LOAD", "load", [31.0, 32.0, 33.0, 34.0])
    await rollups.refresh(site)
    found = await site_of(site, "WLCE", START, START + 4 * HOUR, UTC_ZONE, load_scale=2.0)
    assert powers(found.load) == [62.0, 64.0, 66.0, 68.0]


async def test_what_is_missing_is_counted(site: Conn) -> None:
    found = await site_of(site, "WLCE", START, START + 6 * HOUR, UTC_ZONE)
    assert found.missing == 23, "the reading of 04:00 opens a bucket"
    with pytest.raises(NotFoundError, match="have nothing from"):
        await site_of(site, "WLCE", START + 48 * HOUR, START + 49 * HOUR, UTC_ZONE)
    with pytest.raises(NotFoundError, match="site HMCE has neither a meter at its load"):
        await site_of(site, "HMCE", START, START + HOUR, UTC_ZONE)


def value(kind: MarketDataType, figure: float, known: timedelta, site: str | None = None) -> MarketValue:
    return MarketValue(type=kind, time=START, value=figure, known_at=START + known, site=site)


async def test_the_market_comes_as_it_became_known(site: Conn) -> None:
    price, niv, volume = MarketDataType.IMBALANCE_PRICE, MarketDataType.NIV, MarketDataType.IMBALANCE_VOLUME
    await upsert(
        site,
        [
            value(price, 50.0, 12 * MINUTE),
            value(price, 55.0, 3 * HOUR),
            value(volume, -20.0, 20 * MINUTE),
        ],
    )
    told = await releases_of(site, "WLCE", START, START + HOUR, None)
    assert told == (
        Release(START + 12 * MINUTE, START, price=50.0),
        Release(START + 20 * MINUTE, START, niv_mw=-40.0),
        Release(START + 3 * HOUR, START, price=55.0),
    )
    assert await releases_of(site, "WLCE", START, START + HOUR, 10 * MINUTE) == (
        Release(START + 10 * MINUTE, START, 55.0, -40.0),
    )
    await upsert(site, [value(niv, 7.0, 30 * MINUTE), value(price, 70.0, 15 * MINUTE, "WLCE")])
    assert {(one.price, one.niv_mw) for one in await releases_of(site, "WLCE", START, START + HOUR, None)} == {
        (70.0, None),
        (None, 7.0),
    }


async def test_the_command_takes_what_no_file_gives(
    site: Conn, dsn: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from tests.analysis.kit import MARKET

    (tmp_path / "plan.yaml").write_text(MARKET)
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    given = ["backtest", "--plan", str(tmp_path / "plan.yaml"), "--site", "WLCE", "--json"]
    span = ["--from", "2026-01-14T00:00Z", "--to", "2026-01-14T04:00Z"]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*given, *span], catch_exceptions=False)
    (said,) = json.loads(result.stdout)
    assert said["energy_kwh"]["load"] == pytest.approx(120.0)
    assert said["energy_kwh"]["solar"] == pytest.approx(100.0)
