"""The statements of writes. The body of a request is one parameter: PostgreSQL takes it apart, by its own types.

::

    INSERT INTO flux_api.sites (site, name)
    SELECT site, name FROM json_to_recordset(%(body)s) AS body(site text, name text)
    ON CONFLICT (site) DO UPDATE SET name = excluded.name RETURNING *

Whatever is written is a common table expression ``written``, from which the answer is made. Identifiers and types come
from the catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.sql import SQL, Composable, Composed, Identifier

from flux.api.rest.prefer import Resolution
from flux.store.ingest import FUTURE_TOLERANCE, OLDEST

WRITTEN = Identifier("written")
UPDATED_SETTING = "flux.updated_rows"
"""Counts, for the length of a transaction, the rows of an upsert that were there already."""
_COUNT_UPDATED = SQL(
    "set_config({0}, (coalesce(nullif(current_setting({0}, true), ''), '0')::bigint + 1)::text, true) <> ''"
).format(sql.Literal(UPDATED_SETTING))
UPDATED = SQL("coalesce(nullif(current_setting({}, true), ''), '0')::bigint").format(sql.Literal(UPDATED_SETTING))


@dataclass(frozen=True, slots=True)
class Typed:
    """A column of a body. ``default``: the expression that stands for a missing value; None: null does."""

    name: str
    type: str
    default: str | None = None

    @property
    def identifier(self) -> Identifier:
        return Identifier(self.name)


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
"""The same that can be told of a reading before it is stored, ingest asks in :mod:`flux.store.ingest`."""
# A device of another site and one that nobody knows are the same to the caller: the registry that it sees has neither.
_CHECKED = """checked AS MATERIALIZED (
    SELECT sent.device_id, sent.first, sent.last, known.type FROM (
        SELECT body.device_id, min(body.{time}) AS first, max(body.{time}) AS last FROM body GROUP BY body.device_id
    ) sent LEFT JOIN flux_api.mg_device_registry known ON known.id = sent.device_id
    WHERE sent.device_id IS NOT NULL AND (known.id IS NULL OR known.type <> {type}
        OR sent.first < {oldest} OR sent.last > now() + {ahead})), """
REFUSED = SQL("(SELECT json_build_array(device_id, type, first, last) FROM checked LIMIT 1)")
"""What is wrong with a row of a series, or null; only after an :func:`insert` with ``series``."""


def body_rows(columns: Sequence[Typed], *, missing_default: bool, single: bool = False) -> Composed:
    """A query of the rows that ``%(body)s`` holds; ``single``: it is one object, not an array."""
    names = _names(columns)
    types = SQL(", ").join(SQL("{} {}").format(c.identifier, SQL(c.type)) for c in columns)
    if not columns:  # rows of nothing but defaults
        source = "json_build_array(%(body)s::json)" if single else "%(body)s::json"
        return SQL("SELECT FROM json_array_elements({})").format(SQL(source))
    if missing_default and any(column.default is not None for column in columns):
        source = "jsonb_build_array(%(body)s::jsonb)" if single else "%(body)s::jsonb"
        values = SQL(", ").join(_value_or_default(column) for column in columns)
        return SQL(
            "SELECT {} FROM jsonb_array_elements({}) AS element(value), jsonb_to_record(element.value) AS body({})"
        ).format(values, SQL(source), types)
    function = "json_to_record" if single else "json_to_recordset"
    return SQL("SELECT {} FROM {}(%(body)s::json) AS body({})").format(names, SQL(function), types)


def _value_or_default(column: Typed) -> Composable:
    if column.default is None:
        return SQL("body.{0} AS {0}").format(column.identifier)
    return SQL("CASE WHEN element.value ? {} THEN body.{} ELSE {} END AS {}").format(
        sql.Literal(column.name), column.identifier, SQL(column.default.replace("%", "%%")), column.identifier
    )


@dataclass(frozen=True, slots=True)
class OnConflict:
    """What becomes of rows whose ``key`` is there; an empty key: of any of the table's."""

    resolution: Resolution
    key: tuple[str, ...]


def insert(
    target: Composable,
    columns: Sequence[Typed],
    rows: Composable,
    *,
    conflict: OnConflict | None = None,
    returning: Composable,
    series: Series | None = None,
    where: Composable | None = None,
) -> Composed:
    """The common table expressions that end in ``written``: the rows of ``rows`` stored in ``target``.

    ``where``: a condition on the rows of the body (``body``), for PUT.
    """
    names = _names(columns)
    conditions = [where] if where is not None else []
    if series is not None:
        conditions.append(SQL("NOT EXISTS (SELECT FROM checked)"))
    head = SQL("INSERT INTO {} ({}) SELECT {} FROM body").format(target, names, names)
    if not columns:
        head = SQL("INSERT INTO {} SELECT FROM body").format(target)
    return SQL(
        "body AS MATERIALIZED ({rows}), {checked}written AS ({head}{where}{conflict} RETURNING {returning})"
    ).format(
        rows=rows,
        checked=_checked(series) if series is not None else SQL(""),
        head=head,
        where=SQL(" WHERE ") + SQL(" AND ").join(conditions) if conditions else SQL(""),
        conflict=_conflict(conflict, columns) if conflict is not None else SQL(""),
        returning=returning,
    )


def _checked(series: Series) -> Composable:
    return SQL(_CHECKED).format(
        time=Identifier(series.time_column),
        type=SQL("known.type") if series.type is None else sql.Literal(series.type),
        oldest=sql.Literal(OLDEST),
        ahead=sql.Literal(FUTURE_TOLERANCE),
    )


def series_of(table: str, columns: Sequence[Typed]) -> Series | None:
    """How rows of a table with these columns are looked at before they are stored; None: they are not."""
    series = SERIES.get(table)
    named = {column.name for column in columns}
    return series if series is not None and {"device_id", series.time_column} <= named else None


def _conflict(conflict: OnConflict, columns: Sequence[Typed]) -> Composable:
    key = SQL(" ({})").format(SQL(", ").join(map(Identifier, conflict.key))) if conflict.key else SQL("")
    others = [column for column in columns if column.name not in conflict.key]
    if conflict.resolution is Resolution.IGNORE or not columns:
        return SQL(" ON CONFLICT{} DO NOTHING").format(key)
    # (where the row is nothing but its key, the key is set to itself: the row counts as written, and is returned)
    assignments = SQL(", ").join(SQL("{0} = excluded.{0}").format(c.identifier) for c in others or columns)
    return SQL(" ON CONFLICT{} DO UPDATE SET {} WHERE {}").format(key, assignments, _COUNT_UPDATED)


def update(
    target: Composable, columns: Sequence[Typed], rows: Composable, *, where: Composable, returning: Composable
) -> Composed:
    """``written``: the rows of ``target`` that ``where`` means, with the values of the body's one row."""
    assignments = SQL(", ").join(SQL("{0} = body.{0}").format(column.identifier) for column in columns)
    return SQL("written AS (UPDATE {} SET {} FROM ({}) AS body WHERE {} RETURNING {})").format(
        target, assignments, rows, where, returning
    )


def delete(target: Composable, *, where: Composable, returning: Composable) -> Composed:
    """``written``: the rows of ``target`` that ``where`` meant."""
    return SQL("written AS (DELETE FROM {} WHERE {} RETURNING {})").format(target, where, returning)


def _names(columns: Sequence[Typed]) -> Composable:
    return SQL(", ").join(column.identifier for column in columns)
