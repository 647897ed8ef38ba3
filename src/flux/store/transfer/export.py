"""Readings of both kinds into one file: a row for each reading, in the order of devices and times.

Columns are time, device (its name), device_id and every metric that a device of the export can have; what a device
does not measure is empty. ``id`` and ``created_at`` are the database's own and stay there. Importing the file into a
fresh database, where a device of that id or name is registered, gives the same readings bit by bit.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row

from flux.model import MetricKind
from flux.store.ingest import KIND_BY_NAME, KINDS
from flux.store.transfer.files import ColumnType, FileColumn, FileFormat, Outlet, file_size, open_sink, sink_on

_TYPES = {
    MetricKind.LEVEL: ColumnType.REAL,
    MetricKind.COUNTER: ColumnType.DOUBLE,
    MetricKind.CODE: ColumnType.SMALL,
}
_PIECE_BYTES = 64 * 1024
_HEAD = (
    FileColumn("time", ColumnType.TIME),
    FileColumn("device", ColumnType.TEXT),
    FileColumn("device_id", ColumnType.TEXT),
)
ISO_TIME = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
"""SQL for a time as every program reads it, to the microsecond."""


@dataclass(frozen=True, slots=True)
class Source:
    """A device whose readings are exported; ``type`` is ``meter`` or ``bess``."""

    id: UUID
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What is in the file now."""

    rows: int
    devices: int
    bytes: int


async def exported_devices(
    conn: AsyncConnection[Any], *, site: str | None = None, device_id: UUID | None = None, type: str | None = None
) -> list[Source]:
    """Devices of a site, one device, or all, by name; also those decommissioned: their readings are still there."""
    async with conn.cursor(row_factory=class_row(Source)) as cursor:
        await cursor.execute(
            """SELECT id, name, type FROM flux.mg_device_registry
               WHERE (%(site)s::text IS NULL OR site = %(site)s) AND (%(id)s::uuid IS NULL OR id = %(id)s)
                 AND (%(type)s::text IS NULL OR type = %(type)s) ORDER BY name, id""",
            {"site": site, "id": device_id, "type": type},
        )
        return await cursor.fetchall()


async def export_readings(
    conn: AsyncConnection[Any],
    target: Path,
    devices: Sequence[Source],
    since: datetime,
    until: datetime,
    *,
    format: FileFormat,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write the readings with since ≤ time < until to ``target``, as they are at one moment.

    ``progress`` is told, after each device, how many devices are done and how many rows they had. Raises as
    :func:`~flux.store.transfer.files.open_sink`; after any error no file is left, and one that was there is as it was.
    """
    columns = _columns(devices)
    rows = 0
    with open_sink(target, format, columns, force=force) as sink:
        async with _one_moment(conn):
            for done, device in enumerate(devices, start=1):
                async for line in _lines(conn, device, columns, since, until):
                    sink.write(line)
                    rows += 1
                if progress is not None:
                    progress(done, rows)
    return ExportReport(rows, len(devices), file_size(target))


async def stream_readings(
    conn: AsyncConnection[Any], devices: Sequence[Source], since: datetime, until: datetime, *, format: FileFormat
) -> AsyncGenerator[bytes, None]:
    """The file of :func:`export_readings`, in pieces as they come; it is whole when this has ended without an error."""
    columns = _columns(devices)
    outlet = Outlet()
    with sink_on(outlet, format, columns) as sink:
        async with _one_moment(conn):
            for device in devices:
                async for line in _lines(conn, device, columns, since, until):
                    sink.write(line)
                    if outlet.waiting >= _PIECE_BYTES:
                        yield outlet.take()
    yield outlet.take()


def _columns(devices: Sequence[Source]) -> list[FileColumn]:
    kinds = [kind for kind in KINDS if any(device.type == kind.name for device in devices)]
    return [*_HEAD, *(FileColumn(m.name, _TYPES[m.kind]) for kind in kinds for m in kind.metrics)]


@asynccontextmanager
async def _one_moment(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction that sees everything as it is now; inside one of the caller's, that is the caller's business."""
    idle = conn.info.transaction_status == TransactionStatus.IDLE
    async with conn.transaction():
        if idle:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


async def _lines(
    conn: AsyncConnection[Any], device: Source, columns: Sequence[FileColumn], since: datetime, until: datetime
) -> AsyncIterator[bytes]:
    """One device's readings, oldest first, a line of CSV for each."""
    names = [column.name for column in columns[len(_HEAD) :]]
    kind = KIND_BY_NAME[device.type]
    own = {metric.name for metric in kind.metrics}
    values = [sql.Identifier("r", name) if name in own else sql.SQL("NULL") for name in names]
    query = sql.SQL(
        """COPY (SELECT {time}, %(name)s, r.device_id, {values} FROM {table} r
                 WHERE r.device_id = %(id)s AND r.time >= %(since)s AND r.time < %(until)s ORDER BY r.time)
           TO STDOUT (FORMAT csv)"""
    ).format(
        time=sql.SQL(ISO_TIME).format(sql.Identifier("r", "time")),
        values=sql.SQL(", ").join(values),
        table=sql.Identifier("flux", kind.table),
    )
    parameters = {"name": device.name, "id": device.id, "since": since, "until": until}
    async with conn.cursor() as cursor, cursor.copy(query, parameters) as copy:
        async for line in copy:
            yield bytes(line)
