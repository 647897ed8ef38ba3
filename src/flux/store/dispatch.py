"""What a site's controller is told from outside: dispatch schedules and operating envelopes.

A market client that has received a schedule gives it to :func:`replace_schedule` each time, whole::

    steps = [ScheduleStep(start, end, "discharge_max"), …]
    await replace_schedule(conn, "WLCE", steps, source="axle")  →  Replaced(added=2, withdrawn=1)

What stays the same stays as it was, and the edge of the site hears of a change at once. Times are aware.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any

from psycopg import AsyncConnection

from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.errors import InputError, NotFoundError

MANUAL = "manual"
"""The source of what was typed by hand; it goes before every other."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """How many rows are new, and how many no longer hold."""

    added: int = 0
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step, where it came from, and when it was withdrawn; None: it holds."""

    step: ScheduleStep
    source: str
    received_at: datetime
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    """An envelope, where it came from, and when it was withdrawn; None: it holds."""

    envelope: Envelope
    source: str
    received_at: datetime
    withdrawn_at: datetime | None = None


async def replace_schedule(
    conn: AsyncConnection[Any], site: str, steps: Sequence[ScheduleStep], *, source: str
) -> Replaced:
    """Make ``steps`` the whole schedule that ``source`` has for ``site``; [] clears it. One transaction.

    Steps that have ended stay on record as they are, and those in ``steps`` are passed over. An action that is not
    known is stored as it came. InputError for a step that does not end after it starts or has a time without its
    offset, NotFoundError for a site that is not known.
    """
    for step in steps:
        _check_span(step.start, step.end)
    async with conn.transaction():
        now = await _lock_site(conn, site)
        wanted = {step: place for place, step in reversed(list(enumerate(steps))) if step.end > now}
        cursor = await conn.execute(
            "SELECT id, starts_at, ends_at, action, position FROM flux.dispatch_schedules"
            " WHERE site = %s AND source = %s AND withdrawn_at IS NULL AND ends_at > %s",
            (site, source, now),
        )
        held = {ScheduleStep(*step): (row, place) for row, *step, place in await cursor.fetchall()}
        gone = [row for step, (row, _) in held.items() if step not in wanted]
        new = [(site, source, place, s.start, s.end, s.action) for s, place in wanted.items() if s not in held]
        moved = [(place, held[s][0]) for s, place in wanted.items() if s in held and held[s][1] != place]
        await _write_changes(conn, now, gone, new, moved)
    return Replaced(len(new), len(gone))


async def _write_changes(
    conn: AsyncConnection[Any],
    now: datetime,
    gone: Sequence[int],
    new: Sequence[tuple[object, ...]],
    moved: Sequence[tuple[int, int]],
) -> None:
    """Nothing is written, and so nothing announced, where nothing has changed."""
    async with conn.cursor() as cursor:
        if gone:
            await cursor.execute(
                "UPDATE flux.dispatch_schedules SET withdrawn_at = %s WHERE id = ANY(%s)", (now, list(gone))
            )
        if new:
            await cursor.executemany(
                "INSERT INTO flux.dispatch_schedules (site, source, position, starts_at, ends_at, action)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                new,
            )
        if moved:
            await cursor.executemany("UPDATE flux.dispatch_schedules SET position = %s WHERE id = %s", moved)


async def schedule_of(conn: AsyncConnection[Any], site: str) -> list[StoredStep]:
    """The steps that have not ended, in the order in which they count."""
    cursor = await conn.execute(
        "SELECT starts_at, ends_at, action, source, received_at FROM flux.dispatch_schedules"
        " WHERE site = %s AND withdrawn_at IS NULL AND ends_at > clock_timestamp()"
        " ORDER BY source <> %s, source, position, id",
        (site, MANUAL),
    )
    rows = await cursor.fetchall()
    return [StoredStep(ScheduleStep(start, end, what), source, at) for start, end, what, source, at in rows]


async def steps_between(conn: AsyncConnection[Any], site: str, start: datetime, end: datetime) -> list[StoredStep]:
    """Every step that ``site`` ever had about start ≤ time < end, withdrawn ones too, in the order in which they count.

    The order is the newest of each source: it alone is not kept as it was.
    """
    cursor = await conn.execute(
        "SELECT starts_at, ends_at, action, source, received_at, withdrawn_at FROM flux.dispatch_schedules"
        " WHERE site = %s AND ends_at > %s AND starts_at < %s ORDER BY source <> %s, source, position, id",
        (site, start, end, MANUAL),
    )
    rows = await cursor.fetchall()
    return [StoredStep(ScheduleStep(*step), source, at, gone) for *step, source, at, gone in rows]


