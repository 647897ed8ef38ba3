"""``flux serve``: all is checked before the port is opened, and the login is the gateway's, never the owner's."""

import asyncio
import sys
from datetime import UTC, datetime
from time import monotonic

from flux.api.app import create_app
from flux.api.jwks import public_keys, verifier_of
from flux.api.keys import make_first_keys, told
from flux.api.limits import Limits
from flux.api.serving import Listening, make_server
from flux.api.webhook_sources import load_sources, sources_file
from flux.config import Settings
from flux.errors import RefusedError
from flux.local.ports import require_free, require_safe
from flux.store.db import resolve_dsn, told_plainly
from flux.store.gateway import gateway_dsn
from flux.store.migrate import status


def run_serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests and sockets that are open then get some seconds to end."""
    require_safe(settings)
    require_free(settings.http_host, settings.http_port, "HTTP", "choose another with --port or FLUX_HTTP_PORT")
    Limits.from_settings(settings)
    load_sources(sources_file(settings))
    public_keys(settings, monotonic)
    dsn = login(settings)
    verifier = verifier_of(settings, utc_now, monotonic)
    make_server(create_app(dsn, settings, verifier, clock=utc_now), _listening(settings)).run()


def login(settings: Settings) -> str:
    """The DSN that the server uses; the owner's is used before that alone: to look at the schema, make login, keys."""
    given = settings.api_database_url.get_secret_value() if settings.api_database_url is not None else None
    with told_plainly():  # uvicorn would tell it with a traceback
        if given is not None and settings.database_url is None:
            return gateway_dsn("", settings.home, given=given)
        owner = resolve_dsn(settings)
        if status(owner).version is None:
            raise RefusedError("the database has no schema flux: run `flux db migrate`")
        dsn = gateway_dsn(owner, settings.home, given=given)
        made = asyncio.run(make_first_keys(owner, settings))
    for line in told(made, show=sys.stdout.isatty()):  # for a person's eyes, never into a log
        print(line)
    return dsn


def _listening(settings: Settings) -> Listening:
    proxies = [one.strip() for one in settings.trusted_proxies.split(",") if one.strip()]
    return Listening(
        settings.http_host,
        settings.http_port,
        settings.tls_cert,
        settings.tls_key,
        proxies if settings.behind_proxy else (),
    )


def utc_now() -> datetime:
    return datetime.now(UTC)
