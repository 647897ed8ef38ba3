"""Changed rows as those who follow them may see them: fetched by key from the views of ``flux_api``, as the caller.

What the log names is the key of a row; what is told is the row as it is now. A row that the caller does not see is not
told; one that it saw before and does not see any more (a device that moved to another site) has gone for it. Of a row
that was deleted since, the changes before are told with its key alone: none is left out.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql

from flux.api.database import as_caller
from flux.api.identity import Identity
from flux.api.realtime.catalogue import Table, comparing, json_value
from flux.api.realtime.log import READER, Change, Entry, Operation, Pool
from flux.store.rights import TABLES, Fence

SCHEMA = "flux"
_FENCES = {table.name: table.fence for table in TABLES}
_FETCH = """
    SELECT k.n, row_to_json(v)::text {columns}
    FROM unnest(%(devices)s::uuid[], %(times)s::timestamptz[], %(parts)s::text[])
         WITH ORDINALITY k(device, at, part, n)
    JOIN flux_api.{table} v ON {same} {span}
"""


@dataclass(slots=True)
class Row:
    """One change to tell. ``record`` None: the row has gone. ``values``: what is known of it and filters ask for."""

    change: Change
    op: Operation
    table: Table
    record: str | None
    values: Mapping[str, Any]
    _texts: dict[tuple[str, ...] | None, str] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        return self.record is None

    def data(self, select: tuple[str, ...] | None, cursor: str | None) -> str:
        """The ``data`` of a message, as clients parse it; ``cursor``: put into the record as ``_cursor``."""
        if cursor is None:
            if select not in self._texts:
                self._texts[select] = self._data(select, None)
            return self._texts[select]
        return self._data(select, cursor)

    def _data(self, select: tuple[str, ...] | None, cursor: str | None) -> str:
        table, change = self.table, self.change
        key = ",".join(f"{json.dumps(name)}:{json_value(value)}" for name, value in table.key_of(change).items())
        parts = [
            f'"schema":"{SCHEMA}","table":"{table.name}","commit_timestamp":"{change.at.isoformat()}"',
            f'"type":"{self.op}","columns":{table.columns_json}',
        ]
        if self.op != "DELETE":
            record = f"{{{key}}}" if self.record is None else self.record
            parts.append(f'"record":{_with_cursor(_selected(record, select), cursor)}')
        if self.op != "INSERT":
            parts.append(f'"old_record":{_with_cursor(f"{{{key}}}", cursor if self.op == "DELETE" else None)}')
        return "{" + ",".join([*parts, '"errors":null']) + "}"


def _with_cursor(record: str, cursor: str | None) -> str:
    return record if cursor is None else f'{{"_cursor":{json.dumps(cursor)},{record[1:]}'


def _selected(record: str, select: tuple[str, ...] | None) -> str:
    if select is None:
        return record
    whole = json.loads(record)
    return json.dumps({name: whole[name] for name in select if name in whole})


@dataclass(frozen=True, slots=True)
class Resync:
    """More rows of a table changed than are told one by one; ``devices`` None: any of them."""

    entry: int
    table: str
    op: Operation
    devices: tuple[UUID, ...] | None
    from_time: datetime | None
    to_time: datetime | None

    def payload(self) -> dict[str, Any]:
        """What the client needs to read them by REST; both times are included."""
        return {
            "schema": SCHEMA,
            "table": self.table,
            "type": self.op,
            "devices": None if self.devices is None else [str(device) for device in self.devices],
            "from": None if self.from_time is None else self.from_time.isoformat(),
            "to": None if self.to_time is None else self.to_time.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a page somebody follows: the tables, and the columns that filters ask of each."""

    tables: Mapping[str, Table]
    columns: Mapping[str, frozenset[str]]


async def fetch(
    pool: Pool, identity: Identity, wanted: Wanted, changes: Sequence[Change], spans: Sequence[Entry]
) -> list[Row | Resync]:
    """What ``identity`` may see of the changes, and of entries that name no rows, in their order."""
    changes = [change for change in changes if change.table in wanted.tables]
    spans = [entry for entry in spans if entry.table in wanted.tables]
    if not changes and not spans:
        return []
    async with as_caller(pool, identity) as conn:
        present = {
            name: await _present(conn, wanted.tables[name], wanted.columns.get(name, frozenset()), of_table)
            for name, of_table in _by_table(changes).items()
        }
        gone = [change for change in changes if change.key not in present[change.table] or change.op == "DELETE"]
        sight = await _sight(conn, identity, gone, spans)
    hidden = await _hidden(pool, wanted, [change for change in gone if change.op == "UPDATE" and sight.sees(change)])
    rows = [row for change in changes if (row := _row(change, wanted.tables[change.table], present, sight, hidden))]
    resyncs = [resync for entry in spans if (resync := _resync(entry, sight))]
    return sorted([*rows, *resyncs], key=_place)


def _place(told: Row | Resync) -> tuple[int, int]:
    return (told.entry, 0) if isinstance(told, Resync) else (told.change.entry, told.change.row)


