"""Maintenance that is planned ahead: once, or again and again; what is due is begun, what is overdue is told.

A window of ``every="sunday 02:00"``, 2 h long, begins each Sunday at 02:00 local time. It takes the device to
maintenance; somebody ends it (``ends_itself``: the worker does), and from the planned end on it is overdue.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from psycopg import AsyncConnection
from psycopg.rows import class_row
from pydantic import ValidationError

from flux.control.periods import PeriodConfig, instant_of
from flux.errors import InputError, NotFoundError, RefusedError
from flux.model import Device, DeviceId, DeviceState
from flux.registry.lifecycle import end_maintenance, start_maintenance

_logger = structlog.get_logger(__name__)
_WORKER = "flux worker"


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """A row of ``flux.maintenance_windows`` with its device's name."""

    id: UUID
    device_id: UUID
    device: str
    starts_at: datetime | None
    every: str | None
    timezone: str
    duration: timedelta
    reason: str
    ends_itself: bool
    started_last: datetime | None


@dataclass(frozen=True, slots=True)
class OverdueMaintenance:
    device: str
    site: str
    reason: str | None
    planned_end: datetime


async def plan_window(
    conn: AsyncConnection[Any],
    device: Device,
    *,
    starts_at: datetime | None = None,
    every: str | None = None,
    timezone: str = "Europe/London",
    lasts: timedelta,
    reason: str,
    ends_itself: bool = False,
    actor: str,
) -> UUID:
    """Plan a window, once at ``starts_at`` or again and again. InputError for an ``every`` that can't be read."""
    if (starts_at is None) == (every is None):
        raise InputError("a window is either at one time or again and again")
    if every is not None:
        last_start(every, timezone, datetime(2026, 1, 1, tzinfo=UTC))
    if lasts <= timedelta():
        raise InputError("a window lasts longer than nothing")
    if device.state is DeviceState.DECOMMISSIONED:
        raise RefusedError(f"{device.name}: it is decommissioned, there is nothing to maintain")
    cursor = await conn.execute(
        """INSERT INTO flux.maintenance_windows
               (device_id, starts_at, every, timezone, duration, reason, ends_itself, created_by)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id""",
        (device.id, starts_at, every, timezone, lasts, reason, ends_itself, actor),
    )
    ((window_id,),) = await cursor.fetchall()
    planned: UUID = window_id
    return planned


async def list_windows(conn: AsyncConnection[Any]) -> list[MaintenanceWindow]:
    """Those that can still begin: recurring ones, and those at one time that has not begun."""
    async with conn.cursor(row_factory=class_row(MaintenanceWindow)) as cursor:
        await cursor.execute(
            """SELECT w.id, w.device_id, r.name AS device, w.starts_at, w.every, w.timezone, w.duration, w.reason,
                      w.ends_itself, w.started_last
               FROM flux.maintenance_windows w JOIN flux.mg_device_registry r ON r.id = w.device_id
               WHERE w.cancelled_at IS NULL AND r.state <> 'decommissioned'
                 AND (w.every IS NOT NULL OR w.started_last IS NULL)
               ORDER BY r.name, w.created_at"""
        )
        return await cursor.fetchall()


async def cancel_window(conn: AsyncConnection[Any], window_id: str) -> None:
    """NotFoundError when there is none (any more); what has begun goes on."""
    cursor = await conn.execute(
        "UPDATE flux.maintenance_windows SET cancelled_at = now() WHERE id::text = lower(%s) AND cancelled_at IS NULL",
        (window_id,),
    )
    if cursor.rowcount == 0:
        raise NotFoundError(f"no planned maintenance {window_id!r}; see `flux devices maintenance list`")


