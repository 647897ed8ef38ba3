"""The platform's background work: rollups follow the readings within seconds."""

import asyncio
import signal

import stamina
import structlog
from psycopg import OperationalError

from flux.errors import UnavailableError
from flux.local.supervisor import stopped
from flux.store import rollups
from flux.store.db import connect

_INTERVAL_S = 2.0
_logger = structlog.get_logger(__name__)


async def run_worker(dsn: str, *, once: bool = False) -> None:
    """Refresh rollups until SIGTERM or SIGINT, or with ``once`` until nothing is pending.

    A database that goes away is waited for; it never ends the worker.
    """
    if once:
        async with await connect(dsn, application_name="flux worker") as conn:
            report = await rollups.refresh(conn)
        _logger.info("rollups refreshed", devices=report.devices, buckets=report.buckets)
        return
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    work = asyncio.create_task(_refresh_forever(dsn))
    await asyncio.wait({work, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()  # it never returns: this raises what ended it
    await stopped(work)


async def _refresh_forever(dsn: str) -> None:
    while True:
        async for attempt in stamina.retry_context(
            on=(OperationalError, UnavailableError), attempts=None, timeout=None, wait_max=30.0
        ):
            with attempt:
                await _refresh_while_connected(dsn)


async def _refresh_while_connected(dsn: str) -> None:
    async with await connect(dsn, application_name="flux worker") as conn:
        while True:
            await rollups.refresh(conn)
            await asyncio.sleep(_INTERVAL_S)
