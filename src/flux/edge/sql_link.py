"""The platform link straight to the platform's PostgreSQL: for the edge of ``flux up``, and for private networks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from flux.control.feed import ControlFeed
from flux.edge.link import JobAnswer, LeaseAnswer, PushResult, RegistrySnapshot
from flux.edge.sql_listener import Listener
from flux.model import DeviceId, DeviceState, FluxError, Job, UnavailableError
from flux.registry import set_state
from flux.registry.for_edges import registry_snapshot, store_records
from flux.store import jobs, ownership
from flux.store.control_feed import read_feed
from flux.store.db import connect
from flux.store.encoding import Recorded

_ANSWER_TIMEOUT_S = 30.0


class SqlLink:
    """PlatformLink over psycopg: one connection for work, three that listen; all are opened when needed.

    ``dsn`` is asked for the connection string each time, since an embedded server changes it when it restarts.
    """

    def __init__(self, site: str, dsn: Callable[[], str]) -> None:
        self._site = site
        self._dsn = dsn
        self._working = asyncio.Lock()
        self._work: AsyncConnection[Any] | None = None
        self._name = f"flux edge {site}"
        self._registry = Listener("flux_registry", dsn, f"{self._name} listener")
        self._control = Listener("flux_control", dsn, f"{self._name} control listener")
        self._jobs = Listener("flux_jobs", dsn, f"{self._name} job listener")

    async def push(self, records: Sequence[Recorded]) -> PushResult:
        async with self._connection() as conn:
            return await store_records(conn, records)

    async def registry(self) -> RegistrySnapshot:
        async with self._connection() as conn:
            return await registry_snapshot(conn, self._site)

    async def wait_for_registry_change(self, timeout_s: float) -> bool:
        return await self._registry.wait(timeout_s)

    async def control_feed(self, after: str | None, timeout_s: float) -> ControlFeed | None:
        await self._control.wait(timeout_s)
        async with self._connection() as conn:
            feed = await read_feed(conn, self._site)
        return None if feed.cursor == after else feed

    async def platform_time(self) -> datetime:
        async with self._connection() as conn:
            cursor = await conn.execute("SELECT clock_timestamp()")
            row = await cursor.fetchone()
        assert row is not None  # noqa: S101 - this SELECT has one row
        now: datetime = row[0]
        return now

    async def report_state(self, device_id: DeviceId, state: DeviceState, reason: str) -> None:
        async with self._connection() as conn:
            await set_state(conn, device_id, state, actor=f"edge {self._site}", reason=reason)

    async def acknowledge_stop(self) -> None:
        async with self._connection() as conn:
            await ownership.acknowledge_stop(conn, self._site)

    async def take_lease(self, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
        async with self._connection() as conn:
            answer = await ownership.take_lease(conn, self._site, holder=holder, host=host, lasts=lasts)
        return LeaseAnswer(answer.granted, answer.holder, answer.host, answer.token)

    async def release_lease(self, holder: str) -> None:
        async with self._connection() as conn:
            await ownership.release_lease(conn, self._site, holder=holder)

    async def take_job(self, holder: str, run: str, have: Sequence[UUID], timeout_s: float) -> Job | None:
        if (job := await self._take_job(holder, run, have)) is not None:
            return job
        return await self._take_job(holder, run, have) if await self._jobs.wait(timeout_s) else None

    async def _take_job(self, holder: str, run: str, have: Sequence[UUID]) -> Job | None:
        async with self._connection() as conn:
            return await jobs.take_job(conn, self._site, holder=holder, run=run, have=have)

    async def finish_job(self, job_id: UUID, holder: str, run: str, answer: JobAnswer) -> bool:
        async with self._connection() as conn:
            return await jobs.finish_job(
                conn, job_id, site=self._site, holder=holder, run=run, result=answer.result, error=answer.error
            )

    async def close(self) -> None:
        await self._drop_work()
        await self._jobs.close()
        await self._registry.close()
        await self._control.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """The connection for work, for one caller at a time; what it raises becomes UnavailableError."""
        async with self._working:
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    if self._work is None:
                        self._work = await connect(self._dsn(), application_name=self._name, autocommit=True)
                    yield self._work
            except TimeoutError as error:
                await self._drop_work()
                raise UnavailableError(f"platform: no answer within {_ANSWER_TIMEOUT_S:g} s") from error
            except psycopg.Error as error:
                await self._drop_work()
                raise UnavailableError(f"platform: {_one_line(error)}") from error
            except FluxError:  # of the registry or of connecting: the connection is as it was
                raise
            except BaseException:
                await self._drop_work()  # it may be in the middle of something
                raise

    async def _drop_work(self) -> None:
        if self._work is not None:
            conn, self._work = self._work, None
            await conn.close()


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
