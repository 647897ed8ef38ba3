"""Notes of changed readings, for where no trigger takes them.

A refresh of the rollups knows what to do from ``rollup_changes``, which statement triggers with transition tables fill.
Some databases fire none: Citus refuses them on distributed tables, and a session that replicates
(``session_replication_role = replica``) passes over them. Whoever writes readings asks, and notes them itself there.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncCursor, sql

_FIRES = """
    SELECT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = %s AND tgenabled IN (
            'A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
    )
"""
# by the hour, as the triggers do; a row that was there before is noted with the others: that costs, but changes nothing
_NOTE_STAGED = """
    INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time)
    SELECT device_id, %s, min(time), max(time) FROM pg_temp.{staging}
    GROUP BY device_id, date_bin('1 hour', time, '2000-01-01 00:00:00+00')
"""


async def note_added(cursor: AsyncCursor[Any], table: str, source: str, staging: str) -> None:
    """After rows of the staging table were inserted into ``table``, in the same transaction."""
    if not await _fires(cursor, table, "note_added"):
        await cursor.execute(sql.SQL(_NOTE_STAGED).format(staging=sql.Identifier(staging)), (source,))


async def note_changed(cursor: AsyncCursor[Any], table: str, source: str, device_id: UUID, time: datetime) -> None:
    """After one reading was updated, in the same transaction."""
    if not await _fires(cursor, table, "note_changed"):
        await cursor.execute(
            """INSERT INTO flux.rollup_changes (device_id, source, from_time, to_time, removed)
               VALUES (%s, %s, %s, %s, true)""",
            (device_id, source, time, time),
        )


async def _fires(cursor: AsyncCursor[Any], table: str, trigger: str) -> bool:
    await cursor.execute(_FIRES, (f"flux.{table}", trigger))
    ((fires,),) = await cursor.fetchall()
    return bool(fires)
