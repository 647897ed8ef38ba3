"""``flux demo``."""

from typing import Annotated

import typer


def demo(
    days: Annotated[int, typer.Option(min=0, max=366, help="Days to backfill on the first start.")] = 7,
    modbus_port: Annotated[
        int, typer.Option(min=1024, max=65500, help="First of the five ports of the simulated devices.")
    ] = 15020,
) -> None:
    """Run a simulated site: one battery and four meters, each a real Modbus TCP server, with a week behind them.

    Everything is kept in FLUX_HOME (default .flux); started again, it goes on where it was. Ctrl-C stops it.
    """
    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.demo import run_demo

    settings = load_settings()
    configure_logging(settings, quiet=True)  # the table is what a person looks at; the children log to files
    run_demo(settings, days=days, modbus_port=modbus_port)
