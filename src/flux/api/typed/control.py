"""Control of a site over HTTP: stop and resume, what it is told from outside, and its plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flux.api.identity import Role
from flux.api.typed.operation import Caller, Instant, Site, Text, operation
from flux.control.feed import PushedPlan
from flux.control.ledger import plan_text
from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.errors import InputError, NotFoundError
from flux.store import control_feed, decisions, dispatch, ownership, site_plans
from flux.store.dispatch import StoredEnvelope, StoredStep

_TAG = "Control"
Action = Literal["charge_max", "discharge_max", "avoid_import", "avoid_export"]
_LARGEST_PLAN = 1_000_000


@dataclass(frozen=True, slots=True)
class SiteStop:
    """A stop that holds. ``acknowledged_at``: when every battery had acknowledged 0 kW; None: not known yet."""

    reason: str
    actor: str
    stopped_at: datetime
    acknowledged_at: datetime | None


@dataclass(frozen=True, slots=True)
class SiteControlState:
    """Whether a site is stopped (``stop`` None: it is not), and its time zone."""

    site: str
    timezone: str
    stop: SiteStop | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """Whether there was a stop to end."""

    was_stopped: bool


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """How many no longer hold."""

    count: int


@dataclass(frozen=True, slots=True)
class PlanInForce:
    """The hash of the plan; ``news`` False: it was in force already."""

    hash: str
    news: bool


class StopSite(BaseModel):
    """Why, for whoever finds it stopped."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "smoke in the inverter room"}]}
    )

    reason: str = Field(default="", max_length=500, pattern=r"^[^\x00]*$")


class Step(BaseModel):
    """What mode `axle` of the site's plan is asked to do in [start, end)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"action": "discharge_max", "start": "2026-01-15T17:00:00Z", "end": "2026-01-15T17:30:00Z"}]
        },
    )

    action: Action
    start: Instant
    end: Instant


class Schedule(BaseModel):
    """The whole schedule that a source has for a site; of steps that hold at once the first counts."""

    model_config = ConfigDict(extra="forbid")

    steps: list[Step] = Field(max_length=1000)


class NewEnvelope(BaseModel):
    """Limits of the grid connection in [start, end) in place of the plan's, kW; one that is null stays the plan's."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"start": "2026-01-15T11:00:00Z", "end": "2026-01-15T15:00:00Z", "export_kw": 100}]
        },
    )

    start: Instant
    end: Instant
    import_kw: float | None = None
    export_kw: float | None = None


class PlanFile(BaseModel):
    """A plan as YAML: site.yaml, or a file with its controller section alone."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=_LARGEST_PLAN, pattern=r"^[^\x00]*$")
    file: Text = Field(default="plan", description="What messages call it.")
    templates: dict[str, Annotated[str, Field(max_length=_LARGEST_PLAN)]] = Field(
        default={},
        max_length=100,
        description="Templates that the site's edge has of its own, as YAML by name: to check the plan, not kept.",
    )


Source = Annotated[Text, Field(max_length=100, description="Whose: `manual`, `axle`, …", examples=["manual"])]


@operation("GET", "/v1/sites/{site}/control", tag=_TAG, errors=(404,))
async def control_state(caller: Caller, site: Site) -> SiteControlState:
    """Whether a site is stopped, by whom, why, and whether its batteries acknowledged it."""
    await dispatch.check_site(caller.conn, site)
    stop = await ownership.stop_in_force(caller.conn, site)
    told = None if stop is None else SiteStop(stop.reason, stop.actor, stop.stopped_at, stop.acknowledged_at)
    return SiteControlState(site, await decisions.zone_of_site(caller.conn, site), told)


@operation("POST", "/v1/sites/{site}/stop", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def stop_site(caller: Caller, site: Site, body: StopSite) -> SiteControlState:
    """Bring a site to 0 kW and keep it there until it is resumed, over every mode and limit.

    It is in force when this answers; the site's edge acts on it as soon as it hears of it, and
    `GET /v1/sites/{site}/control` tells when every battery has acknowledged 0 kW.
    """
    await dispatch.check_site(caller.conn, site)
    await ownership.stop_site(caller.conn, site, actor=caller.actor, reason=body.reason)
    return await control_state(caller, site)


@operation("POST", "/v1/sites/{site}/resume", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def resume_site(caller: Caller, site: Site) -> Resumed:
    """Let a site be controlled again; a stop typed on the edge's own host goes on until it is resumed there."""
    await dispatch.check_site(caller.conn, site)
    return Resumed(await ownership.resume_site(caller.conn, site, actor=caller.actor))


@operation("GET", "/v1/sites/{site}/schedule", tag=_TAG, errors=(404,))
async def show_schedule(caller: Caller, site: Site) -> list[StoredStep]:
    """The steps that have not ended; of those that hold at once the first counts."""
    await dispatch.check_site(caller.conn, site)
    return await dispatch.schedule_of(caller.conn, site)


@operation("POST", "/v1/sites/{site}/schedule", tag=_TAG, needs=Role.OPERATOR, status=201, errors=(404,))
async def add_step(caller: Caller, site: Site, body: Step) -> list[StoredStep]:
    """Add a step by hand; it counts before those of a market platform, and before earlier ones by hand."""
    _check_ahead(body.end, caller.now)
    held = [one.step for one in await show_schedule(caller, site) if one.source == dispatch.MANUAL]
    steps = [ScheduleStep(body.start, body.end, body.action), *held]
    await dispatch.replace_schedule(caller.conn, site, steps, source=dispatch.MANUAL)
    return await dispatch.schedule_of(caller.conn, site)


