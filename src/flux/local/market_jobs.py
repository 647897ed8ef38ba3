"""Market platforms in the worker: data into the store, schedules to the sites, telemetry out.

Each is a job of its own: one that fails is told in ``flux.worker_jobs`` and never holds up another. Nothing is done
that the worker's file does not name.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx

from flux.control.state import ScheduleStep
from flux.local.jobs import Connection, Job
from flux.market import MarketSource, axle, elexon, modo
from flux.market.config import AxleConfig, MarketConfig, TelemetryConfig, secrets
from flux.market.http import MarketHttp
from flux.market.source import Clock
from flux.store.axle import dispatch_values, newest_telemetry
from flux.store.dispatch import replace_schedule
from flux.store.market import upsert

_AHEAD = timedelta(minutes=30)  # the period that runs is asked for too
PREFIX = "market "
"""How the names of these jobs begin."""


@asynccontextmanager
async def market_jobs(config: MarketConfig, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[list[Job]]:
    """The jobs that the section asks for; InputError where a secret is not in the environment."""
    known = secrets(config.variables(), environ)
    async with httpx.AsyncClient() as client:
        jobs: list[Job] = []
        if config.elexon is not None:
            http = MarketHttp("elexon", config.elexon.base_url, client, elexon.MANNERS)
            source: MarketSource = elexon.Elexon(http, clock)
            jobs.append(_source_job(source, config.elexon.every, config.elexon.back, clock))
        if config.modo is not None:
            http = MarketHttp("modo", config.modo.base_url, client, modo.MANNERS)
            source = modo.Modo(http, known.get(config.modo.token_env or ""))
            jobs.append(_source_job(source, config.modo.every, config.modo.back, clock))
        for one in config.axle:
            http = MarketHttp("axle", one.base_url, client, axle.MANNERS)
            asset = axle.Axle(http, one.asset, known[one.username_env], known[one.password_env], clock)
            jobs += _axle_jobs(asset, one)
        yield jobs


def _source_job(source: MarketSource, every: timedelta, back: timedelta, clock: Clock) -> Job:
    async def fetch(conn: Connection) -> None:
        now = clock()
        await upsert(conn, await source.fetch(now - back, now + _AHEAD))

    return _job(source.name, every, fetch)


def _axle_jobs(asset: axle.Axle, config: AxleConfig) -> list[Job]:
    async def schedule(conn: Connection) -> None:
        await store_schedule(conn, config.site, await asset.schedule())

    jobs = [_job(f"axle {config.site}", config.every, schedule)]
    if config.telemetry is not None:
        send = _Sender(asset, config.site, config.telemetry)
        jobs.append(_job(f"axle {config.site} telemetry", config.telemetry.every, send))
    return jobs


async def store_schedule(conn: Connection, site: str, steps: list[axle.DispatchStep]) -> None:
    """Make it the site's schedule of source ``axle``, and market data of type 4 (kW)."""
    wanted = [ScheduleStep(step.start, step.end, step.action) for step in steps]
    await replace_schedule(conn, site, wanted, source="axle")
    await upsert(conn, await dispatch_values(conn, site, wanted))


class _Sender:
    """Sends what is newer than what was sent."""

    def __init__(self, asset: axle.Axle, site: str, config: TelemetryConfig) -> None:
        self._asset = asset
        self._site = site
        self._config = config
        self._sent: set[axle.Telemetry] = set()

    async def __call__(self, conn: Connection) -> None:
        config = self._config
        found = await newest_telemetry(
            conn, self._site, site_meter=config.site_meter, bess=config.bess, bess_meter=config.bess_meter
        )
        newest = {axle.Telemetry(label, time, value) for label, time, value in found}
        await self._asset.upload(sorted(newest - self._sent, key=lambda one: one.label))
        self._sent = newest


def _job(name: str, every: timedelta, work: Callable[[Connection], Awaitable[None]]) -> Job:
    return Job(PREFIX + name, every.total_seconds(), work)
