"""What the rollups took a counter's fall or jump for, and what people say of it instead.

A ruling belongs to the reading at which the counter fell or rose too far. It stays when the rollups are computed anew;
it says nothing while there is no fall or jump at that reading (a late reading may have explained it).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from flux.errors import InputError, NotFoundError
from flux.model import Device


class Ruling(StrEnum):
    """What a person says that a counter did."""

    AS_JUDGED = "as_judged"  # Flux was right
    RESTART = "restart"  # it began at zero: the new value counts
    ROLLOVER = "rollover"  # it passed the end of its register
    CORRECTION = "correction"  # nothing counts
    RISE = "rise"  # a jump that is true: all of it counts
    STEP = "step"  # so many kWh count


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """One fall or jump. ``step``: what counts of it, in the counter's unit; None: nothing, or not decided yet."""

    site: str
    device: str
    counter: str
    time: datetime
    kind: str
    good_time: datetime
    good_value: float
    value: float
    step: float | None
    needs_review: bool
    ruling: str | None
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None


_LIST = """
    SELECT g.site, g.name AS device, e.counter, e.time, e.kind, e.good_time, e.good_value, e.value, e.step,
           e.needs_review, u.kind AS ruling, u.decided_by, u.decided_at, u.reason
    FROM flux.counter_events e
    JOIN flux.mg_device_registry g ON g.id = e.device_id
    LEFT JOIN flux.counter_rulings u USING (device_id, counter, time)
    WHERE (%(device)s::uuid IS NULL OR e.device_id = %(device)s)
        AND (%(site)s::text IS NULL OR g.site = %(site)s)
        AND (%(everything)s OR (e.needs_review AND u.kind IS NULL))
    ORDER BY e.time DESC, g.name, e.counter LIMIT %(limit)s
"""


async def list_events(
    conn: AsyncConnection[Any],
    *,
    site: str | None = None,
    device: UUID | None = None,
    everything: bool = False,
    limit: int = 100,
) -> list[CounterEvent]:
    """The newest first; only those that somebody should look at, unless ``everything``."""
    async with conn.cursor(row_factory=class_row(CounterEvent)) as cursor:
        await cursor.execute(_LIST, {"site": site, "device": device, "everything": everything, "limit": limit})
        return await cursor.fetchall()


async def rule(
    conn: AsyncConnection[Any],
    device: Device,
    counter: str,
    time: datetime,
    ruling: Ruling,
    *,
    by: str,
    reason: str | None,
    step: float | None = None,
) -> datetime:
    """Say what the counter did; the rollups follow with the next refresh. Returns the time of the reading.

    ``time`` may be the second of the event. Raises NotFoundError when there is none, InputError for a ruling that
    cannot be: a rollover of a counter whose width nobody knows, a rise where it fell.
    """
    async with conn.transaction():
        at, kind = await _event(conn, device, counter, time)
        fell = kind != "jump"
        if ruling is Ruling.RISE and fell:
            raise InputError(f"{device.name} {counter} fell at {at:%Y-%m-%d %H:%M:%S}: a rise is for a jump")
        if ruling in (Ruling.RESTART, Ruling.ROLLOVER) and not fell:
            raise InputError(f"{device.name} {counter} rose at {at:%Y-%m-%d %H:%M:%S}: a {ruling} is for a fall")
        if ruling is Ruling.ROLLOVER and await _width(conn, device, counter) is None:
            raise InputError(
                f"{device.name} {counter}: nobody knows the width of its register; "
                'say it in the metadata, "counter_width", or give --step'
            )
        await conn.execute(
            """INSERT INTO flux.counter_rulings (device_id, counter, time, kind, step, decided_by, reason)
               VALUES (%(id)s, %(counter)s, %(time)s, %(kind)s, %(step)s, %(by)s, %(reason)s)
               ON CONFLICT (device_id, counter, time) DO UPDATE SET
                   kind = excluded.kind, step = excluded.step, decided_by = excluded.decided_by,
                   decided_at = now(), reason = excluded.reason""",
            _values(device, counter, at, ruling, step, by, reason),
        )
        await _remember(conn, _values(device, counter, at, ruling, step, by, reason))
    return at


async def withdraw(
    conn: AsyncConnection[Any], device: Device, counter: str, time: datetime, *, by: str, reason: str | None
) -> datetime:
    """Back to what Flux makes of it. Raises NotFoundError when nothing was ruled there."""
    async with conn.transaction():
        cursor = await conn.execute(
            """DELETE FROM flux.counter_rulings
               WHERE device_id = %s AND counter = %s AND time >= %s AND time < %s RETURNING time""",
            (device.id, counter, *_span(time)),
        )
        rows = await cursor.fetchall()
        if not rows:
            raise NotFoundError(f"{device.name} {counter}: nothing was ruled at {time:%Y-%m-%d %H:%M:%S}")
        await _remember(conn, _values(device, counter, rows[0][0], "withdrawn", None, by, reason))
    at: datetime = rows[0][0]
    return at


def _span(time: datetime) -> tuple[datetime, datetime]:
    """A time as it is printed means its whole second."""
    exact = timedelta(microseconds=1) if time.microsecond else timedelta(seconds=1)
    return time, time + exact


async def _event(conn: AsyncConnection[Any], device: Device, counter: str, time: datetime) -> tuple[datetime, str]:
    cursor = await conn.execute(
        """SELECT time, kind FROM flux.counter_events
           WHERE device_id = %s AND counter = %s AND time >= %s AND time < %s ORDER BY time LIMIT 1""",
        (device.id, counter, *_span(time)),
    )
    rows = await cursor.fetchall()
    if not rows:
        raise NotFoundError(
            f"{device.name} {counter}: no event at {time:%Y-%m-%d %H:%M:%S}; "
            f"`flux counters list --device {device.name} --all` shows those that there are"
        )
    at, kind = rows[0]
    return at, kind


async def _width(conn: AsyncConnection[Any], device: Device, counter: str) -> float | None:
    cursor = await conn.execute(
        "SELECT flux.counter_width(metadata, %s) FROM flux.mg_device_registry WHERE id = %s", (counter, device.id)
    )
    ((width,),) = await cursor.fetchall()
    return None if width is None else float(width)


def _values(
    device: Device, counter: str, time: datetime, kind: str, step: float | None, by: str, reason: str | None
) -> dict[str, Any]:
    return {
        "id": device.id,
        "counter": counter,
        "time": time,
        "kind": str(kind),
        "step": step,
        "by": by,
        "reason": reason,
    }


async def _remember(conn: AsyncConnection[Any], values: dict[str, Any]) -> None:
    await conn.execute(
        """INSERT INTO flux.counter_ruling_history (device_id, counter, time, kind, step, decided_by, reason)
           VALUES (%(id)s, %(counter)s, %(time)s, %(kind)s, %(step)s, %(by)s, %(reason)s)""",
        values,
    )
