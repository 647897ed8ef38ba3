"""POST, PATCH, PUT and DELETE of ``/rest/v1/{table}``: one statement in one transaction as the caller, all or nothing.

Two things are tried again by themselves: a row whose partition is not made yet, once it is made; and a transaction that
gave way to another.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor

from flux.api.database import BEGIN_REQUEST, SERVER_ROLE, begin_parameters
from flux.api.identity import Identity
from flux.api.rest.bodies import read_rows
from flux.api.rest.errors import ApiError
from flux.api.rest.exchange import Reply, Request, check_preferences, check_profile
from flux.api.rest.execute import SET_TIMEZONE, connection_for
from flux.api.rest.grammar import parse_query
from flux.api.rest.media import Media, negotiate
from flux.api.rest.prefer import Resolution, Return, Tx
from flux.api.rest.ranges import Window
from flux.api.rest.room import Room
from flux.api.rest.sqltext import Parameters, name, sql
from flux.api.rest.write_plan import NO_ROWS, Asked, WritePlan, plan_write, put_does_not_match
from flux.api.rest.write_sql import SERIES, Series, body_rows
from flux.api.rest.wrong_value import NOT_READ, find_wrong_value

_TRIES = 3
_GAVE_WAY = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the statement of a write answered."""

    total: int
    refused: str | None
    updated: int
    key: str | None
    body: str | None


async def write_table(room: Room, request: Request) -> Reply:
    """``POST``, ``PATCH``, ``PUT`` and ``DELETE`` of ``/{table}``."""
    profile = check_profile(request)
    check_preferences(request.prefer)
    media = negotiate(request.headers.get("accept"))
    query = parse_query(request.query)
    catalogue = await room.catalogue()
    table = catalogue.table(request.name)
    rows = NO_ROWS
    if request.method != "DELETE":
        columns = None if request.method == "PUT" else query.columns
        rows = read_rows(request.headers.get("content-type"), await request.body(), columns)
    asked = Asked(request.method, table, query, request.prefer, request.identity.role, rows)
    plan = plan_write(catalogue, asked, media, room.limits.rows)
    outcome = await _run(_Run(room, request.identity, asked, media, plan))
    return _reply(asked, media, outcome, profile)


@dataclass(frozen=True, slots=True)
class _Run:
    """A write on its way."""

    room: Room
    identity: Identity
    asked: Asked
    media: Media
    plan: WritePlan


async def _run(run: _Run) -> Outcome:
    made = False
    for attempt in range(1, _TRIES + 1):
        try:
            async with connection_for(run.room.pool, run.identity) as conn:
                return await _once(conn, run)
        except ApiError as error:
            again = isinstance(error.__cause__, _GAVE_WAY)
            if not made and _lacks_partition(error.__cause__, run):
                await _make_partitions(run)
                again = made = True
            if not again or attempt == _TRIES:
                raise await _explained(run, error) from error.__cause__
    raise AssertionError("unreachable")


async def _once(conn: AsyncConnection[Any], run: _Run) -> Outcome:
    """The whole transaction; nothing of it stays where the outcome is not as the request wants it.

    It is one round trip, unless its outcome decides whether it stays.
    """
    prefer = run.asked.prefer
    end = b"ROLLBACK" if prefer.tx is Tx.ROLLBACK else b"COMMIT"
    decides = _decides(run)
    async with conn.pipeline():
        await conn.execute(b"BEGIN")
        await conn.execute(BEGIN_REQUEST, begin_parameters(run.identity, timeout_ms=run.room.limits.statement_ms))
        if prefer.timezone is not None:
            await conn.execute(SET_TIMEZONE, (prefer.timezone,))
        cursor = AsyncRawCursor(conn)
        await cursor.execute(run.plan.statement.text, run.plan.statement.values)
        if not decides:
            await conn.execute(end)
    ((total, refused, updated, key, body),) = await cursor.fetchall()
    outcome = Outcome(total, refused, updated, key, body)
    try:
        _judge(run, outcome)
    except ApiError:
        end = b"ROLLBACK"
        raise
    finally:
        if decides:
            await conn.execute(end)
    return outcome


def _decides(run: _Run) -> bool:
    """Whether the outcome decides if the transaction stays. (Of a row that is refused, nothing was written anyway.)"""
    most = run.asked.prefer.strict and run.asked.prefer.max_affected is not None
    return run.asked.method == "PUT" or run.media.single or most


async def _explained(run: _Run, error: ApiError) -> ApiError:
    """With the column of a value that could not be read."""
    if error.code in NOT_READ and error.details is None:
        async with connection_for(run.room.pool, run.identity) as conn, conn.transaction():
            begin = begin_parameters(run.identity, timeout_ms=run.room.limits.statement_ms)
            await conn.execute(BEGIN_REQUEST, begin)
            error.details = await find_wrong_value(conn, run.asked.rows, run.plan.columns)
    return error


