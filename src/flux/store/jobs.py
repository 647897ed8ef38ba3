"""Jobs for edges: ordered here, taken by the site's edge, run once, and answered.

::

    job = await create_job(conn, "WLCE", JobKind.TEST, {"device": "WLCE-BESS-01"}, expires_at=…, actor="anna")
    job = await get_job(conn, job.id)        # .state, .result, .error

An edge takes a job with :func:`take_job` and answers it with :func:`finish_job`. A job that nobody took before
``expires_at`` is never run. One whose edge died is begun again if running it twice does no harm; a set-point is not: it
has failed. Each function is one transaction.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from flux.devices.discovery import parse_units, targets
from flux.errors import ConflictError, InputError, NotFoundError, RefusedError
from flux.model import DeviceType, Job, JobArgs, JobKind, JobState, ScanArgs, SetPointArgs, StopArgs, parse_job_args
from flux.model.jobs import LONGEST_SET_POINT
from flux.store.dispatch import check_site
from flux.store.ownership import stop_site

HELD_FOR = timedelta(minutes=10)
"""An edge that took a job and has not answered by then is taken for dead."""
LONGEST_WAIT = timedelta(days=7)
_MOST_TAKES = 3
_GAVE_UP = "the edge that took it ended before it said what became of it"

_STATE = """CASE WHEN finished_at IS NOT NULL THEN outcome WHEN taken_at IS NOT NULL THEN 'running'
    WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'waiting' END"""
_COLUMNS = f"""id, site, kind, args, created_by, created_at, expires_at, taken_at, taken_by, finished_at, result, error,
    {_STATE} AS state"""

# Only a set-point has an effect that a second run, later, would have twice.
_FAIL_ORPHANS = """
    UPDATE flux.edge_jobs SET finished_at = clock_timestamp(), outcome = 'failed', error = %(gave_up)s
    WHERE site = %(site)s AND finished_at IS NULL AND taken_at IS NOT NULL
      AND (taken_at < clock_timestamp() - %(held_for)s OR (taken_by = %(holder)s AND taken_run <> %(run)s))
      AND (kind = 'set_point' OR takes >= %(most_takes)s OR expires_at <= clock_timestamp())