def _by_table(changes: Sequence[Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.table, []).append(change)
    return found


Found = dict[tuple[UUID | None, datetime | None, str | None], tuple[str, dict[str, Any]]]


async def _present(
    conn: AsyncConnection[Any], table: Table, columns: Collection[str], changes: Sequence[Change]
) -> Found:
    """The rows that are there, by key: their JSON, and the columns that filters ask for."""
    followed = table.followed
    keys = list(dict.fromkeys(c.key for c in changes if c.op != "DELETE" or followed.rewritten))
    if not keys:
        return {}
    devices, times, parts = (list(values) for values in zip(*keys, strict=True))
    names = sorted(columns)
    cursor = await comparing(conn).execute(
        _fetch_query(table, names),
        {
            "devices": devices,
            "times": times,
            "parts": parts,
            "first": min(times) if followed.time else None,
            "last": max(times) if followed.time else None,
        },
    )
    return {
        keys[n - 1]: (record, dict(zip(names, values, strict=True))) for n, record, *values in await cursor.fetchall()
    }


def _fetch_query(table: Table, columns: Sequence[str]) -> sql.Composed:
    followed = table.followed
    same = [
        sql.SQL("v.{} = k.{}{}").format(sql.Identifier(column), sql.Identifier(key), sql.SQL(cast))
        for column, key, cast in (
            (followed.device, "device", ""),
            (followed.time, "at", ""),
            (followed.part, "part", f"::{table.columns[followed.part].written}" if followed.part else ""),
        )
        if column is not None
    ]
    # (the pieces of time that can be left out are known to the planner by constants alone)
    span = sql.SQL("AND v.{0} >= %(first)s AND v.{0} <= %(last)s").format(sql.Identifier(followed.time or ""))
    return sql.SQL(_FETCH).format(
        table=sql.Identifier(table.name),
        same=sql.SQL(" AND ").join(same),
        span=span if followed.time else sql.SQL(""),
        columns=sql.SQL("").join(sql.SQL(", v.{}").format(sql.Identifier(name)) for name in columns),
    )


@dataclass(frozen=True, slots=True)
class _Sight:
    """Which devices and sites the caller sees, among those asked for; ``everything``: it is limited to none."""

    everything: bool
    devices: frozenset[UUID]
    sites: frozenset[str]

    def sees(self, change: Change) -> bool:
        """Whether the caller saw a row that has gone."""
        if self.everything:
            return True
        if change.device is not None and change.site is None:
            return change.device in self.devices
        fence = _FENCES[change.table]
        if change.site is None:
            return fence in (Fence.SITE_OR_ALL, Fence.SHARED)
        return change.site in self.sites or (fence is Fence.GROUP and change.site == "ALL")


async def _sight(
    conn: AsyncConnection[Any], identity: Identity, gone: Sequence[Change], spans: Sequence[Entry]
) -> _Sight:
    """Asked of the database; a caller that is limited to no site needs no question."""
    if identity.sites is None or not (gone or spans):
        return _Sight(identity.sites is None, frozenset(), frozenset())
    named = {change.device for change in gone if change.device is not None}
    named |= {device for entry in spans for device in entry.devices or ()}
    cursor = await conn.execute("SELECT id FROM flux_api.mg_device_registry WHERE id = ANY (%s)", (list(named),))
    devices = frozenset(device for (device,) in await cursor.fetchall())
    cursor = await conn.execute("SELECT site FROM flux_api.sites")
    return _Sight(False, devices, frozenset(site for (site,) in await cursor.fetchall()))


async def _hidden(pool: Pool, wanted: Wanted, changes: Sequence[Change]) -> set[tuple[str, Any]]:
    """Which of the rows that the caller saw and does not see any more are still there: they moved to another site."""
    moved = [change for change in changes if change.site is not None]
    if not moved:
        return set()
    async with as_caller(pool, READER) as conn:
        return {
            (name, key)
            for name, of_table in _by_table(moved).items()
            for key in await _present(conn, wanted.tables[name], (), of_table)
        }


def _row(
    change: Change, table: Table, present: Mapping[str, Found], sight: _Sight, hidden: Collection[tuple[str, Any]]
) -> Row | None:
    found = present[change.table].get(change.key)
    if found is not None:
        # (a bucket of a rollup that is deleted and made again was never away)
        return None if change.op == "DELETE" else Row(change, change.op, table, *found)
    if not sight.sees(change):
        return None
    op: Operation = "DELETE" if (change.table, change.key) in hidden and change.op == "UPDATE" else change.op
    return Row(change, op, table, None, table.known_of(change))


def _resync(entry: Entry, sight: _Sight) -> Resync | None:
    if not entry.devices or not entry.times:
        return Resync(entry.id, entry.table, entry.op, None, None, None)
    seen = [
        (device, time)
        for device, time in zip(entry.devices, entry.times, strict=True)
        if sight.everything or device in sight.devices
    ]
    if not seen:
        return None
    devices = tuple(dict.fromkeys(device for device, _ in seen))
    return Resync(entry.id, entry.table, entry.op, devices, min(time for _, time in seen), max(t for _, t in seen))
