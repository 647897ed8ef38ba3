"""A plan as SQL: one SELECT whose rows are the rows of the answer, everything embedded inside of them as JSON.

::

    SELECT t0."name" AS "name", j1.r AS "sites"
    FROM "flux_api"."mg_device_registry" AS t0
    LEFT JOIN LATERAL (SELECT row_to_json(r.*) AS r FROM (
        SELECT t1."name" AS "name" FROM "flux_api"."sites" AS t1 WHERE t1."site" = t0."site") AS r) AS j1 ON TRUE
    WHERE t0."state" = $1

Each embedded resource is a lateral join with one column ``r``: null where there is nothing, an array of one or more
where there can be many. The names of tables and joins are numbers, so that no name of a request can be one of them.
"""

from itertools import pairwise

from flux.api.rest.catalogue import Catalogue, ForeignKey
from flux.api.rest.errors import ApiError
from flux.api.rest.filters import field_sql, where
from flux.api.rest.plan import Child, Node, embedded_filter
from flux.api.rest.sqltext import Fragment, Parameters, joined, name, qualified, sql
from flux.api.rest.syntax import Column, Field, Filter, Is, Nulls, Order

_SCHEMA_NAMES = {
    "bigint": "int8",
    "boolean": "bool",
    "char": "bpchar",
    "character": "bpchar",
    "character varying": "varchar",
    "decimal": "numeric",
    "double precision": "float8",
    "float": "float8",
    "int": "int4",
    "integer": "int4",
    "real": "float4",
    "smallint": "int2",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}
"""The names of types that are more than one word, or other than PostgreSQL's own."""
_STEPS_BACK = (sql("now() - interval '2 hours'"), sql("now() - interval '3 days'"))
_MOST_NEWEST = 1000
"""Rows; more than these are sorted anyway."""
_FOUND = name("flux found")
"""A column beside those of a spread resource, which says that it is there."""


