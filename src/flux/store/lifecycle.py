"""How long data is kept: what goes next, and making it go.

A piece (a partition, a chunk) goes when all of it is older than its table's ``keep`` and nothing needs it any more;
what that means is in ``sql/rollups/20_lifecycle.sql``. Each piece is taken out of use in one transaction. A native
partition is then detached and dropped, which no transaction can do; whatever is interrupted there is finished by the
next run, from the catalogue alone.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row

from flux.errors import FluxError, InputError, NotFoundError, RefusedError
from flux.store.transfer.export import Source, export_readings
from flux.store.transfer.files import FileFormat

_logger = structlog.get_logger(__name__)
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('flux retention', 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('flux retention', 0))"
_IN_USE = "somebody is reading it"
FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Series:
    """A table that is kept for a time. ``keep`` as PostgreSQL writes it, None: for ever; ``ratio``: how many times
    smaller compression made what it compressed; ``next_drop`` None: nothing will go; ``held_by``: why it did not."""

    table_name: str
    engine: str
    keep: str | None
    archive: bool
    pieces: int | None
    compressed: int | None
    bytes: int
    ratio: float | None
    oldest: datetime | None
    next_drop: datetime | None
    held_by: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece whose time has come; ``held_by``: why it stays all the same, None: it goes."""

    table_name: str
    from_time: datetime
    to_time: datetime
    bytes: int
    held_by: str | None


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a run did: pieces that went, those whose time has come and that stay, and rows deleted one by one."""

    dropped: tuple[Piece, ...]
    held: tuple[Piece, ...]
    rows: int


async def storage_status(conn: AsyncConnection[Any], as_of: datetime | None = None) -> list[Series]:
    """Every table that is kept for a time, by name."""
    async with conn.cursor(row_factory=class_row(Series)) as cursor:
        await cursor.execute(
            """SELECT table_name, engine, keep::text AS keep, archive, pieces, compressed, bytes, ratio, oldest,
                      next_drop, held_by
               FROM flux.storage_status(coalesce(%s, now()))""",
            (as_of,),
        )
        return await cursor.fetchall()


async def due_pieces(conn: AsyncConnection[Any], as_of: datetime | None = None) -> list[Piece]:
    """The pieces whose time has come, oldest first of each table; changes nothing."""
    async with conn.cursor(row_factory=class_row(Piece)) as cursor:
        await cursor.execute(
            """SELECT table_name, from_time, to_time, bytes, held_by FROM flux.retention_plan(coalesce(%(now)s, now()))
               WHERE drop_after <= coalesce(%(now)s, now()) ORDER BY table_name, from_time""",
            {"now": as_of},
        )
        return await cursor.fetchall()


async def set_retention(conn: AsyncConnection[Any], table: str, keep: str, archive: bool | None = None) -> str | None:
    """Keep a table for ``keep`` ("90 days", "5y", or "forever") from now on; returns it as PostgreSQL writes it."""
    interval = None if keep == FOREVER else keep
    try:
        await conn.execute("SELECT flux.set_retention(%s, %s::interval, %s)", (table, interval, archive))
        cursor = await conn.execute("SELECT keep::text FROM flux.time_series WHERE table_name = %s", (table,))
    except psycopg.errors.NoDataFound as error:
        raise NotFoundError(f"{_message(error)}: see `flux db retention`") from None
    except psycopg.errors.CheckViolation as error:
        wrong = "time_series_keep_check" in str(error.diag.constraint_name)
        raise RefusedError(f"{keep!r} is no time to keep anything" if wrong else _message(error)) from None
    except psycopg.DataError:
        raise InputError(f'{keep!r}: write it like 90d, "18 months", 5y or {FOREVER}') from None
    ((kept,),) = await cursor.fetchall()
    return None if kept is None else str(kept)


async def run_retention(
    conn: AsyncConnection[Any], *, archive: Path | None = None, as_of: datetime | None = None
) -> RetentionReport:
    """Drop what is past its time, make the partitions of the days to come, finish what was interrupted.

    ``conn`` must be in autocommit and not in a transaction. ``archive``: a folder for the Parquet files of the tables
    that are archived first; without it, those wait. RefusedError when another session is at it; what an archive
    cannot be written for is raised when the other tables are done.
    """
    dropped: list[Piece] = []
    held: list[Piece] = []
    failed: FluxError | None = None
    async with _alone(conn):
        await conn.execute("SELECT flux.ensure_partitions_ahead()")
        await _finish_retired(conn)
        for table in await _tables(conn, "partitions", "hypertable"):
            try:
                await _run_table(conn, table, archive, as_of, dropped, held)
            except FluxError as error:  # the others go all the same: a disk that is full must not fill further
                failed = failed or error
        rows = sum([await _delete_rows(conn, table, as_of) for table in await _tables(conn, "rows")])
    for piece in dropped:
        _logger.info("dropped", table=piece.table_name, from_time=piece.from_time, to_time=piece.to_time)
    if failed is not None:
        raise failed
    return RetentionReport(tuple(dropped), tuple(held), rows)


async def _run_table(
    conn: AsyncConnection[Any],
    table: str,
    archive: Path | None,
    as_of: datetime | None,
    dropped: list[Piece],
    held: list[Piece],
) -> None:
    """From the oldest piece on, until one is not due or stays; adds to ``dropped`` and ``held``."""
    while (piece := await _oldest_due(conn, table, as_of)) is not None:
        reason = await _retire(conn, piece, archive, as_of)
        if reason is not None:
            held.append(Piece(piece.table_name, piece.from_time, piece.to_time, piece.bytes, reason))
            return
        dropped.append(piece)
        await _finish_retired(conn)


async def retention_turn(conn: AsyncConnection[Any], archive: Path | None) -> None:
    """What the worker does every hour."""
    report = await run_retention(conn, archive=archive)
    for piece in report.held:
        _logger.info("kept for now", table=piece.table_name, from_time=piece.from_time, why=piece.held_by)


@asynccontextmanager
async def _alone(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    cursor = await conn.execute(_LOCK)
    if await cursor.fetchone() != (True,):
        raise RefusedError("another session runs retention at the moment")
    try:
        yield
    finally:
        if not conn.broken:
            await conn.execute(_UNLOCK)


async def _tables(conn: AsyncConnection[Any], *engines: str) -> list[str]:
    cursor = await conn.execute(
        # finer levels are kept for less time than what is made from them, and go first
        """SELECT table_name FROM flux.time_series WHERE keep IS NOT NULL AND engine = ANY(%s)
           ORDER BY made_from IS NOT NULL, keep, table_name""",
        (list(engines),),
    )
    return [name for (name,) in await cursor.fetchall()]


async def _oldest_due(conn: AsyncConnection[Any], table: str, as_of: datetime | None) -> Piece | None:
    async with conn.cursor(row_factory=class_row(Piece)) as cursor:
        await cursor.execute(
            """SELECT s.table_name, p.from_time, p.to_time, p.bytes, NULL AS held_by
               FROM flux.time_series s, flux.pieces(s.table_name) p
               WHERE s.table_name = %s AND p.to_time + s.keep <= coalesce(%s, now()) ORDER BY p.from_time LIMIT 1""",
            (table, as_of),
        )
        return await cursor.fetchone()


async def _retire(conn: AsyncConnection[Any], piece: Piece, archive: Path | None, as_of: datetime | None) -> str | None:
    """One piece, archive first where that was asked for; None: done, else why not."""
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL statement_timeout = 0")
            file = await _archive(conn, piece, archive, as_of)
            cursor = await conn.execute(
                "SELECT flux.retire_piece(%s, %s, %s, coalesce(%s, now()))",
                (piece.table_name, piece.from_time, None if file is None else str(file), as_of),
            )
            ((reason,),) = await cursor.fetchall()
            return None if reason is None else str(reason)
    except psycopg.errors.LockNotAvailable:
        return _IN_USE


async def _archive(
    conn: AsyncConnection[Any], piece: Piece, folder: Path | None, as_of: datetime | None
) -> Path | None:
    """The piece in a Parquet file; from here to the end of the transaction nobody can change it."""
    cursor = await conn.execute(
        """SELECT p.piece::text FROM flux.time_series s, flux.pieces(s.table_name) p
           WHERE s.table_name = %s AND s.archive AND p.from_time = %s
             AND flux.held_by(s.table_name, p.from_time, p.to_time, coalesce(%s, now())) IS NULL""",
        (piece.table_name, piece.from_time, as_of),
    )
    found = await cursor.fetchone()
    if folder is None or found is None:
        return None
    await conn.execute("SET LOCAL lock_timeout = '5s'")
    await conn.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.SQL(found[0])))
    cursor = await conn.execute(
        """SELECT id, name, type FROM flux.mg_device_registry
           WHERE id = ANY(flux.devices_in(%s, %s, %s)) ORDER BY name, id""",
        (piece.table_name, piece.from_time, piece.to_time),
    )
    devices = [Source(*row) for row in await cursor.fetchall()]
    file = folder / f"{piece.table_name}_{piece.from_time:%Y-%m-%d}_{piece.to_time:%Y-%m-%d}.parquet"
    await export_readings(conn, file, devices, piece.from_time, piece.to_time, format=FileFormat.PARQUET, force=True)
    return file


async def _finish_retired(conn: AsyncConnection[Any]) -> None:
    """Detach and drop partitions that were taken out of use, from wherever it was interrupted."""
    cursor = await conn.execute("SELECT piece, parent, pending FROM flux.retired_pieces()")
    for piece, parent, pending in await cursor.fetchall():
        name = sql.Identifier("flux", piece)
        try:
            if parent is not None:
                how = sql.SQL("FINALIZE" if pending else "CONCURRENTLY")
                detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}")
                await conn.execute(detach.format(sql.Identifier("flux", parent), name, how))
            async with conn.transaction():
                await conn.execute("SET LOCAL lock_timeout = '5s'")
                await conn.execute(sql.SQL("DROP TABLE {}").format(name))
        except psycopg.errors.LockNotAvailable:
            _logger.info("partition is still in use, dropped next time", partition=piece)


async def _delete_rows(conn: AsyncConnection[Any], table: str, as_of: datetime | None) -> int:
    """In steps, so that no transaction grows with what is deleted."""
    total: int = 0
    while True:
        cursor = await conn.execute("SELECT flux.delete_old_rows(%s, coalesce(%s, now()))", (table, as_of))
        gone = int((await cursor.fetchall())[0][0])
        total += gone
        if gone == 0:
            return total


def _message(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
