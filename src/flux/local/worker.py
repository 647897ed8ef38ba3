"""The platform's background work: rollups follow the readings within seconds; what is planned is begun."""

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime

from flux.local.jobs import Connection, Job, run_jobs, run_once
from flux.local.market_jobs import market_jobs
from flux.local.supervisor import stopped
from flux.local.worker_config import WorkerConfig
from flux.registry import run_due_windows
from flux.store import rollups


async def _maintain(conn: Connection) -> None:
    await run_due_windows(conn, datetime.now(UTC))


JOBS = (
    Job("rollups", 2.0, rollups.refresh, alone=False),
    Job("maintenance", 20.0, _maintain),
)
"""What every worker does; its file may ask for more."""


async def run_worker(dsn: str, config: WorkerConfig, *, once: bool = False) -> None:
    """Do the jobs until SIGTERM or SIGINT, or with ``once`` each of them once."""
    async with market_jobs(config.market, os.environ, lambda: datetime.now(UTC)) as more:
        jobs = [*JOBS, *more]
        await (run_once(jobs, dsn) if once else _until_stopped(jobs, dsn))


async def _until_stopped(jobs: Sequence[Job], dsn: str) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    work = asyncio.create_task(run_jobs(jobs, dsn))
    await asyncio.wait({work, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()  # it never returns: this raises what ended it
    await stopped(work)
