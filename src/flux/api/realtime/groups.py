"""Who follows what: callers that see the same are one group, and rows are fetched once for all of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flux.api.identity import Identity, Role
from flux.api.realtime.catalogue import Table
from flux.api.realtime.cursor import Cursor
from flux.api.realtime.filters import Filter
from flux.api.realtime.join import EVERY_TABLE
from flux.api.realtime.rows import Resync, Row, Wanted

GroupKey = tuple[Role, frozenset[str] | None]


class Listener(Protocol):
    """Where messages go: a channel of a socket, or a request that waits."""

    def tell(self, row: Row, ids: dict[tuple[str, ...] | None, list[int]], cursor: Cursor) -> None:
        """One row; ``ids``: the subscriptions that it is for, by the columns that they want."""

    def tell_resync(self, resync: Resync, cursor: Cursor) -> None:
        """Rows that are not told one by one."""

    def fail(self, reason: str) -> None:
        """Nothing more comes: what it follows could not be read, or not from where it was."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One subscription, ready to be asked. ``table`` ``*``: every table that the role may follow."""

    id: int
    event: str
    table: str
    filter: Filter
    select: tuple[str, ...] | None
    text: str
    """The filter as written: equal texts are asked once for all who wrote them."""

    def wants(self, row: Row) -> bool:
        """Of a row that has gone little more than its key is known: conditions on anything else count as met."""
        if self.event not in ("*", row.op):
            return False
        if row.gone:
            return all(c.holds(row.values[c.column]) for c in self.filter.conditions if c.column in row.values)
        return self.filter.holds(row.values)


Question = tuple[str, str, str]


def question_of(binding: Binding) -> Question:
    """Bindings that ask the same of a row."""
    return (binding.event, binding.table, binding.text)


def group_key(identity: Identity) -> GroupKey:
    return (identity.role, identity.sites)


def group_identity(identity: Identity) -> Identity:
    """Whoever sees the same as ``identity``; rows are fetched under these claims, without a key of its own."""
    claims: dict[str, Any] = {"role": identity.role.value}
    if identity.sites is not None:
        claims["sites"] = sorted(identity.sites)
    return Identity(identity.role, identity.sites, name=f"realtime {identity.role.value}", claims=claims)


@dataclass(slots=True)
class Group:
    """The listeners that see the same, and what they follow."""

    identity: Identity
    tables: dict[str, Table] = field(default_factory=dict)
    followers: dict[Question, dict[Listener, list[Binding]]] = field(default_factory=dict)

    def add(self, listener: Listener, bindings: Iterable[Binding], tables: Mapping[str, Table]) -> None:
        self.tables.update(tables)
        for binding in bindings:
            self.followers.setdefault(question_of(binding), {}).setdefault(listener, []).append(binding)

    def remove(self, listener: Listener) -> None:
        for question in [question for question, who in self.followers.items() if listener in who]:
            del self.followers[question][listener]
            if not self.followers[question]:
                del self.followers[question]

    @property
    def listeners(self) -> set[Listener]:
        return {listener for who in self.followers.values() for listener in who}

    def wanted(self) -> Wanted:
        """The tables that anybody of the group follows, and the columns that their filters ask for."""
        names = {table for _, table, _ in self.followers}
        tables = self.tables if EVERY_TABLE in names else {n: self.tables[n] for n in names if n in self.tables}
        columns: dict[str, frozenset[str]] = {}
        for who in self.followers.values():
            one = next(iter(who.values()))[0]
            if one.filter.conditions:
                columns[one.table] = columns.get(one.table, frozenset()) | one.filter.columns
        return Wanted(tables, columns)

    def tell(self, told: Row | Resync, cursor: Cursor) -> None:
        """Hand one row to all of the group who follow it."""
        table = told.table if isinstance(told, Resync) else told.table.name
        reached: dict[Listener, dict[tuple[str, ...] | None, list[int]]] = {}
        for (event, of_table, _), who in self.followers.items():
            if of_table not in (EVERY_TABLE, table):
                continue
            asked = next(iter(who.values()))[0]  # all of them ask the same
            if asked.wants(told) if isinstance(told, Row) else event in ("*", told.op):
                for listener, bindings in who.items():
                    by_columns = reached.setdefault(listener, {})
                    for binding in bindings:
                        by_columns.setdefault(binding.select, []).append(binding.id)
        for listener, ids in reached.items():
            if isinstance(told, Resync):
                listener.tell_resync(told, cursor)
            else:
                listener.tell(told, ids, cursor)
