"""The decision ledger in the database: how kept decisions and their plans get in, and how they are read back.

Sending them again changes nothing. One that the database must refuse goes whole to ``rejected_decisions`` and holds up
nothing behind it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from flux.control.ledger import LIVE, KeptDecision, PlanText, kept_to_json
from flux.errors import NotFoundError
from flux.model import Device
from flux.store.ingest import FUTURE_TOLERANCE, OLDEST, IngestResult, Reason, ensure_partitions

_logger = structlog.get_logger(__name__)

TABLE = "control_decisions"
_LONG = timedelta(days=90)
_REFUSED = (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError)

_INSERT = """
    INSERT INTO flux.control_decisions (time, device_id, plan, target_power_kw, command_source, active, effective,
                                        limits, reason, stale, events, faults, plan_hash, inputs,
                                        sent_power_kw, commands, fault_details)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (device_id, plan, time) DO NOTHING
"""
_INSERT_PLAN = "INSERT INTO flux.control_plans (hash, body) VALUES (%s, %s::jsonb) ON CONFLICT (hash) DO NOTHING"
_REJECT = """
    INSERT INTO flux.rejected_decisions (device_id, plan, time, reason, detail, payload)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT ON CONSTRAINT rejected_decisions_once DO NOTHING
"""

Row = dict[str, Any]
Rejected = tuple[KeptDecision, Reason, str]


async def store_decisions(
    conn: AsyncConnection[Any], decisions: Sequence[KeptDecision], plans: Sequence[PlanText] = ()
) -> IngestResult:
    """Store a batch, plans first, in a transaction of its own; ``conn`` must not be in one."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise RuntimeError("store_decisions commits a transaction of its own: it needs a connection that is not in one")
    rejected = await _screen(conn, decisions)
    refused = {id(decision) for decision, _, _ in rejected}
    good = [decision for decision in decisions if id(decision) not in refused]
    await ensure_partitions(conn, TABLE, [decision.time for decision in good])
    try:
        async with conn.transaction():
            stored = await _insert(conn, good, plans)
            await _reject(conn, rejected)
    except _REFUSED:
        stored, more, bad_plans = await _one_by_one(conn, good, plans)
        rejected += more
        async with conn.transaction():
            await _reject(conn, rejected)
        return _result(stored, len(decisions) + len(plans), len(rejected) + bad_plans)
    return _result(stored, len(decisions) + len(plans), len(rejected))


def _result(stored: int, sent: int, rejected: int) -> IngestResult:
    return IngestResult(stored, sent - stored - rejected, rejected)


async def _screen(conn: AsyncConnection[Any], decisions: Sequence[KeptDecision]) -> list[Rejected]:
    """Those of no battery of the registry, or of a time that can't be."""
    if not decisions:
        return []
    ids = list({decision.device_id for decision in decisions})
    cursor = await conn.execute("SELECT id, type FROM flux.mg_device_registry WHERE id = ANY(%s)", (ids,))
    types: dict[UUID, str] = dict(await cursor.fetchall())
    cursor = await conn.execute("SELECT now()")  # the database's clock is the one that all edges share
    latest: datetime = (await cursor.fetchall())[0][0] + FUTURE_TOLERANCE
    judged = ((decision, _judge(decision, types, latest)) for decision in decisions)
    return [(decision, *wrong) for decision, wrong in judged if wrong is not None]


def _judge(decision: KeptDecision, types: Mapping[UUID, str], latest: datetime) -> tuple[Reason, str] | None:
    if decision.device_id not in types:
        return Reason.UNKNOWN_DEVICE, f"no device has the id {decision.device_id}"
    if types[decision.device_id] != "bess":
        return Reason.WRONG_TYPE, f"device {decision.device_id} is a {types[decision.device_id]}, not a battery"
    if not OLDEST <= decision.time <= latest:
        return Reason.IMPOSSIBLE_TIME, f"time {decision.time.isoformat()} is before {OLDEST.date()} or in the future"
    return None


