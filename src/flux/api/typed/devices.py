"""Devices over HTTP: what they are, what state they are in, and taking them to another."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from psycopg.rows import class_row
from pydantic import BaseModel, ConfigDict, Field

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, Instant, Name, OfSite, Reason, Text, operation
from flux.model import Device, DeviceState, DeviceType
from flux.model.durations import Duration
from flux.registry import DeviceEvent, NewDevice

_TAG = "Devices"
_CHANGE = (404, 409)
Filter = Annotated[
    Text | None,
    Field(description="Pairs over columns and metadata, all of which hold.", examples=["type=bess,model=Powerpack 2"]),
]
Key = Annotated[str, Field(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class Registered:
    """A new device; ``doubts``: what may be a slip of the pen, in words."""

    device: Device
    doubts: list[str]


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """One change of what is said of a device: key → [before, after]."""

    time: datetime
    actor: str
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChangedDevice:
    """A device as it was and as it is."""

    before: Device
    device: Device


class MetadataChange(BaseModel):
    """Keys to set and to take out; the others stay."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"set": {"ct_ratio": 200}, "remove": ["firmware_version"]}]},
    )

    set: dict[Key, Any] = {}
    remove: list[Key] = []
    unchanged_since: Instant | None = Field(
        default=None,
        description="`updated_at` of what was edited: 409, and nothing is changed, if somebody changed it since.",
    )


class Transition(BaseModel):
    """Where to take a device, and why."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"to": "active", "reason": "checked"}]})

    to: Literal["configured", "testing", "active", "failed"] = Field(
        description="`maintenance` and `decommissioned` have endpoints of their own."
    )
    reason: Reason | None = None


class MaintenanceStart(BaseModel):
    """Why a device goes out of service, and for how long."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "Firmware upgrade", "lasts": "2h"}]}
    )

    reason: Reason
    lasts: Duration | None = Field(default=None, description="The planned time; later than that it is overdue.")


class Note(BaseModel):
    """Why, where that may be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "done"}]})

    reason: Reason | None = None


class Why(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "replaced"}]})

    reason: Reason


@operation("GET", "/v1/devices", tag=_TAG)
async def list_devices(
    caller: Caller,
    site: OfSite = None,
    type: DeviceType | None = None,
    state: DeviceState | None = None,
    filter: Filter = None,
) -> list[Device]:
    """List devices by name; those decommissioned only when that state is asked for."""
    from flux.registry.templates import parse_filter

    matching = None if filter is None else parse_filter(filter)
    return await registry.list_devices(caller.conn, site=site, type=type, state=state, matching=matching)


@operation("POST", "/v1/devices", tag=_TAG, needs=Role.OPERATOR, status=201, errors=(409,))
async def register_device(caller: Caller, body: NewDevice) -> Registered:
    """Register a device. With a template and a host it is polled from then on."""
    new = registry.parse_new_device(body.model_dump())
    device = await registry.add_device(caller.conn, new, actor=caller.actor)
    return Registered(device, await registry.doubts_about(caller.conn, new))


@operation("GET", "/v1/devices/{name}", tag=_TAG, errors=(404,))
async def show_device(caller: Caller, name: Name) -> Device:
    """One device, by name or id."""
    return await registry.get_device(caller.conn, name)


@operation("PATCH", "/v1/devices/{name}", tag=_TAG, needs=Role.OPERATOR, errors=_CHANGE)
async def change_metadata(caller: Caller, name: Name, body: MetadataChange) -> ChangedDevice:
    """Change a device's metadata; other keys stay."""
    before = await registry.get_device(caller.conn, name)
    after = await registry.set_metadata(
        caller.conn,
        before.id,
        body.set,
        actor=caller.actor,
        removed=body.remove,
        unchanged_since=body.unchanged_since,
    )
    return ChangedDevice(before, after)


@operation("GET", "/v1/devices/{name}/events", tag=_TAG, errors=(404,))
async def device_events(caller: Caller, name: Name) -> list[DeviceEvent]:
    """What a device has been through: each change of state, who made it and why, oldest first."""
    return await registry.history(caller.conn, (await registry.get_device(caller.conn, name)).id)


@operation("GET", "/v1/devices/{name}/changes", tag=_TAG, errors=(404,))
async def device_changes(caller: Caller, name: Name) -> list[DeviceChange]:
    """Each change of what is said of a device, oldest first."""
    device = await registry.get_device(caller.conn, name)
    async with caller.conn.cursor(row_factory=class_row(DeviceChange)) as cursor:
        await cursor.execute(
            "SELECT time, actor, changes FROM flux.device_changes WHERE device_id = %s ORDER BY id", (device.id,)
        )
        return await cursor.fetchall()


@operation("POST", "/v1/devices/{name}/transitions", tag=_TAG, needs=Role.OPERATOR, errors=_CHANGE)
async def take_device_to(caller: Caller, name: Name, body: Transition) -> Device:
    """Take a device to another state of its life; 409 for one that it can't come to from where it is."""
    device = await registry.get_device(caller.conn, name)
    await registry.set_state(caller.conn, device.id, DeviceState(body.to), actor=caller.actor, reason=body.reason)
    return await registry.get_device(caller.conn, device.id)


@operation("POST", "/v1/devices/{name}/maintenance", tag=_TAG, needs=Role.OPERATOR, errors=_CHANGE)
async def start_maintenance(caller: Caller, name: Name, body: MaintenanceStart) -> Device:
    """Put a device into maintenance. A battery goes to 0 kW first; then it is neither controlled nor polled."""
    device = await registry.get_device(caller.conn, name)
    return await registry.start_maintenance(
        caller.conn, device.id, actor=caller.actor, reason=body.reason, lasts=body.lasts
    )


@operation("POST", "/v1/devices/{name}/maintenance/end", tag=_TAG, needs=Role.OPERATOR, errors=_CHANGE)
async def end_maintenance(caller: Caller, name: Name, body: Note) -> Device:
    """End a device's maintenance: it is tested, and becomes active when it answers."""
    device = await registry.get_device(caller.conn, name)
    return await registry.end_maintenance(caller.conn, device.id, actor=caller.actor, reason=body.reason)


@operation("POST", "/v1/devices/{name}/decommission", tag=_TAG, needs=Role.OPERATOR, errors=_CHANGE)
async def decommission_device(caller: Caller, name: Name, body: Why) -> Device:
    """End the life of a device: it is never polled or controlled again, its name becomes free. Can't be undone."""
    device = await registry.get_device(caller.conn, name)
    return await registry.decommission(caller.conn, device.id, actor=caller.actor, reason=body.reason)


OPERATIONS: tuple[Any, ...] = (
    list_devices,
    register_device,
    show_device,
    change_metadata,
    device_events,
    device_changes,
    take_device_to,
    start_maintenance,
    end_maintenance,
    decommission_device,
)
