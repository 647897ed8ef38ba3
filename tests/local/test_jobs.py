"""Background jobs on a real database: they take turns, fail alone, and come back."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import fetch

from flux.errors import RefusedError
from flux.local.jobs import Job, run_jobs, run_once
from flux.local.supervisor import stopped

Conn = AsyncConnection[Any]


class Turns:
    """A sleep that lets each job have so many turns and then waits for ever."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.done = asyncio.Event()

    async def sleep(self, _seconds: float) -> None:
        self._left -= 1
        if self._left <= 0:
            self.done.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def test_a_job_that_fails_is_told_and_does_not_stop_the_others(dsn: str, db: Conn) -> None:
    done: list[str] = []

    async def fails(_conn: Conn) -> None:
        raise RefusedError("the market is closed")

    async def works(_conn: Conn) -> None:
        done.append("works")

    turns = Turns(6)
    running = asyncio.create_task(run_jobs([Job("fails", 1, fails), Job("works", 1, works)], dsn, turns.sleep))
    async with asyncio.timeout(20):
        await turns.done.wait()
    await stopped(running)
    assert done
    rows = await fetch(db, "SELECT name, failure, succeeded_at IS NOT NULL FROM flux.worker_jobs ORDER BY name")
    assert rows == [("fails", "the market is closed", False), ("works", None, True)]


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
