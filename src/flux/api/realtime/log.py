"""Reading ``flux.changes``: what became visible between two snapshots, in pages. See :mod:`flux.store.changes`."""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from flux.api.database import SERVER_ROLE, as_caller
from flux.api.identity import Identity, Role
from flux.api.realtime.cursor import Cursor, CursorTooOldError, highest_of
from flux.store.changes import FOLLOWED

Pool = AsyncConnectionPool[AsyncConnection[Any]]
Operation = Literal["INSERT", "UPDATE", "DELETE"]
READER = Identity(Role.SERVICE, name="flux realtime", claims={"role": "service"})
"""Reads the log, which holds keys alone; rows are fetched as those who asked."""
PAGE_KEYS = 5_000
_PAGE_ENTRIES = 500

_NOW = "SELECT pg_current_snapshot()::text, left(epoch::text, 8), trimmed::text FROM flux.change_log"
_TRIMMED = """
    SELECT l.trimmed < pg_snapshot_xmin(%s::pg_snapshot) OR l.trimmed >= pg_snapshot_xmax(pg_current_snapshot())
    FROM flux.change_log l
"""
_PAGE = """
    WITH found AS MATERIALIZED (
        SELECT c.txid, c.id, CASE WHEN c.spans THEN 1 ELSE c.rows END AS keys
        FROM flux.changes c
        WHERE c.txid >= pg_snapshot_xmin(%(since)s::pg_snapshot)
          AND NOT pg_visible_in_snapshot(c.txid, %(since)s::pg_snapshot)
          AND pg_visible_in_snapshot(c.txid, %(until)s::pg_snapshot)
          AND c.id > %(entry)s AND (%(tables)s::text[] IS NULL OR c.table_name = ANY (%(tables)s))
        ORDER BY c.id LIMIT %(entries)s
    ), counted AS (
        SELECT f.txid, f.id, sum(f.keys) OVER (ORDER BY f.id) - f.keys AS before FROM found f
    )
    SELECT c.id, c.txid::text::bigint AS txid, c.time, c.table_name AS table, c.op, c.devices, c.times, c.parts,
           c.sites, c.spans
    FROM counted n JOIN flux.changes c ON c.txid = n.txid AND c.id = n.id
    WHERE n.before < %(keys)s ORDER BY c.id
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the log: a statement."""

    id: int
    txid: int
    time: datetime
    table: str
    op: Operation
    devices: list[UUID] | None
    times: list[datetime] | None
    parts: list[str] | None
    sites: list[str | None] | None
    spans: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One row that a statement changed, by its key; ``site``: the one that it had before."""

    entry: int
    row: int
    at: datetime
    table: str
    op: Operation
    device: UUID | None
    time: datetime | None
    part: str | None
    site: str | None

    @property
    def key(self) -> tuple[UUID | None, datetime | None, str | None]:
        """The row, among those of its table."""
        return (None if FOLLOWED[self.table].device is None else self.device, self.time, self.part)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what came between ``begin`` and ``until``; ``end``: the position after it."""

    entries: Sequence[Entry]
    begin: Cursor
    until: str
    end: Cursor

    def cursor(self, entry: int, row: int) -> Cursor:
        """The position after one of its rows."""
        return self.begin.within(self.until, entry, row)


