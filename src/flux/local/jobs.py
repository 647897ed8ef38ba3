"""Work that is done again and again in the background, each job on a connection of its own.

A job that fails, by whatever exception, is told in `flux.worker_jobs` and in the log, and tried again at its next turn;
it never holds up another one. A database that goes away is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import stamina
import structlog
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from flux.errors import FluxError, UnavailableError
from flux.store.db import connect

_logger = structlog.get_logger(__name__)

Connection = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Job:
    """``work`` is called every ``every_s`` seconds with a connection that is not inside a transaction.

    ``alone``: of all the workers of a database one does it at a time; the others find it taken and wait for their next
    turn. Other jobs share their work by themselves.
    """

    name: str
    every_s: float
    work: Callable[[Connection], Awaitable[object]]
    alone: bool = True


async def run_jobs(jobs: Sequence[Job], dsn: str, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
    """Run all of them for ever."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_run(job, dsn, sleep), name=f"job {job.name}")


async def run_once(jobs: Sequence[Job], dsn: str) -> None:
    """Run each of them once, in order; the first that fails ends it."""
    async with await connect(dsn, application_name="flux worker", autocommit=True) as conn:
        for job in jobs:
            await _turn(job, conn)


async def _run(job: Job, dsn: str, sleep: Callable[[float], Awaitable[object]]) -> None:
    while True:
        async for attempt in stamina.retry_context(
            on=(psycopg.Error, UnavailableError), attempts=None, timeout=None, wait_max=30.0
        ):
            with attempt:
                await _while_connected(job, dsn, sleep)


async def _while_connected(job: Job, dsn: str, sleep: Callable[[float], Awaitable[object]]) -> None:
    failing = False
    async with await connect(dsn, application_name=f"flux worker {job.name}", autocommit=True) as conn:
        while True:
            try:
                await _turn(job, conn)
            except Exception as error:
                if conn.broken and isinstance(error, psycopg.Error | UnavailableError):
                    raise
                if conn.broken:
                    raise UnavailableError(f"the connection was lost: {_in_words(error)}") from error
                await _tell(conn, job, error, again=failing)
                failing = True
            else:
                if failing:
                    await _note(conn, job, None)
                    _logger.info("job succeeds again", job=job.name)
                failing = False
            await sleep(job.every_s)


async def _tell(conn: Connection, job: Job, error: Exception, *, again: bool) -> None:
    """Say that the job fails; ``again``: it has been said in the log since it last succeeded."""
    await _undo(conn)
    await _note(conn, job, _in_words(error))
    if not again:
        expected = isinstance(error, psycopg.Error | FluxError)
        _logger.warning(
            "job fails, tried again",
            job=job.name,
            every_s=job.every_s,
            error=str(error),
            exc_info=None if expected else error,
        )


def _in_words(error: Exception) -> str:
    """One line; what nobody expected is told with its kind."""
    words = " ".join(str(error).split())
    return words if isinstance(error, psycopg.Error | FluxError) else f"{type(error).__name__}: {words}"


async def _turn(job: Job, conn: Connection) -> None:
    """One turn, unless another worker has it."""
    if not job.alone:
        await job.work(conn)
        return
    key = f"flux job {job.name}"
    cursor = await conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,))
    if await cursor.fetchone() != (True,):
        return
    try:
        await job.work(conn)
        await _note(conn, job, None)
    finally:
        if not conn.broken:
            await _undo(conn)
            await conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (key,))


async def _undo(conn: Connection) -> None:
    """End the transaction that a job left open when it failed: nothing can be said inside it."""
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        await conn.rollback()


async def _note(conn: Connection, job: Job, failure: str | None) -> None:
    await conn.execute(
        """INSERT INTO flux.worker_jobs AS j (name, every_s, succeeded_at, failed_at, failure)
           VALUES (%(name)s, %(every)s, CASE WHEN %(why)s::text IS NULL THEN now() END,
                   CASE WHEN %(why)s::text IS NOT NULL THEN now() END, %(why)s)
           ON CONFLICT (name) DO UPDATE SET every_s = excluded.every_s, failure = excluded.failure,
               succeeded_at = coalesce(excluded.succeeded_at, j.succeeded_at),
               failed_at = coalesce(excluded.failed_at, j.failed_at)""",
        {"name": job.name, "every": job.every_s, "why": failure},
    )
