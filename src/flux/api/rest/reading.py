"""GET and HEAD of a table: rows in one value where they are few, in a stream where they are many."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack

from flux.api.rest.catalogue import Verb
from flux.api.rest.errors import ApiError
from flux.api.rest.exchange import Reply, Request, check_preferences, check_profile
from flux.api.rest.execute import Row, check_key, in_chunks, open_cursor, read_rows, reading_for
from flux.api.rest.grammar import parse_query
from flux.api.rest.media import Media, negotiate
from flux.api.rest.plan import plan_read
from flux.api.rest.prefer import Count
from flux.api.rest.ranges import Window, window
from flux.api.rest.room import Room
from flux.api.rest.statements import Reading

_COMMA = b",\n "


async def read_table(room: Room, request: Request) -> Reply:
    """``GET /{table}``, ``HEAD /{table}``."""
    profile = check_profile(request)
    check_preferences(request.prefer)
    media = negotiate(request.headers.get("accept"))
    query = parse_query(request.query)
    catalogue = await room.catalogue()
    reading = Reading(catalogue, plan_read(catalogue, catalogue.table(request.name), query), room.limits.rows)
    span = window(query.limit(), query.offset(), request.headers.get("range") if request.method == "GET" else None)
    reply = await answer(room, request, reading, media, span)
    return Reply(reply.status, (*reply.headers, *profile), reply.body)


async def allowed(room: Room, request: Request) -> Reply:
    """``OPTIONS /{table}``: the methods that the caller may use on it."""
    await check_key(room.pool, request.identity, room.limits.statement_ms)
    table = (await room.catalogue()).table(request.name)
    rights = table.rights.get(request.identity.role, frozenset())
    needs = {
        "GET": {Verb.SELECT},
        "HEAD": {Verb.SELECT},
        "POST": {Verb.INSERT},
        "PUT": {Verb.INSERT, Verb.UPDATE},
        "PATCH": {Verb.UPDATE},
        "DELETE": {Verb.DELETE},
    }
    methods = [method for method, verbs in needs.items() if verbs <= rights]
    return Reply(200, (("Allow", ", ".join(["OPTIONS", *methods])),))


async def answer(room: Room, request: Request, reading: Reading, media: Media, span: Window) -> Reply:
    """The rows of ``reading`` within ``span``, whatever they come from."""
    head = request.method == "HEAD"
    most = room.limits.rows if span.limit is None else min(span.limit, room.limits.rows)
    in_one = room.limits.rows if head else room.limits.rows_at_once(reading.width())
    at_once = min(most, in_one + 1)
    count = counted_as(request)
    form = None if head and not media.single else media
    statements = [reading.page(form, at_once, span.offset, count, room.limits.rows)]
    if count in {Count.PLANNED, Count.ESTIMATED}:
        statements.append(reading.planned())
    zone = request.prefer.timezone
    page, *planned = await read_rows(room.pool, request.identity, statements, room.limits.statement_ms, zone)
    rows = _number(page[0]) or 0
    total = _total(_number(page[2]), planned, room.limits.rows, count)
    if media.single and rows != 1:
        raise _not_single(rows, in_one)
    if rows > in_one and not head:
        return await _streamed(room, request, reading, media, span, most, total)
    cut = rows == room.limits.rows and (span.limit is None or span.limit > rows)
    headers = _headers(request, media, span, rows, total)
    return Reply(span.status(rows, total, cut=cut), headers, b"" if head else page[1] or b"")


def counted_as(request: Request) -> Count | None:
    """How the rows are counted. The planner's guess is made from the rows of all sites: who may not see those gets an
    exact count, which tells nothing of them."""
    count = request.prefer.count
    return Count.EXACT if count is not None and request.identity.sites is not None else count


def _headers(request: Request, media: Media, span: Window, rows: int, total: int | None) -> tuple[tuple[str, str], ...]:
    headers = [("Content-Type", media.content_type), ("Content-Range", span.content_range(rows, total))]
    unused = {"resolution", "missing", "returning", "tx", "max_affected"}
    applied = request.prefer.applied(without=unused)
    return (*headers, ("Preference-Applied", applied)) if applied else tuple(headers)


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _total(counted: int | None, planned: list[Row], most: int, count: Count | None) -> int | None:
    if not planned or (count is Count.ESTIMATED and counted is not None and counted <= most):
        return counted
    guess = int(json.loads(planned[0][0] or b"")[0]["Plan"]["Plan Rows"])
    return max(guess, counted or 0)


def _not_single(rows: int, most: int) -> ApiError:
    said = f"more than {most}" if rows > most else str(rows)
    message = "Cannot coerce the result to a single JSON object"
    return ApiError(406, "PGRST116", message, f"The result contains {said} rows")


async def _streamed(
    room: Room, request: Request, reading: Reading, media: Media, span: Window, most: int, total: int | None
) -> Reply:
    """All of it is run and counted first, for the headers; then it goes out as the client takes it."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(room.streams())
        zone = request.prefer.timezone
        reads = reading_for(room.pool, request.identity, room.limits.statement_ms, zone)
        conn = await stack.enter_async_context(reads)
        found = await open_cursor(conn, reading.lines(media, most + 1, span.offset))
        rows = min(found, most)
        cut = found > most and (span.limit is None or span.limit > most)
        headers = _headers(request, media, span, rows, total)
        status = span.status(rows, total, cut=cut)
        begin, between, end = (reading.header().encode(), b"", b"") if media is Media.CSV else (b"[", _COMMA, b"]")
        chunks = in_chunks(conn, rows, room.limits.rows_in_chunk)
        return Reply(status, headers, _joined(chunks, begin, between, end, stack.pop_all()))


async def _joined(
    chunks: AsyncIterator[list[bytes]], begin: bytes, between: bytes, end: bytes, stack: AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    """The body; ``stack`` holds what is let go of when it ends, or is closed before."""
    async with stack:
        before = begin
        async for lines in chunks:
            yield before + between.join(lines)
            before = between
        yield (end if before is between else begin + end)
