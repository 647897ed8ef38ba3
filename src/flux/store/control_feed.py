"""What the platform has for the controller of one site, read in one go: see :mod:`flux.control.feed`."""

import json
from typing import Any

from psycopg import AsyncConnection

from flux.control.feed import ControlFeed, PushedPlan
from flux.control.state import MarketPair, SiteLimits
from flux.model import MarketDataType
from flux.store.dispatch import envelopes_of, schedule_of

_HALF_HOURS_PER_HOUR = 2

# Price and NIV of each half hour round the database's now, one period more than is looked at on either side for an
# edge whose clock is off. Of several values the site's own counts before one for all sites, then an estimate of the
# NIV before the volume, then the newest within the half hour.
_PAIRS = """
    WITH newest AS (
        SELECT DISTINCT ON (sp_start, is_price) sp_start, is_price, type, value
        FROM (SELECT date_bin('30 minutes', time, timestamptz '2000-01-01 00:00Z') AS sp_start,
                     type = %(price)s AS is_price, type, value, site, time
              FROM flux.market_data
              WHERE type = ANY(%(types)s) AND (site IS NULL OR site = %(site)s)
                AND time >= now() - interval '90 minutes' AND time < now() + interval '60 minutes') recent
        ORDER BY sp_start, is_price, site NULLS LAST, type <> %(niv)s, time DESC
    )
    SELECT p.sp_start, p.value, n.value, n.type
    FROM newest p JOIN newest n ON n.sp_start = p.sp_start AND NOT n.is_price
    WHERE p.is_price ORDER BY p.sp_start
"""


async def read_feed(conn: AsyncConnection[Any], site: str) -> ControlFeed:
    """The feed of ``site`` as it is now; an empty one for a site that is not known."""
    schedule, envelopes = await schedule_of(conn, site), await envelopes_of(conn, site)
    return ControlFeed(
        pairs=await market_pairs(conn, site),
        schedule=tuple(stored.step for stored in schedule),
        envelopes=tuple(stored.envelope for stored in envelopes),
        connection=await connection_of(conn, site),
        plan=await pushed_plan(conn, site),
    )


async def market_pairs(conn: AsyncConnection[Any], site: str) -> tuple[MarketPair, ...]:
    """The complete pairs of imbalance price and NIV round now; of a volume (MWh of a half hour) the mean power."""
    price, niv, volume = (
        int(MarketDataType.IMBALANCE_PRICE),
        int(MarketDataType.NIV),
        int(MarketDataType.IMBALANCE_VOLUME),
    )
    parameters = {"site": site, "price": price, "niv": niv, "types": [price, niv, volume]}
    cursor = await conn.execute(_PAIRS, parameters)
    return tuple(
        MarketPair(sp_start, price, value * _HALF_HOURS_PER_HOUR if kind == volume else value)
        for sp_start, price, value, kind in await cursor.fetchall()
    )


async def pushed_plan(conn: AsyncConnection[Any], site: str) -> PushedPlan | None:
    """The plan that was pushed to ``site`` and is in force."""
    cursor = await conn.execute(
        "SELECT hash, body, actor, pushed_at FROM flux.site_plans WHERE site = %s AND withdrawn_at IS NULL", (site,)
    )
    row = await cursor.fetchone()
    return None if row is None else PushedPlan(row[0], json.dumps(row[1], sort_keys=True), row[2], row[3])


async def connection_of(conn: AsyncConnection[Any], site: str) -> SiteLimits:
    """What the grid connection of ``site`` carries, kW; None where nobody has said."""
    cursor = await conn.execute("SELECT import_limit_kw, export_limit_kw FROM flux.sites WHERE site = %s", (site,))
    row = await cursor.fetchone()
    return SiteLimits() if row is None else SiteLimits(*row)