async def _insert(conn: AsyncConnection[Any], decisions: Sequence[KeptDecision], plans: Sequence[PlanText]) -> int:
    """How many were new."""
    stored = 0
    async with conn.cursor() as cursor:
        if plans:
            await cursor.executemany(_INSERT_PLAN, [(plan.hash, plan.body) for plan in plans])
            stored += cursor.rowcount
        if decisions:
            await cursor.executemany(_INSERT, [_values(decision) for decision in decisions])
            stored += cursor.rowcount
    return stored


async def _one_by_one(
    conn: AsyncConnection[Any], decisions: Sequence[KeptDecision], plans: Sequence[PlanText]
) -> tuple[int, list[Rejected], int]:
    """After a batch that was refused for one of them: how many were new, the refused, and how many plans were."""
    stored, bad_plans = 0, 0
    rejected: list[Rejected] = []
    for plan in plans:
        try:
            async with conn.transaction():
                stored += await _insert(conn, [], [plan])
        except _REFUSED as error:
            bad_plans += 1
            _logger.warning("plan refused", hash=plan.hash, error=_one_line(error))
    for decision in decisions:
        try:
            async with conn.transaction():
                stored += await _insert(conn, [decision], [])
        except _REFUSED as error:
            rejected.append((decision, Reason.IMPOSSIBLE_VALUE, _one_line(error)))
    return stored, rejected, bad_plans


async def _reject(conn: AsyncConnection[Any], rejected: Sequence[Rejected]) -> None:
    if not rejected:
        return
    rows = [
        (d.device_id, d.plan.replace("\0", "?"), d.time, reason.value, detail, json.dumps(kept_to_json(d)))
        for d, reason, detail in rejected
    ]
    async with conn.cursor() as cursor:
        await cursor.executemany(_REJECT, rows)
        new = cursor.rowcount
    if new:
        reasons = sorted({reason.value for _, reason, _ in rejected})
        _logger.warning("decisions refused", count=new, reasons=reasons, first=rejected[0][2])


def _values(d: KeptDecision) -> tuple[Any, ...]:
    lists = [list(d.active), list(d.limits), list(d.events), list(d.faults)]
    active, limits, events, faults = lists
    head = (d.time, d.device_id, d.plan, d.target_power_kw, d.command_source, active, d.effective, limits, d.reason)
    became = (d.sent_power_kw, Jsonb(list(d.commands)), Jsonb(list(d.fault_details)))
    return (*head, d.stale, events, faults, d.plan_hash, Jsonb(dict(d.inputs)), *became)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, slots=True)
class LedgerSpan:
    """Which kept decisions: of one plan ('': the live one), since ≤ time < until; None: of all plans."""

    since: datetime
    until: datetime
    plan: str | None = LIVE


_COLUMNS = sql.SQL(
    """d.time, r.name AS device, d.plan, d.target_power_kw, d.command_source, d.active, d.effective, d.limits,
    d.reason, d.stale, d.events, d.faults, d.plan_hash, d.sent_power_kw, d.commands, d.fault_details"""
)

# the decisions of a plan of several batteries are kept under the first of them
_OF_DEVICE = sql.SQL(
    """(d.device_id = %(device_id)s OR (
    d.device_id IN (SELECT o.id FROM flux.mg_device_registry o
                    JOIN flux.mg_device_registry m USING (site) WHERE m.id = %(device_id)s AND o.type = 'bess')
    AND p.body -> 'bess' ? %(name)s))"""
)


async def decisions_of_site(
    conn: AsyncConnection[Any], site: str, span: LedgerSpan, *, limit: int = 1_000_000
) -> list[Row]:
    """The newest ``limit`` decisions of a site's batteries, oldest first, without their inputs."""
    query = """
        SELECT * FROM (
            SELECT {columns} FROM flux.control_decisions d JOIN flux.mg_device_registry r ON r.id = d.device_id
            WHERE r.site = %(site)s AND (%(plan)s::text IS NULL OR d.plan = %(plan)s::text)
              AND d.time >= %(since)s AND d.time < %(until)s
            ORDER BY d.time DESC, d.plan DESC LIMIT %(limit)s
        ) newest ORDER BY time, plan
    """
    parameters = {"site": site, "plan": span.plan, "since": span.since, "until": span.until, "limit": limit}
    return await _fetch(conn, query, parameters)