def _judge(run: _Run, outcome: Outcome) -> None:
    """ApiError where the transaction must not stay."""
    asked = run.asked
    if outcome.refused is not None and run.plan.series is not None:
        raise _refused_row(outcome.refused, asked.table.name, run.plan.series)
    if asked.method == "PUT" and outcome.total != 1:
        raise put_does_not_match()
    if run.media.single and outcome.total != 1:
        details = f"The result contains {outcome.total} rows"
        raise ApiError(406, "PGRST116", "Cannot coerce the result to a single JSON object", details)
    most = asked.prefer.max_affected
    if asked.prefer.strict and most is not None and asked.method in {"PATCH", "DELETE"} and outcome.total > most:
        details = f"The query affects {outcome.total} rows"
        raise ApiError(400, "PGRST124", "Query result exceeds max-affected preference constraint", details)


def _refused_row(told: str, table: str, series: Series) -> ApiError:
    """Why a row of a series was not stored, and with it none of them."""
    device, type_, first, last, untimed = json.loads(told)
    if type_ is None:
        return ApiError(403, "42501", f"there is no device {device} that this key may write for")
    if series.type is not None and type_ != series.type:
        other = next(name for name, one in SERIES.items() if one.type == type_)
        return ApiError(400, "23514", f"device {device} is a {type_}: its readings go to {other}, not to {table}")
    if untimed:
        return ApiError(400, "23502", f'null value in column "{series.time_column}" of a row of device {device}')
    details = f"of device {device}: {first} to {last}"
    message = f"{series.time_column} must be from the year 2000 on, and at most 10 minutes ahead of the server's clock"
    return ApiError(400, "23514", message, details)


def _lacks_partition(error: BaseException | None, run: _Run) -> bool:
    """Whether there is no partition yet for a row. (PostgreSQL has no SQLSTATE of its own for that.)"""
    if run.plan.series is None or not isinstance(error, psycopg.errors.CheckViolation):
        return False
    return error.diag.table_name == run.asked.table.name and error.diag.constraint_name is None


async def _make_partitions(run: _Run) -> None:
    """Those of all rows of the body, in a transaction of its own: it must not hold its locks while rows are stored."""
    asked, plan, series = run.asked, run.plan, run.plan.series
    if series is None:
        return
    parameters = Parameters()
    column = next(column for column in plan.columns if column.name == series.time_column)
    rows = body_rows(parameters.bind(asked.rows.text), [column], missing_default=False, single=asked.rows.single)
    table = parameters.bind(asked.table.name)
    days = sql("SELECT DISTINCT date_trunc('day', rows.{0}, 'UTC') FROM ({1}) AS rows", name(series.time_column), rows)
    query = sql("SELECT flux.ensure_partitions_for({}, ARRAY({}))", table, days)
    async with connection_for(run.room.pool, run.identity) as conn, conn.transaction():
        await conn.execute(BEGIN_REQUEST, begin_parameters(run.identity, SERVER_ROLE))
        await AsyncRawCursor(conn).execute(query.encode(), parameters.values)


def _reply(asked: Asked, media: Media, outcome: Outcome, profile: tuple[tuple[str, str], ...]) -> Reply:
    headers = [*profile]
    body = b""
    if asked.represented and outcome.body is not None:
        body = outcome.body.encode()
        headers.append(("Content-Type", media.content_type))
    if outcome.key is not None:
        key = zip(asked.table.primary_key, json.loads(outcome.key), strict=True)
        query = urlencode([(column, f"eq.{value}") for column, value in key])
        headers.append(("Location", f"/{asked.table.name}?{query}"))
    if asked.method != "PUT":
        total = outcome.total if asked.prefer.counted else None
        shown = outcome.total if asked.method == "PATCH" else 0
        headers.append(("Content-Range", Window().content_range(shown, total)))
    if applied := _applied(asked):
        headers.append(("Preference-Applied", applied))
    return Reply(_status(asked, outcome), tuple(headers), body)


def _applied(asked: Asked) -> str | None:
    without = {
        "POST": {"max_affected"},
        "PATCH": {"resolution"},
        "PUT": {"resolution", "missing", "max_affected"},
        "DELETE": {"resolution", "missing"},
    }[asked.method]
    return asked.prefer.applied(without=without)


def _status(asked: Asked, outcome: Outcome) -> int:
    made = outcome.total > outcome.updated
    if asked.method == "POST":
        return 200 if asked.prefer.resolution is Resolution.MERGE and not made else 201
    if asked.prefer.returning is not Return.REPRESENTATION:
        return 204
    return 201 if asked.method == "PUT" and made else 200
