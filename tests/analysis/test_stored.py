"""A backtest from the store: the meters' rollups and the market as it became known."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg import AsyncConnection
from tests.analysis.kit import HEAD, IMPORT_AVOIDANCE
from tests.support import add_device, meter_reading
from typer.testing import CliRunner

from flux.analysis.known import Release
from flux.analysis.stored import site_of
from flux.analysis.stored_market import releases_of, told_of
from flux.analysis.told import ToldAsKnown
from flux.cli.app import app
from flux.control.parts import SiteConfig
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
    assert await releases_of(site, "WLCE", START, START + HOUR, 10 * MINUTE) == (
        Release(START + 10 * MINUTE, START, 70.0, 7.0),
    )


async def test_what_goes_before_another_value_does_so_once_it_is_known(site: Conn) -> None:
    """As live: until the site's own price and the NIV come, the price for all sites and the volume count."""
    price, niv, volume = MarketDataType.IMBALANCE_PRICE, MarketDataType.NIV, MarketDataType.IMBALANCE_VOLUME
    within = MarketValue(type=niv, time=START + 5 * MINUTE, value=9.0, known_at=START + 35 * MINUTE)
    await upsert(
        site,
        [
            value(price, 50.0, 12 * MINUTE),
            value(price, 70.0, 15 * MINUTE, "WLCE"),
            value(volume, -20.0, 20 * MINUTE),
            value(niv, 7.0, 30 * MINUTE),
            within,
            value(price, 55.0, 3 * HOUR),
        ],
    )
    assert await releases_of(site, "WLCE", START, START + HOUR, None) == (
        Release(START + 12 * MINUTE, START, price=50.0),
        Release(START + 15 * MINUTE, START, price=70.0),
        Release(START + 20 * MINUTE, START, niv_mw=-40.0),
        Release(START + 30 * MINUTE, START, niv_mw=7.0),
        Release(START + 35 * MINUTE, START, niv_mw=9.0),
    )


async def test_dispatch_and_envelopes_come_as_the_site_had_them(site: Conn) -> None:
    await site.execute(
        "INSERT INTO flux.dispatch_schedules (site, source, position, starts_at, ends_at, action, received_at,"
        " withdrawn_at) VALUES (%(site)s, 'axle', 0, %(a)s, %(c)s, 'charge_max', %(a)s, %(b)s),"
        " (%(site)s, 'axle', 0, %(b)s, %(c)s, 'discharge_max', %(b)s, NULL),"
        " (%(site)s, 'manual', 0, %(b)s, %(c)s, 'avoid_import', %(c)s, NULL)",
        {"site": "WLCE", "a": START, "b": START + HOUR, "c": START + 2 * HOUR},
    )
    await site.execute(
        "INSERT INTO flux.site_envelopes (site, starts_at, ends_at, export_limit_kw, received_at)"
        " VALUES ('WLCE', %s, %s, 20, %s)",
        (START, START + 4 * HOUR, START + 90 * MINUTE),
    )
    await site.execute("UPDATE flux.sites SET import_limit_kw = 300, export_limit_kw = 200 WHERE site = 'WLCE'")
    told = await told_of(site, "WLCE", START, START + 4 * HOUR)
    known = ToldAsKnown(told, SiteConfig(import_limit_kw=500, export_limit_kw=100))
    seen = []
    for minutes in (0, 59, 60, 90, 119, 120, 240):
        known.move_to(START + minutes * MINUTE)
        seen.append(([step.action for step in known.schedule], known.limits.import_kw, known.limits.export_kw))
    assert seen == [
        (["charge_max"], 300, None),
        (["charge_max"], 300, None),
        (["discharge_max"], 300, None),
        (["discharge_max"], 300, 20),
        (["discharge_max"], 300, 20),
        ([], 300, 20),
        ([], 300, None),
    ]


async def typed(*args: str) -> Any:
    result = await asyncio.to_thread(CliRunner().invoke, app, [*args, "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


SPAN = ["--from", "2026-01-14T00:00Z", "--to", "2026-01-14T04:00Z"]


async def test_the_command_takes_what_no_file_gives(
    site: Conn, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load and sun of the meters, dispatch as it was received, and the day-ahead price that the tariff follows."""
    (tmp_path / "plan.yaml").write_text(HEAD + "modes: [{mode: axle}]\n")
    (tmp_path / "tariff.yaml").write_text("rates: {import: [{name: energy, market: day_ahead}]}\n")
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    await site.execute(
        "INSERT INTO flux.dispatch_schedules (site, source, position, starts_at, ends_at, action, received_at)"
        " VALUES ('WLCE', 'axle', 0, %s, %s, 'discharge_max', %s)",
        (START, START + 2 * HOUR, START + HOUR),
    )
    wholesale = MarketDataType.WHOLESALE_PRICE
    times = [START + number * 30 * MINUTE for number in range(8)]
    await upsert(site, [MarketValue(type=wholesale, time=at, value=100.0, known_at=START) for at in times])
    given = ["--plan", str(tmp_path / "plan.yaml"), "--site", "WLCE", "--tariff", str(tmp_path / "tariff.yaml")]
    (said,) = await typed("backtest", *given, *SPAN)
    assert said["energy_kwh"]["load"] == pytest.approx(120.0)
    assert said["energy_kwh"]["solar"] == pytest.approx(100.0)
    assert said["energy_kwh"]["discharge"] == pytest.approx(105.0), "it was told at 01:00"
    assert said["energy_kwh"]["flows"]["battery_to_load"] == pytest.approx(30.0)
    assert said["costs_gbp"]["total"] == pytest.approx(3.0), "30 kWh from the grid before, at £100/MWh"
    assert said["perfect"]["share"] == pytest.approx(0.5), "it could have served all 60 kWh before the sun"
    (short,) = await typed("backtest", *given, *SPAN[:3], "2026-01-14T06:00Z")
    assert short["notices"][0] == "23 times five minutes are missing of the meters; other days stand in for them"


async def test_the_optimum_of_a_site(site: Conn, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.yaml").write_text(IMPORT_AVOIDANCE)
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    price = MarketDataType.IMBALANCE_PRICE
    times = [START + number * 30 * MINUTE for number in range(8)]
    await upsert(site, [MarketValue(type=price, time=at, value=100.0, known_at=at + HOUR) for at in times])
    found = await typed("optimum", "--plan", str(tmp_path / "plan.yaml"), "--site", "WLCE", *SPAN)
    assert found["energy_kwh"]["solar_to_load"] == pytest.approx(60.0)
    assert found["discharged_kwh"] == pytest.approx(225.0), "all that is above its lowest, at the one price there is"
    assert found["objective_gbp"] == pytest.approx((60 - 40 - 225) * 0.1)
    await site.execute("UPDATE flux.sites SET export_limit_kw = 0 WHERE site = 'WLCE'")
    found = await typed("optimum", "--plan", str(tmp_path / "plan.yaml"), "--site", "WLCE", *SPAN)
    assert found["energy_kwh"]["battery_to_grid"] == 0
    assert found["energy_kwh"]["battery_to_load"] == pytest.approx(60.0)
    assert found["energy_kwh"]["solar_to_battery"] == pytest.approx(40.0)
    with pytest.raises(NotFoundError, match="there is no site 'HMCE'; there is WLCE"):
        await typed("optimum", "--plan", str(tmp_path / "plan.yaml"), "--site", "HMCE", "--load", "3", *SPAN)
