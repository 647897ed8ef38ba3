"""What a site's controller knew of the world outside it, from the store: the market, dispatch and envelopes, as then.

What counts of several values is what counts live (``flux.store.control_feed``), at each instant of what was known then:
the site's own before one for all sites, an estimate of the NIV before the volume, the newest within a half hour.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from flux.analysis.known import Release
from flux.analysis.told import NEVER, Told, ToldEnvelope, ToldStep
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD, MarketDataType, MarketValue, period_start
from flux.store.control_feed import connection_of
from flux.store.dispatch import envelopes_between, steps_between
from flux.store.market import market_history, market_values

_HOURS_PER_PERIOD = SETTLEMENT_PERIOD / timedelta(hours=1)
_KINDS = (MarketDataType.IMBALANCE_PRICE, MarketDataType.NIV, MarketDataType.IMBALANCE_VOLUME)

_Rank = tuple[bool, bool, timedelta]
"""What goes first of several values of one half hour: the smallest."""


async def releases_of(
    conn: AsyncConnection[Any], site: str, start: datetime, end: datetime, delay: timedelta | None
) -> tuple[Release, ...]:
    """Imbalance prices and NIV about the span, and the half hour before it, as they became known.

    ``delay`` not None: the newest values, each known so long after its half hour's start.
    """
    values: list[MarketValue] = []
    for kind in _KINDS:
        values += await market_history(conn, kind, start - SETTLEMENT_PERIOD, end, site=site)
    found = list(_effective(values))
    return tuple(found if delay is None else _known_after(delay, found))


def _effective(values: Sequence[MarketValue]) -> Iterable[Release]:
    """A release for each change of what counts, in the order in which they became known."""
    held: dict[tuple[datetime, bool], dict[_Rank, float]] = {}
    for value in sorted(values, key=_known_at):
        sp_start, is_price = period_start(value.time), value.type == MarketDataType.IMBALANCE_PRICE
        known = held.setdefault((sp_start, is_price), {})
        before = known[min(known)] if known else None
        power = value.type == MarketDataType.IMBALANCE_VOLUME
        rank = value.site is None, power, sp_start - value.time
        known[rank] = value.value / _HOURS_PER_PERIOD if power else value.value
        now = known[min(known)]
        if now == before:
            continue
        known_at = _known_at(value)
        yield Release(known_at, sp_start, price=now) if is_price else Release(known_at, sp_start, niv_mw=now)


def _known_after(delay: timedelta, releases: Iterable[Release]) -> list[Release]:
    """Of each half hour the newest figures alone, known ``delay`` after its start."""
    newest: dict[datetime, Release] = {}
    for one in releases:
        before = newest.get(one.sp_start, one)
        price = before.price if one.price is None else one.price
        niv_mw = before.niv_mw if one.niv_mw is None else one.niv_mw
        newest[one.sp_start] = Release(one.sp_start + delay, one.sp_start, price, niv_mw)
    return list(newest.values())


def _known_at(value: MarketValue) -> datetime:
    if value.known_at is None:
        raise InputError(f"market value about {value.time.isoformat()}: nobody knows when it became known")
    return value.known_at.astimezone(UTC)


async def day_ahead_of(conn: AsyncConnection[Any], site: str, start: datetime, end: datetime) -> dict[datetime, float]:
    """The newest day-ahead prices (the wholesale price), £/MWh by the start of their half hour."""
    values = await market_values(conn, [MarketDataType.WHOLESALE_PRICE], start, end, site=site)
    return {value.time.astimezone(UTC): value.value for value in values}


async def told_of(conn: AsyncConnection[Any], site: str, start: datetime, end: datetime) -> Told:
    """Dispatch and envelopes as ``site`` had them in the span; of its grid connection what is known now."""
    steps = await steps_between(conn, site, start, end)
    envelopes = await envelopes_between(conn, site, start, end)
    return Told(
        steps=tuple(ToldStep(one.step, one.received_at, one.withdrawn_at or NEVER) for one in steps),
        envelopes=tuple(ToldEnvelope(one.envelope, one.received_at, one.withdrawn_at or NEVER) for one in envelopes),
        connection=await connection_of(conn, site),
    )
