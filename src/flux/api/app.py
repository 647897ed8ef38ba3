"""The HTTP application: what stands before every endpoint, and one line for each room of endpoints behind it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from time import monotonic
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from starlette.exceptions import HTTPException

import flux
from flux.api.access import Access
from flux.api.database import SERVER_ROLE, as_caller
from flux.api.edge import edge_router
from flux.api.identity import identity_of
from flux.api.limits import Limiter, Limits
from flux.api.metrics import metrics_text
from flux.api.observed import Observed
from flux.api.realtime import Realtime
from flux.api.rest.app import RestApp
from flux.api.sharing import SharedPool
from flux.api.tokens import Verifier
from flux.api.typed.problems import add_handlers
from flux.api.typed.router import typed_router
from flux.api.typed.transfer import transfer_router
from flux.api.uploads import Uploads
from flux.api.webhooks import webhook_router
from flux.config import Settings
from flux.store.db import open_pool

_FOR_PAGES = (
    "Content-Range",
    "Content-Location",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-Id",
)
"""Headers of answers that a browser lets a page of another origin see."""


async def _connection(request: Request) -> AsyncIterator[AsyncConnection[Any]]:
    async with as_caller(request.app.state.pool, identity_of(request.scope), role=SERVER_ROLE) as conn:
        yield conn


Connection = Annotated[AsyncConnection[Any], Depends(_connection)]


def create_app(dsn: str, settings: Settings, verifier: Verifier, *, clock: Callable[[], datetime]) -> FastAPI:
    """The application; its connections are opened when it starts and closed when it stops.

    ``dsn`` is the gateway's: a login that can do nothing but become a caller, see :mod:`flux.api.database`. Endpoints
    find ``pool``, ``settings``, ``verifier`` and ``clock`` in ``app.state``.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_pool(
            dsn, application_name="flux serve", max_size=10, timeout_s=3, check_after_s=1, kind=SharedPool
        ) as pool:
            app.state.pool = pool
            _mount_rooms(app)
            async with Realtime(pool, dsn, verifier.verify, clock=clock) as realtime:
                app.mount("/realtime/v1", realtime)
                yield

    app = FastAPI(title="Flux", version=flux.__version__, lifespan=lifespan)
    app.state.settings, app.state.verifier, app.state.clock = settings, verifier, clock
    add_handlers(app)
    app.add_exception_handler(HTTPException, _http_error)
    _add_routes(app)
    app.include_router(typed_router())
    app.include_router(transfer_router())
    app.include_router(edge_router())
    app.include_router(webhook_router())
    _guard(app, settings, verifier)
    return app


def _guard(app: FastAPI, settings: Settings, verifier: Verifier) -> None:
    """What stands before every endpoint; the last one added is the first that a request meets."""
    limits = Limits.from_settings(settings)
    app.add_middleware(Uploads, most_bytes=limits.body_bytes, monotonic=monotonic)
    app.add_middleware(Access, verifier=verifier, limiter=Limiter(limits, monotonic))
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"],
            allow_headers=["*"],  # keys come in headers that pages set themselves, never in cookies
            expose_headers=_FOR_PAGES,
            max_age=3600,
        )
    app.add_middleware(Observed, monotonic=monotonic, log=settings.access_log)


def _mount_rooms(app: FastAPI) -> None:
    """The rooms that are ASGI applications of their own, a line each: ``app.mount("/rest/v1", Rest(pool, settings))``.

    Routers of FastAPI are included in :func:`create_app` instead, so that the description has them.
    """
    app.mount("/rest/v1", RestApp(app.state.pool))


def _add_routes(app: FastAPI) -> None:
    @app.get("/healthz", summary="Whether the server and its database answer")
    async def health(request: Request) -> dict[str, str]:
        pool: AsyncConnectionPool[AsyncConnection[Any]] = request.app.state.pool
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        return {"status": "ok", "version": flux.__version__}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics(conn: Connection) -> PlainTextResponse:
        return PlainTextResponse(await metrics_text(conn), media_type="text/plain; version=0.0.4")


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    """No such path, a verb that it does not have, and what endpoints raise themselves."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
    return JSONResponse({"message": error.detail}, status_code=error.status_code, headers=error.headers)
