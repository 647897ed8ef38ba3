"""Kept decisions that were refused: list them, and try them again once what was wrong has been mended."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from flux.control.ledger import kept_from_json
from flux.store.decisions import store_decisions
from flux.store.ingest import IngestResult

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class RejectedDecision:
    """A row of ``rejected_decisions``; ``device_name`` None: no device of the registry has that id."""

    id: int
    received_at: datetime
    device_id: UUID
    device_name: str | None
    plan: str
    time: datetime
    reason: str
    detail: str
    payload: str


async def list_rejected_decisions(
    conn: AsyncConnection[Any], *, after_id: int = 0, limit: int = 100
) -> list[RejectedDecision]:
    """Refused decisions, oldest first."""
    async with conn.cursor(row_factory=class_row(RejectedDecision)) as cursor:
        await cursor.execute(
            """SELECT r.id, r.received_at, r.device_id, d.name AS device_name, r.plan, r.time, r.reason, r.detail,
                      r.payload
               FROM flux.rejected_decisions r LEFT JOIN flux.mg_device_registry d ON d.id = r.device_id
               WHERE r.id > %s ORDER BY r.id LIMIT %s""",
            (after_id, limit),
        )
        return await cursor.fetchall()


async def retry_rejected_decisions(conn: AsyncConnection[Any]) -> IngestResult:
    """Store refused decisions once more; those that are stored now, or were before, are no longer listed."""
    total, after = IngestResult(0, 0, 0), 0
    while rows := await list_rejected_decisions(conn, after_id=after, limit=_PAGE):
        total += await store_decisions(conn, [kept_from_json(json.loads(row.payload)) for row in rows])
        await conn.execute(
            """DELETE FROM flux.rejected_decisions r WHERE r.id = ANY(%s) AND EXISTS (
                   SELECT FROM flux.control_decisions d
                   WHERE d.device_id = r.device_id AND d.plan = r.plan AND d.time = r.time)""",
            ([row.id for row in rows],),
        )
        after = rows[-1].id
    return total
