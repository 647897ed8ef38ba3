"""Values that are stored and left out of the rollups: list them, lift a mark, mark by hand."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from flux.errors import InputError, NotFoundError
from flux.model import METER_METRICS, Device, DeviceType


@dataclass(frozen=True, slots=True)
class Mark:
    """One value that is left out, or was until its mark was lifted."""

    site: str
    device: str
    time: datetime
    metric: str
    value: float | None
    reason: str
    marked_by: str
    marked_at: datetime
    note: str | None
    lifted_by: str | None
    lifted_at: datetime | None
    lift_note: str | None


_LIST = """
    SELECT g.site, g.name AS device, m.time, m.metric, m.value, m.reason, m.marked_by, m.marked_at, m.note,
           m.lifted_by, m.lifted_at, m.lift_note
    FROM flux.reading_marks m JOIN flux.mg_device_registry g ON g.id = m.device_id
    WHERE (%(device)s::uuid IS NULL OR m.device_id = %(device)s)
        AND (%(site)s::text IS NULL OR g.site = %(site)s)
        AND (%(metric)s::text IS NULL OR m.metric = %(metric)s)
        AND (%(everything)s OR m.lifted_at IS NULL)
    ORDER BY m.time DESC, g.name, m.metric LIMIT %(limit)s
"""


async def list_marks(
    conn: AsyncConnection[Any],
    *,
    site: str | None = None,
    device: UUID | None = None,
    metric: str | None = None,
    everything: bool = False,
    limit: int = 100,
) -> list[Mark]:
    """The newest first; with ``everything`` those that were lifted, too."""
    values = {"site": site, "device": device, "metric": metric, "everything": everything, "limit": limit}
    async with conn.cursor(row_factory=class_row(Mark)) as cursor:
        await cursor.execute(_LIST, values)
        return await cursor.fetchall()


async def lift(
    conn: AsyncConnection[Any],
    device: Device,
    metric: str,
    since: datetime,
    until: datetime | None = None,
    *,
    by: str,
    note: str | None,
) -> int:
    """Take values back into the rollups; returns how many. They stay for as long as they are not changed.

    ``since`` alone means its second. Raises NotFoundError when no mark stands there.
    """
    cursor = await conn.execute(
        """UPDATE flux.reading_marks SET lifted_at = now(), lifted_by = %s, lift_note = %s
           WHERE device_id = %s AND metric = %s AND time >= %s AND time < %s AND lifted_at IS NULL""",
        (by, note, device.id, _known(device, metric), since, _end(since, until)),
    )
    if cursor.rowcount == 0:
        raise NotFoundError(f"{device.name} {metric}: no mark stands at {since:%Y-%m-%d %H:%M:%S}")
    return cursor.rowcount


async def mark(
    conn: AsyncConnection[Any],
    device: Device,
    metric: str,
    since: datetime,
    until: datetime | None = None,
    *,
    by: str,
    note: str | None,
) -> int:
    """Leave values out of the rollups; returns how many. Those marked before stay as they are marked.

    Raises NotFoundError when there is no value in that span, InputError for a device or metric that has no marks.
    """
    column = sql.Identifier(_known(device, metric))
    query = sql.SQL(
        """WITH these AS (
               SELECT r.device_id, r.time, r.{column}::double precision AS value FROM flux.mg_meter_readings r
               WHERE r.device_id = %(id)s AND r.time >= %(since)s AND r.time < %(until)s AND r.{column} IS NOT NULL
           ), put AS (
               INSERT INTO flux.reading_marks AS m (device_id, time, metric, reason, value, marked_by, note)
               SELECT device_id, time, %(metric)s, 'operator', value, %(by)s, %(note)s FROM these
               ON CONFLICT (device_id, time, metric) DO UPDATE SET
                   reason = excluded.reason, value = excluded.value, marked_at = now(), marked_by = excluded.marked_by,
                   note = excluded.note, lifted_at = NULL, lifted_by = NULL, lift_note = NULL
                   WHERE m.lifted_at IS NOT NULL
               RETURNING 1
           )
           SELECT (SELECT count(*) FROM these), (SELECT count(*) FROM put)"""
    ).format(column=column)
    values = {"id": device.id, "metric": metric, "since": since, "until": _end(since, until), "by": by, "note": note}
    cursor = await conn.execute(query, values)
    ((there, marked),) = await cursor.fetchall()
    if there == 0:
        raise NotFoundError(f"{device.name} {metric}: no value at {since:%Y-%m-%d %H:%M:%S}")
    return int(marked)


def _end(since: datetime, until: datetime | None) -> datetime:
    if until is not None:
        return until
    return since + (timedelta(microseconds=1) if since.microsecond else timedelta(seconds=1))


def _known(device: Device, metric: str) -> str:
    if device.type is not DeviceType.METER:
        raise InputError(f"{device.name} is a battery: marks are for the values of meters")
    if metric not in {one.name for one in METER_METRICS}:
        raise InputError(f"{metric!r} is no metric of a meter; e.g. power_total_active, energy_imported_active")
    return metric
