"""The HTTP application: what stands before every endpoint, and one line for each room of endpoints behind it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from psycopg import AsyncConnection, DataError, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

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
from flux.api.tokens import TokenError, Verifier
from flux.api.uploads import Uploads
from flux.config import Settings
from flux.errors import ConflictError, FluxError, InputError, NotFoundError, RefusedError, UnavailableError
from flux.model import Device, DeviceState, DeviceType
from flux.registry import get_device, list_devices
from flux.store import queries
from flux.store.db import open_pool

Level = Literal["5m", "30m", "1h"]
_HTTP_STATUS: dict[type[FluxError], int] = {
    TokenError: 401,
    InputError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    RefusedError: 403,
    UnavailableError: 503,
}
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
_MAX_ROWS = 10_000
_LONGEST_SPAN = {"5m": timedelta(days=32), "30m": timedelta(days=370), "1h": timedelta(days=3660)}


async def _connection(request: Request) -> AsyncIterator[AsyncConnection[Any]]:
    async with as_caller(request.app.state.pool, identity_of(request.scope), role=SERVER_ROLE) as conn:
        yield conn


Connection = Annotated[AsyncConnection[Any], Depends(_connection)]
Limit = Annotated[int, Query(ge=1, le=_MAX_ROWS)]


def create_app(dsn: str, settings: Settings, verifier: Verifier, *, clock: Callable[[], datetime]) -> FastAPI:
    """The application; its connections are opened when it starts and closed when it stops.

    ``dsn`` is the gateway's: a login that can do nothing but become a caller, see :mod:`flux.api.database`. Endpoints
    find ``pool``, ``settings``, ``verifier`` and ``clock`` in ``app.state``.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_pool(dsn, application_name="flux serve", max_size=8, timeout_s=3) as pool:
            app.state.pool = pool
            _mount_rooms(app)
            async with Realtime(pool, dsn, verifier.verify, clock=clock) as realtime:
                app.mount("/realtime/v1", realtime)
                yield

    app = FastAPI(title="Flux", version=flux.__version__, lifespan=lifespan)
    app.state.settings, app.state.verifier, app.state.clock = settings, verifier, clock
    app.add_exception_handler(FluxError, _flux_error)
    app.add_exception_handler(DataError, _data_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    _add_routes(app, clock)
    app.include_router(edge_router())
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


def _add_routes(app: FastAPI, clock: Callable[[], datetime]) -> None:
    @app.get("/healthz", summary="Whether the server and its database answer")
    async def health(request: Request) -> dict[str, str]:
        pool: AsyncConnectionPool[AsyncConnection[Any]] = request.app.state.pool
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        return {"status": "ok", "version": flux.__version__}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics(conn: Connection) -> PlainTextResponse:
        return PlainTextResponse(await metrics_text(conn), media_type="text/plain; version=0.0.4")

    @app.get("/v1/devices", summary="The registry")
    async def devices(
        conn: Connection, site: str | None = None, type: DeviceType | None = None, state: DeviceState | None = None
    ) -> list[Device]:
        return await list_devices(conn, site=site, type=type, state=state)

    @app.get("/v1/devices/{name}", summary="One device, by name or id")
    async def device(conn: Connection, name: str) -> Device:
        return await get_device(conn, name)

    @app.get("/v1/readings/latest", summary="The newest reading of each device")
    async def latest(conn: Connection, site: str | None = None) -> list[dict[str, Any]]:
        return await queries.latest_readings(conn, site=site)

    @app.get("/v1/devices/{name}/readings", summary="Readings with start ≤ time < end, newest last")
    async def readings(
        conn: Connection,
        name: str,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: Limit = 1000,
    ) -> list[dict[str, Any]]:
        found = await get_device(conn, name)
        since, until = _span(start, end, clock(), timedelta(days=370))
        return await queries.readings(conn, found, since, until, limit=limit)

    @app.get("/v1/devices/{name}/rollups/{level}", summary="Buckets with start ≤ time_b < end")
    async def rollups(
        conn: Connection, name: str, level: Level, start: datetime | None = None, end: datetime | None = None
    ) -> list[dict[str, Any]]:
        found = await get_device(conn, name)
        since, until = _span(start, end, clock(), _LONGEST_SPAN[level])
        return await queries.rollups(conn, found, level, since, until)


def _span(start: datetime | None, end: datetime | None, now: datetime, longest: timedelta) -> tuple[datetime, datetime]:
    """Default: the last 24 hours. A time without a zone is UTC."""
    until = _aware(end) if end else now
    try:
        since = _aware(start) if start else until - timedelta(hours=24)
    except OverflowError:
        raise InputError(f"end {until.isoformat()} is too early to have 24 hours before it; give a start") from None
    if since >= until:
        raise InputError(f"start {since.isoformat()} must be before end {until.isoformat()}")
    if until - since > longest:
        raise InputError(f"the span is longer than {longest.days} days; ask for parts of it")
    return since, until


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


async def _flux_error(_request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in _HTTP_STATUS.items() if isinstance(error, kind)), 400)
    return JSONResponse({"message": str(error)}, status_code=status)


async def _data_error(_request: Request, _error: Exception) -> JSONResponse:
    """Text with a NUL in it, a time that PostgreSQL does not know."""
    return JSONResponse({"message": "the request has a value that the database cannot hold"}, status_code=422)


async def _database_error(_request: Request, _error: Exception) -> JSONResponse:
    # the driver's message can name host and user: it is for the log, not for the client
    return JSONResponse({"message": "the database does not answer; try again"}, status_code=503)
