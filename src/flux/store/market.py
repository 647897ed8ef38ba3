"""Market data: the newest value of everything, and what was known when.

Values go in through :func:`upsert`, or by plain SQL on ``market_data``: a trigger does the same. What comes back is
either the newest value (``as_of`` None) or what was known at an instant, never anything that became known after it.
Units are those of the type: £/MWh, MW, MWh, kW.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from flux.errors import ConflictError, InputError, NotFoundError
from flux.model import MarketValue

_logger = structlog.get_logger(__name__)
_CHUNK = 5_000
_TRIES = 5
_FIRST_OWN_ID = 100


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """What became of values: ``written`` rows of history, ``conflicts`` left out, the rest was known before.

    A conflict is another value for the very ``known_at`` of one that is stored: history says one thing for an instant.
    """

    given: int
    written: int
    conflicts: int

    def __add__(self, other: "UpsertResult") -> "UpsertResult":
        return UpsertResult(self.given + other.given, self.written + other.written, self.conflicts + other.conflicts)


@dataclass(frozen=True, slots=True)
class DataType:
    """A row of ``market_data_types``; ``holds``: how long a value is in force after its time, at most."""

    id: int
    name: str
    description: str
    unit: str
    holds: timedelta


async def upsert(conn: AsyncConnection[Any], values: Sequence[MarketValue]) -> UpsertResult:
    """Store values; the same again changes nothing, and an older ``known_at`` never hides a newer one.

    A value without ``known_at`` is known since now, unless it is what is known already, or what its source (in
    ``metadata``) said last: an estimate that goes on being served hides no figure that came after it.
    Raises InputError for a value that is no number, a type or site that there is not, or a ``known_at`` that is still
    to come; then nothing of the chunk of 5,000 with it is stored.
    """
    total = UpsertResult(0, 0, 0)
    for start in range(0, len(values), _CHUNK):
        total += await _upsert_chunk(conn, values[start : start + _CHUNK])
    if total.conflicts:
        _logger.warning("market values left out: another is stored for the same known_at", values=total.conflicts)
    return total


async def _upsert_chunk(conn: AsyncConnection[Any], values: Sequence[MarketValue]) -> UpsertResult:
    for value in values:
        _check(value)
    columns = (
        [value.type for value in values],
        [value.site for value in values],
        [value.time for value in values],
        [value.value for value in values],
        [Jsonb(value.metadata) for value in values],
        [value.known_at for value in values],
    )
    for attempt in range(1, _TRIES + 1):
        try:
            async with conn.transaction():
                cursor = await conn.execute(
                    "SELECT written, conflicts FROM flux.record_market(%s::integer[], %s::text[], %s::timestamptz[],"
                    " %s::float8[], %s::jsonb[], %s::timestamptz[])",
                    columns,
                )
                ((written, conflicts),) = await cursor.fetchall()
            return UpsertResult(len(values), written, conflicts)
        except psycopg.errors.DeadlockDetected:  # somebody's own UPDATE of the same rows, in another order
            if attempt == _TRIES:
                raise
        except psycopg.errors.ForeignKeyViolation as error:
            raise InputError(_unknown(error)) from None
        except psycopg.errors.InvalidParameterValue as error:
            raise InputError(str(error.diag.message_primary)) from None
    raise AssertionError("unreachable")


def _check(value: MarketValue) -> None:
    if not isfinite(value.value):
        raise InputError(f"market value {value.value} at {value.time}: not a number that can be stored")
    for instant in (value.time, value.known_at):
        if instant is not None and instant.tzinfo is None:
            raise InputError(f"market value at {instant}: a time without a zone")


def _unknown(error: psycopg.errors.ForeignKeyViolation) -> str:
    detail = str(error.diag.message_detail)  # Key (type)=(77) is not present in table "market_data_types".
    what = detail.partition("=(")[2].partition(")")[0]
    if "(site)" in detail:
        return f"there is no site {what}; a site appears with its first device"
    return f"there is no market data type {what}; `flux market types add` makes one"


async def market_values(
    conn: AsyncConnection[Any],
    types: Sequence[int] | None,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime | None = None,
    site: str | None = None,
) -> list[MarketValue]:
    """The values about start ≤ time < end, by type and time; ``as_of`` None: the newest, else as known then.

    ``types`` None: all. Those for all sites, and with ``site`` its own too, which go before.
    """
    async with conn.cursor(row_factory=class_row(MarketValue)) as cursor:
        await cursor.execute(
            "SELECT time, type, value, metadata, site, known_at"
            " FROM flux.market_as_of(%s::integer[], %s, %s, %s::timestamptz, %s::text)"
            if as_of is not None
            else """SELECT DISTINCT ON (type, time) time, type, value, metadata, site, known_at FROM flux.market_data
                    WHERE (%(types)s::integer[] IS NULL OR type = ANY(%(types)s::integer[]))
                      AND time >= %(start)s AND time < %(end)s AND (site IS NULL OR site = %(site)s::text)
                    ORDER BY type, time, site NULLS LAST""",
            (None if types is None else list(types), start, end, as_of, site)
            if as_of is not None
            else {"types": None if types is None else list(types), "start": start, "end": end, "site": site},
        )
        return await cursor.fetchall()


async def market_history(
    conn: AsyncConnection[Any], type: int, start: datetime, end: datetime, *, site: str | None = None
) -> list[MarketValue]:
    """Every value that was known of one type about start ≤ time < end, by time and then ``known_at``."""
    async with conn.cursor(row_factory=class_row(MarketValue)) as cursor:
        await cursor.execute(
            """SELECT time, type, value, metadata, site, known_at FROM flux.market_data_history
               WHERE type = %s AND time >= %s AND time < %s AND (site IS NULL OR site = %s::text)
               ORDER BY time, site NULLS FIRST, known_at""",
            (type, start, end, site),
        )
        return await cursor.fetchall()


# ── Types ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def data_types(conn: AsyncConnection[Any]) -> list[DataType]:
    """All types, by id."""
    async with conn.cursor(row_factory=class_row(DataType)) as cursor:
        await cursor.execute("SELECT id, name, description, unit, holds FROM flux.market_data_types ORDER BY id")
        return await cursor.fetchall()


async def data_type(conn: AsyncConnection[Any], name_or_id: str) -> DataType:
    """The type of this name or number; NotFoundError names those that there are."""
    known = await data_types(conn)
    for one in known:
        if name_or_id in (one.name, str(one.id)):
            return one
    names = ", ".join(f"{one.name} ({one.id})" for one in known)
    raise NotFoundError(f"there is no market data type {name_or_id!r}; there are {names}")


async def add_data_type(
    conn: AsyncConnection[Any],
    name: str,
    unit: str,
    description: str,
    *,
    id: int | None = None,
    holds: timedelta = timedelta(minutes=30),
) -> DataType:
    """Register a type; without ``id`` the next one from 100. ConflictError where name or id is taken."""
    if not name or name.isdigit():
        raise InputError(f"{name!r} is no name for a type: it could be taken for a number")
    try:
        async with conn.cursor(row_factory=class_row(DataType)) as cursor:
            await cursor.execute(
                """INSERT INTO flux.market_data_types (id, name, description, unit, holds)
                   SELECT coalesce(%(id)s::integer, greatest(%(first)s, max(id) + 1)), %(name)s, %(description)s,
                          %(unit)s, %(holds)s
                   FROM flux.market_data_types RETURNING id, name, description, unit, holds""",
                {
                    "id": id,
                    "first": _FIRST_OWN_ID,
                    "name": name,
                    "description": description,
                    "unit": unit,
                    "holds": holds,
                },
            )
            (added,) = await cursor.fetchall()
            return added
    except psycopg.errors.UniqueViolation:
        raise ConflictError(f"a market data type named {name!r}, or with the id {id}, exists already") from None


# ── What there is ────────────────────────────────────────────────────────────────────────────────────────────────────


async def summary(conn: AsyncConnection[Any]) -> list[dict[str, Any]]:
    """For each type and site: how many values, from when to when, and the newest; types without values too."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """SELECT t.id AS type, t.name, t.unit, d.site, coalesce(d.n, 0) AS count, d.first, d.last,
                      (SELECT value FROM flux.market_data v WHERE v.type = t.id AND v.time = d.last
                         AND v.site IS NOT DISTINCT FROM d.site) AS last_value, d.known_at
               FROM flux.market_data_types t LEFT JOIN (
                   SELECT type, site, count(*) AS n, min(time) AS first, max(time) AS last, max(known_at) AS known_at
                   FROM flux.market_data GROUP BY type, site) d ON d.type = t.id
               ORDER BY t.id, d.site NULLS FIRST"""
        )
        return await cursor.fetchall()
