"""Maintenance that is planned ahead, over HTTP."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, Instant, Name, Reason, Text, operation
from flux.errors import InputError
from flux.model.durations import Duration
from flux.registry.maintenance import OverdueMaintenance

_TAG = "Maintenance"


@dataclass(frozen=True, slots=True)
class PlannedMaintenance:
    """A window: once at ``starts_at``, or again and again, ``every``."""

    id: UUID
    device_id: UUID
    device: str
    starts_at: datetime | None
    every: str | None
    timezone: str
    duration: Duration
    reason: str
    ends_itself: bool
    started_last: datetime | None


@dataclass(frozen=True, slots=True)
class MaintenancePlans:
    """What is planned, and what was to be over by now."""

    windows: list[PlannedMaintenance]
    overdue: list[OverdueMaintenance]


@dataclass(frozen=True, slots=True)
class NewWindow:
    """The id of a window that was planned; it cancels it."""

    id: UUID


class PlanWindow(BaseModel):
    """A window for a device, once (``starts_at``) or again and again (``every``)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"device": "WLCE-BESS-01", "every": "sunday 02:00", "lasts": "2h"}]},
    )

    device: Name
    lasts: Duration
    starts_at: Instant | None = None
    every: Annotated[Text | None, Field(examples=["sunday 02:00", "mon,thu 02:00", "daily 02:00"])] = None
    timezone: Text = Field(default="Europe/London", description="Zone of `every`.")
    reason: Reason = "planned maintenance"
    ends_itself: bool = Field(default=False, description="Goes back to testing when the time is over, without anybody.")


@operation("GET", "/v1/maintenance", tag=_TAG)
async def list_maintenance(caller: Caller) -> MaintenancePlans:
    """What maintenance is planned, and what is overdue."""
    windows = await registry.list_windows(caller.conn)
    late = await registry.overdue(caller.conn, caller.now)
    planned = [
        PlannedMaintenance(
            id=one.id,
            device_id=one.device_id,
            device=one.device,
            starts_at=one.starts_at,
            every=one.every,
            timezone=one.timezone,
            duration=one.duration,
            reason=one.reason,
            ends_itself=one.ends_itself,
            started_last=one.started_last,
        )
        for one in windows
    ]
    return MaintenancePlans(planned, late)


@operation("POST", "/v1/maintenance", tag=_TAG, needs=Role.OPERATOR, status=201, errors=(404, 409))
async def plan_maintenance(caller: Caller, body: PlanWindow) -> NewWindow:
    """Plan maintenance ahead; the platform's worker begins it. Somebody ends it, unless it ends itself."""
    if not timedelta() < body.lasts <= timedelta(days=366):
        raise InputError("lasts: longer than nothing, and at most 366d")
    if body.starts_at is not None and body.starts_at <= caller.now - body.lasts:
        raise InputError(f"starts_at {body.starts_at.isoformat()}: that is over already, nothing would begin it")
    device = await registry.get_device(caller.conn, body.device)
    planned = await registry.plan_window(
        caller.conn,
        device,
        starts_at=body.starts_at,
        every=body.every,
        timezone=body.timezone,
        lasts=body.lasts,
        reason=body.reason,
        ends_itself=body.ends_itself,
        actor=caller.actor,
    )
    return NewWindow(planned)


@operation("DELETE", "/v1/maintenance/{window}", tag=_TAG, needs=Role.OPERATOR, status=204, errors=(404,))
async def cancel_maintenance(caller: Caller, window: Annotated[Text, Field(description="The window's id.")]) -> None:
    """Cancel planned maintenance; what has begun goes on."""
    await registry.cancel_window(caller.conn, window)


OPERATIONS: tuple[Any, ...] = (list_maintenance, plan_maintenance, cancel_maintenance)
