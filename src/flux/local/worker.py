"""The platform's background work: rollups follow the readings within seconds; what is planned is begun."""

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime

from flux.config import Settings
from flux.local.jobs import Connection, Job, run_jobs, run_once
from flux.local.market_jobs import market_jobs
from flux.local.supervisor import stopped
from flux.local.worker_config import WorkerConfig
from flux.registry import archive_decommissioned, refresh_alerts, run_due_windows
from flux.registry.notify import AppriseSender, load_notifications, tell
from flux.store import lifecycle, rollups


def jobs_of(settings: Settings) -> tuple[Job, ...]:
    """What every worker does. The file of notifications is read at each turn, so that it may change while this runs."""
    send = AppriseSender()

    async def maintain(conn: Connection) -> None:
        await run_due_windows(conn, _now())

    async def alert(conn: Connection) -> None:
        await refresh_alerts(conn, _now())

    async def notify(conn: Connection) -> None:
        config = load_notifications(settings.notifications_file)
        await tell(conn, config.routes if config else (), send, _now())

    async def drop_old(conn: Connection) -> None:
        await lifecycle.retention_turn(conn, settings.archive)

    async def archive(conn: Connection) -> None:
        await archive_decommissioned(conn, settings.archive or settings.home / "archive", _now())

    return (
        Job("rollups", 2.0, rollups.refresh, alone=False),
        Job("retention", 3600.0, drop_old),
        Job("archive", 60.0, archive),
        Job("maintenance", 20.0, maintain),
        Job("alerts", 10.0, alert),
        Job("notifications", 10.0, notify),
    )


def _now() -> datetime:
    return datetime.now(UTC)


async def run_worker(dsn: str, settings: Settings, config: WorkerConfig, *, once: bool = False) -> None:
    """Do the jobs until SIGTERM or SIGINT, or with ``once`` each of them once; ``config`` may ask for more of them."""
    async with market_jobs(config.market, os.environ, _now) as more:
        jobs = [*jobs_of(settings), *more]
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
