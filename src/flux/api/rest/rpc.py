"""``/rest/v1/rpc/{function}``: GET and HEAD for functions that only read, POST for all.

What a function gives is read like a table: filters, ``select``, order and limits hold for its rows. One that only reads
runs in a transaction that only reads; any other runs once, in one that stays unless ``Prefer: tx=rollback`` says so.
"""

from dataclasses import dataclass, replace

from flux.api.database import BEGIN_REQUEST, begin_parameters
from flux.api.identity import Role
from flux.api.rest.bodies import read_object
from flux.api.rest.calls import arguments_of_query, call
from flux.api.rest.catalogue import Catalogue, ColumnInfo, Table
from flux.api.rest.errors import ApiError
from flux.api.rest.exchange import Reply, Request, check_preferences, check_profile
from flux.api.rest.execute import SET_TIMEZONE, Row, connection_for, first_row, read_rows
from flux.api.rest.functions import Function, find_function
from flux.api.rest.grammar import parse_query
from flux.api.rest.media import Media, negotiate
from flux.api.rest.plan import plan_read
from flux.api.rest.prefer import Tx
from flux.api.rest.ranges import Window, window
from flux.api.rest.reading import answer
from flux.api.rest.room import Room
from flux.api.rest.sqltext import Parameters, sql
from flux.api.rest.statements import Reading, Statement
from flux.api.rest.syntax import Query

_VALUE = "value"
"""The column of a plain value."""
_UNUSED = {"resolution", "missing", "returning"}


@dataclass(frozen=True, slots=True)
class _Call:
    """A call on its way."""

    room: Room
    request: Request
    function: Function
    reading: Reading
    media: Media
    span: Window


async def call_function(room: Room, request: Request) -> Reply:
    """``GET``, ``HEAD`` and ``POST`` of ``/rpc/{function}``."""
    profile = check_profile(request)
    check_preferences(request.prefer)
    media = negotiate(request.headers.get("accept"))
    posted = request.method == "POST"
    query = parse_query(request.query, function=not posted)
    catalogue = await room.catalogue()
    if posted:
        arguments, given = read_object(request.headers.get("content-type"), await request.body())
        function = find_function(catalogue.functions, request.name, given, body=True)
    else:
        given = tuple(dict.fromkeys(key for key, _ in query.arguments))
        function = find_function(catalogue.functions, request.name, given, body=False)
        arguments = arguments_of_query(function, query.arguments)
    _check_right(function, request.identity.role)
    span = window(query.limit(), query.offset(), None if posted else request.headers.get("range"))
    reading = _reading(catalogue, function, query, arguments, given, room.limits.rows)
    reply = await _reply(_Call(room, request, function, reading, media, span))
    return replace(reply, headers=(*reply.headers, *profile))


def _check_right(function: Function, role: Role) -> None:
    """As the database would: it is asked nothing that it must refuse."""
    if role.database_role not in function.roles:
        status = 401 if role is Role.ANON else 403
        raise ApiError(status, "42501", f"permission denied for function {function.name}")


def _reading(
    catalogue: Catalogue, function: Function, query: Query, arguments: str, given: tuple[str, ...], rows: int
) -> Reading:
    """What the function gives, as the rows of a table."""
    parameters = Parameters()
    bound = parameters.bind(arguments) if function.takes_body or given else sql("")
    source = call(function, given, bound)
    table = catalogue.tables.get(function.table or "") or _table_of(function)
    root = plan_read(catalogue, table, query)
    if function.reads_only:
        return Reading(catalogue, root, rows, source, parameters)
    # (called once, however often its rows are looked at)
    result = sql("result AS MATERIALIZED (SELECT t.* FROM {} AS t)", source)
    return Reading(catalogue, root, rows, sql("result"), parameters, (result,))


def _table_of(function: Function) -> Table:
    columns = function.columns or ((_VALUE, function.returns),)
    return Table(function.name, {name: ColumnInfo(name, type_, type_) for name, type_ in columns})


async def _reply(of: _Call) -> Reply:
    if of.function.is_void:
        await _run(of, _page(of, None))
        return Reply(204, _applied(of))
    if of.function.columns and of.function.returns_set and of.function.reads_only:
        return await answer(of.room, of.request, of.reading, of.media, of.span)
    form = of.media if of.function.columns or of.media is Media.CSV else None
    if of.function.columns and not of.function.returns_set and form is Media.JSON:
        form = Media.OBJECT  # one row, not a list of one
    statement = _page(of, form) if form is not None else _values(of)
    rows, body, _ = await _run(of, statement)
    found = int(rows or b"0")
    _judge(of, found)
    headers = (
        ("Content-Type", of.media.content_type),
        ("Content-Range", of.span.content_range(found, found if of.request.prefer.counted else None)),
        *_applied(of),
    )
    return Reply(of.span.status(found, None), headers, body or b"null")


def _page(of: _Call, media: Media | None) -> Statement:
    """The statement of one page in this form; None: of no body."""
    return of.reading.page(media, _most(of), of.span.offset, None, 0)


def _values(of: _Call) -> Statement:
    """Plain values: one, or a list of them."""
    select = of.reading.select()
    bind = select.parameters.bind
    rows = select.rows(of.reading.root, of.reading.source)
    shown = sql("coalesce(json_agg(p.value), '[]')") if of.function.returns_set else sql("json_agg(p.value)->0")
    text = sql(
        "SELECT count(*), {}, NULL FROM ({} LIMIT {} OFFSET {}) AS p",
        shown,
        rows,
        bind(str(_most(of))),
        bind(str(of.span.offset)),
    )
    return of.reading.statement(text, select)


def _most(of: _Call) -> int:
    most = of.room.limits.rows
    return most if of.span.limit is None else min(of.span.limit, most)


async def _run(of: _Call, statement: Statement) -> Row:
    limits, identity = of.room.limits, of.request.identity
    timezone = of.request.prefer.timezone
    if of.function.reads_only or of.request.method != "POST":
        (row,) = await read_rows(of.room.pool, identity, [statement], limits.statement_ms, timezone)
        return row
    rolled_back = of.request.prefer.tx is Tx.ROLLBACK
    async with connection_for(of.room.pool, identity) as conn, conn.transaction(force_rollback=rolled_back):
        await conn.execute(BEGIN_REQUEST, begin_parameters(identity, timeout_ms=limits.statement_ms))
        if timezone is not None:
            await conn.execute(SET_TIMEZONE, (timezone,))
        row = await first_row(conn, statement)
        _judge(of, int(row[0] or b"0"))
        return row


def _judge(of: _Call, rows: int) -> None:
    """ApiError where there are not as many rows as the request wants: nothing that the function did stays."""
    prefer = of.request.prefer
    if of.media.single and of.function.columns and rows != 1:
        details = f"The result contains {rows} rows"
        raise ApiError(406, "PGRST116", "Cannot coerce the result to a single JSON object", details)
    if prefer.strict and prefer.max_affected is not None and rows > prefer.max_affected:
        details = f"The query affects {rows} rows"
        raise ApiError(400, "PGRST124", "Query result exceeds max-affected preference constraint", details)


def _applied(of: _Call) -> tuple[tuple[str, str], ...]:
    applied = of.request.prefer.applied(without=_UNUSED | ({"tx"} if of.function.reads_only else set()))
    return (("Preference-Applied", applied),) if applied else ()
