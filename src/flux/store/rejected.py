"""Readings that were refused: list them, try them again, or accept one in place of what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from flux.errors import NotFoundError, RefusedError
from flux.model import DeviceId, MetricKind, Reading
from flux.store.ingest import KIND_BY_NAME, IngestResult, Kind, Reason, Rejection, store
from flux.store.notes import note_changed

_logger = structlog.get_logger(__name__)
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class RejectedReading:
    """A row of ``rejected_readings``; ``device_name`` None: no device of the registry has that id."""

    id: int
    received_at: datetime
    kind: str
    device_id: UUID | None
    device_name: str | None
    time: datetime | None
    reason: str
    detail: str
    payload: dict[str, Any]
    status: str


async def list_rejected(
    conn: AsyncConnection[Any],
    *,
    ids: Sequence[int] | None = None,
    status: str | None = "pending",
    after_id: int = 0,
    limit: int = 100,
) -> list[RejectedReading]:
    """Refused readings, oldest first; ``status`` None: whatever became of them. NotFoundError for an id that is not."""
    async with conn.cursor(row_factory=class_row(RejectedReading)) as cursor:
        await cursor.execute(
            """SELECT r.id, r.received_at, r.kind, r.device_id, d.name AS device_name, r.time, r.reason, r.detail,
                      r.payload, r.status
               FROM flux.rejected_readings r LEFT JOIN flux.mg_device_registry d ON d.id = r.device_id
               WHERE r.id > %(after)s AND (%(ids)s::bigint[] IS NULL OR r.id = ANY(%(ids)s::bigint[]))
                 AND (%(status)s::text IS NULL OR r.status = %(status)s)
               ORDER BY r.id LIMIT %(limit)s""",
            {"after": after_id, "ids": None if ids is None else list(ids), "status": status, "limit": limit},
        )
        rows = await cursor.fetchall()
    if ids is not None and (missing := sorted(set(ids) - {row.id for row in rows})):
        what = f"{status} " if status else ""
        raise NotFoundError(f"no {what}rejected reading has the id {', '.join(map(str, missing))}")
    return rows


async def retry_rejected(conn: AsyncConnection[Any], ids: Sequence[int] | None = None) -> IngestResult:
    """Ingest refused readings once more (all that are pending, or ``ids``), after what was wrong has been mended.

    Those that are stored now, or were meanwhile, become ``retried``; the others stay pending with today's reason.
    """
    total, after = IngestResult(0, 0, 0), 0
    while True:
        limit = _PAGE if ids is None else len(ids)
        rows = await list_rejected(conn, ids=ids, after_id=after, limit=limit)
        if not rows:
            return total
        total += await _retry_page(conn, rows)
        after = rows[-1].id
        if ids is not None:
            return total


async def accept_rejected(conn: AsyncConnection[Any], ids: Sequence[int]) -> int:
    """Put refused readings in place of what is stored under their device and time; returns how many.

    Only conflicts can be accepted (RefusedError for others, and then none is): an impossible value stays impossible,
    and what is stored now of an unknown device is a matter of registering it and trying again. All metrics are
    replaced, also by null. Rollups follow, as after any UPDATE.
    """
    async with conn.transaction():
        rows = await list_rejected(conn, ids=ids, limit=len(ids))
        for row in rows:
            if row.reason != Reason.CONFLICT:
                raise RefusedError(f"rejected reading {row.id} is no conflict ({row.reason}): mend that, then --retry")
        for row in rows:
            await _replace(conn, row)
        await conn.execute("UPDATE flux.rejected_readings SET status = 'accepted' WHERE id = ANY(%s)", (list(ids),))
    _logger.info("rejected readings accepted", ids=list(ids))
    return len(rows)


async def _retry_page(conn: AsyncConnection[Any], rows: Sequence[RejectedReading]) -> IngestResult:
    readings = [_reading(row) for row in rows]
    usable = [(row, reading) for row, reading in zip(rows, readings, strict=True) if reading is not None]
    result, rejections = await store(conn, [reading for _, reading in usable], record=False)
    still = {usable[r.index][0].id: r for r in rejections}
    retried = [row.id for row, _ in usable if row.id not in still]
    async with conn.transaction():
        await conn.execute("UPDATE flux.rejected_readings SET status = 'retried' WHERE id = ANY(%s)", (retried,))
        for row, _ in usable:
            if (rejection := still.get(row.id)) is not None and rejection.reason != row.reason:
                await _change_reason(conn, row, rejection)
    return result + IngestResult(0, 0, len(rows) - len(usable))


async def _change_reason(conn: AsyncConnection[Any], row: RejectedReading, rejection: Rejection) -> None:
    """Unless the same reading waits with that reason already, in a row of its own."""
    await conn.execute(
        """UPDATE flux.rejected_readings r SET reason = %(reason)s, detail = %(detail)s
           WHERE r.id = %(id)s AND NOT EXISTS (
               SELECT FROM flux.rejected_readings o
               WHERE o.reason = %(reason)s AND o.kind = r.kind AND o.fingerprint = r.fingerprint
                 AND o.device_id IS NOT DISTINCT FROM r.device_id AND o.time IS NOT DISTINCT FROM r.time)""",
        {"id": row.id, "reason": rejection.reason.value, "detail": rejection.detail},
    )


def _reading(row: RejectedReading) -> Reading | None:
    """The reading as it was sent; ``None`` where its device or time was no UUID or time: that is never mended."""
    if row.device_id is None or row.time is None:
        return None
    kind = KIND_BY_NAME[row.kind]
    values = {m.name: _value(row.payload[m.name], m.kind) for m in kind.metrics if m.name in row.payload}
    return kind.reading_type(device_id=DeviceId(row.device_id), time=row.time, **values)


def _value(stored: Any, kind: MetricKind) -> Any:
    """NaN and Infinity were kept as text; what was no number stays text, and is refused again."""
    if isinstance(stored, str) and kind is not MetricKind.CODE:
        try:
            return float(stored)
        except ValueError:
            return stored
    return stored


async def _replace(conn: AsyncConnection[Any], row: RejectedReading) -> None:
    kind = KIND_BY_NAME[row.kind]
    cursor = await conn.execute(
        sql.SQL("UPDATE {} SET {} WHERE device_id = %(device_id)s AND time = %(time)s").format(
            sql.Identifier("flux", kind.table), _assignments(kind)
        ),
        {"device_id": row.device_id, "time": row.time} | {m.name: row.payload.get(m.name) for m in kind.metrics},
    )
    if cursor.rowcount == 0:
        raise RefusedError(f"rejected reading {row.id}: nothing is stored at its time any more, --retry stores it")
    if row.device_id is not None and row.time is not None:
        await note_changed(cursor, kind.table, kind.name, row.device_id, row.time)


def _assignments(kind: Kind) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(m.name), sql.Placeholder(m.name)) for m in kind.metrics
    )
