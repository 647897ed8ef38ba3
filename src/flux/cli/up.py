"""``flux up``: everything on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from flux.cli.serve import BehindProxy, Host, Port, TlsCert, TlsKey, with_options


def up(
    site: Annotated[
        Path | None, typer.Option(help="Site file of the edge to run; without one only the platform runs.")
    ] = None,
    host: Host = None,
    port: Port = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    behind_proxy: BehindProxy = None,
) -> None:
    """Run everything on this machine: database, edge, worker, HTTP. Ctrl-C stops it cleanly.

    Example: `flux up --site site.yaml`. With FLUX_DATABASE_URL set, your PostgreSQL is used instead of the embedded
    one. To see it at work without any device: `flux demo`.
    """
    from flux.config.logs import configure_logging
    from flux.edge.config import load_site_file
    from flux.local.up import UpOptions, run_up

    settings = with_options(host, port, tls_cert, tls_key, behind_proxy)
    configure_logging(settings, quiet=True)  # the table is what a person looks at; the children log to files
    site_file = load_site_file(site) if site else None
    run_up(UpOptions(settings, site_file))
