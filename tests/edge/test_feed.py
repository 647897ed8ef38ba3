"""Market, dispatch and envelopes on their way to a running controller, and without the platform."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.edge.both import MOSTLY_SQL, links
from tests.edge.conftest import PLAN
from tests.edge.fakes import START, FixedClock, MemoryPlatform
from tests.edge.plant import Plant, running_plant

from flux.control.feed import ControlFeed
from flux.control.state import Envelope, MarketPair, ScheduleStep, SiteLimits
from flux.devices.simulator import SimulatedSite
from flux.edge.feed import FeedFollower
from flux.edge.learned import LearnedStore
from flux.edge.link import RegistrySnapshot
from flux.edge.ticks import system_clock
from flux.model import MarketDataType, period_start
from flux.store.dispatch import MANUAL, add_envelope, clear_envelopes, replace_schedule

HOUR = timedelta(hours=1)
FEED = ControlFeed(schedule=(ScheduleStep(START, START + HOUR, "discharge_max"),))
WITH_AXLE = PLAN.replace("  modes:\n", "  modes:\n    - {mode: axle}\n")


@pytest.fixture(params=MOSTLY_SQL)
async def plant(
    request: pytest.FixtureRequest,
    make_site: Callable[..., SimulatedSite],
    dsn: str,
    db: AsyncConnection[Any],
    tmp_path: Path,
) -> AsyncIterator[Plant]:
    site = make_site(load_kw=40, start=system_clock(), port=0)
    with links(request.param, dsn) as make:
        async with running_plant(site, dsn, db, tmp_path, make) as plant:
            yield plant


async def test_what_is_followed_is_there_after_a_restart_without_the_platform(tmp_path: Path) -> None:
    platform, learned = MemoryPlatform(), LearnedStore(tmp_path / "learned.sqlite", FixedClock())
    learned.save_registry(RegistrySnapshot(templates={"mine": "type: meter"}))
    platform.feed = FEED
    follower = FeedFollower(platform, learned)
    await follower.begin(1)
    running = asyncio.create_task(follower.run())
    later = ControlFeed(pairs=(MarketPair(START, 80.0, 120.0),))
    await asyncio.sleep(0)
    platform.feed = later
    platform.feed_changed.set()
    async with asyncio.timeout(5):
        while learned.load_feed() != later:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert follower.feed == later

    platform.away = True
    again = FeedFollower(platform, LearnedStore(tmp_path / "learned.sqlite", FixedClock()))
    assert again.feed == ControlFeed()
    await again.begin(1)
    assert again.feed == later


async def test_a_feed_that_cannot_be_read_leaves_the_registry_where_it_is(tmp_path: Path) -> None:
    learned = LearnedStore(tmp_path / "learned.sqlite", FixedClock())
    snapshot = RegistrySnapshot(templates={"mine": "type: meter"})
    learned.save_registry(snapshot)
    learned._save("control feed", {"pairs": [{"of": "another version"}]})
    assert learned.load_feed() is None
    assert learned.load_registry() == snapshot


async def test_dispatch_takes_over_at_once_goes_on_without_the_platform_and_ends_by_its_own_time(plant: Plant) -> None:
    now = system_clock()
    async with plant.edge(WITH_AXLE) as edge:
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.5)
        steps = [ScheduleStep(now, now + HOUR, "discharge_max")]
        await replace_schedule(plant.db, "WLCE", steps, source="axle")
        await plant.until(lambda: plant.battery_kw > 104)
        assert edge.site.controller is not None
        assert edge.site.controller.last is not None
        assert edge.site.controller.last.effective == "axle"
    plant.link.away = True
    async with plant.edge(WITH_AXLE):  # what it learned
        await plant.until(lambda: plant.battery_kw > 104)
        plant.link.away = False
        await replace_schedule(plant.db, "WLCE", [], source="axle")
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.5, 20)


async def test_an_envelope_narrows_the_site_while_it_lasts(plant: Plant) -> None:
    charge = ScheduleStep(system_clock(), system_clock() + HOUR, "charge_max")
    async with plant.edge(WITH_AXLE) as edge:
        await replace_schedule(plant.db, "WLCE", [charge], source=MANUAL)
        await plant.until(lambda: plant.battery_kw < -99)
        now = system_clock()
        await add_envelope(plant.db, "WLCE", Envelope(now, now + HOUR, SiteLimits(70.0)))
        await plant.until(lambda: abs(plant.battery_kw + 30) < 0.5)
        assert edge.site.controller is not None
        assert edge.site.controller.last is not None
        assert [limit.value for limit in edge.site.controller.last.limits] == ["inverter", "site_import"]
        await clear_envelopes(plant.db, "WLCE")
        await plant.db.execute("UPDATE flux.sites SET import_limit_kw = 90")
        await plant.until(lambda: abs(plant.battery_kw + 50) < 0.5)


async def test_market_data_reaches_the_controller_and_the_ledger(plant: Plant) -> None:
    chase = "niv_chase, discharge_curve: [[100, 0], [1000, 0]], when_short: {guess: true, cutoff: 30m}"
    sp_start = period_start(system_clock())
    pairs = tuple(MarketPair(sp_start - n * timedelta(minutes=30), 150.0 + n, 200.0) for n in (1, 0))
    async with plant.edge(PLAN.replace("  modes:\n", f"  modes:\n    - {{mode: {chase}}}\n")):
        await plant.until(lambda: abs(plant.battery_kw - 40) < 0.5)
        for pair in pairs:
            for kind, value in ((MarketDataType.IMBALANCE_PRICE, pair.price), (MarketDataType.NIV, pair.niv_mw)):
                await plant.db.execute(
                    "INSERT INTO flux.market_data (type, time, value) VALUES (%s, %s, %s)",
                    (int(kind), pair.sp_start, value),
                )
        await plant.until(lambda: plant.battery_kw > 104)

        async def kept() -> bool:
            found = await plant.rows(
                "SELECT inputs->'market'->'pairs'->-1->'price' FROM flux.control_decisions"
                " WHERE effective = 'niv_chase' AND command_source = 1"
            )
            return bool(found) and {price for (price,) in found} <= {150.0, 151.0}

        await plant.until(kept)
