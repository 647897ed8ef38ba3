"""Background jobs on a real database: they take turns, fail alone, and come back."""

import asyncio
from collections import Counter
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from structlog.testing import capture_logs
from tests.support import fetch

from flux.errors import RefusedError
from flux.local.jobs import Job, run_jobs, run_once
from flux.local.supervisor import stopped

Conn = AsyncConnection[Any]


class Turns:
    """A sleep that lets each of ``jobs`` jobs have so many turns and then waits for ever; their intervals differ."""

    def __init__(self, count: int, jobs: int = 1) -> None:
        self._count = count
        self._jobs = jobs
        self._had: Counter[float] = Counter()
        self.done = asyncio.Event()

    async def sleep(self, every_s: float) -> None:
        self._had[every_s] += 1
        if self._had[every_s] < self._count:
            await asyncio.sleep(0)
            return
        if sum(had == self._count for had in self._had.values()) == self._jobs:
            self.done.set()
        await asyncio.Event().wait()


async def test_a_job_that_fails_is_told_and_does_not_stop_the_others(dsn: str, db: Conn) -> None:
    done: list[str] = []

    async def fails(_conn: Conn) -> None:
        raise RefusedError("the market is closed")

    async def works(_conn: Conn) -> None:
        done.append("works")

    turns = Turns(3, jobs=2)
    running = asyncio.create_task(run_jobs([Job("fails", 1, fails), Job("works", 2, works)], dsn, turns.sleep))
    async with asyncio.timeout(20):
        await turns.done.wait()
    await stopped(running)
    assert done
    rows = await fetch(db, "SELECT name, failure, succeeded_at IS NOT NULL FROM flux.worker_jobs ORDER BY name")
    assert rows == [("fails", "the market is closed", False), ("works", None, True)]


async def test_a_bug_in_a_job_does_not_stop_the_others(dsn: str, db: Conn) -> None:
    """Told with its kind and, in the log, once with its traceback; what it left open is undone."""
    done: list[str] = []

    async def breaks(conn: Conn) -> None:
        await conn.execute("BEGIN")
        await conn.execute("CREATE TABLE flux.half_done (n int)")
        raise KeyError("nothing")

    async def works(_conn: Conn) -> None:
        done.append("works")

    turns = Turns(3, jobs=2)
    with capture_logs() as logs:
        running = asyncio.create_task(run_jobs([Job("breaks", 1, breaks), Job("works", 2, works)], dsn, turns.sleep))
        async with asyncio.timeout(20):
            await turns.done.wait()
        assert not running.done()
        await stopped(running)
    assert done
    rows = await fetch(db, "SELECT name, failure, succeeded_at IS NOT NULL FROM flux.worker_jobs ORDER BY name")
    assert rows == [("breaks", "KeyError: 'nothing'", False), ("works", None, True)]
    (told,) = [line for line in logs if line["event"] == "job fails, tried again"]
    assert isinstance(told["exc_info"], KeyError)
    assert await fetch(db, "SELECT to_regclass('flux.half_done')::text") == [(None,)]


async def test_a_job_goes_on_when_its_connection_was_ended(dsn: str, db: Conn) -> None:
    turns = Turns(2)
    calls = 0

    async def dies_once(conn: Conn) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await db.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
            await conn.execute("SELECT 1")

    running = asyncio.create_task(run_jobs([Job("dies", 1, dies_once)], dsn, turns.sleep))
    async with asyncio.timeout(20):
        await turns.done.wait()
    await stopped(running)
    assert calls >= 2


async def test_one_worker_at_a_time_does_a_job(dsn: str, db: Conn) -> None:
    key = "SELECT pg_advisory_lock(hashtextextended('flux job single', 0))"
    called: list[int] = []

    async def work(_conn: Conn) -> None:
        called.append(1)

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        await other.execute(key)
        await run_once([Job("single", 1, work)], dsn)
        assert not called
    for _ in range(100):  # the lock goes with the other's session, a moment after it
        await run_once([Job("single", 1, work)], dsn)
        if called:
            break
    assert called


async def test_once_ends_with_what_went_wrong(dsn: str) -> None:
    async def fails(_conn: Conn) -> None:
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        await run_once([Job("fails", 1, fails)], dsn)
