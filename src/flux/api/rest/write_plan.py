"""A write against the catalogue: its statement, and by what its outcome is judged. Pure.

Refused here, before the database is asked: columns that are not there, a PATCH or DELETE of a whole table, a PUT that
does not name its row, preferences that are not known where the client wants to be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flux.api.identity import Role
from flux.api.rest.bodies import Rows
from flux.api.rest.catalogue import Catalogue, ColumnInfo, Table, Verb
from flux.api.rest.errors import ApiError
from flux.api.rest.filters import where
from flux.api.rest.media import Media
from flux.api.rest.plan import plan_read
from flux.api.rest.prefer import Missing, Preferences, Resolution, Return
from flux.api.rest.select import Select
from flux.api.rest.sqltext import Fragment, Parameters, joined, name, sql
from flux.api.rest.statements import Reading, Statement, row_json
from flux.api.rest.syntax import Filter, Operator, Query
from flux.api.rest.write_sql import (
    REFUSED,
    UPDATED,
    OnConflict,
    Series,
    body_rows,
    delete,
    insert,
    series_of,
    update,
)

_TARGET = sql("target")
_VERBS = {"POST": Verb.INSERT, "PUT": Verb.INSERT, "PATCH": Verb.UPDATE, "DELETE": Verb.DELETE}


NO_ROWS = Rows("[]", ())


@dataclass(frozen=True, slots=True)
class Asked:
    """A write as it was asked for. ``rows``: of its body; a DELETE has none."""

    method: str
    table: Table
    query: Query
    prefer: Preferences
    role: Role
    rows: Rows = NO_ROWS

    @property
    def represented(self) -> bool:
        return self.prefer.returning is Return.REPRESENTATION


@dataclass(frozen=True, slots=True)
class _Written:
    """``ctes``: the common table expressions that end in ``written``. ``series``: its rows are looked at before."""

    ctes: Fragment
    columns: tuple[ColumnInfo, ...] = ()
    series: Series | None = None
    merges: bool = False


@dataclass(frozen=True, slots=True)
class WritePlan:
    """One statement, which answers with one row: how many rows were written, what was wrong with one of them (JSON),
    how many were there before, the key of a single new one (JSON), and the body of the answer.
    """

    statement: Statement
    columns: tuple[ColumnInfo, ...]
    """Those that are written."""
    series: Series | None


def plan_write(catalogue: Catalogue, asked: Asked, media: Media, most_embedded: int) -> WritePlan:
    """ApiError for what is wrong with the request. ``most_embedded``: rows of one embedded resource."""
    _check_rights(asked)
    parameters = Parameters()
    written = _WAYS[asked.method](asked, parameters)
    root = plan_read(catalogue, asked.table, _of_answer(asked.query))
    reading = Reading(catalogue, root, most_embedded, sql("written"), parameters)
    select = reading.select()
    count, body, source = sql("count(*)"), sql("NULL"), sql("written")
    if asked.represented:
        rows = select.rows(root, sql("written"))
        body = sql("json_agg({})->0", row_json(media)) if media.single else reading.body(select, media)
        # (an embedded resource with !inner leaves rows out of the answer, though they are written)
        count, source = sql("(SELECT count(*) FROM written)"), sql("({}) AS p", rows)
    # an aggregate over what was written: the settings that it counts in are read when all of it is done
    statement = sql(
        "WITH {} SELECT {}, {}::text, {}, {}, {}::text FROM {}",
        written.ctes,
        count,
        REFUSED if written.series is not None else sql("NULL"),
        UPDATED if written.merges else sql("0::bigint"),
        _location(asked),
        sql("({})", body),
        source,
    )
    return WritePlan(Statement(statement.encode(), select.parameters.values), written.columns, written.series)


def _of_answer(query: Query) -> Query:
    """Of what is written, everything is shown: filters and limits said what that is."""
    return replace(
        query,
        where=tuple((path, condition) for path, condition in query.where if path),
        limits=tuple((path, limit) for path, limit in query.limits if path),
        offsets=tuple((path, offset) for path, offset in query.offsets if path),
    )


def _check_rights(asked: Asked) -> None:
    """As the database would: it is asked nothing that it must refuse."""
    verb = _VERBS[asked.method]
    if verb not in asked.table.rights.get(asked.role, frozenset()):
        status = 401 if asked.role is Role.ANON else 403
        raise ApiError(status, "42501", f"permission denied for view {asked.table.name}")


def _post(asked: Asked, parameters: Parameters) -> _Written:
    columns = _columns(asked.table, asked.rows.columns)
    conflict = None
    if asked.prefer.resolution is not None:
        key = asked.query.on_conflict or asked.table.primary_key
        for column in key:
            _known(asked.table, column)
        # (without any key, a merge has nothing to go by: every row is new)
        if key or asked.prefer.resolution is Resolution.IGNORE:
            conflict = OnConflict(asked.prefer.resolution, key)
    return _insert(asked, parameters, columns, conflict, None)


def _put(asked: Asked, parameters: Parameters) -> _Written:
    """One row by its whole key, made or replaced: what the body does not say becomes its default."""
    table, query = asked.table, asked.query
    if query.limits or query.offsets:
        raise ApiError(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT")
    conditions = query.of_root()
    named = [one.field.name for one in conditions if isinstance(one, Filter) and _is_equality(one)]
    if not table.primary_key or len(named) < len(conditions) or sorted(named) != sorted(table.primary_key):
        raise ApiError(405, "PGRST105", "Filters must include all and only primary key columns with 'eq' operators")
    columns = _columns(table, asked.rows.columns)
    if not {*table.primary_key} <= {*asked.rows.columns}:
        raise put_does_not_match()
    matching = where(table, sql("body"), conditions, parameters)
    return _insert(asked, parameters, columns, OnConflict(Resolution.MERGE, table.primary_key), matching)


def put_does_not_match() -> ApiError:
    """The body of a PUT is not the one row that its filters name."""
    return ApiError(400, "PGRST115", "Payload values do not match URL in primary key column(s)")


def _is_equality(condition: Filter) -> bool:
    plain = not condition.negated and condition.quantifier is None and not condition.field.path
    return plain and condition.operator is Operator.EQ


def _insert(
    asked: Asked,
    parameters: Parameters,
    columns: tuple[ColumnInfo, ...],
    conflict: OnConflict | None,
    matching: Fragment | None,
) -> _Written:
    series = series_of(asked.table.name, columns)
    written = insert(
        sql("{} AS {}", asked.table.sql, _TARGET),
        columns,
        _body(asked, parameters, columns),
        returning=_returning(asked),
        conflict=conflict,
        series=series,
        where=matching,
    )
    merges = conflict is not None and conflict.resolution is Resolution.MERGE and bool(columns)
    return _Written(written, columns, series, merges)


def _patch(asked: Asked, parameters: Parameters) -> _Written:
    matching = _matching(asked, parameters)
    columns = _columns(asked.table, asked.rows.columns)
    target = sql("{} AS {}", asked.table.sql, _TARGET)
    if not columns:  # nothing to change: as if no row had matched
        nothing = sql("written AS (SELECT {} FROM {} WHERE FALSE AND {})", _returning(asked), target, matching)
        return _Written(nothing)
    rows = sql("{} LIMIT 1", _body(asked, parameters, columns))
    written = update(target, columns, rows, where=matching, returning=_returning(asked))
    return _Written(written, columns)


def _body(asked: Asked, parameters: Parameters, columns: Sequence[ColumnInfo]) -> Fragment:
    body, rows = parameters.bind(asked.rows.text), asked.rows
    return body_rows(body, columns, missing_default=asked.prefer.missing is Missing.DEFAULT, single=rows.single)


def _delete(asked: Asked, parameters: Parameters) -> _Written:
    matching = _matching(asked, parameters)
    target = sql("{} AS {}", asked.table.sql, _TARGET)
    return _Written(delete(target, where=matching, returning=_returning(asked)))


def _matching(asked: Asked, parameters: Parameters) -> Fragment:
    """Which rows a PATCH or DELETE is about. One that is about all of them is taken for a mistake.

    (With the error that Supabase's own databases give, where ``safeupdate`` guards them.)
    """
    verb = _VERBS[asked.method]
    conditions, limit = asked.query.of_root(), asked.query.limit()
    if not conditions and limit is None:
        raise ApiError(
            400,
            "21000",
            f"{verb} requires a WHERE clause",
            hint="to mean every row, say so: by a filter that all of them pass, such as not.is.null on the primary key",
        )
    if limit is None and not asked.query.offset():
        return where(asked.table, _TARGET, conditions, parameters)
    return _first_rows(asked, parameters)


def _first_rows(asked: Asked, parameters: Parameters) -> Fragment:
    """The rows of a limit: by their keys, in the order that the request gives."""
    table, query = asked.table, asked.query
    order = next((order for path, order in query.order if not path), ())
    if not order:
        raise ApiError(400, "PGRST109", "A 'limit' was applied without an explicit 'order'",
                       hint="Apply an 'order' using unique column(s)")  # fmt: skip
    if not table.primary_key:
        raise ApiError(400, "PGRST109", f"a 'limit' cannot be applied to changes of {table.name}: it has no key")
    alias = sql("first")
    chosen = Select(Catalogue({table.name: table}, {}, (), frozenset()), parameters, 0)
    root = plan_read(chosen.catalogue, table, Query(where=tuple(((), c) for c in query.of_root()), order=query.order))
    rows = chosen.rows(root)
    key = joined(", ", (sql("{}.{}", alias, name(column)) for column in table.primary_key))
    own = joined(", ", (sql("{}.{}", _TARGET, name(column)) for column in table.primary_key))
    limit = query.limit()
    return sql(
        "({}) IN (SELECT {} FROM ({} LIMIT {} OFFSET {}) AS {})",
        own,
        key,
        rows,
        parameters.bind(None if limit is None else str(limit)),
        parameters.bind(str(query.offset())),
        alias,
    )


def _columns(table: Table, named: Sequence[str]) -> tuple[ColumnInfo, ...]:
    return tuple(_known(table, column) for column in dict.fromkeys(named))


def _known(table: Table, column: str) -> ColumnInfo:
    found = table.columns.get(column)
    if found is None:
        raise ApiError(400, "PGRST204", f"Could not find the '{column}' column of '{table.name}' in the schema cache")
    return found


def _returning(asked: Asked) -> Fragment:
    """No more than the answer needs: reading takes a right of its own."""
    if asked.represented:
        return sql("{}.*", _TARGET)
    key = asked.table.primary_key
    if asked.prefer.returning is Return.HEADERS_ONLY and key:
        return joined(", ", (sql("{}.{}", _TARGET, name(column)) for column in key))
    return sql("1 AS one")


def _location(asked: Asked) -> Fragment:
    """The key of the one row that was made, as a JSON array of texts; null where there are more, or no key."""
    wanted = asked.method == "POST" and asked.prefer.returning is Return.HEADERS_ONLY
    if not wanted or not asked.table.primary_key:
        return sql("NULL::text")
    key = joined(", ", (sql("w.{}::text", name(column)) for column in asked.table.primary_key))
    return sql("(SELECT CASE WHEN count(*) = 1 THEN (json_agg(json_build_array({}))->0)::text END FROM written w)", key)


_WAYS = {"POST": _post, "PUT": _put, "PATCH": _patch, "DELETE": _delete}