class Select:
    """Builds one statement; ``parameters`` are filled on the way."""

    def __init__(self, catalogue: Catalogue, parameters: Parameters, most_embedded: int) -> None:
        """``most_embedded``: rows of one embedded resource."""
        self.catalogue = catalogue
        self.parameters = parameters
        self.most_embedded = most_embedded

    def rows(self, root: Node, source: Fragment | None = None) -> Fragment:
        """The rows of the root's table, or of ``source``, in the order of the plan; without its limit and offset."""
        table = sql("{} AS {}", source or root.table.sql, root.alias)
        return self._counted(root, table, []) if root.counted else self._select(root, table, [])

    def some(self, root: Node, limit: int, offset: int, source: Fragment | None = None) -> Fragment:
        """The same, at most ``limit`` of them."""
        if source is None and root.limit is not None and not root.counted:
            return self._newest(root, sql("{} AS {}", root.table.sql, root.alias), [], (), limit, offset)
        return self._limited(self.rows(root, source), limit, offset)

    def count(self, root: Node, source: Fragment | None = None) -> Fragment:
        """The same rows for counting: no columns, no joins but those that leave rows out."""
        return self._matching(root, sql("{} AS {}", source or root.table.sql, root.alias), [])

    def _select(
        self, node: Node, source: Fragment, conditions: list[Fragment], extra: tuple[Fragment, ...] = ()
    ) -> Fragment:
        items: list[Fragment] = []
        joins: list[Fragment] = []
        for item in node.items:
            if isinstance(item, Column):
                items.append(self._column(node, item))
            else:
                joins.append(self._join(node, item))
                items += _items_of(item)
        conditions = [*conditions, *self._conditions(node)]
        return sql(
            "SELECT {items} FROM {source}{joins}{where}{order}",
            items=joined(", ", [*items, *extra]),
            source=source,
            joins=joined("", joins),
            where=sql(" WHERE {}", joined(" AND ", conditions)) if conditions else sql(""),
            order=self._order(node),
        )

    def _conditions(self, node: Node) -> list[Fragment]:
        if not node.where:
            return []

        def on_embedded(condition: Filter) -> Fragment | None:
            child = embedded_filter(node, condition)
            if child is None:
                return None
            absent = (condition.value is Is.NULL) is not condition.negated
            there = sql("{}.{}", child.alias, _FOUND if child.embed.spread else sql("r"))
            return sql("{} IS NULL" if absent else "{} IS NOT NULL", there)

        return [where(node.table, node.alias, node.where, self.parameters, on_embedded)]

    def _column(self, node: Node, column: Column) -> Fragment:
        if column.field == Field("*"):
            return sql("{}.*", node.alias)
        value = field_sql(node.table, node.alias, column.field, self.parameters)
        if column.cast is not None:
            value = sql("CAST({} AS {})", value, self._type(column.cast))
        return sql("{} AS {}", value, name(output_name(column)))

    def _type(self, cast: str) -> Fragment:
        short = " ".join(cast.lower().split())
        short = _SCHEMA_NAMES.get(short, short)
        if short not in self.catalogue.types:
            raise ApiError(400, "42704", f'type "{cast}" does not exist')
        return qualified("pg_catalog", short)

    def _join(self, parent: Node, child: Child) -> Fragment:
        """The lateral join that finds what is embedded."""
        kind = sql("JOIN" if child.inner else "LEFT JOIN")
        if child.embed.spread:
            found = self._spread(parent, child)
            there = sql("{}.{} IS NOT NULL", child.alias, _FOUND) if child.inner else sql("TRUE")
        else:
            found = self._as_json(parent, child)
            there = sql("{}.r IS NOT NULL", child.alias) if child.inner else sql("TRUE")
        return sql(" {} LATERAL ({}) AS {} ON {}", kind, found, child.alias, there)

    def _as_json(self, parent: Node, child: Child) -> Fragment:
        if not child.way.to_one:
            return sql("SELECT json_agg(r.*) AS r FROM ({}) AS r", self._child_rows(parent, child))
        ordered = _ordered_by(parent, child)
        if not ordered:
            return sql("SELECT row_to_json(r.*) AS r FROM ({}) AS r", self._child_rows(parent, child))
        # what the parent is ordered by may be no part of the JSON: it is beside it
        columns = self._order_columns(child, ordered)
        inner = self._child_rows(parent, child, columns)
        shown = joined(", ", [sql("q.{}", name(shown)) for shown in _output_names(child.node)])
        kept = joined("", [sql(", q.{}", _order_name(term)) for term in ordered])
        return sql("SELECT (SELECT row_to_json(s.*) FROM (SELECT {}) AS s) AS r{} FROM ({}) AS q", shown, kept, inner)

    def _order_columns(self, child: Child, ordered: list[tuple[int, Order]]) -> tuple[Fragment, ...]:
        node = child.node
        return tuple(
            sql("{} AS {}", field_sql(node.table, node.alias, term.field, self.parameters), _order_name((place, term)))
            for place, term in ordered
        )

    def _spread(self, parent: Node, child: Child) -> Fragment:
        if child.way.to_one:
            extra = (sql("TRUE AS {}", _FOUND), *self._order_columns(child, _ordered_by(parent, child)))
            return self._child_rows(parent, child, extra)
        columns = [sql("coalesce(json_agg(r.{0}), '[]') AS {0}", name(shown)) for shown in _output_names(child.node)]
        found = sql("nullif(count(*) > 0, FALSE) AS {}", _FOUND)
        return sql("SELECT {} FROM ({}) AS r", joined(", ", [*columns, found]), self._child_rows(parent, child))

    def _child_rows(self, parent: Node, child: Child, extra: tuple[Fragment, ...] = ()) -> Fragment:
        source, condition = _related(parent, child)
        node = child.node
        if node.counted:
            return sql(
                "{}{}", self._counted(node, source, [condition]), sql(" HAVING count(*) > 0" if child.inner else "")
            )
        if node.limit is not None:
            limit = min(node.limit, self.most_embedded)
            return self._newest(node, source, [condition], extra, limit, node.offset)
        rows = self._select(node, source, [condition], extra)
        if child.way.to_one and not node.offset:
            return rows
        return self._limited(rows, self.most_embedded, node.offset)

    def _counted(self, node: Node, source: Fragment, conditions: list[Fragment]) -> Fragment:
        """One row: how many there are."""
        return sql(
            "SELECT count(*) AS {} FROM ({}) AS c", name(node.counted or ""), self._matching(node, source, conditions)
        )

    def _limited(self, rows: Fragment, limit: int, offset: int) -> Fragment:
        bind = self.parameters.bind
        return sql("{} LIMIT {} OFFSET {}", rows, bind(str(limit)), bind(str(offset)))

    def _newest(
        self,
        node: Node,
        source: Fragment,
        conditions: list[Fragment],
        extra: tuple[Fragment, ...],
        limit: int,
        offset: int,
    ) -> Fragment:
        """The same, but the newest rows of a time series are looked for among the latest first.

        Through a view that is a fence PostgreSQL takes no order from an index: it would sort all rows of a device to
        find the last one. Here it begins with those of some hours, and goes on to older ones only while rows lack: what
        follows in a UNION ALL is not begun once there are enough.
        """
        time = _newest_first(node)
        if time is None or limit + offset > _MOST_NEWEST:
            return self._limited(self._select(node, source, conditions, extra), limit, offset)
        column = sql("{}.{}", node.alias, name(time))
        pieces = []
        for since, until in pairwise((None, *_STEPS_BACK, None)):
            span = [*conditions]
            if until is not None:
                span.append(sql("{} >= {}", column, until))
            if since is not None:
                span.append(sql("{} < {}", column, since))
            pieces.append(sql("({})", self._limited(self._select(node, source, span, extra), limit + offset, 0)))
        return self._limited(sql("SELECT u.* FROM ({}) AS u", joined(" UNION ALL ", pieces)), limit, offset)

    def _matching(self, node: Node, source: Fragment, conditions: list[Fragment]) -> Fragment:
        conditions = [*conditions]
        if node.where:

            def on_embedded(condition: Filter) -> Fragment | None:
                child = embedded_filter(node, condition)
                if child is None:
                    return None
                absent = (condition.value is Is.NULL) is not condition.negated
                return sql("NOT {}" if absent else "{}", self._exists(node, child))

            conditions.append(where(node.table, node.alias, node.where, self.parameters, on_embedded))
        conditions += [self._exists(node, child) for child in node.children if child.inner]
        filtered = sql(" WHERE {}", joined(" AND ", conditions)) if conditions else sql("")
        return sql("SELECT FROM {}{}", source, filtered)

    def _exists(self, parent: Node, child: Child) -> Fragment:
        source, condition = _related(parent, child)
        return sql("EXISTS ({})", self._matching(child.node, source, [condition]))

    def _order(self, node: Node) -> Fragment:
        if not node.order:
            return sql("")
        return sql(" ORDER BY {}", joined(", ", [self._order_term(node, n, term) for n, term in enumerate(node.order)]))

    def _order_term(self, node: Node, place: int, term: Order) -> Fragment:
        child = node.child(term.relation) if term.relation is not None else None
        if child is not None:
            value = sql("{}.{}", child.alias, _order_name((place, term)))
        else:
            value = field_sql(node.table, node.alias, term.field, self.parameters)
        direction = sql("") if term.descending is None else sql(" DESC" if term.descending else " ASC")
        nulls = sql("") if term.nulls is None else sql(" NULLS FIRST" if term.nulls is Nulls.FIRST else " NULLS LAST")
        return sql("{}{}{}", value, direction, nulls)


