"""What tests of several rooms need: devices in the registry, readings that are easy to write."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from flux.model import BessReading, DeviceId, MeterReading

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
"""A Thursday; most tests that need some moment begin here."""


STEPS_TO = {
    "registered": [],
    "configured": ["configured"],
    "testing": ["configured", "testing"],
    "active": ["configured", "testing", "active"],
    "failed": ["configured", "testing", "failed"],
    "maintenance": ["maintenance"],
    "decommissioned": ["decommissioned"],
}
"""The changes of state that take a new device there."""


async def add_device(
    conn: AsyncConnection[Any],
    name: str,
    type: str = "meter",
    *,
    site: str = "WLCE",
    state: str = "active",
    active: bool = True,
    metadata: dict[str, Any] | None = None,
) -> DeviceId:
    """A device in the registry that has come to ``state`` as devices do; returns its id."""
    cursor = await conn.execute(
        "INSERT INTO flux.mg_device_registry (name, type, site, metadata) VALUES (%s, %s, %s, %s) RETURNING id, state",
        (name, type, site, Jsonb(metadata or {})),
    )
    ((device_id, begun),) = await cursor.fetchall()
    path = STEPS_TO[state]
    for step in path[path.index(begun) + 1 :] if begun in path else path:
        await conn.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (step, device_id))
    if not active and state not in {"maintenance", "decommissioned"}:
        await conn.execute("UPDATE flux.mg_device_registry SET active = false WHERE id = %s", (device_id,))
    return DeviceId(device_id)


def meter_reading(device_id: UUID, time: datetime = NOON, **values: float | None) -> MeterReading:
    return MeterReading(device_id=DeviceId(device_id), time=time, **values)


def bess_reading(device_id: UUID, time: datetime = NOON, **values: Any) -> BessReading:
    return BessReading(device_id=DeviceId(device_id), time=time, **values)


async def fetch(conn: AsyncConnection[Any], query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    cursor = await conn.execute(query, parameters)
    return await cursor.fetchall()


async def delete_all_readings(conn: AsyncConnection[Any], kind: str) -> None:
    """Of every device of this type; by its function, which every engine lets anybody do."""
    await conn.execute(
        "SELECT flux.delete_readings(id, '-infinity', 'infinity') FROM flux.mg_device_registry WHERE type = %s", (kind,)
    )
