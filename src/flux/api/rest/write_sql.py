"""The statements of writes. The body of a request is one parameter: PostgreSQL takes it apart, by its own types.

::

    body AS MATERIALIZED (SELECT site, name FROM json_to_recordset($1::json) AS body(site text, name text)),
    written AS (INSERT INTO flux_api.sites (site, name) SELECT site, name FROM body
                ON CONFLICT (site) DO UPDATE SET name = excluded.name RETURNING *)

Whatever is written is a common table expression ``written``, from which the answer is made. Identifiers and types come
from the catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import Literal

from flux.api.rest.catalogue import ColumnInfo
from flux.api.rest.errors import ApiError
from flux.api.rest.prefer import Resolution
from flux.api.rest.sqltext import Fragment, joined, name, sql
from flux.store.ingest import FUTURE_TOLERANCE, OLDEST

WRITTEN = name("written")
_UPDATED = sql("coalesce(nullif(current_setting('flux.updated_rows', true), ''), '0')::bigint")
_COUNT_UPDATED = sql("set_config('flux.updated_rows', ({} + 1)::text, true) <> ''", _UPDATED)
UPDATED = _UPDATED
"""How many of the rows of an upsert were there already; counted in a setting of the transaction."""


@dataclass(frozen=True, slots=True)
class Series:
    """A time series, whose rows are looked at before they are stored. ``type``: of its devices; None: any."""

    type: str | None
    time_column: str = "time"


SERIES: Mapping[str, Series] = {
    "mg_meter_readings": Series("meter"),
    "mg_bess_readings": Series("bess"),
    "device_health": Series(None, "timestamp"),
    "control_decisions": Series(None),
}
"""What ingest asks of a reading before it is stored, in :mod:`flux.store.ingest`, is asked of these rows too."""
REFUSED = sql(
    "(SELECT json_build_array(checked.device_id, checked.type, checked.first, checked.last, checked.untimed)"
    " FROM checked LIMIT 1)"
)
"""What is wrong with the rows of a series, or null; only after an :func:`insert` with ``series``."""


def series_of(table: str, columns: Sequence[ColumnInfo]) -> Series | None:
    """How rows of a table with these columns are looked at before they are stored; None: they are not.

    ApiError 400 (23502) for rows without a device or time: PostgreSQL would say that there is no partition for them.
    """
    series = SERIES.get(table)
    if series is None or not columns:
        return None
    named = {column.name for column in columns}
    for needed in ("device_id", series.time_column):
        if needed not in named:
            message = f'null value in column "{needed}" of relation "{table}" violates not-null constraint'
            raise ApiError(400, "23502", message)
    return series


def body_rows(body: Fragment, columns: Sequence[ColumnInfo], *, missing_default: bool, single: bool) -> Fragment:
    """A query of the rows of ``body``, a placeholder; ``single``: it is one object, not an array."""
    json, jsonb = sql("{}::json", body), sql("{}::jsonb", body)
    if not columns:  # rows of nothing but defaults
        return sql("SELECT FROM json_array_elements({})", sql("json_build_array({})", json) if single else json)
    types = joined(", ", (sql("{} {}", name(column.name), type_of(column.type)) for column in columns))
    if missing_default and any(column.default is not None for column in columns):
        return sql(
            "SELECT {} FROM jsonb_array_elements({}) AS element(value), jsonb_to_record(element.value) AS body({})",
            joined(", ", map(_value_or_default, columns)),
            sql("jsonb_build_array({})", jsonb) if single else jsonb,
            types,
        )
    function = sql("json_to_record") if single else sql("json_to_recordset")
    return sql("SELECT {} FROM {}({}) AS body({})", names_of(columns), function, json, types)


def type_of(type_: str) -> Fragment:
    """A type as the catalogue writes it: it is SQL already, with quotes where it needs any."""
    return Fragment(type_)


def names_of(columns: Sequence[ColumnInfo]) -> Fragment:
    """The columns' names, for a list of them."""
    return joined(", ", (name(column.name) for column in columns))