@operation("PUT", "/v1/sites/{site}/schedule/{source}", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def replace_schedule(caller: Caller, site: Site, source: Source, body: Schedule) -> list[StoredStep]:
    """Make these steps the whole schedule that a source has for a site; what stays the same stays as it was."""
    await dispatch.check_site(caller.conn, site)
    steps = [ScheduleStep(one.start, one.end, one.action) for one in body.steps]
    await dispatch.replace_schedule(caller.conn, site, steps, source=source)
    return await dispatch.schedule_of(caller.conn, site)


@operation("DELETE", "/v1/sites/{site}/schedule/{source}", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def clear_schedule(caller: Caller, site: Site, source: Source) -> Withdrawn:
    """Withdraw every step of a source that has not ended. A market platform may send its own again."""
    await dispatch.check_site(caller.conn, site)
    replaced = await dispatch.replace_schedule(caller.conn, site, [], source=source)
    return Withdrawn(replaced.withdrawn)


@operation("GET", "/v1/sites/{site}/envelopes", tag=_TAG, errors=(404,))
async def show_envelopes(caller: Caller, site: Site) -> list[StoredEnvelope]:
    """The envelopes that have not ended; of those that hold at once the first that gives a limit counts."""
    await dispatch.check_site(caller.conn, site)
    return await dispatch.envelopes_of(caller.conn, site)


@operation("POST", "/v1/sites/{site}/envelopes", tag=_TAG, needs=Role.OPERATOR, status=201, errors=(404,))
async def add_envelope(caller: Caller, site: Site, body: NewEnvelope) -> list[StoredEnvelope]:
    """Add an operating envelope: while it lasts its limits take the place of the plan's, and of earlier envelopes."""
    _check_ahead(body.end, caller.now)
    await dispatch.check_site(caller.conn, site)
    limits = SiteLimits(body.import_kw, body.export_kw)
    await dispatch.add_envelope(caller.conn, site, Envelope(body.start, body.end, limits))
    return await dispatch.envelopes_of(caller.conn, site)


@operation("DELETE", "/v1/sites/{site}/envelopes", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def clear_envelopes(caller: Caller, site: Site) -> Withdrawn:
    """Withdraw every envelope of a site that has not ended."""
    await dispatch.check_site(caller.conn, site)
    return Withdrawn(await dispatch.clear_envelopes(caller.conn, site))


@operation("GET", "/v1/sites/{site}/plan", tag=_TAG, errors=(404,))
async def show_pushed_plan(caller: Caller, site: Site) -> PushedPlan:
    """The plan that was pushed to a site and is in force; 404 where its site file counts."""
    await dispatch.check_site(caller.conn, site)
    found = await control_feed.pushed_plan(caller.conn, site)
    if found is None:
        raise NotFoundError(f"{site}: no plan was pushed, its site file counts")
    return found


@operation("PUT", "/v1/sites/{site}/plan", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def push_plan(caller: Caller, site: Site, body: PlanFile) -> PlanInForce:
    """Give a site another plan, checked whole and against its devices; its edge takes it up.

    It goes before the controller section of the edge's site.yaml until it is withdrawn.
    """
    from flux.config import YamlDocument
    from flux.control.plan import parse_plan

    await dispatch.check_site(caller.conn, site)
    document = YamlDocument(body.text, body.file)
    plan = parse_plan(document)
    await _check_devices(caller, site, document, plan, body.templates)
    text = plan_text(plan)
    return PlanInForce(text.hash, await site_plans.push_plan(caller.conn, site, text, actor=caller.actor))


@operation("DELETE", "/v1/sites/{site}/plan", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def withdraw_plan(caller: Caller, site: Site) -> Withdrawn:
    """Withdraw the plan that was pushed to a site: the controller section of its site.yaml counts again."""
    await dispatch.check_site(caller.conn, site)
    return Withdrawn(int(await site_plans.withdraw_plan(caller.conn, site)))


async def _check_devices(caller: Caller, site: str, document: Any, plan: Any, own: Mapping[str, str]) -> None:
    from flux.edge.link import RegistrySnapshot
    from flux.edge.plan_check import check_devices
    from flux.edge.templates import TemplateShelf
    from flux.registry import list_devices

    devices = tuple(await list_devices(caller.conn, site=site))
    names = [device.metadata.template_name for device in devices if device.metadata.template_name]
    cursor = await caller.conn.execute("SELECT name, body FROM flux.device_templates WHERE name = ANY(%s)", (names,))
    snapshot = RegistrySnapshot(devices, {**own, **dict(await cursor.fetchall())})
    check_devices(document, plan, site, snapshot, TemplateShelf(None))


def _check_ahead(end: datetime, now: datetime) -> None:
    if end <= now:
        raise InputError(f"end {end.isoformat()}: that is over")


OPERATIONS: tuple[Any, ...] = (
    control_state,
    stop_site,
    resume_site,
    show_schedule,
    add_step,
    replace_schedule,
    clear_schedule,
    show_envelopes,
    add_envelope,
    clear_envelopes,
    show_pushed_plan,
    push_plan,
    withdraw_plan,
)
