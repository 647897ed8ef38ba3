"""The worker's market jobs against platforms on loopback and a real database."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.market.platforms import Platform, Reply, Request, elexon
from tests.market.test_axle import Site
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.errors import InputError
from flux.local.jobs import Job, run_jobs
from flux.local.market_jobs import market_jobs
from flux.local.worker_config import WorkerConfig, load_worker_config, worker_schema
from flux.model import SettlementPeriod, settlement_period
from flux.store.dispatch import schedule_of
from flux.store.ingest import ingest
from flux.store.market import market_values

Conn = AsyncConnection[Any]
SECRETS = {"MODO_API_TOKEN": "secret", "AXLE_USERNAME": "site@example.org", "AXLE_PASSWORD": "p&ss=word"}
STATES = "SELECT name, succeeded_at IS NOT NULL, failure FROM flux.worker_jobs ORDER BY name"


def config(**market: Any) -> WorkerConfig:
    return WorkerConfig.model_validate({"market": market})


def modo(request: Request) -> Reply:
    """The period that NOON begins, and one without a figure yet."""
    name = {"system-price-live": "system_price", "niv-live": "niv"}[request.path.rsplit("/", 1)[1]]
    rows = [(25, 60.5), (24, None)]
    return Reply({"results": [{"date": "2026-01-15", "settlement_period": sp, name: v} for sp, v in rows]})


def index_only(request: Request) -> Reply:
    return Reply({"data": []}) if "system-prices" in request.path else elexon(request)


async def turns(jobs: list[Job], dsn: str, rounds: int) -> None:
    """Run them until each has had so many turns; no time passes between."""
    counts = {job.every_s: 0 for job in jobs}  # told apart by their intervals
    done = asyncio.Event()

    async def sleep(every_s: float) -> None:
        counts[every_s] += 1
        if all(count >= rounds for count in counts.values()):
            done.set()
        await (asyncio.Event().wait() if counts[every_s] >= rounds else asyncio.sleep(0))

    running = asyncio.create_task(run_jobs(jobs, dsn, sleep))
    finished = asyncio.create_task(done.wait())
    await asyncio.wait({running, finished}, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_data_arrives_and_one_that_fails_stops_no_other(db: Conn, dsn: str) -> None:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Platform(index_only).running())
        bad = await stack.enter_async_context(Platform(lambda _: Reply({"results": "changed"})).running())
        wanted = config(elexon={"base_url": good.url, "every": "5m"}, modo={"base_url": bad.url, "every": "1m"})
        jobs = await stack.enter_async_context(market_jobs(wanted.market, SECRETS, lambda: NOON))
        await turns(jobs, dsn, 2)
        assert await fetch(db, STATES) == [
            ("market elexon", True, None),
            ("market modo", False, "modo: system-price-live answers without a list `results`"),
        ]
        bad.answer = modo
        await turns(jobs, dsn, 1)
    assert [(name, ok) for name, ok, why in await fetch(db, STATES) if why is None] == [
        ("market elexon", True),
        ("market modo", True),
    ]
    niv = await market_values(db, [1], NOON, NOON + timedelta(minutes=30))
    assert [value.value for value in niv] == [121.0]


async def test_a_bug_in_one_is_told_like_a_failure(dsn: str, db: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("flux.local.market_jobs.upsert", broken)
    async with Platform(elexon).running() as platform:
        wanted = config(elexon={"base_url": platform.url})
        async with market_jobs(wanted.market, {}, lambda: NOON) as (job,):
            await turns([job], dsn, 2)
    assert await fetch(db, STATES) == [("market elexon", False, "ZeroDivisionError: no such luck")]


async def test_axles_schedule_reaches_the_site_and_stays_when_a_reply_has_none(db: Conn, dsn: str) -> None:
    site = Site()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    times = {"start_timestamp": soon.isoformat(), "end_timestamp": (soon + timedelta(hours=1)).isoformat()}
    site.schedule = {"schedule_steps": [times | {"action": "discharge_max"}]}
    await add_device(db, "WLCE-BESS-01", "bess", metadata={"max_power_kw": 105})
    async with site.platform.running():
        wanted = config(axle=[{"site": "WLCE", "asset": "asset-1", "base_url": site.platform.url}])
        async with market_jobs(wanted.market, SECRETS, lambda: NOON) as jobs:
            await turns(jobs, dsn, 1)
            site.schedule = {"schedule_steps": []}
            await turns(jobs, dsn, 1)
    (stored,) = await schedule_of(db, "WLCE")
    assert (stored.step.action, stored.step.start, stored.source) == ("discharge_max", soon, "axle")
    ((_, succeeded, failure),) = await fetch(db, STATES)
    assert succeeded
    assert "without steps" in failure
    dispatched = await market_values(db, [4], soon, soon + timedelta(hours=2), site="WLCE")
    assert [value.value for value in dispatched][::3] == [105.0, 0.0]


async def test_telemetry_is_sent_once(db: Conn, dsn: str) -> None:
    site = Site()
    now = datetime.now(UTC)
    grid = await add_device(db, "GRID")
    battery = await add_device(db, "BESS", "bess")
    await ingest(db, [meter_reading(grid, now, power_total_active=8.0), bess_reading(battery, now, soe=61.0)])
    telemetry = {"site_meter": "GRID", "bess": ["BESS"], "every": "31s"}
    async with site.platform.running():
        one = {"site": "WLCE", "asset": "asset-1", "base_url": site.platform.url, "telemetry": telemetry}
        async with market_jobs(config(axle=[one]).market, SECRETS, lambda: NOON) as jobs:
            assert [job.name for job in jobs] == ["market axle WLCE", "market axle WLCE telemetry"]
            await turns(jobs[1:], dsn, 3)
    assert sorted((one["label"], one["value"]) for one in site.received) == [
        ("battery_state_of_charge_pct", 61.0),
        ("boundary_import_kw", 8.0),
    ]


async def test_all_secrets_that_are_missing_are_named() -> None:
    wanted = config(modo={}, axle=[{"site": "WLCE", "asset": "a"}])
    with pytest.raises(InputError, match=r"MODO_API_TOKEN, AXLE_PASSWORD$"):
        async with market_jobs(wanted.market, {"AXLE_USERNAME": "me"}, lambda: NOON):
            raise AssertionError


async def test_nothing_is_asked_that_is_not_configured() -> None:
    async with market_jobs(load_worker_config(None).market, {}, lambda: NOON) as jobs:
        assert jobs == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("market:\n  elexon: {every: 5}\n", ":2: market.elexon.every: 5: .*has no unit"),
        ("market:\n  elexon: {every: 1s}\n", "must be from 5s to 1d"),
        ("market:\n  elexxon: {}\n", "unknown key; did you mean 'elexon'"),
        ("market:\n  axle: [{site: WLCE}]\n", "asset: is missing"),
        ("market:\n  modo: {base_url: 'ftp://x'}\n", "base_url"),
    ],
)
def test_a_wrong_file_is_told_by_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        load_worker_config(path)


def test_the_file_has_a_schema() -> None:
    assert "market" in worker_schema()["properties"]


def test_noon_begins_period_25() -> None:
    assert settlement_period(NOON) == SettlementPeriod(NOON.date(), 25)