def output_name(column: Column) -> str:
    """What a column of the answer is called: its alias, the last key of its path, or its name."""
    if column.alias is not None:
        return column.alias
    keys = [step.key for step in column.field.path if isinstance(step.key, str)]
    return keys[-1] if keys else column.field.name


def _output_names(node: Node) -> list[str]:
    """Of a node's rows, in order."""
    if node.counted:
        return [node.counted]
    names: list[str] = []
    for item in node.items:
        if isinstance(item, Child):
            names += _output_names(item.node) if item.embed.spread else [item.embed.name]
        elif item.field == Field("*"):
            names += node.table.columns
        else:
            names.append(output_name(item))
    return list(dict.fromkeys(names))


def column_names(root: Node) -> list[str]:
    """The columns of the answer: the header of a CSV."""
    return _output_names(root)


def _items_of(child: Child) -> list[Fragment]:
    """What an embedded resource adds to the columns of its parent."""
    if child.embed.spread:
        return [sql("{}.{}", child.alias, name(shown)) for shown in _output_names(child.node)]
    if not child.embed.select:
        return []  # joined for what it leaves out, never shown
    value = sql("{}.r", child.alias) if child.way.to_one else sql("coalesce({}.r, '[]')", child.alias)
    return [sql("{} AS {}", value, name(child.embed.name))]


def _newest_first(node: Node) -> str | None:
    """The column of time, where this is a time series and the newest rows of it are asked for first."""
    key = node.table.primary_key
    if len(key) < 2 or not node.order or node.table.columns[key[-1]].base_type != "timestamptz":
        return None
    return key[-1] if node.order[0] == Order(Field(key[-1]), None, True, node.order[0].nulls) else None


def _ordered_by(parent: Node, child: Child) -> list[tuple[int, Order]]:
    """The terms of the parent's order that are about this child, with their places."""
    return [(place, term) for place, term in enumerate(parent.order) if term.relation == child.embed.name]


def _order_name(term: tuple[int, Order]) -> Fragment:
    return name(f"flux order {term[0]}")


def _related(parent: Node, child: Child) -> tuple[Fragment, Fragment]:
    """Where the child's rows come from, and which of them are the parent row's."""
    ours, theirs = parent.alias, child.node.alias
    through = child.way.through
    if through is None:
        pairs = [sql("{}.{} = {}.{}", theirs, name(far), ours, name(near)) for near, far in child.way.columns]
        return sql("{} AS {}", child.node.table.sql, theirs), joined(" AND ", pairs)
    between = Fragment(f"x{child.node.number}")
    source = sql(
        "{} AS {} JOIN {} AS {} ON {}",
        qualified("flux_api", through.table),
        between,
        child.node.table.sql,
        theirs,
        _key(through.far, between, theirs),
    )
    return source, _key(through.near, between, ours)


def _key(key: ForeignKey, of: Fragment, target: Fragment) -> Fragment:
    pairs = zip(key.columns, key.target_columns, strict=True)
    return joined(" AND ", [sql("{}.{} = {}.{}", of, name(a), target, name(b)) for a, b in pairs])