async def envelopes_between(
    conn: AsyncConnection[Any], site: str, start: datetime, end: datetime
) -> list[StoredEnvelope]:
    """Every envelope that ``site`` ever had about start ≤ time < end, the one that counts first at the head."""
    cursor = await conn.execute(
        "SELECT starts_at, ends_at, import_limit_kw, export_limit_kw, source, received_at, withdrawn_at"
        " FROM flux.site_envelopes WHERE site = %s AND ends_at > %s AND starts_at < %s ORDER BY id DESC",
        (site, start, end),
    )
    return [
        StoredEnvelope(Envelope(first, last, SiteLimits(import_kw, export_kw)), source, at, gone)
        for first, last, import_kw, export_kw, source, at, gone in await cursor.fetchall()
    ]


async def add_envelope(conn: AsyncConnection[Any], site: str, envelope: Envelope, *, source: str = MANUAL) -> None:
    """Add an envelope; while it lasts it counts before those received earlier.

    InputError for a span or a limit that can't be, NotFoundError for a site that is not known.
    """
    _check_span(envelope.start, envelope.end)
    import_kw, export_kw = envelope.limits.import_kw, envelope.limits.export_kw
    given = [limit for limit in (import_kw, export_kw) if limit is not None]
    if not given or not all(isfinite(limit) for limit in given):
        raise InputError("an operating envelope needs an import limit or an export limit, in kW")
    async with conn.transaction():
        await _lock_site(conn, site)
        await conn.execute(
            "INSERT INTO flux.site_envelopes (site, source, starts_at, ends_at, import_limit_kw, export_limit_kw)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (site, source, envelope.start, envelope.end, import_kw, export_kw),
        )


async def clear_envelopes(conn: AsyncConnection[Any], site: str) -> int:
    """Withdraw every envelope of ``site`` that has not ended; how many there were."""
    async with conn.transaction():
        now = await _lock_site(conn, site)
        cursor = await conn.execute(
            "UPDATE flux.site_envelopes SET withdrawn_at = %s"
            " WHERE site = %s AND withdrawn_at IS NULL AND ends_at > %s",
            (now, site, now),
        )
    return cursor.rowcount


async def envelopes_of(conn: AsyncConnection[Any], site: str) -> list[StoredEnvelope]:
    """The envelopes that have not ended, the one that counts first at the head."""
    cursor = await conn.execute(
        "SELECT starts_at, ends_at, import_limit_kw, export_limit_kw, source, received_at FROM flux.site_envelopes"
        " WHERE site = %s AND withdrawn_at IS NULL AND ends_at > clock_timestamp() ORDER BY id DESC",
        (site,),
    )
    rows = await cursor.fetchall()
    return [
        StoredEnvelope(Envelope(start, end, SiteLimits(import_kw, export_kw)), source, at)
        for start, end, import_kw, export_kw, source, at in rows
    ]


async def check_site(conn: AsyncConnection[Any], site: str) -> None:
    """NotFoundError, naming those there are, for a site that is not known."""
    cursor = await conn.execute("SELECT FROM flux.sites WHERE site = %s", (site,))
    if await cursor.fetchone() is None:
        known = [code for (code,) in await (await conn.execute("SELECT site FROM flux.sites ORDER BY 1")).fetchall()]
        raise NotFoundError(f"there is no site {site!r}; there is {', '.join(known) or 'none yet'}")


async def _lock_site(conn: AsyncConnection[Any], site: str) -> datetime:
    """Until the transaction ends nobody else changes what the site is told; the database's clock."""
    await check_site(conn, site)
    await conn.execute("SELECT FROM flux.sites WHERE site = %s FOR NO KEY UPDATE", (site,))
    cursor = await conn.execute("SELECT clock_timestamp()")
    now: datetime = (await cursor.fetchall())[0][0]
    return now


def _check_span(start: datetime, end: datetime) -> None:
    for time in (start, end):
        if time.tzinfo is None:
            raise InputError(f"{time.isoformat()}: a time needs its offset, like 2026-01-15T17:00Z")
    if end <= start:
        raise InputError(f"it must end after it starts, not from {start.isoformat()} to {end.isoformat()}")