async def fault_rows(conn: AsyncConnection[Any], site: str, span: LedgerSpan) -> list[Row]:
    """``time`` and ``fault_details`` of a plan's decisions, oldest first: those with faults, and each one after them.

    That is all that :func:`flux.control.faults.fault_spans` needs. ``span.plan`` must name a plan.
    """
    query = """
        SELECT time, fault_details FROM (
            SELECT d.time, d.fault_details,
                   lag(d.fault_details) OVER (PARTITION BY d.device_id ORDER BY d.time) AS before
            FROM flux.control_decisions d JOIN flux.mg_device_registry r ON r.id = d.device_id
            WHERE r.site = %(site)s AND d.plan = %(plan)s AND d.time >= %(since)s AND d.time < %(until)s
        ) changed WHERE fault_details <> '[]' OR before <> '[]' ORDER BY time
    """
    return await _fetch(conn, query, {"site": site, "plan": span.plan, "since": span.since, "until": span.until})


async def newest_decisions(conn: AsyncConnection[Any], within: timedelta = timedelta(minutes=5)) -> list[Row]:
    """The newest live decision of each plan that decided ``within``: ``site``, ``commands``, ``fault_details``."""
    query = """
        SELECT DISTINCT ON (d.device_id) r.site, d.time, d.commands, d.fault_details
        FROM flux.control_decisions d JOIN flux.mg_device_registry r ON r.id = d.device_id
        WHERE d.plan = '' AND d.time > now() - %(within)s ORDER BY d.device_id, d.time DESC
    """
    return await _fetch(conn, query, {"within": within})


async def decision_at(
    conn: AsyncConnection[Any], device: Device, at: datetime, *, plan: str = LIVE, within: timedelta = _LONG
) -> Row | None:
    """The decision that held at ``at``: the last one not after it, and not older than ``within``.

    With its ``inputs`` and ``plan_body`` (None: the plan is not there).
    """
    query = """
        SELECT {columns}, d.inputs, p.body AS plan_body
        FROM flux.control_decisions d JOIN flux.mg_device_registry r ON r.id = d.device_id
        LEFT JOIN flux.control_plans p ON p.hash = d.plan_hash
        WHERE {of_device} AND d.plan = %(plan)s AND d.time > %(after)s AND d.time <= %(at)s
        ORDER BY d.time DESC LIMIT 1
    """
    parameters = {"device_id": device.id, "name": device.name, "plan": plan, "at": at, "after": at - within}
    rows = await _fetch(conn, query, parameters)
    return rows[0] if rows else None


async def plan_body(conn: AsyncConnection[Any], hash_start: str) -> Row | None:
    """The plan whose hash begins so, ``hash``, ``body`` and ``created_at``; None: there is none, or several."""
    query = "SELECT hash, body, created_at FROM flux.control_plans WHERE starts_with(hash, %(start)s) LIMIT 2"
    rows = await _fetch(conn, query, {"start": hash_start})
    return rows[0] if len(rows) == 1 else None


async def newest_plan_zone(conn: AsyncConnection[Any], device: Device) -> str | None:
    """The time zone of the plan that decided last for a battery; None: nothing was decided yet."""
    query = """
        SELECT p.body ->> 'timezone' AS zone
        FROM flux.control_decisions d JOIN flux.control_plans p ON p.hash = d.plan_hash
        WHERE {of_device} AND d.plan = '' ORDER BY d.time DESC LIMIT 1
    """
    rows = await _fetch(conn, query, {"device_id": device.id, "name": device.name})
    return rows[0]["zone"] if rows else None


async def zone_of_site(conn: AsyncConnection[Any], site: str) -> str:
    """The site's time zone; NotFoundError for a site that has no devices."""
    rows = await _fetch(conn, "SELECT timezone FROM flux.sites WHERE site = %(site)s", {"site": site})
    if not rows:
        raise NotFoundError(f"no site {site}")
    return str(rows[0]["timezone"])


async def _fetch(conn: AsyncConnection[Any], query: LiteralString, parameters: Mapping[str, Any]) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.SQL(query).format(columns=_COLUMNS, of_device=_OF_DEVICE), parameters)
        return await cursor.fetchall()
