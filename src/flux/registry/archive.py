"""Readings of devices that were decommissioned go to Parquet files, before anything may drop them.

The worker writes the file; until it has, retention holds back the pieces that have such readings. Readings that come in
later, out of an edge's outbox, make another file with all that is there.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection
from psycopg.rows import class_row

from flux.store.transfer.export import Source, export_readings
from flux.store.transfer.files import FileFormat

_logger = structlog.get_logger(__name__)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_SETTLED = timedelta(minutes=10)
"""An edge may still have readings to send."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    id: UUID
    name: str
    site: str
    type: str
    first: datetime
    last: datetime


async def archive_decommissioned(conn: AsyncConnection[Any], folder: Path, now: datetime) -> list[Path]:
    """Write what is not archived yet, a file for each device; returns the files.

    ``folder`` is made where it is not there. Raises as :func:`~flux.store.transfer.export.export_readings`, and leaves
    no half a file.
    """
    return [await _archive(conn, device, folder, now) for device in await _waiting(conn, now)]


async def _waiting(conn: AsyncConnection[Any], now: datetime) -> list[_Waiting]:
    async with conn.cursor(row_factory=class_row(_Waiting)) as cursor:
        await cursor.execute(
            """SELECT r.id, r.name, r.site, r.type, s.first, s.last
               FROM flux.mg_device_registry r
               CROSS JOIN LATERAL (
                   SELECT min(m.time), max(m.time) FROM flux.mg_meter_readings m
                   WHERE m.device_id = r.id AND r.type = 'meter'
                   UNION ALL
                   SELECT min(b.time), max(b.time) FROM flux.mg_bess_readings b
                   WHERE b.device_id = r.id AND r.type = 'bess'
               ) s(first, last)
               WHERE r.state = 'decommissioned' AND r.updated_at < %s AND s.last IS NOT NULL
                 AND NOT EXISTS (SELECT FROM flux.device_archives a WHERE a.device_id = r.id AND a.to_time >= s.last)
               ORDER BY r.name, r.id""",
            (now - _SETTLED,),
        )
        return await cursor.fetchall()


async def _archive(conn: AsyncConnection[Any], device: _Waiting, folder: Path, now: datetime) -> Path:
    target = _file(folder, device, now)
    until = device.last + timedelta(microseconds=1)
    source = Source(device.id, device.name, device.type)
    report = await export_readings(conn, target, [source], _BEGINNING, until, format=FileFormat.PARQUET)
    await conn.execute(
        """INSERT INTO flux.device_archives (device_id, archived_at, file, rows, from_time, to_time, sha256)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        (device.id, now, str(target), report.rows, device.first, device.last, _digest(target)),
    )
    _logger.info("readings archived", device=device.name, file=str(target), rows=report.rows)
    return target


def _file(folder: Path, device: _Waiting, now: datetime) -> Path:
    place = (folder / device.site).absolute()
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{device.name.replace(' ', '_')}-{device.id}-{now:%Y%m%dT%H%M%S%f}Z.parquet"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
