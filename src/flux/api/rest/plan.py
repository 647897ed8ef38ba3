"""A query against the catalogue: which tables it reads, how they hang together, and what is asked of each.

::

    /device_groups?select=name,mg_device_registry(name)&mg_device_registry.order=name
    →  Node(device_groups, items=(Column(name), Child(Node(mg_device_registry, …, order=(name,)), many-to-many)))

Names that are not there, and what is asked of a resource that is not embedded, are refused here; the database is
asked nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flux.api.rest.catalogue import Catalogue, Relationship, Table
from flux.api.rest.errors import ApiError
from flux.api.rest.sqltext import Fragment
from flux.api.rest.syntax import (
    ALL,
    Aggregate,
    Column,
    Condition,
    Embed,
    Field,
    Filter,
    Is,
    Join,
    Operator,
    Order,
    Path,
    Query,
)

_COUNT = Column(Field("*"), aggregate=Aggregate.COUNT)
_COLUMN_COUNT = Column(Field("count"))
"""As it was written before there were aggregates, and as Supabase's clients still do."""


@dataclass(frozen=True, slots=True)
class Node:
    """One table that is read. ``number`` is its own within the statement, and makes its names there."""

    table: Table
    number: int
    items: tuple["Column | Child", ...]
    where: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0

    @property
    def alias(self) -> Fragment:
        return Fragment(f"t{self.number}")

    @property
    def counted(self) -> str | None:
        """What the number of rows is called, where that is all that is read of them."""
        only = self.items[0] if len(self.items) == 1 else None
        return only.alias if isinstance(only, Column) and only.aggregate is Aggregate.COUNT else None

    @property
    def children(self) -> Iterator["Child"]:
        return (item for item in self.items if isinstance(item, Child))

    def child(self, name: str) -> "Child | None":
        """The embedded resource that a filter or an order calls so."""
        return next((child for child in self.children if child.embed.name == name), None)


@dataclass(frozen=True, slots=True)
class Child:
    """A resource embedded in the rows of another."""

    node: Node
    embed: Embed
    way: Relationship

    @property
    def alias(self) -> Fragment:
        """Of the join that finds it."""
        return Fragment(f"j{self.node.number}")

    @property
    def inner(self) -> bool:
        return self.embed.join is Join.INNER


def plan_read(catalogue: Catalogue, table: Table, query: Query) -> Node:
    """The tree of what ``query`` reads, ``table`` at its root.

    ApiError 400 for a column (42703) or relationship (PGRST200) that is not there, a resource that is not embedded
    (PGRST108), an order by one of several (PGRST118), an aggregate (PGRST123), a list within a list of the same table
    (PGRST127); 300 (PGRST201) for an embedded resource that could be several.
    """
    planner = _Planner(catalogue)
    root = planner.node(table, query.select or ALL, query, ())
    planner.check_paths(query)
    return root


class _Planner:
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.count = 0
        self.paths: set[Path] = {()}

    def node(
        self,
        table: Table,
        select: tuple[Column | Embed, ...],
        query: Query,
        path: Path,
        lists: frozenset[str] = frozenset(),
    ) -> Node:
        """``path``: what the query calls this resource; ``lists``: tables whose rows come as lists on the way to it."""
        number = self.count
        self.count += 1
        count = _counting(table, select)
        items = (
            (count,)
            if count
            else tuple(
                self.child(table, item, query, path, lists) if isinstance(item, Embed) else _checked(table, item)
                for item in select
            )
        )
        node = Node(
            table,
            number,
            items,
            where=tuple(condition for at, condition in query.where if at == path),
            order=next((order for at, order in query.order if at == path), ()),
            limit=query.limit(path),
            offset=query.offset(path),
        )
        _check_order(node)
        return node

    def child(self, table: Table, embed: Embed, query: Query, path: Path, lists: frozenset[str]) -> Child:
        way = self.catalogue.relationship(table.name, embed.relation, embed.hint)
        if not way.to_one:
            if way.target in lists:
                raise _listed_twice(way.target)
            lists |= {way.target}
        here = (*path, self.called(embed, query, path))
        self.paths.add(here)
        return Child(self.node(self.catalogue.table(way.target), embed.select, query, here, lists), embed, way)

    def called(self, embed: Embed, query: Query, path: Path) -> str:
        """Its alias; the resource's own name where the query says that instead."""
        said = {at[len(path)] for at in _paths(query) if len(at) > len(path) and at[: len(path)] == path}
        by_name = embed.alias is not None and embed.alias not in said and embed.relation in said
        free = (*path, embed.relation) not in self.paths
        return embed.relation if by_name and free else embed.name

    def check_paths(self, query: Query) -> None:
        for path in _paths(query):
            for length in range(1, len(path) + 1):
                if path[:length] not in self.paths:
                    raise not_embedded(path[length - 1])


def _paths(query: Query) -> Iterator[Path]:
    for pairs in (query.where, query.order, query.limits, query.offsets):
        yield from (path for path, _ in pairs)


def _counting(table: Table, select: tuple[Column | Embed, ...]) -> Column | None:
    """The number of rows, where ``select`` is ``count`` or ``count()`` alone: ``sites?select=site,devices(count)``."""
    only = select[0] if len(select) == 1 else None
    if not isinstance(only, Column):
        return None
    bare = replace(only, alias=None)
    if bare != _COUNT and (bare != _COLUMN_COUNT or "count" in table.columns):
        return None
    return replace(_COUNT, alias=only.alias or "count")


def _checked(table: Table, column: Column) -> Column:
    if column.aggregate is not None:
        raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
    if column.field.name != "*" or column.field.path:
        table.column(column.field.name)
    return column


def _check_order(node: Node) -> None:
    for term in node.order:
        if term.relation is None:
            node.table.column(term.field.name)
            continue
        child = node.child(term.relation)
        if child is None:
            raise not_embedded(term.relation)
        if not child.way.to_one:
            raise ApiError(
                400,
                "PGRST118",
                f"A related order on '{term.relation}' is not possible",
                f"'{node.table.name}' and '{term.relation}' do not form a many-to-one or one-to-one relationship",
            )
        child.node.table.column(term.field.name)


def _listed_twice(table: str) -> ApiError:
    """Readings of the device of each reading …: the answer would grow with the square of the rows, and again."""
    return ApiError(
        400,
        "PGRST127",
        f"'{table}' is embedded as a list within a list of itself",
        hint="Ask for it once, and read the inner rows with a second request.",
    )


def not_embedded(name: str) -> ApiError:
    """What a request is refused with that asks something of a resource that it does not embed."""
    return ApiError(
        400,
        "PGRST108",
        f"'{name}' is not an embedded resource in this request",
        hint=f"Verify that '{name}' is included in the 'select' query parameter.",
    )


def embedded_filter(node: Node, condition: Filter) -> Child | None:
    """The child that a filter is about: ``rel=is.null``, ``rel=not.is.null``.

    ApiError 400 (PGRST120) for any other operator on what is an embedded resource and no column.
    """
    if condition.field.path:
        return None
    child = node.child(condition.field.name)
    if child is None:
        return None
    if condition.operator is Operator.IS and condition.value in {Is.NULL, Is.NOT_NULL}:
        return child
    if condition.field.name in node.table.columns:
        return None
    raise ApiError(
        400,
        "PGRST120",
        f"Bad operator on the '{condition.field.name}' embedded resource",
        "Only is null or not is null filters are allowed on embedded resources",
    )
