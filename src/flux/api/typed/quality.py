"""Gaps, what counters did, and values that are left out, over HTTP; and what people say of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, End, Instant, Name, OfSite, Reason, Text, operation
from flux.errors import InputError, NotFoundError
from flux.model import DeviceType
from flux.store import counters, gaps, quality, rollups
from flux.store.counters import CounterEvent, Ruling
from flux.store.gaps import Gap
from flux.store.quality import Mark

_GAPS, _COUNTERS, _MARKS = "Gaps", "Counters", "Marked values"
OfDevice = Annotated[Name | None, Field(description="Only of this meter: name or id.")]
Newest = Annotated[int, Field(ge=1, le=10_000, description="At most so many, the newest.")]
Counter = Annotated[Text, Field(description="The counter.", examples=["energy_imported_active"])]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps by device and time; ``rollups_behind``: readings have come that are not in the rollups yet."""

    gaps: list[Gap]
    rollups_behind: bool


@dataclass(frozen=True, slots=True)
class Ruled:
    """The time of the reading that was ruled on."""

    time: datetime


@dataclass(frozen=True, slots=True)
class Changed:
    """How many values were marked, or taken back."""

    count: int


class NewRuling(BaseModel):
    """What a counter did, as a person says; ``as_judged``: Flux was right. ``step``: so much counts instead."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"time": "2026-01-15T12:02:00Z", "ruling": "step", "step": 7.25, "reason": "old reading"}]
        },
    )

    time: Instant
    ruling: Ruling
    step: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="In the counter's unit.")
    reason: Reason | None = None

    @model_validator(mode="after")
    def _step_with_step(self) -> "NewRuling":
        if (self.ruling is Ruling.STEP) is not (self.step is not None):
            raise ValueError("a ruling `step` needs the step, and another has none")
        return self


class Withdrawal(BaseModel):
    """Of which event a ruling is taken back."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"time": "2026-01-15T12:02:00Z"}]})

    time: Instant
    reason: Reason | None = None


class Marking(BaseModel):
    """Which values of a metric: that of ``time``, or all from then until ``until``, not included."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"metric": "power_total_active", "time": "2026-01-15T12:02:00Z"}]},
    )

    metric: Text
    time: Instant
    until: Instant | None = None
    reason: Reason | None = None


@operation("GET", "/v1/gaps", tag=_GAPS, errors=(404,))
async def list_gaps(
    caller: Caller,
    site: OfSite = None,
    device: OfDevice = None,
    start: Annotated[Instant | None, Field(description="From then on; default: 30 days ago.")] = None,
    end: End = None,
) -> Gaps:
    """Where readings of meters are missing, with the energy that was counted meanwhile (kWh).

    `split`: longer than the gap limit; its energy is in no bucket. `interpolated`: shorter; its energy is shared out
    among buckets with `samples` = 0.
    """
    since, until = start or caller.now - timedelta(days=30), end or caller.now + timedelta(days=1)
    if since >= until:
        raise InputError(f"start {since.isoformat()} must be before end {until.isoformat()}")
    meters = await meters_of(caller.conn, site, device)
    found = await gaps.list_gaps(caller.conn, meters, since, until)
    return Gaps(found, await rollups.lag(caller.conn) is not None)


async def meters_of(conn: AsyncConnection[Any], site: str | None, device: str | None) -> Sequence[UUID]:
    """Ids; InputError for a battery, which has no counters. NotFoundError where nothing is meant."""
    from flux.store.transfer import exported_devices

    if device is not None:
        one = await registry.get_device(conn, device)
        if one.type is not DeviceType.METER:
            raise InputError(f"{one.name} is a battery: it has no counters, so no gaps")
        return [one.id]
    found = await exported_devices(conn, site=site, type="meter")
    if site is not None and not found:
        raise NotFoundError(f"site {site} has no meters")
    return [meter.id for meter in found]


@operation("GET", "/v1/counters", tag=_COUNTERS, errors=(404,))
async def list_counter_events(
    caller: Caller,
    site: OfSite = None,
    device: OfDevice = None,
    everything: Annotated[bool, Field(description="Also what needs nobody's look.")] = False,
    limit: Newest = 100,
) -> list[CounterEvent]:
    """Counters that fell, or rose by more than their device can carry, newest first. `step`: what counts of it."""
    of = (await registry.get_device(caller.conn, device)).id if device else None
    return await counters.list_events(caller.conn, site=site, device=of, everything=everything, limit=limit)


@operation("POST", "/v1/devices/{name}/counters/{counter}/ruling", tag=_COUNTERS, needs=Role.OPERATOR, errors=(404,))
async def rule_on_counter(caller: Caller, name: Name, counter: Counter, body: NewRuling) -> Ruled:
    """Say what a counter did; the rollups follow with the next refresh. `time` may be the second of the event."""
    device = await registry.get_device(caller.conn, name)
    at = await counters.rule(
        caller.conn,
        device,
        counter,
        body.time,
        body.ruling,
        by=caller.actor,
        reason=body.reason,
        step=body.step,
    )
    return Ruled(at)


@operation(
    "POST", "/v1/devices/{name}/counters/{counter}/ruling/withdraw", tag=_COUNTERS, needs=Role.OPERATOR, errors=(404,)
)
async def withdraw_ruling(caller: Caller, name: Name, counter: Counter, body: Withdrawal) -> Ruled:
    """Take back what was said of an event: Flux judges it again."""
    device = await registry.get_device(caller.conn, name)
    return Ruled(await counters.withdraw(caller.conn, device, counter, body.time, by=caller.actor, reason=body.reason))


@operation("GET", "/v1/marks", tag=_MARKS, errors=(404,))
async def list_marks(
    caller: Caller,
    site: OfSite = None,
    device: OfDevice = None,
    metric: Annotated[Text | None, Field(description="Only of this metric.")] = None,
    everything: Annotated[bool, Field(description="Also marks that were lifted.")] = False,
    limit: Newest = 100,
) -> list[Mark]:
    """Values that are stored and left out of the rollups, newest first, and why: range, spike, stuck, or a person."""
    of = (await registry.get_device(caller.conn, device)).id if device else None
    return await quality.list_marks(
        caller.conn, site=site, device=of, metric=metric, everything=everything, limit=limit
    )


@operation("POST", "/v1/devices/{name}/marks", tag=_MARKS, needs=Role.OPERATOR, errors=(404,))
async def mark_values(caller: Caller, name: Name, body: Marking) -> Changed:
    """Leave a value out of the rollups, or all values of a span."""
    device = await registry.get_device(caller.conn, name)
    count = await quality.mark(
        caller.conn, device, body.metric, body.time, body.until, by=caller.actor, note=body.reason
    )
    return Changed(count)


@operation("POST", "/v1/devices/{name}/marks/lift", tag=_MARKS, needs=Role.OPERATOR, errors=(404,))
async def lift_marks(caller: Caller, name: Name, body: Marking) -> Changed:
    """Take a marked value back into the rollups, or all of a span; it is not marked again unless it changes."""
    device = await registry.get_device(caller.conn, name)
    count = await quality.lift(
        caller.conn, device, body.metric, body.time, body.until, by=caller.actor, note=body.reason
    )
    return Changed(count)


OPERATIONS: tuple[Any, ...] = (
    list_gaps,
    list_counter_events,
    rule_on_counter,
    withdraw_ruling,
    list_marks,
    mark_values,
    lift_marks,
)
