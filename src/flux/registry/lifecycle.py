"""The life of a device. The database keeps its rules and writes its events (``store/sql/registry/02_lifecycle.sql``).

registered ─▶ configured ─▶ testing ─▶ active
                             ▲   │
                             │   ▼
                            failed              any state but decommissioned ─▶ maintenance ─▶ testing
                                                any state ─▶ decommissioned, which is the end
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from flux.errors import NotFoundError, RefusedError
from flux.model import Device, DeviceId, DeviceState, format_duration
from flux.registry.acting import acting
from flux.registry.devices import get_device


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One change of state; ``from_state`` None: the device was registered. ``actor``: a person or a part of Flux."""

    device_id: UUID
    time: datetime
    from_state: str | None
    to_state: str
    trigger: str
    actor: str | None
    reason: str | None


async def set_state(
    conn: AsyncConnection[Any],
    device_id: DeviceId,
    new_state: DeviceState,
    *,
    trigger: str | None = None,
    actor: str,
    reason: str | None = None,
) -> bool:
    """Take a device to ``new_state``; False when it is there already. ``trigger``: what made it; None: the usual.

    Raises :class:`RefusedError` for a change that is not possible.
    """
    async with acting(conn, actor, trigger=trigger, reason=reason):
        cursor = await conn.execute(
            "SELECT state FROM flux.mg_device_registry WHERE id = %s FOR NO KEY UPDATE", (device_id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"no device with id {device_id}")
        if row[0] == new_state:
            return False
        await conn.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (new_state, device_id))
    return True


async def start_maintenance(
    conn: AsyncConnection[Any],
    device_id: DeviceId,
    *,
    actor: str,
    reason: str,
    lasts: timedelta | None = None,
    started_at: datetime | None = None,
    window: UUID | None = None,
) -> Device:
    """Put a device into maintenance: the edge sends it 0 kW, then neither controls nor polls it.

    ``lasts``: the planned time; later than that it is overdue. ``window``: the planned one that will end it by itself.
    Raises RefusedError when it is in maintenance already, or decommissioned.
    """
    note: dict[str, Any] = {"reason": reason}
    if lasts is not None:
        note["expected_duration"] = format_duration(lasts)
    if started_at is not None:
        note["started_at"] = started_at.isoformat()
    if window is not None:
        note["window"] = str(window)
    async with acting(conn, actor, trigger="maintenance", reason=reason):
        device = await _locked(conn, device_id)
        if device.state in {DeviceState.MAINTENANCE, DeviceState.DECOMMISSIONED}:
            raise RefusedError(f"{device.name}: it cannot go into maintenance, it is {device.state}")
        await conn.execute(
            """UPDATE flux.mg_device_registry SET active = false,
               metadata = metadata || jsonb_build_object('maintenance', jsonb_build_object('started_at', now()) || %s)
               WHERE id = %s""",
            (Jsonb(note), device_id),
        )
    return await get_device(conn, device_id)


async def end_maintenance(
    conn: AsyncConnection[Any], device_id: DeviceId, *, actor: str, reason: str | None = None
) -> Device:
    """Take a device back to testing: it becomes active when it answers. RefusedError when it is not in maintenance."""
    async with acting(conn, actor, reason=reason):
        device = await _locked(conn, device_id)
        if device.state is not DeviceState.MAINTENANCE:
            raise RefusedError(f"{device.name}: it is not in maintenance, it is {device.state}")
        await conn.execute("UPDATE flux.mg_device_registry SET active = true WHERE id = %s", (device_id,))
    return await get_device(conn, device_id)


async def decommission(conn: AsyncConnection[Any], device_id: DeviceId, *, actor: str, reason: str) -> Device:
    """End the life of a device: never polled or controlled again; its readings stay and its name becomes free."""
    if not await set_state(conn, device_id, DeviceState.DECOMMISSIONED, trigger="removal", actor=actor, reason=reason):
        raise RefusedError(f"{(await get_device(conn, device_id)).name}: it is decommissioned already")
    return await get_device(conn, device_id)


async def history(conn: AsyncConnection[Any], device_id: DeviceId) -> list[DeviceEvent]:
    """The device's changes of state, oldest first."""
    async with conn.cursor(row_factory=class_row(DeviceEvent)) as cursor:
        await cursor.execute(
            "SELECT device_id, time, from_state, to_state, trigger, actor, reason"
            " FROM flux.device_events WHERE device_id = %s ORDER BY id",
            (device_id,),
        )
        return await cursor.fetchall()


async def _locked(conn: AsyncConnection[Any], device_id: DeviceId) -> Device:
    await conn.execute("SELECT FROM flux.mg_device_registry WHERE id = %s FOR NO KEY UPDATE", (device_id,))
    return await get_device(conn, device_id)