"""
# What this run took and does not know of is one whose answer was lost on the way. An edge that may not command its
# site runs no jobs for it either.
_TAKE = f"""
    UPDATE flux.edge_jobs SET taken_at = clock_timestamp(), taken_by = %(holder)s, taken_run = %(run)s,
           takes = takes + ((taken_by, taken_run) IS DISTINCT FROM (%(holder)s, %(run)s))::int
    WHERE id = (
        SELECT id FROM flux.edge_jobs
        WHERE site = %(site)s AND finished_at IS NULL AND expires_at > clock_timestamp() AND id <> ALL (%(have)s)
          AND (taken_at IS NULL OR taken_by = %(holder)s OR taken_at < clock_timestamp() - %(held_for)s)
          AND NOT EXISTS (SELECT FROM flux.control_leases
                          WHERE site = %(site)s AND holder <> %(holder)s AND expires_at > clock_timestamp())
        ORDER BY kind <> 'stop', created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING {_COLUMNS}
"""  # noqa: S608 - constants of this module


@dataclass(frozen=True, slots=True)
class OrderKey:
    """What who orders a job calls the order, so that one that is sent again is not a second job.

    ``hash`` is of what was ordered, as it was said: another order under the same key is refused.
    """

    key: str
    hash: str

    @classmethod
    def of(cls, key: str, said: object) -> "OrderKey":
        """``said``: what was ordered, as JSON would have it."""
        text = json.dumps(said, sort_keys=True, default=str)
        return cls(key, hashlib.sha256(text.encode()).hexdigest())


async def create_job(
    conn: AsyncConnection[Any],
    site: str,
    kind: JobKind | str,
    args: dict[str, Any],
    *,
    expires_at: datetime,
    actor: str,
    order: OrderKey | None = None,
) -> Job:
    """Order a job; its edge hears of it at once.

    A stop is in force from now on, whatever becomes of the job: the job says whether the batteries acknowledged it.
    With an ``order`` that ``actor`` has given before it is that job, whatever has become of it; ConflictError if
    something else was ordered by it. InputError for arguments that can't be, NotFoundError for a site or device that is
    not known, RefusedError for a range that may not be scanned.
    """
    kind = _kind(kind)
    checked = parse_job_args(kind, args)
    if expires_at.tzinfo is None:
        raise InputError(f"expires_at {expires_at.isoformat()}: a time needs its offset, like 2026-01-15T17:00Z")
    async with conn.transaction():
        await check_site(conn, site)
        if order is not None and (known := await _ordered(conn, site, actor, order)) is not None:
            return known
        now: datetime = (await (await conn.execute("SELECT clock_timestamp()")).fetchall())[0][0]
        if not now < expires_at <= now + LONGEST_WAIT:
            raise InputError(f"expires_at {expires_at.isoformat()}: must be ahead, by at most {LONGEST_WAIT.days} days")
        checked = await _check(conn, site, checked, now)
        if isinstance(checked, StopArgs):
            await stop_site(conn, site, actor=actor, reason=checked.reason)
        return await _insert(conn, site, kind, checked, expires_at, actor, order)


async def _insert(
    conn: AsyncConnection[Any],
    site: str,
    kind: JobKind,
    args: JobArgs,
    expires_at: datetime,
    actor: str,
    order: OrderKey | None,
) -> Job:
    if isinstance(args, SetPointArgs) and args.until is not None:
        expires_at = min(expires_at, args.until.astimezone(UTC))
    body = Jsonb(args.model_dump(mode="json"))
    rows = await _rows(
        conn,
        "INSERT INTO flux.edge_jobs (site, kind, args, expires_at, created_by, order_key, order_hash)"  # noqa: S608 - our own columns
        " VALUES (%(site)s, %(kind)s, %(args)s, %(expires_at)s, %(actor)s, %(key)s, %(hash)s)"
        f" ON CONFLICT (site, created_by, order_key) WHERE order_key IS NOT NULL DO NOTHING RETURNING {_COLUMNS}",
        {"site": site, "kind": kind, "args": body, "expires_at": expires_at, "actor": actor}
        | {"key": order and order.key, "hash": order and order.hash},
    )
    if rows:
        return rows[0]
    known = None if order is None else await _ordered(conn, site, actor, order)  # the same order, a moment ago
    if known is None:
        raise ConflictError("a job of this key was ordered and is not there; try again")
    return known


async def _ordered(conn: AsyncConnection[Any], site: str, actor: str, order: OrderKey) -> Job | None:
    """The job that ``actor`` ordered under this key."""
    where = "site = %s AND created_by = %s AND order_key = %s"
    cursor = await conn.execute(
        f"SELECT id, order_hash FROM flux.edge_jobs WHERE {where}".encode(),  # noqa: S608 - our own columns
        (site, actor, order.key),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    if row[1] != order.hash:
        raise ConflictError(f"the order {order.key!r} was another one: job {row[0]}; give this one a key of its own")
    return await get_job(conn, row[0])


async def take_job(
    conn: AsyncConnection[Any], site: str, *, holder: str, run: str, have: Sequence[UUID] = ()
) -> Job | None:
    """The oldest job of ``site`` that nobody has, now this edge's; a stop first. None: there is none for it.

    ``holder`` is the edge's own name (as of its control lease), ``run`` names this run of its program, ``have`` are the
    jobs that this run knows of: another one that it took is given again, its first answer was lost. While another edge
    has the site's control lease there is none.
    """
    parameters = {
        "site": site,
        "holder": holder,
        "run": run,
        "have": list(have),
        "held_for": HELD_FOR,
        "most_takes": _MOST_TAKES,
        "gave_up": _GAVE_UP,
    }
    async with conn.transaction():
        await conn.execute(_FAIL_ORPHANS, parameters)
        rows = await _rows(conn, _TAKE, parameters)
    return rows[0] if rows else None


async def finish_job(
    conn: AsyncConnection[Any],
    job_id: UUID,
    *,
    site: str,
    holder: str,
    run: str,
    result: Any = None,
    error: str | None = None,
) -> bool:
    """Say what became of a job that this run has: ``error`` why it failed, else ``result`` (JSON) of one that is done.

    Saying it again is free. False: this run does not have it any more, and what was said is not kept.
    """
    cursor = await conn.execute(
        "UPDATE flux.edge_jobs SET finished_at = clock_timestamp(), outcome = %(outcome)s, result = %(result)s,"
        " error = %(error)s WHERE id = %(id)s AND site = %(site)s AND taken_by = %(holder)s AND taken_run = %(run)s"
        " AND finished_at IS NULL",
        {
            "id": job_id,
            "site": site,
            "holder": holder,
            "run": run,
            "outcome": JobState.DONE if error is None else JobState.FAILED,
            "result": None if error is not None or result is None else Jsonb(result),
            "error": error,
        },
    )
    return cursor.rowcount == 1


async def cancel_job(conn: AsyncConnection[Any], job_id: UUID, *, actor: str) -> Job:
    """Call a job off that nobody has begun. RefusedError for one that is running or over, NotFoundError for no job."""
    rows = await _rows(
        conn,
        "UPDATE flux.edge_jobs SET finished_at = clock_timestamp(), outcome = 'cancelled', error = %(why)s"  # noqa: S608 - our own columns
        f" WHERE id = %(id)s AND finished_at IS NULL AND taken_at IS NULL RETURNING {_COLUMNS}",
        {"id": job_id, "why": f"cancelled by {actor}"},
    )
    if rows:
        return rows[0]
    job = await get_job(conn, job_id)
    raise RefusedError(f"job {job.id} is {job.state}: only one that waits can be cancelled")


async def get_job(conn: AsyncConnection[Any], job_id: UUID) -> Job:
    """One job; NotFoundError: there is none."""
    rows = await _rows(conn, f"SELECT {_COLUMNS} FROM flux.edge_jobs WHERE id = %(id)s", {"id": job_id})  # noqa: S608 - our own columns
    if not rows:
        raise NotFoundError(f"there is no job {job_id}")
    return rows[0]


async def list_jobs(conn: AsyncConnection[Any], site: str | None = None, *, limit: int = 100) -> list[Job]:
    """The newest jobs, of one site or of all."""
    return await _rows(
        conn,
        f"SELECT {_COLUMNS} FROM flux.edge_jobs WHERE %(site)s::text IS NULL OR site = %(site)s"  # noqa: S608 - our own columns
        " ORDER BY created_at DESC, id LIMIT %(limit)s",
        {"site": site, "limit": limit},
    )


def _kind(kind: JobKind | str) -> JobKind:
    try:
        return JobKind(kind)
    except ValueError:
        raise InputError(f"there is no job {kind!r}; there is {', '.join(JobKind)}") from None


async def _check(conn: AsyncConnection[Any], site: str, args: JobArgs, now: datetime) -> JobArgs:
    """What only the registry and the clock can say of the arguments; devices become their names."""
    match args:
        case ScanArgs():
            targets(args.ranges)
            parse_units(args.units)
            return args
        case StopArgs():
            return args
        case _:
            name, kind = await _device(conn, site, args.device)
    if isinstance(args, SetPointArgs):
        if kind != DeviceType.BESS:
            raise InputError(f"{name} is a {kind}: a set-point is for a battery")
        if args.until is not None and not now < args.until <= now + LONGEST_SET_POINT:
            raise InputError(f"until {args.until.isoformat()}: must be ahead, by at most 24 hours")
    return args.model_copy(update={"device": name})


async def _device(conn: AsyncConnection[Any], site: str, name_or_id: str) -> tuple[str, str]:
    cursor = await conn.execute(
        "SELECT name, type FROM flux.mg_device_registry"
        " WHERE site = %(site)s AND (name = %(device)s OR id::text = lower(%(device)s)) AND state <> 'decommissioned'",
        {"site": site, "device": name_or_id},
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"site {site} has no device {name_or_id!r}")
    return row[0], row[1]


async def _rows(conn: AsyncConnection[Any], query: str, parameters: dict[str, Any]) -> list[Job]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), parameters)
        return [Job.model_validate(row) for row in await cursor.fetchall()]
