"""The routes of ``/edge/v1``: what an edge asks of its platform, each as one request.

Following (registry, control, jobs) is a long-poll by cursor: an answer comes at once when there is something newer than
``after``, else as soon as there is, else 204 after ``wait`` seconds; without ``wait`` it is as of now.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg import AsyncConnection
from pydantic import BaseModel, Field

from flux.api.database import SERVER_ROLE, as_caller, session_as_caller
from flux.api.edge.bodies import records_of
from flux.api.edge.changes import Changes, Pool, Topic
from flux.api.edge.routes import Caller, EdgeRoute, caller_of
from flux.errors import UnavailableError
from flux.model import DeviceId, DeviceState
from flux.registry import set_state
from flux.registry.for_edges import cursor_of, registry_snapshot, store_records
from flux.store import jobs, ownership
from flux.store.control_feed import read_feed

LONGEST_WAIT_S = 60.0
_PUSH_TIMEOUT_MS = 60_000
_LONGEST_LEASE_S = 3600.0
_LEFT_TO_OTHERS = 3
_LONGEST_TURN_S = 20.0

Cursor = Annotated[str | None, Query(max_length=100, description="The cursor of what is known; none: nothing is.")]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for something newer.")]
Body = dict[str, Any]


class StateReport(BaseModel):
    """What an edge saw of a device."""

    state: DeviceState
    reason: str = Field(max_length=2000)


class LeaseRequest(BaseModel):
    """``holder`` is the edge's own name, the same after a restart."""

    holder: str = Field(min_length=1, max_length=200)
    host: str = Field(default="", max_length=200)
    lasts_s: float = Field(gt=0, le=_LONGEST_LEASE_S)


class TakeRequest(BaseModel):
    """``run`` names this run of the edge's program, ``have`` are the jobs that it knows it has."""

    holder: str = Field(min_length=1, max_length=200)
    run: str = Field(min_length=1, max_length=100)
    have: list[UUID] = Field(default=[], max_length=100)
    wait: float = Field(default=0, ge=0, le=LONGEST_WAIT_S)


class FinishRequest(BaseModel):
    """``error``: why it failed; else it is done, with ``result``."""

    holder: str = Field(min_length=1, max_length=200)
    run: str = Field(min_length=1, max_length=100)
    result: Any = None
    error: str | None = Field(default=None, max_length=10_000)


