"""What a role may follow: the views of schema ``flux_api`` that it reads and whose changes are noted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor, DataError, sql
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.string import TextLoader

from flux.api.database import as_caller
from flux.api.identity import Identity
from flux.api.realtime.filters import Condition, Filter, Written, parse_filter, read_condition
from flux.api.realtime.log import Change, Pool
from flux.errors import InputError, NotFoundError
from flux.store.changes import FOLLOWED, Followed

_GOOD_FOR = timedelta(minutes=1)
_NUMBERS = ("int2", "int4", "int8")
_TEXTS = ("text", "varchar", "bpchar", "name")
_NO_ORDER = ("json", "jsonb", "bool")
_COLUMNS = """
    SELECT c.relname, a.attname, t.typname, format_type(a.atttypid, a.atttypmod)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'flux_api'::regnamespace AND c.relname = ANY (%s) AND has_table_privilege(c.oid, 'SELECT')
    ORDER BY c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its type's name in the catalogue, as clients read it, and how SQL writes it."""

    name: str
    type: str
    written: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that may be followed."""

    name: str
    columns: Mapping[str, Column]
    columns_json: str

    @property
    def followed(self) -> Followed:
        return FOLLOWED[self.name]

    def key_of(self, change: Change) -> dict[str, Any]:
        """The primary key of a changed row, as values of its columns."""
        followed = self.followed
        given = ((followed.device, change.device), (followed.time, change.time), (followed.part, change.part))
        return {column: self._value(column, value) for column, value in given if column is not None}

    def _value(self, column: str, value: Any) -> Any:
        kind = self.columns[column].type
        if isinstance(value, str) and kind in _NUMBERS:
            return int(value)
        return UUID(value) if isinstance(value, str) and kind == "uuid" else value

    def known_of(self, change: Change) -> dict[str, Any]:
        """What is known of a row that is not there any more."""
        known = self.key_of(change)
        if self.followed.owner is not None:
            known[self.followed.owner] = change.device
        if self.followed.site is not None:
            known[self.followed.site] = change.site
        return known


def json_value(value: Any) -> str:
    """A value of a key as PostgreSQL writes it in JSON."""
    if isinstance(value, datetime):
        text = value.isoformat()
        return json.dumps(text.replace(f".{value.microsecond:06d}", f".{value.microsecond:06d}".rstrip("0")))
    return json.dumps(value if isinstance(value, int | str) or value is None else str(value))


_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


class _AnyTime(TimestamptzLoader):
    """Also infinity and years that Python does not have: before or after all that it has."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except DataError:
            text = bytes(data)
            return _FIRST if text.startswith(b"-") or text.endswith(b"BC") else _LAST


def comparing(conn: AsyncConnection[Any]) -> AsyncCursor[Any]:
    """A cursor whose values can be compared whatever they are: JSON as the text that PostgreSQL has for it, since it
    may be nested more deeply than Python reads."""
    cursor = conn.cursor()
    cursor.adapters.register_loader("timestamptz", _AnyTime)
    for kind in ("json", "jsonb"):
        cursor.adapters.register_loader(kind, TextLoader)
    return cursor


class Catalogue:
    """The tables by role, looked up again after a minute: a column may have been added."""

    def __init__(self, pool: Pool, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._clock = clock
        self._found: dict[str, tuple[datetime, dict[str, Table]]] = {}

    async def tables(self, identity: Identity) -> dict[str, Table]:
        """What ``identity`` may follow; empty: nothing. Raises psycopg's error for a key that was revoked."""
        role = identity.role.database_role
        now = self._clock()
        async with as_caller(self._pool, identity) as conn:
            if role in self._found and now - self._found[role][0] < _GOOD_FOR:
                return self._found[role][1]
            cursor = await conn.execute(_COLUMNS, (list(FOLLOWED),))
            rows = await cursor.fetchall()
        columns: dict[str, list[Column]] = {}
        for table, name, kind, written in rows:
            columns.setdefault(table, []).append(Column(name, kind, written))
        tables = {table: _table(table, found) for table, found in columns.items()}
        self._found[role] = (now, tables)
        return tables

    async def read_filter(self, identity: Identity, table: Table, text: str | None) -> Filter:
        """A filter with its operands read as values of the columns. InputError says what is wrong with it."""
        if not text:
            return Filter()
        written = parse_filter(text)
        for condition in written:
            _check(table, condition)
        async with as_caller(self._pool, identity) as conn:
            return Filter(tuple([await _read(conn, table, condition) for condition in written]))


def _table(name: str, columns: list[Column]) -> Table:
    described = json.dumps([{"name": column.name, "type": column.type} for column in columns], separators=(",", ":"))
    return Table(name, {column.name: column for column in columns}, described)


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """NotFoundError for one that is not there, or not for this role: which of the two, nobody is told."""
    if name not in tables:
        raise NotFoundError(f"table {name!r}: there is none of this name that this key may follow")
    return tables[name]


def _check(table: Table, condition: Written) -> None:
    column = table.columns.get(condition.column)
    if column is None:
        raise InputError(f"filter: {table.name} has no column {condition.column!r}")
    kind, operator = column.type, condition.operator
    if operator in ("like", "ilike") and kind not in _TEXTS:
        raise InputError(f"filter: {operator} is for texts, {condition.column} is {column.written}")
    if operator in ("lt", "lte", "gt", "gte") and (kind in _NO_ORDER or kind.startswith("_")):
        raise InputError(f"filter: {condition.column} is {column.written}, which has no order")


async def _read(conn: AsyncConnection[Any], table: Table, condition: Written) -> Condition:
    if not condition.typed:
        return read_condition(condition, condition.values)
    kind = sql.SQL(table.columns[condition.column].written)
    read = sql.SQL("SELECT v::{} FROM unnest(%s::text[]) WITH ORDINALITY u(v, n) ORDER BY n").format(kind)
    cursor = await comparing(conn).execute(read, (list(condition.values),))
    return read_condition(condition, [value for (value,) in await cursor.fetchall()])
