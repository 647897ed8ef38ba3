"""``flux serve``: HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flux.config import Settings

Host = Annotated[str | None, typer.Option(help="Address to listen on; default FLUX_HTTP_HOST.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default FLUX_HTTP_PORT.")]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate (chain) in PEM; default FLUX_TLS_CERT.")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key in PEM; default FLUX_TLS_KEY.")]
BehindProxy = Annotated[
    bool | None,
    typer.Option("--behind-proxy", help="A proxy in front does TLS, so any address will do.", show_default=False),
]


def serve(
    host: Host = None,
    port: Port = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    behind_proxy: BehindProxy = None,
) -> None:
    """Serve the API over HTTP: on loopback, or elsewhere with TLS or behind a proxy. Every request needs a key.

    Example: `flux serve --port 8080`, then `curl -H "apikey: …" http://127.0.0.1:8080/v1/devices`.
    """
    from flux.config.logs import configure_logging
    from flux.local.serve import run_serve

    settings = with_options(host, port, tls_cert, tls_key, behind_proxy)
    configure_logging(settings)
    run_serve(settings)


def with_options(
    host: str | None, port: int | None, tls_cert: Path | None, tls_key: Path | None, behind_proxy: bool | None
) -> "Settings":
    """The settings of the environment, with what was given on the command line instead."""
    from flux.config import load_settings

    given = {
        "http_host": host,
        "http_port": port,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "behind_proxy": behind_proxy,
    }
    return load_settings().model_copy(update={name: value for name, value in given.items() if value is not None})
