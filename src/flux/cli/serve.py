"""``flux serve``: HTTP."""

from typing import Annotated

import typer

from flux.errors import InputError


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default FLUX_HTTP_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default FLUX_HTTP_PORT.")] = None,
) -> None:
    """Serve devices, latest readings and rollups over HTTP, on loopback.

    Example: `flux serve --port 8080`, then `curl http://127.0.0.1:8080/v1/devices`.
    """
    import ipaddress
    from datetime import UTC, datetime

    import uvicorn

    from flux.api.app import create_app
    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.ports import require_free
    from flux.store.db import resolve_dsn

    settings = load_settings()
    configure_logging(settings)
    address, number = host or settings.http_host, port if port is not None else settings.http_port
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = address == "localhost"
    if not loopback:
        raise InputError(f"{address} is not a loopback address: this server has no keys yet, so it stays on 127.0.0.1")
    require_free(address, number, "HTTP", "choose another with --port or FLUX_HTTP_PORT")
    app = create_app(resolve_dsn(settings), clock=lambda: datetime.now(UTC))
    uvicorn.run(app, host=address, port=number, log_level="warning", access_log=False)
