"""Statements as a caller: one round trip where one will do, and the bytes that PostgreSQL made as they came."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flux.api.database import BEGIN_READING, begin_parameters
from flux.api.identity import Identity
from flux.api.rest.errors import ApiError, from_database
from flux.api.rest.statements import Statement
from flux.api.sharing import connection_of

SET_TIMEZONE = b"SELECT set_config('TimeZone', %s, true)"
"""For the transaction: times are written in this zone, and those without one are read in it."""
Pool = AsyncConnectionPool[AsyncConnection[Any]]
Row = tuple[bytes | None, ...]


@asynccontextmanager
async def connection_for(pool: Pool, identity: Identity) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection of the pool; what the database refuses becomes an ApiError, and nothing stays open behind it."""
    try:
        async with connection_of(pool, identity) as conn:
            try:
                yield conn
            except psycopg.Error as error:
                refused = from_database(error, identity.role)
                if not conn.closed and conn.info.transaction_status is not TransactionStatus.IDLE:
                    await _roll_back(conn)
                raise refused from error
            except asyncio.CancelledError:
                await conn.close()  # given up amid a statement, which psycopg has cancelled: what it left is not sure
                raise
    except PoolTimeout:
        raise ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from None


async def _roll_back(conn: AsyncConnection[Any]) -> None:
    """Leave the transaction, and have psycopg forget what it takes for prepared.

    In a pipeline it notes a statement as prepared when it is sent; of those behind one that fails PostgreSQL prepares
    none, and every later request would be told that they do not exist. A ROLLBACK makes it forget, if only one whose
    text it has not seen before.
    """
    await conn.execute(f"ROLLBACK -- {uuid4()}".encode(), prepare=False)


async def check_key(pool: Pool, identity: Identity, timeout_ms: int) -> None:
    """ApiError 401 for a key that was revoked, where an answer needs nothing else of the database."""
    await read_rows(pool, identity, [], timeout_ms)


async def read_rows(
    pool: Pool, identity: Identity, statements: Sequence[Statement], timeout_ms: int, timezone: str | None = None
) -> list[Row]:
    """The first row of each statement, in one transaction that only reads and one round trip."""
    try:
        return await _read_rows(pool, identity, statements, timeout_ms, timezone)
    except ApiError as error:
        if error.code != "PGRST001":
            raise
    # the connection was dead, which nobody had noticed: nothing is read twice by asking another
    return await _read_rows(pool, identity, statements, timeout_ms, timezone)


async def _read_rows(
    pool: Pool, identity: Identity, statements: Sequence[Statement], timeout_ms: int, timezone: str | None
) -> list[Row]:
    async with connection_for(pool, identity) as conn:
        cursors = []
        async with conn.pipeline():
            await conn.execute(b"BEGIN")
            await conn.execute(BEGIN_READING, begin_parameters(identity, timeout_ms=timeout_ms))
            if timezone is not None:
                await conn.execute(SET_TIMEZONE, (timezone,))
            for statement in statements:
                cursor = AsyncRawCursor(conn)
                await cursor.execute(statement.text, statement.values)
                cursors.append(cursor)
            await conn.execute(b"COMMIT")
        return [_first_row(cursor) for cursor in cursors]


def _first_row(cursor: AsyncRawCursor[Any]) -> Row:
    """As bytes: nothing is parsed that is only passed on."""
    result = _result(cursor)
    return tuple(result.get_value(0, column) for column in range(result.nfields))


def _result(cursor: AsyncRawCursor[Any]) -> PGresult:
    if cursor.pgresult is None:
        raise RuntimeError("a statement that was executed has no result")
    return cursor.pgresult


@asynccontextmanager
async def reading_for(
    pool: Pool, identity: Identity, timeout_ms: int, timezone: str | None = None
) -> AsyncIterator[AsyncConnection[Any]]:
    """A transaction that only reads."""
    async with connection_for(pool, identity) as conn:
        async with conn.pipeline():
            await conn.execute(b"BEGIN")
            await conn.execute(BEGIN_READING, begin_parameters(identity, timeout_ms=timeout_ms))
            if timezone is not None:
                await conn.execute(SET_TIMEZONE, (timezone,))
        yield conn
        await conn.execute(b"COMMIT")


async def first_row(conn: AsyncConnection[Any], statement: Statement) -> Row:
    """Of one statement in a transaction that is open."""
    cursor = AsyncRawCursor(conn)
    await cursor.execute(statement.text, statement.values)
    return _first_row(cursor)


async def open_cursor(conn: AsyncConnection[Any], statement: Statement) -> int:
    """Run a statement to its end and keep its rows in the database; returns how many there are.

    They are in PostgreSQL's working memory as far as they fit, and in a temporary file.
    """
    await conn.execute(b"SET LOCAL cursor_tuple_fraction = 1")  # all of it is wanted, not the first rows soon
    await AsyncRawCursor(conn).execute(b"DECLARE page SCROLL CURSOR FOR " + statement.text, statement.values)
    moved = await conn.execute(b"MOVE FORWARD ALL FROM page")
    await conn.execute(b"MOVE ABSOLUTE 0 FROM page")
    return moved.rowcount


async def in_chunks(conn: AsyncConnection[Any], rows: int, size: int) -> AsyncIterator[list[bytes]]:
    """The only column of the first ``rows`` rows of the cursor, ``size`` at a time."""
    for begin in range(0, rows, size):
        cursor = AsyncRawCursor(conn)
        await cursor.execute(f"FETCH {min(size, rows - begin)} FROM page".encode())
        result = _result(cursor)
        yield [result.get_value(row, 0) or b"" for row in range(result.ntuples)]
