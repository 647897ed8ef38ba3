"""What tests of several rooms need: devices in the registry, readings that are easy to write."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from flux.model import BessReading, DeviceId, MeterReading

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
"""A Thursday; most tests that need some moment begin here."""


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
    """A row in the registry; returns its id."""
    cursor = await conn.execute(
        """INSERT INTO flux.mg_device_registry (name, type, site, state, active, metadata)
           VALUES (%s, %s, %s, %s, %s, %s) RETURNING id""",
        (name, type, site, state, active, Jsonb(metadata or {})),
    )
    return DeviceId((await cursor.fetchall())[0][0])


def meter_reading(device_id: UUID, time: datetime = NOON, **values: float | None) -> MeterReading:
    return MeterReading(device_id=DeviceId(device_id), time=time, **values)


def bess_reading(device_id: UUID, time: datetime = NOON, **values: Any) -> BessReading:
    return BessReading(device_id=DeviceId(device_id), time=time, **values)


async def fetch(conn: AsyncConnection[Any], query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    cursor = await conn.execute(query, parameters)
    return await cursor.fetchall()