def edge_router() -> APIRouter:
    """The router; the app's state must have the gateway's ``pool`` when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with Changes(lambda: app.state.pool) as changes:
            app.state.end_waiting = changes.end
            turns = asyncio.Semaphore(max(1, app.state.pool.max_size - _LEFT_TO_OTHERS))
            yield {"changes_for_edges": changes, "turns_of_edges": turns}

    router = APIRouter(prefix="/edge/v1", tags=["edge"], route_class=EdgeRoute, lifespan=lifespan)
    _add_recording(router)
    _add_following(router)
    _add_control(router)
    _add_jobs(router)
    return router


def _add_recording(router: APIRouter) -> None:
    @router.post("/push", summary="Store what was recorded")
    async def push(request: Request) -> Response:
        caller = caller_of(request)
        records = await records_of(request)
        session = session_as_caller(_pool(request), caller.identity, timeout_ms=_PUSH_TIMEOUT_MS)
        async with _turn(request), session as conn:
            result = await store_records(conn, records)
        return JSONResponse(asdict(result))

    @router.post("/devices/{device_id}/state", status_code=204, summary="What was seen of a device in testing")
    async def report_state(request: Request, device_id: UUID, report: StateReport) -> None:
        caller = caller_of(request)
        async with _server(request, caller) as conn:
            actor = f"edge {caller.site}"
            await set_state(conn, DeviceId(device_id), report.state, actor=actor, reason=report.reason)

    @router.get("/time", summary="The platform's clock")
    async def time(request: Request) -> Body:
        async with _server(request, caller_of(request)) as conn:
            ((now,),) = await (await conn.execute("SELECT clock_timestamp()")).fetchall()
        return {"time": now.isoformat()}


def _add_following(router: APIRouter) -> None:
    @router.get("/registry", summary="The site's devices, their templates, its stop")
    async def registry(request: Request, after: Cursor = None, wait: Wait = 0) -> Response:
        caller = caller_of(request)

        async def read() -> Body:
            async with _server(request, caller) as conn:
                body = (await registry_snapshot(conn, caller.site)).to_json()
            return {"cursor": cursor_of(body), **body}

        return await _follow(request, caller, Topic.REGISTRY, after, wait, read)

    @router.get("/control", summary="Market, dispatch, envelopes, connection and pushed plan")
    async def control(request: Request, after: Cursor = None, wait: Wait = 0) -> Response:
        caller = caller_of(request)

        async def read() -> Body:
            async with _server(request, caller) as conn:
                feed = await read_feed(conn, caller.site)
            return {"cursor": feed.cursor, "feed": feed.to_json()}

        return await _follow(request, caller, Topic.CONTROL, after, wait, read)


def _add_control(router: APIRouter) -> None:
    @router.post("/stop/acknowledged", status_code=204, summary="Every battery has acknowledged 0 kW since the stop")
    async def acknowledge_stop(request: Request) -> None:
        caller = caller_of(request)
        async with _server(request, caller) as conn:
            await ownership.acknowledge_stop(conn, caller.site)

    @router.post("/lease", summary="Take the site's control lease, or renew it")
    async def take_lease(request: Request, asked: LeaseRequest) -> Body:
        caller = caller_of(request)
        lasts = timedelta(seconds=asked.lasts_s)
        async with _server(request, caller) as conn:
            answer = await ownership.take_lease(conn, caller.site, holder=asked.holder, host=asked.host, lasts=lasts)
        return {"granted": answer.granted, "holder": answer.holder, "host": answer.host, "token": answer.token}

    @router.delete("/lease", status_code=204, summary="Give the control lease back")
    async def release_lease(request: Request, holder: Annotated[str, Query(max_length=200)]) -> None:
        caller = caller_of(request)
        async with _server(request, caller) as conn:
            await ownership.release_lease(conn, caller.site, holder=holder)


def _add_jobs(router: APIRouter) -> None:
    @router.post("/jobs/take", summary="Take a job")
    async def take(request: Request, asked: TakeRequest) -> Response:
        caller, changes = caller_of(request), _changes(request)
        deadline = _now() + asked.wait
        while True:
            seen = changes.version(Topic.JOBS, caller.site)
            async with _server(request, caller) as conn:
                job = await jobs.take_job(conn, caller.site, holder=asked.holder, run=asked.run, have=asked.have)
            if job is not None:
                return JSONResponse(job.model_dump(mode="json"))
            if not await changes.wait(Topic.JOBS, caller.site, seen, max(0.0, deadline - _now())):
                return Response(status_code=204)
            if await request.is_disconnected():  # a job that it took would be one that nobody has
                return Response(status_code=204)

    @router.post("/jobs/{job_id}/finish", summary="Say what became of a job")
    async def finish(request: Request, job_id: UUID, said: FinishRequest) -> Body:
        caller = caller_of(request)
        async with _server(request, caller) as conn:
            kept = await jobs.finish_job(
                conn,
                job_id,
                site=caller.site,
                holder=said.holder,
                run=said.run,
                result=said.result,
                error=said.error,
            )
        return {"kept": kept}


async def _follow(
    request: Request,
    caller: Caller,
    topic: Topic,
    after: str | None,
    wait_s: float,
    read: Callable[[], Awaitable[Body]],
) -> Response:
    changes, deadline = _changes(request), _now() + wait_s
    while True:
        seen = changes.version(topic, caller.site)
        if wait_s and changes.unchanged(topic, caller.site, after):
            async with _server(request, caller):
                pass  # a key that was revoked is refused, though nothing needs to be read
        else:
            body = await read()
            changes.remember(topic, caller.site, seen, body["cursor"])
            if body["cursor"] != after:
                return JSONResponse(body)
        if not await changes.wait(topic, caller.site, seen, max(0.0, deadline - _now())):
            return Response(status_code=204)


@asynccontextmanager
async def _server(request: Request, caller: Caller) -> AsyncIterator[AsyncConnection[Any]]:
    async with _turn(request), as_caller(_pool(request), caller.identity, role=SERVER_ROLE) as conn:
        yield conn


@asynccontextmanager
async def _turn(request: Request) -> AsyncIterator[None]:
    """Hundreds of edges come back in one moment: they wait here, and leave connections of the pool to others."""
    turns: asyncio.Semaphore = request.state.turns_of_edges
    try:
        async with asyncio.timeout(_LONGEST_TURN_S):
            await turns.acquire()
    except TimeoutError:
        raise UnavailableError("too many edges ask at once; try again") from None
    try:
        yield
    finally:
        turns.release()


def _pool(request: Request) -> Pool:
    pool: Pool = request.app.state.pool
    return pool


def _changes(request: Request) -> Changes:
    changes: Changes = request.state.changes_for_edges
    return changes


def _now() -> float:
    return asyncio.get_running_loop().time()