def _value_or_default(column: ColumnInfo) -> Fragment:
    own = name(column.name)
    if column.default is None:
        return sql("body.{0} AS {0}", own)
    default = Fragment(column.default)  # an expression as the catalogue writes it
    key = Fragment(Literal(column.name).as_string())
    return sql("CASE WHEN element.value ? {} THEN body.{} ELSE {} END AS {}", key, own, default, own)


@dataclass(frozen=True, slots=True)
class OnConflict:
    """What becomes of rows whose ``key`` is there; an empty key: any of the table's."""

    resolution: Resolution
    key: tuple[str, ...]


def insert(
    target: Fragment,
    columns: Sequence[ColumnInfo],
    rows: Fragment,
    *,
    returning: Fragment,
    conflict: OnConflict | None = None,
    series: Series | None = None,
    where: Fragment | None = None,
) -> Fragment:
    """The common table expressions that end in ``written``: the rows of the query ``rows`` stored in ``target``.

    ``where``: a condition on the rows of the body (``body``), for PUT.
    """
    names = names_of(columns)
    conditions = [where] if where is not None else []
    checked = sql("")
    if series is not None:
        checked = _checked(series)
        conditions.append(sql("NOT EXISTS (SELECT FROM checked)"))
    return sql(
        "body AS MATERIALIZED ({rows}), {checked}"
        "written AS (INSERT INTO {target} {columns} SELECT {names} FROM body{where}{conflict} RETURNING {returning})",
        rows=rows,
        checked=checked,
        target=target,
        columns=sql("({})", names) if columns else sql(""),
        names=names,
        where=sql(" WHERE {}", joined(" AND ", conditions)) if conditions else sql(""),
        conflict=_conflict(conflict, columns) if conflict is not None else sql(""),
        returning=returning,
    )


def _checked(series: Series) -> Fragment:
    """A device of another site and one that nobody knows look the same: the caller's registry has neither."""
    return sql(
        "checked AS MATERIALIZED (SELECT sent.*, known.type FROM"
        " (SELECT body.device_id, min(body.{time}) AS first, max(body.{time}) AS last,"
        " count(*) > count(body.{time}) AS untimed FROM body"
        " WHERE body.device_id IS NOT NULL GROUP BY body.device_id) sent"
        " LEFT JOIN flux_api.mg_device_registry known ON known.id = sent.device_id"
        " WHERE known.id IS NULL OR known.type <> {type} OR sent.first < {oldest} OR sent.last > now() + {ahead}"
        " OR sent.untimed), ",
        time=name(series.time_column),
        type=sql("known.type") if series.type is None else Fragment(Literal(series.type).as_string()),
        oldest=Fragment(Literal(OLDEST).as_string()),
        ahead=Fragment(Literal(FUTURE_TOLERANCE).as_string()),
    )


def _conflict(conflict: OnConflict, columns: Sequence[ColumnInfo]) -> Fragment:
    key = sql(" ({})", joined(", ", map(name, conflict.key))) if conflict.key else sql("")
    if conflict.resolution is Resolution.IGNORE or not columns:
        return sql(" ON CONFLICT{} DO NOTHING", key)
    others = [column for column in columns if column.name not in conflict.key]
    # (where a row is nothing but its key, the key is set to itself: the row counts as written, and is returned)
    changes = joined(", ", (sql("{0} = excluded.{0}", name(column.name)) for column in others or columns))
    return sql(" ON CONFLICT{} DO UPDATE SET {} WHERE {}", key, changes, _COUNT_UPDATED)


def update(
    target: Fragment, columns: Sequence[ColumnInfo], rows: Fragment, *, where: Fragment, returning: Fragment
) -> Fragment:
    """``written``: the rows of ``target`` that ``where`` means, with the values of the one row of ``rows``."""
    changes = joined(", ", (sql("{0} = body.{0}", name(column.name)) for column in columns))
    return sql(
        "written AS (UPDATE {} SET {} FROM ({}) AS body WHERE {} RETURNING {})", target, changes, rows, where, returning
    )


def delete(target: Fragment, *, where: Fragment, returning: Fragment) -> Fragment:
    """``written``: the rows of ``target`` that ``where`` meant."""
    return sql("written AS (DELETE FROM {} WHERE {} RETURNING {})", target, where, returning)
