"""What the platform has for a site's controller, read from a real database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from flux.control.feed import ControlFeed
from flux.control.state import Envelope, MarketPair, ScheduleStep, SiteLimits
from flux.model import MarketDataType, period_start
from flux.store.control_feed import read_feed
from flux.store.dispatch import add_envelope, replace_schedule

NIV, PRICE, VOLUME = MarketDataType.NIV, MarketDataType.IMBALANCE_PRICE, MarketDataType.IMBALANCE_VOLUME
HALF_HOUR = timedelta(minutes=30)


@pytest.fixture
async def site(db: AsyncConnection[Any]) -> str:
    await db.execute("INSERT INTO flux.sites (site) VALUES ('WLCE'), ('HMCE')")
    return "WLCE"


@pytest.fixture
async def now(db: AsyncConnection[Any]) -> datetime:
    """The start of the database's half hour."""
    return period_start((await (await db.execute("SELECT now()")).fetchall())[0][0])


async def put(
    db: AsyncConnection[Any], kind: MarketDataType, time: datetime, value: float, site: str | None = None
) -> None:
    await db.execute(
        "INSERT INTO flux.market_data (type, time, value, site) VALUES (%s, %s, %s, %s)",
        (int(kind), time, value, site),
    )


async def test_a_pair_is_price_and_niv_of_one_half_hour(db: AsyncConnection[Any], site: str, now: datetime) -> None:
    await put(db, PRICE, now - HALF_HOUR, 80)
    await put(db, NIV, now - HALF_HOUR, 120)
    await put(db, PRICE, now, 90)  # its NIV is not known yet
    await put(db, NIV, now - 20 * HALF_HOUR, 7)
    await put(db, PRICE, now - 20 * HALF_HOUR, 7)
    await put(db, MarketDataType.WHOLESALE_PRICE, now, 1)
    assert (await read_feed(db, site)).pairs == (MarketPair(now - HALF_HOUR, 80, 120),)
    await put(db, NIV, now, -30)
    assert (await read_feed(db, site)).pairs[-1] == MarketPair(now, 90, -30)


async def test_a_volume_stands_in_for_an_estimate_as_its_mean_power(
    db: AsyncConnection[Any], site: str, now: datetime
) -> None:
    await put(db, PRICE, now, 90)
    await put(db, VOLUME, now, -55)
    assert (await read_feed(db, site)).pairs == (MarketPair(now, 90, -110),)
    await put(db, NIV, now, -30)
    assert (await read_feed(db, site)).pairs == (MarketPair(now, 90, -30),)


async def test_a_sites_own_value_goes_before_one_for_all(db: AsyncConnection[Any], site: str, now: datetime) -> None:
    await put(db, PRICE, now, 90)
    await put(db, PRICE, now, 95, site)
    await put(db, PRICE, now, 1, "HMCE")
    await put(db, NIV, now, -30)
    await put(db, VOLUME, now, 10, site)
    assert (await read_feed(db, site)).pairs == (MarketPair(now, 95, 20),)
    assert (await read_feed(db, "HMCE")).pairs == (MarketPair(now, 1, -30),)


async def test_of_estimates_within_a_half_hour_the_newest_counts(
    db: AsyncConnection[Any], site: str, now: datetime
) -> None:
    await put(db, PRICE, now, 90)
    for minute, niv in ((0, 10), (20, 30), (10, 20)):
        await put(db, NIV, now + timedelta(minutes=minute), niv)
    assert (await read_feed(db, site)).pairs == (MarketPair(now, 90, 30),)


async def test_schedule_envelopes_and_connection_are_the_sites_own(db: AsyncConnection[Any], site: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    step = ScheduleStep(soon, soon + HALF_HOUR, "discharge_max")
    envelope = Envelope(soon, soon + HALF_HOUR, SiteLimits(50.0))
    await replace_schedule(db, site, [step], source="axle")
    await add_envelope(db, site, envelope)
    await db.execute("UPDATE flux.sites SET export_limit_kw = 300 WHERE site = 'WLCE'")
    feed = await read_feed(db, site)
    assert feed == ControlFeed((), (step,), (envelope,), SiteLimits(None, 300))
    assert feed.cursor == (await read_feed(db, site)).cursor
    assert await read_feed(db, "HMCE") == ControlFeed()
    assert await read_feed(db, "NOWHERE") == ControlFeed()
