"""``flux worker``: what the platform does in the background."""

from typing import Annotated

import typer


def worker(
    once: Annotated[bool, typer.Option("--once", help="Do what is pending, then end.")] = False,
) -> None:
    """Keep the rollups up to date.

    Any number of workers may run against one database; they share the work.
    """
    import asyncio

    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.worker import run_worker
    from flux.store.db import resolve_dsn, told_plainly

    settings = load_settings()
    configure_logging(settings)
    with told_plainly():
        asyncio.run(run_worker(resolve_dsn(settings), once=once))
