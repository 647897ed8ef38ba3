"""What a site's controller decided, and why, over HTTP."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field

from flux import registry
from flux.api.typed.operation import Caller, End, Instant, Name, Row, Site, Start, Text, operation
from flux.api.typed.spans import span
from flux.control.faults import FaultSpan, fault_spans
from flux.control.summary import PlanSummary, summarise
from flux.control.summary import changes as only_changes
from flux.errors import NotFoundError
from flux.store import decisions
from flux.store.decisions import LedgerSpan
from flux.store.dispatch import check_site

_TAG = "Decisions"
_LONGEST_DAYS = 100
_LONGEST_COMPARED_DAYS = 32
PlanName = Annotated[
    str, Field(max_length=200, pattern=r"^[^\x00]*$", description="`live`, the name of a shadow plan, or `all`.")
]


@dataclass(frozen=True, slots=True)
class Decisions:
    """Kept decisions, oldest first, and the site's time zone; power in kW, + discharge, − charge."""

    timezone: str
    decisions: list[Row]


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults in the order in which they began, and the site's time zone."""

    timezone: str
    faults: list[FaultSpan]


@dataclass(frozen=True, slots=True)
class WhyDecided:
    """The decision that held for a battery ``at`` a time: in words (``lines``), and for programs."""

    at: datetime
    timezone: str
    lines: list[str]
    decision: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PlanBody:
    """A plan that decisions were made by."""

    hash: str
    body: dict[str, Any]
    created_at: datetime


@operation("GET", "/v1/sites/{site}/decisions", tag=_TAG, errors=(404,))
async def list_decisions(
    caller: Caller,
    site: Site,
    start: Start = None,
    end: End = None,
    plan: PlanName = "live",
    changes: Annotated[bool, Field(description="Only changes of mode, limit, fault, plan.")] = False,
    limit: Annotated[int, Field(ge=1, le=10_000, description="The newest so many.")] = 1000,
) -> Decisions:
    """What a site's controller decided, oldest first. One is kept when it changes, and once a minute."""
    zone = await decisions.zone_of_site(caller.conn, site)
    wanted = _span(caller, start, end, plan, _LONGEST_DAYS)
    # every decision of the span is needed to tell which of them changed something
    most = limit if not changes else 1_000_000 if caller.local else 100_000
    rows = await decisions.decisions_of_site(caller.conn, site, wanted, limit=most)
    shown = list(only_changes(rows)) if changes else rows
    return Decisions(zone, [dict(row) for row in shown[-limit:]])


@operation("GET", "/v1/sites/{site}/faults", tag=_TAG, errors=(404,))
async def list_faults(caller: Caller, site: Site, start: Start = None, end: End = None) -> Faults:
    """The faults of a site's live control: kind, device, from when to when, and in words."""
    zone = await decisions.zone_of_site(caller.conn, site)
    rows = await decisions.fault_rows(caller.conn, site, _span(caller, start, end, "live", _LONGEST_DAYS))
    return Faults(zone, fault_spans(rows))


@operation("GET", "/v1/sites/{site}/plans/compare", tag=_TAG, errors=(404,))
async def compare_plans(caller: Caller, site: Site, start: Start = None, end: End = None) -> list[PlanSummary]:
    """Compare the plans of a site, live (its name is empty) and shadow: energies, modes, time at limits.

    A shadow plan decides on the states that the live one made, so its figures are not what would have come of it.
    """
    await check_site(caller.conn, site)
    wanted = _span(caller, start, end, "all", _LONGEST_COMPARED_DAYS)
    return summarise(await decisions.decisions_of_site(caller.conn, site, wanted), wanted.until)


@operation("GET", "/v1/devices/{name}/zone", tag=_TAG, errors=(404,))
async def zone_of_battery(caller: Caller, name: Name) -> str:
    """The time zone of the plan that decided last for a battery, else of its site."""
    battery = await registry.get_device(caller.conn, name)
    zone = await decisions.newest_plan_zone(caller.conn, battery)
    return zone or await decisions.zone_of_site(caller.conn, battery.site)


@operation("GET", "/v1/devices/{name}/why", tag=_TAG, errors=(404,))
async def why_decided(
    caller: Caller,
    name: Name,
    at: Annotated[Instant | None, Field(description="Default: now.")] = None,
    plan: PlanName = "live",
) -> WhyDecided:
    """Why a battery did what it did: what was known and how old, what each mode proposed, what came of it.

    The proposals are found by deciding once more on the kept inputs, by the kept plan; it says so if that differs.
    """
    from flux.control.explain import as_json, explain, held_at, in_lines

    zone_name = await zone_of_battery(caller, name)
    zone, instant = ZoneInfo(zone_name), at or caller.now
    battery = await registry.get_device(caller.conn, name)
    row = await decisions.decision_at(caller.conn, battery, instant, plan="" if plan == "live" else plan)
    local = f"{instant.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
    if row is None:
        raise NotFoundError(f"nothing was decided for {name} ({plan} plan) at or before {local}")
    if not held_at(row, instant):
        then = f"{row['time'].astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
        raise NotFoundError(f"nothing was decided for {name} at {local}; the last decision before is of {then}")
    found = explain(row)
    return WhyDecided(instant, zone_name, list(in_lines(found, zone)), as_json(found))


@operation("GET", "/v1/plans/{hash}", tag=_TAG, errors=(404,))
async def show_plan(
    caller: Caller, hash: Annotated[Text, Field(max_length=64, description="The plan's hash, or the start of it.")]
) -> PlanBody:
    """A plan that decisions were made by."""
    row = await decisions.plan_body(caller.conn, hash)
    if row is None or not await _used_here(caller, row["hash"]):
        raise NotFoundError(f"no plan, or more than one, has a hash that begins with {hash}")
    return PlanBody(row["hash"], row["body"], row["created_at"])


async def _used_here(caller: Caller, plan_hash: str) -> bool:
    """Plans name no site: who may see some sites only sees those that were decided by there."""
    if caller.sites is None:
        return True
    cursor = await caller.conn.execute(
        """SELECT EXISTS (SELECT FROM flux.mg_device_registry r
                          JOIN flux.control_decisions d ON d.device_id = r.id
                          WHERE r.site = ANY(%s) AND d.plan_hash = %s)""",
        (list(caller.sites), plan_hash),
    )
    ((used,),) = await cursor.fetchall()
    return bool(used)


def _span(caller: Caller, start: datetime | None, end: datetime | None, plan: str, longest_days: int) -> LedgerSpan:
    since, until = span(start, end, caller.now, None if caller.local else longest_days)
    return LedgerSpan(since, until, None if plan == "all" else "" if plan == "live" else plan)


OPERATIONS: tuple[Any, ...] = (
    list_decisions,
    list_faults,
    compare_plans,
    zone_of_battery,
    why_decided,
    show_plan,
)
