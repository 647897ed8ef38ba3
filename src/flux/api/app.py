"""The HTTP application: what stands before every endpoint, and one line for each room of endpoints behind it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from psycopg import AsyncConnection, DataError, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

import flux
from flux.api.access import Access
from flux.api.edge import edge_router
from flux.api.metrics import metrics_text
from flux.api.tokens import TokenError, Verifier
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
_MAX_ROWS = 10_000
_LONGEST_SPAN = {"5m": timedelta(days=32), "30m": timedelta(days=370), "1h": timedelta(days=3660)}


async def _connection(request: Request) -> AsyncIterator[AsyncConnection[Any]]:
    pool: AsyncConnectionPool[AsyncConnection[Any]] = request.app.state.pool
    async with pool.connection() as conn:
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
        async with open_pool(dsn, application_name="flux serve", max_size=8, timeout_s=5) as pool:
            app.state.pool = pool
            _mount_rooms(app)
            yield

    app = FastAPI(title="Flux", version=flux.__version__, lifespan=lifespan)
    app.state.settings, app.state.verifier, app.state.clock = settings, verifier, clock
    app.add_exception_handler(FluxError, _flux_error)
    app.add_exception_handler(DataError, _data_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    _add_routes(app, clock)
    app.include_router(edge_router())
    app.add_middleware(Access, verifier=verifier)
    return app


def _mount_rooms(app: FastAPI) -> None:
    """The rooms that are ASGI applications of their own, a line each: ``app.mount("/rest/v1", Rest(pool, settings))``.

    Routers of FastAPI are included in :func:`create_app` instead, so that the description has them.
    """


def _add_routes(app: FastAPI, clock: Callable[[], datetime]) -> None:
    @app.get("/healthz", summary="Whether the server and its database answer")
    async def health(conn: Connection) -> dict[str, str]:
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