class ChangeLog:
    """The log of one database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def now(self) -> Cursor:
        """The position after everything that has been committed."""
        async with as_caller(self._pool, READER, role=SERVER_ROLE) as conn:
            cursor = await conn.execute(_NOW)
            ((snapshot, epoch, _),) = await cursor.fetchall()
        return Cursor(epoch, snapshot)

    async def check(self, cursor: Cursor) -> None:
        """CursorTooOldError unless all that came since is still there."""
        now = await self.now()
        newest = cursor.until or cursor.since
        if cursor.epoch != now.epoch or highest_of(newest) > highest_of(now.since):
            raise CursorTooOldError("cursor_too_old: the cursor is of another log")
        async with as_caller(self._pool, READER, role=SERVER_ROLE) as conn:
            await self._check(conn, cursor)

    async def pages(
        self, begin: Cursor, target: str | None = None, tables: Collection[str] | None = None
    ) -> AsyncIterator[Page]:
        """All that came since ``begin``, up to snapshot ``target`` (None: to now), the last page possibly empty.

        CursorTooOldError when the log no longer holds it.
        """
        if begin.until is not None:
            async for page in self._between(begin, begin.until, tables):
                yield page
            begin = Cursor(begin.epoch, begin.until)
        until = target if target is not None else (await self.now()).since
        async for page in self._between(begin, until, tables):
            yield page

    async def _between(self, begin: Cursor, until: str, tables: Collection[str] | None) -> AsyncIterator[Page]:
        position = begin
        while True:
            entries = await self._read(position, until, tables)
            last = not entries
            if not last:
                position = begin.within(until, entries[-1].id, _LAST_ROW)
            end = Cursor(begin.epoch, until) if last else position
            yield Page(entries, Cursor(begin.epoch, begin.since), until, end)
            if last:
                return

    async def _read(self, position: Cursor, until: str, tables: Collection[str] | None) -> list[Entry]:
        """The next entries after ``position``; the first may be one of which rows were told already."""
        async with as_caller(self._pool, READER, role=SERVER_ROLE) as conn:
            parameters = {
                "since": position.since,
                "until": until,
                # (an entry that was told in part is read again)
                "entry": position.entry if position.row == _LAST_ROW else position.entry - 1,
                "tables": None if tables is None else sorted(tables),
                "entries": _PAGE_ENTRIES,
                "keys": PAGE_KEYS,
            }
            async with conn.cursor(row_factory=class_row(Entry)) as cursor:
                await cursor.execute(_PAGE, parameters)
                entries = await cursor.fetchall()
            await self._check(conn, position)  # after reading: what was trimmed meanwhile is noticed
        return entries

    async def _check(self, conn: AsyncConnection[Any], cursor: Cursor) -> None:
        answer = await conn.execute(_TRIMMED, (cursor.since,))
        if await answer.fetchone() != (True,):
            raise CursorTooOldError("cursor_too_old: the log no longer holds all that came since; read by REST")


_LAST_ROW = 999_999_999


def _rows(entry: Entry) -> int:
    return max(len(values) for values in (entry.devices, entry.times, entry.parts, [None]) if values is not None)


def changes_of(page: Page, after: Cursor) -> list[Change]:
    """The rows that a page names, in order, without those up to ``after``.

    A row that one transaction made anew several times (rollups are) is told once, as what it came to.
    """
    told = [
        change
        for entry in page.entries
        if not entry.spans
        for change in _of_entry(entry)
        if after.until != page.until or (change.entry, change.row) > (after.entry, after.row)
    ]
    return list(_once(page, told))


def spans_of(page: Page, after: Cursor) -> list[Entry]:
    """The entries of a page that name no rows, without the one that ``after`` is at."""
    return [e for e in page.entries if e.spans and (after.until != page.until or e.id > after.entry)]


def _of_entry(entry: Entry) -> Iterator[Change]:
    devices, times, parts, sites = entry.devices, entry.times, entry.parts, entry.sites
    for row in range(_rows(entry)):
        yield Change(
            entry.id,
            row + 1,
            entry.time,
            entry.table,
            entry.op,
            devices[row] if devices else None,
            times[row] if times else None,
            parts[row] if parts else None,
            sites[row] if sites else None,
        )


def _once(page: Page, told: Sequence[Change]) -> Iterator[Change]:
    transaction = {entry.id: entry.txid for entry in page.entries}
    last: dict[tuple[Any, ...], Change] = {}
    made: set[tuple[Any, ...]] = set()
    for change in told:
        if FOLLOWED[change.table].rewritten:
            key = (transaction[change.entry], change.table, change.key)
            if change.op == "INSERT" and key not in last:
                made.add(key)
            last[key] = change
    for change in told:
        if not FOLLOWED[change.table].rewritten:
            yield change
            continue
        key = (transaction[change.entry], change.table, change.key)
        if last[key] is change:
            yield _as(change, "INSERT") if key in made and change.op == "UPDATE" else change


def _as(change: Change, op: Operation) -> Change:
    return Change(
        change.entry, change.row, change.at, change.table, op, change.device, change.time, change.part, change.site
    )
