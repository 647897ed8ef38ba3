"""What somebody should know. An alert is raised while its condition holds and cleared when it is over.

The conditions are looked up in the tables (``flux.alert_conditions``), so that whatever wrote them, an edge, a person
with SQL or a job, alerts alike, and nothing is lost when the worker was away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

FOLD = timedelta(minutes=15)
"""An alert that comes back within this is the same one again."""


class Severity(StrEnum):
    """In order, least first."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that holds now; ``site`` None: it concerns the platform."""

    key: str
    severity: str
    site: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of ``flux.alerts``."""

    id: int
    key: str
    severity: str
    site: str | None
    text: str
    raised_at: datetime
    cleared_at: datetime | None
    times: int


_COLUMNS = "id, key, severity, site, text, raised_at, cleared_at, times"


async def conditions(conn: AsyncConnection[Any], now: datetime) -> list[Condition]:
    """What holds at ``now``, by key."""
    async with conn.cursor(row_factory=class_row(Condition)) as cursor:
        await cursor.execute("SELECT key, severity, site, text FROM flux.alert_conditions(%s) ORDER BY key", (now,))
        return await cursor.fetchall()


async def refresh_alerts(conn: AsyncConnection[Any], now: datetime) -> None:
    """Raise what holds, clear what is over. One that comes back within :data:`FOLD` is opened again, not told again."""
    await raise_and_clear(conn, await conditions(conn, now), now)


async def raise_and_clear(conn: AsyncConnection[Any], holding: Sequence[Condition], now: datetime) -> None:
    """Bring the open alerts to what is ``holding``."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('flux alerts', 0))")
        await conn.execute(
            "UPDATE flux.alerts SET cleared_at = %s WHERE cleared_at IS NULL AND key <> ALL(%s)",
            (now, [condition.key for condition in holding]),
        )
        for condition in holding:
            await _raise(conn, condition, now)


async def _raise(conn: AsyncConnection[Any], condition: Condition, now: datetime) -> None:
    cursor = await conn.execute(
        """UPDATE flux.alerts a SET cleared_at = NULL, text = %(text)s, severity = %(severity)s,
                  times = a.times + (a.cleared_at IS NOT NULL)::int
           WHERE a.id = (SELECT max(n.id) FROM flux.alerts n WHERE n.key = %(key)s)
             AND (a.cleared_at IS NULL OR a.cleared_at > %(since)s)""",
        {"text": condition.text, "severity": condition.severity, "key": condition.key, "since": now - FOLD},
    )
    if cursor.rowcount == 0:
        await conn.execute(
            "INSERT INTO flux.alerts (key, severity, site, text, raised_at) VALUES (%s, %s, %s, %s, %s)",
            (condition.key, condition.severity, condition.site, condition.text, now),
        )


async def list_alerts(
    conn: AsyncConnection[Any], *, site: str | None = None, since: datetime | None = None
) -> list[Alert]:
    """The open ones, newest first; with ``since`` also those that were raised or cleared after it."""
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            f"""SELECT {_COLUMNS} FROM flux.alerts
                WHERE (%(site)s::text IS NULL OR site = %(site)s)
                  AND (cleared_at IS NULL OR raised_at > %(since)s OR cleared_at > %(since)s)
                ORDER BY raised_at DESC, id DESC""".encode(),  # noqa: S608 - columns are ours
            {"site": site, "since": since},
        )
        return await cursor.fetchall()


async def untold(conn: AsyncConnection[Any], now: datetime) -> tuple[list[Alert], list[Alert]]:
    """What nobody was told yet: those raised, and those told before that are over.

    The end of an alert is told after :data:`FOLD` has passed without it coming back, so that flapping is told once.
    """
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM flux.alerts WHERE told_at IS NULL AND cleared_at IS NULL ORDER BY id".encode()  # noqa: S608 - names of ours
        )
        raised = await cursor.fetchall()
        await cursor.execute(
            f"""SELECT {_COLUMNS} FROM flux.alerts
                WHERE told_at IS NOT NULL AND end_told_at IS NULL AND cleared_at < %s ORDER BY id""".encode(),  # noqa: S608 - names of ours
            (now - FOLD,),
        )
        return raised, await cursor.fetchall()


async def mark_told(conn: AsyncConnection[Any], alert: Alert, now: datetime) -> None:
    """Its notification, or that of its end, went out."""
    column = "told_at" if alert.cleared_at is None else "end_told_at"
    await conn.execute(f"UPDATE flux.alerts SET {column} = %s WHERE id = %s".encode(), (now, alert.id))  # noqa: S608 - names of ours
