"""How devices are doing, in the database: what edges recorded, and what it comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from flux.model import HealthRecord
from flux.store.ingest import FUTURE_TOLERANCE, OLDEST, IngestResult, ensure_partitions

_logger = structlog.get_logger(__name__)

TABLE = "device_health"

_INSERT = """
    INSERT INTO flux.device_health (device_id, timestamp, status, response_time_ms, error_count, last_successful_poll,
                                    diagnostics)
    VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (device_id, timestamp) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """How a device is doing by its newest record; ``status`` None: there is none yet."""

    device_id: UUID
    name: str
    site: str
    type: str
    state: str
    active: bool
    status: str | None
    timestamp: datetime | None
    response_time_ms: float | None
    error_count: int | None
    last_successful_poll: datetime | None
    diagnostics: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Uptime:
    """Hours of a device in a span. ``uptime``: online and degraded of all that is known, 0 to 1; None: nothing is."""

    device_id: UUID
    name: str
    site: str
    online_h: float
    degraded_h: float
    offline_h: float
    unknown_h: float
    uptime: float | None


async def store_health(conn: AsyncConnection[Any], records: Sequence[HealthRecord]) -> IngestResult:
    """Store a batch; again is free. Records of no device, or of an impossible time, are left out and logged."""
    ((now,),) = await (await conn.execute("SELECT now()")).fetchall()
    good = [record for record in records if OLDEST <= record.time <= now + FUTURE_TOLERANCE]
    await ensure_partitions(conn, TABLE, [record.time for record in good])
    async with conn.transaction(), conn.cursor() as cursor:
        known = {row[0] for row in await (await cursor.execute("SELECT id FROM flux.mg_device_registry")).fetchall()}
        kept = [record for record in good if record.device_id in known]
        stored = 0
        if kept:
            await cursor.executemany(_INSERT, [_values(record) for record in kept])
            stored = cursor.rowcount
    left_out = len(records) - len(kept)
    if left_out:
        _logger.warning("health records of no device, or of an impossible time, are left out", records=left_out)
    return IngestResult(stored, len(kept) - stored, left_out)


def _values(record: HealthRecord) -> tuple[object, ...]:
    return (
        record.device_id,
        record.time,
        str(record.status),
        record.response_time_ms,
        record.error_count,
        record.last_successful_poll,
        Jsonb(dict(record.diagnostics)),
    )


async def health_overview(conn: AsyncConnection[Any], *, site: str | None = None) -> list[DeviceHealth]:
    """Every device that is not decommissioned with its newest record, by name."""
    async with conn.cursor(row_factory=class_row(DeviceHealth)) as cursor:
        await cursor.execute(
            """SELECT r.id AS device_id, r.name, r.site, r.type, r.state, r.active, h.status, h.timestamp,
                      h.response_time_ms, h.error_count, h.last_successful_poll, h.diagnostics
               FROM flux.mg_device_registry r LEFT JOIN LATERAL (
                   SELECT * FROM flux.device_health h WHERE h.device_id = r.id
                   ORDER BY h.timestamp DESC LIMIT 1) h ON true
               WHERE r.state <> 'decommissioned' AND (%(site)s::text IS NULL OR r.site = %(site)s) ORDER BY r.name""",
            {"site": site},
        )
        return await cursor.fetchall()


async def health_history(
    conn: AsyncConnection[Any], device_id: UUID, start: datetime, end: datetime
) -> list[dict[str, Any]]:
    """A device's records with start ≤ timestamp < end, oldest first."""
    cursor = await conn.execute(
        """SELECT timestamp, status, response_time_ms, error_count, last_successful_poll, diagnostics
           FROM flux.device_health WHERE device_id = %s AND timestamp >= %s AND timestamp < %s ORDER BY timestamp""",
        (device_id, start, end),
    )
    names = ("timestamp", "status", "response_time_ms", "error_count", "last_successful_poll", "diagnostics")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def uptime(
    conn: AsyncConnection[Any], start: datetime, end: datetime, device_ids: Sequence[UUID] | None = None
) -> list[Uptime]:
    """Uptime of each device in [start, end), by name; the time that no record covers is unknown."""
    async with conn.cursor(row_factory=class_row(Uptime)) as cursor:
        await cursor.execute(
            """SELECT r.id AS device_id, r.name, r.site, u.online_h, u.degraded_h, u.offline_h, u.unknown_h, u.uptime
               FROM flux.device_uptime(%s, %s, %s::uuid[]) u JOIN flux.mg_device_registry r ON r.id = u.device_id
               ORDER BY r.name""",
            (start, end, None if device_ids is None else list(device_ids)),
        )
        return await cursor.fetchall()
