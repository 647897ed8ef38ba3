"""``flux worker``: what the platform does in the background."""

from pathlib import Path
from typing import Annotated

import typer


def worker(
    once: Annotated[bool, typer.Option("--once", help="Do what is pending, then end.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="What else it does: market platforms. Default: FLUX_WORKER_FILE, or nothing.")
    ] = None,
) -> None:
    """Do the platform's background work: rollups, planned maintenance, alerts and who is told of them.

    Market data is fetched where a file says so. Any number of workers may run against one database: they share the
    work.

    Example: `flux worker --config worker.yaml`
    """
    import asyncio

    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.worker import run_worker
    from flux.local.worker_config import load_worker_config
    from flux.store.db import resolve_dsn, told_plainly

    settings = load_settings()
    configure_logging(settings)
    loaded = load_worker_config(config or settings.worker_file)
    with told_plainly():
        asyncio.run(run_worker(resolve_dsn(settings), settings, loaded, once=once))