async def overdue(conn: AsyncConnection[Any], now: datetime) -> list[OverdueMaintenance]:
    """Devices whose maintenance was to be over by ``now``, longest first."""
    async with conn.cursor(row_factory=class_row(OverdueMaintenance)) as cursor:
        await cursor.execute(
            """SELECT r.name AS device, r.site, r.metadata #>> '{maintenance,reason}' AS reason, e.planned_end
               FROM flux.mg_device_registry r
               CROSS JOIN LATERAL (SELECT flux.maintenance_end(r.metadata)) e(planned_end)
               WHERE r.state = 'maintenance' AND e.planned_end < %s ORDER BY e.planned_end""",
            (now,),
        )
        return await cursor.fetchall()


async def run_due_windows(conn: AsyncConnection[Any], now: datetime) -> int:
    """Begin the windows that ``now`` is in, end those that end themselves; how many were begun or ended.

    A window that passed while no worker ran is not made up for. A device that is in maintenance already is left as it
    is, and the window counts as begun.
    """
    changes = 0
    for window in await list_windows(conn):
        begins = _newest_start(window, now)
        if begins is None or not begins <= now < begins + window.duration or begins == window.started_last:
            continue
        async with conn.transaction():
            await conn.execute(
                "UPDATE flux.maintenance_windows SET started_last = %s WHERE id = %s", (begins, window.id)
            )
            changes += await _begin(conn, window, begins)
    return changes + await _end_by_themselves(conn, now)


async def _begin(conn: AsyncConnection[Any], window: MaintenanceWindow, begins: datetime) -> int:
    try:
        await start_maintenance(
            conn,
            DeviceId(window.device_id),
            actor=_WORKER,
            reason=window.reason,
            lasts=window.duration,
            started_at=begins,
            window=window.id if window.ends_itself else None,
        )
    except RefusedError as error:
        _logger.info("planned maintenance finds the device so already", device=window.device, reason=str(error))
        return 0
    return 1


async def _end_by_themselves(conn: AsyncConnection[Any], now: datetime) -> int:
    cursor = await conn.execute(
        """SELECT id FROM flux.mg_device_registry
           WHERE state = 'maintenance' AND metadata #> '{maintenance,window}' IS NOT NULL
             AND flux.maintenance_end(metadata) <= %s""",
        (now,),
    )
    ended = [DeviceId(row[0]) for row in await cursor.fetchall()]
    changes = 0
    for device_id in ended:
        try:
            await end_maintenance(conn, device_id, actor=_WORKER, reason="the planned time is over")
        except RefusedError as error:  # somebody was quicker; the others end all the same
            _logger.info("planned maintenance is over already", reason=str(error))
        else:
            changes += 1
    return changes


def _newest_start(window: MaintenanceWindow, now: datetime) -> datetime | None:
    if window.every is None:
        return window.starts_at
    try:
        return last_start(window.every, window.timezone, now)
    except InputError as error:  # written by SQL: it must not hold up the others
        _logger.warning("planned maintenance can't be read", device=window.device, problem=str(error))
        return None


def last_start(every: str, timezone: str, now: datetime) -> datetime:
    """The newest start of ``every`` at or before ``now``, UTC.

    ``every``: ``"sunday 02:00"``, ``"mon,thu 02:00"``, ``"weekdays 02:00"``, ``"daily 02:00"``. A time that the clocks
    skip means the instant of the change, one that comes twice its first coming.
    """
    words = every.lower().split()
    if len(words) != 2:
        raise InputError(f'{every!r}: write it like "sunday 02:00", "mon,thu 02:00" or "daily 02:00"')
    named = "all" if words[0] in {"daily", "day"} else words[0]
    days = named if named in {"all", "weekdays", "weekends"} else named.split(",")
    try:
        zone = ZoneInfo(timezone)
        end = "24:00" if words[1].startswith("00:00") else "00:00"
        period = PeriodConfig.model_validate({"days": days, "start": words[1], "end": end})
    except ValidationError as error:
        raise InputError(f"{every!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"unknown time zone {timezone!r}; write it like Europe/London") from None
    today = now.astimezone(zone).date()
    for back in range(9):
        day = today - timedelta(days=back)
        start = instant_of(day, period.start, zone)
        if period.on(day, lambda _day: False) and start <= now:
            return start
    raise AssertionError("every week has each of its days")
