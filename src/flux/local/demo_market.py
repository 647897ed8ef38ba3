"""The demo's market: made up, stored for the demo's site alone, so that NIV chase can be seen at work."""

from collections.abc import Callable
from datetime import datetime, timedelta

from flux.control.state import MarketPair, MarketState
from flux.edge.day import known_at
from flux.local.jobs import Connection, Job
from flux.market.simulated import SOURCE, SimulatedMarket, price_and_niv
from flux.model import SETTLEMENT_PERIOD, period_start
from flux.store.market import upsert

_LOOK_EVERY_S = 20.0
_BACK = timedelta(hours=2)


async def store_market(conn: Connection, site: str, start: datetime, now: datetime) -> None:
    """What is known at ``now`` of the half hours from ``start`` on; the same again changes nothing."""
    values = SimulatedMarket(site).values(start, now)
    await upsert(conn, [value for value in values if value.known_at is None or value.known_at <= now])


def market_job(site: str, clock: Callable[[], datetime]) -> Job:
    """Keeps the made-up market of ``site`` going."""

    async def work(conn: Connection) -> None:
        now = clock()
        await store_market(conn, site, now - _BACK, now)

    return Job(f"market:{SOURCE}:{site}", _LOOK_EVERY_S, work)


def market_between(start: datetime, end: datetime) -> Callable[[datetime], MarketState]:
    """What a controller knows of the made-up market at an instant from ``start`` to ``end``."""
    pairs, sp_start = [], period_start(start) - SETTLEMENT_PERIOD
    while sp_start < end:
        pairs.append(MarketPair(sp_start, *price_and_niv(sp_start)))
        sp_start += SETTLEMENT_PERIOD
    return known_at(pairs)
