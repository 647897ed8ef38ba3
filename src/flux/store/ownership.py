"""Who may command a site: stops, and the control lease. Each function is one statement or one transaction."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from flux.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class SiteStop:
    """A stop that is in force; times are aware UTC."""

    reason: str
    actor: str
    stopped_at: datetime
    acknowledged_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """What became of asking for the control lease; when it was not granted, ``holder`` and ``host`` are another's."""

    granted: bool
    holder: str
    host: str
    token: int
    expires_at: datetime


async def stop_site(conn: AsyncConnection[Any], site: str, *, actor: str, reason: str = "") -> SiteStop:
    """Stop a site; one that is stopped stays as it was. NotFoundError for a site that is not known."""
    cursor = await conn.execute("SELECT FROM flux.sites WHERE site = %s", (site,))
    if await cursor.fetchone() is None:
        known = [code for (code,) in await (await conn.execute("SELECT site FROM flux.sites ORDER BY 1")).fetchall()]
        raise NotFoundError(f"there is no site {site!r}; there is {', '.join(known) or 'none yet'}")
    try:
        async with conn.transaction():
            await conn.execute(
                "INSERT INTO flux.site_stops (site, actor, reason) VALUES (%s, %s, %s)", (site, actor, reason)
            )
    except UniqueViolation:  # it is stopped already, or was by somebody else in this moment
        pass
    stop = await stop_in_force(conn, site)
    assert stop is not None  # noqa: S101 - inserted, or met the one that is in force
    return stop


async def resume_site(conn: AsyncConnection[Any], site: str, *, actor: str) -> bool:
    """End the stop of a site; False when the platform had none.

    The resume is kept in any case: it also ends what the edge itself holds because somebody else commanded a battery.
    """
    cursor = await conn.execute(
        "UPDATE flux.site_stops SET resumed_at = greatest(clock_timestamp(), stopped_at), resumed_by = %s"
        " WHERE site = %s AND resumed_at IS NULL",
        (actor, site),
    )
    if cursor.rowcount:
        return True
    await conn.execute(
        "INSERT INTO flux.site_stops (site, actor, reason, resumed_at, resumed_by)"
        " SELECT site, %s, 'resumed without a stop', now(), %s FROM flux.sites WHERE site = %s",
        (actor, actor, site),
    )
    return False


async def stop_in_force(conn: AsyncConnection[Any], site: str) -> SiteStop | None:
    """The stop that holds now."""
    cursor = await conn.execute(
        "SELECT reason, actor, stopped_at, acknowledged_at FROM flux.site_stops WHERE site = %s AND resumed_at IS NULL",
        (site,),
    )
    row = await cursor.fetchone()
    return None if row is None else SiteStop(*row)


async def last_resumed_at(conn: AsyncConnection[Any], site: str) -> datetime | None:
    """When the site was last resumed."""
    cursor = await conn.execute("SELECT max(resumed_at) FROM flux.site_stops WHERE site = %s", (site,))
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def acknowledge_stop(conn: AsyncConnection[Any], site: str) -> None:
    """Every battery of the site has acknowledged 0 kW since the stop."""
    await conn.execute(
        "UPDATE flux.site_stops SET acknowledged_at = clock_timestamp()"
        " WHERE site = %s AND resumed_at IS NULL AND acknowledged_at IS NULL",
        (site,),
    )


async def take_lease(conn: AsyncConnection[Any], site: str, *, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
    """Take the control lease of a site or renew it.

    Somebody else's is taken only once it has expired, and not before the server itself has run for as long: after an
    outage of the platform the edge that went on without it comes first.
    """
    cursor = await conn.execute(
        "INSERT INTO flux.control_leases AS mine (site, holder, host, expires_at)"
        " SELECT site, %(holder)s, %(host)s, now() + %(lasts)s FROM flux.sites WHERE site = %(site)s"
        " ON CONFLICT (site) DO UPDATE SET holder = excluded.holder, host = excluded.host, renewed_at = now(),"
        "   expires_at = excluded.expires_at,"
        "   token = mine.token + (mine.holder <> excluded.holder)::int,"
        "   acquired_at = CASE WHEN mine.holder = excluded.holder THEN mine.acquired_at ELSE now() END"
        " WHERE mine.holder = excluded.holder OR mine.expires_at = to_timestamp(0)"
        "   OR (mine.expires_at < now() AND pg_postmaster_start_time() < now() - %(lasts)s)"
        " RETURNING true, holder, host, token, expires_at",
        {"site": site, "holder": holder, "host": host, "lasts": lasts},
    )
    row = await cursor.fetchone()
    if row is None:
        cursor = await conn.execute(
            "SELECT false, holder, host, token, expires_at FROM flux.control_leases WHERE site = %s",
            (site,),
        )
        row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"there is no site {site!r}")
    return LeaseAnswer(*row)


async def release_lease(conn: AsyncConnection[Any], site: str, *, holder: str) -> None:
    """Give the lease back, so that another edge may have it at once."""
    await conn.execute(
        "UPDATE flux.control_leases SET expires_at = to_timestamp(0) WHERE site = %s AND holder = %s", (site, holder)
    )
