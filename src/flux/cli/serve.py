"""``flux serve``: HTTP."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from flux.errors import RefusedError


def utc_now() -> datetime:
    return datetime.now(UTC)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default FLUX_HTTP_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default FLUX_HTTP_PORT.")] = None,
) -> None:
    """Serve devices, latest readings and rollups over HTTP, on loopback.

    Example: `flux serve --port 8080`, then `curl http://127.0.0.1:8080/v1/devices`.
    """
    from flux.api.app import create_app
    from flux.api.secret import load_secrets
    from flux.api.serving import make_server
    from flux.api.tokens import Verifier
    from flux.config import load_settings
    from flux.config.logs import configure_logging
    from flux.local.ports import require_free, require_loopback
    from flux.store.db import resolve_dsn, told_plainly
    from flux.store.migrate import status

    settings = load_settings()
    configure_logging(settings)
    address, number = host or settings.http_host, port if port is not None else settings.http_port
    require_loopback(address, "--host" if host else "FLUX_HTTP_HOST")
    require_free(address, number, "HTTP", "choose another with --port or FLUX_HTTP_PORT")
    dsn = resolve_dsn(settings)
    with told_plainly():  # uvicorn would tell it with a traceback
        if status(dsn).version is None:
            raise RefusedError("the database has no schema flux: run `flux db migrate`")
    verifier = Verifier(load_secrets(settings, create=True), utc_now)
    make_server(create_app(dsn, settings, verifier, clock=utc_now), host=address, port=number).run()
