"""A plan as the statements that a GET runs: how many rows there are, and all of them in one value.

::

    SELECT count(*), coalesce(json_agg(p.*), '[]'), NULL FROM (SELECT … LIMIT $1 OFFSET $2) AS p
"""

from dataclasses import dataclass

from flux.api.rest.catalogue import Catalogue, ColumnInfo
from flux.api.rest.media import Media
from flux.api.rest.plan import Child, Node
from flux.api.rest.prefer import Count
from flux.api.rest.select import Select, column_names
from flux.api.rest.sqltext import Fragment, Parameters, Value, joined, sql

_EMBEDDED = 30
"""Rows of an embedded resource, as an estimate."""
_COUNT = 20
"""Bytes of a number of rows."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Text and values for a raw cursor."""

    text: bytes
    values: list[Value]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read, whichever of its rows: ``source`` stands for the root's table (a CTE, the call of a function).

    ``most_embedded``: rows of one embedded resource. ``parameters``: those of ``source``.
    """

    catalogue: Catalogue
    root: Node
    most_embedded: int
    source: Fragment | None = None
    parameters: Parameters | None = None
    expressions: tuple[Fragment, ...] = ()
    """Common table expressions that ``source`` is one of, each ``name AS (…)``."""

    def page(self, media: Media | None, limit: int, offset: int, count: Count | None, most_counted: int) -> Statement:
        """One row: how many rows of at most ``limit`` there are, the body, how many match in all (null: not counted).

        ``media`` None: no body. Beyond ``most_counted`` rows an estimated count says only that there are more.
        """
        select = self.select()
        bind = select.parameters.bind
        if media is None:
            matching = select.count(self.root, self.source)
            rows = sql("{} LIMIT {} OFFSET {}", matching, bind(str(limit)), bind(str(offset)))
        else:
            rows = select.some(self.root, limit, offset, self.source)
        total = self._total(select, limit, offset, count, most_counted)
        if media is not None and media.single:
            text = sql("(SELECT {} FROM p LIMIT 1)", row_json(media))
            found = sql("SELECT count(*), {}, {} FROM p", text, total)
            return self.statement(found, select, sql("p AS MATERIALIZED ({})", rows))
        text = sql("NULL") if media is None else self.body(select, media)
        return self.statement(sql("SELECT count(*), {}, {} FROM ({}) AS p", text, total, rows), select)

    def lines(self, media: Media, limit: int, offset: int) -> Statement:
        """The same rows one by one, each the text of its object or line."""
        select = self.select()
        bind = select.parameters.bind
        rows = sql("{} LIMIT {} OFFSET {}", select.rows(self.root, self.source), bind(str(limit)), bind(str(offset)))
        text = row_csv() if media is Media.CSV else row_json(media)
        return self.statement(sql("SELECT {} FROM ({}) AS p", text, rows), select)

    def planned(self) -> Statement:
        """The planner's guess at how many rows match, as the JSON of EXPLAIN."""
        select = self.select()
        found = self.statement(select.count(self.root, self.source), select)
        return Statement(b"EXPLAIN (FORMAT JSON) " + found.text, found.values)

    def width(self) -> int:
        """About how many bytes a row of the answer has."""
        return _width(self.root)

    def header(self) -> str:
        """The first line of a CSV."""
        return ",".join(map(_csv, column_names(self.root))) + "\n"

    def select(self) -> Select:
        """What builds the statement: its parameters begin with those of ``source``."""
        parameters = Parameters()
        if self.parameters is not None:
            parameters.values += self.parameters.values
        return Select(self.catalogue, parameters, self.most_embedded)

    def statement(self, found: Fragment, select: Select, *more: Fragment) -> Statement:
        """``found`` after the common table expressions of ``source`` and ``more``."""
        expressions = (*self.expressions, *more)
        if expressions:
            found = sql("WITH {} {}", joined(", ", expressions), found)
        return Statement(found.encode(), select.parameters.values)

    def _total(self, select: Select, limit: int, offset: int, count: Count | None, most: int) -> Fragment:
        """Counted only where the page itself does not tell."""
        if count is None or count is Count.PLANNED:
            return sql("NULL::bigint")
        bind = select.parameters.bind
        matching = select.count(self.root, self.source)
        if count is Count.ESTIMATED:
            matching = sql("{} LIMIT {}", matching, bind(str(most + 1)))
        return sql(
            "CASE WHEN count(*) < {limit}::bigint AND (count(*) > 0 OR {offset}::bigint = 0)"
            " THEN count(*) + {offset}::bigint ELSE (SELECT count(*) FROM ({matching}) AS c) END",
            limit=bind(str(limit)),
            offset=bind(str(offset)),
            matching=matching,
        )

    def body(self, select: Select, media: Media) -> Fragment:
        """All rows of ``p`` as one value."""
        if media is Media.CSV:
            header = select.parameters.bind(self.header())
            return sql("{}::text || coalesce(string_agg({}, ''), '')", header, row_csv())
        if media.stripped:
            return sql("coalesce(json_agg({}), '[]')", row_json(media))
        return sql("coalesce(json_agg(p.*), '[]')")


def row_json(media: Media) -> Fragment:
    """One row of ``p`` as JSON."""
    return sql("json_strip_nulls(row_to_json(p.*))" if media.stripped else "row_to_json(p.*)")


def row_csv() -> Fragment:
    """One row of ``p`` as a line: PostgreSQL's own text of a row, but that it doubles backslashes and CSV does not."""
    return sql(r"replace(substring((p.*)::text, 2, length((p.*)::text) - 2), '\\', '\') || E'\n'")


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in '",\n\r') else text


def _width(node: Node) -> int:
    """A name and a value for each column; of what is embedded, as many rows as may be expected."""
    if node.counted:
        return _COUNT
    width = 0
    for item in node.items:
        if isinstance(item, Child):
            rows = 1 if item.way.to_one else min(_EMBEDDED if item.node.limit is None else item.node.limit, _EMBEDDED)
            width += 20 + rows * _width(item.node)
        elif item.field.name == "*":
            width += sum(map(_column_width, node.table.columns.values()))
        else:
            width += _column_width(node.table.columns[item.field.name])
    return width


def _column_width(column: ColumnInfo) -> int:
    return len(column.name) + (300 if column.is_json else 20)
