"""Devices in the registry: add, find, and take from state to state.

Every change of state writes its event in the same transaction, so that a device's history is never short of one.
"""

import difflib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog
from psycopg import AsyncConnection, errors
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from flux.devices.template import builtin_template, builtin_template_names
from flux.errors import ConflictError, InputError, NotFoundError, RefusedError
from flux.model import Device, DeviceId, DeviceName, DeviceState, DeviceType, SiteCode, parse_metadata

_logger = structlog.get_logger(__name__)

ACTIVATION_PATH = {
    DeviceState.REGISTERED: frozenset({DeviceState.CONFIGURED}),
    DeviceState.CONFIGURED: frozenset({DeviceState.TESTING}),
    DeviceState.TESTING: frozenset({DeviceState.ACTIVE, DeviceState.FAILED}),
    DeviceState.FAILED: frozenset({DeviceState.TESTING}),
    DeviceState.MAINTENANCE: frozenset({DeviceState.TESTING}),
}
"""The changes of state that polling and configuration make; from → to."""

_COLUMNS = "id, name, type, site, metadata, active, state, created_at, updated_at"


class NewDevice(BaseModel):
    """What a person gives to register a device; ``metadata`` is checked by type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DeviceName
    type: DeviceType
    site: SiteCode
    metadata: dict[str, Any] = {}
    active: bool = True


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One change of state; ``from_state`` None: the device was registered."""

    device_id: UUID
    time: datetime
    from_state: str | None
    to_state: str
    trigger: str
    actor: str | None
    reason: str | None


def parse_new_device(data: dict[str, Any]) -> NewDevice:
    """Check name, type, site and metadata; the error names the field, its value and what is allowed."""
    try:
        new = NewDevice.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"device {where} = {first['input']!r}: {first['msg']}") from None
    _check_template(new)
    return new


def _check_template(new: NewDevice) -> None:
    """A meter must not be read with a battery's registers; of templates that don't come with Flux nothing is known."""
    name = parse_metadata(new.type, new.metadata, new.name).template_name
    if name in builtin_template_names():
        kind = builtin_template(name).type
        if kind is not new.type:
            raise InputError(f"{new.name}: template {name!r} is of a {kind}, the device is a {new.type}")


async def doubts_about(conn: AsyncConnection[Any], new: NewDevice) -> list[str]:
    """What may be a slip of the pen and may be meant: keys and a template that nobody here knows, one line each."""
    metadata = parse_metadata(new.type, new.metadata, new.name)
    known = type(metadata).model_fields
    doubts = [
        f"metadata {key}: no key that Flux uses, it is kept; did you mean {near[0]}?"
        for key in metadata.model_extra or {}
        if (near := difflib.get_close_matches(key, known, n=1, cutoff=0.75))
    ]
    wanted = metadata.template_name
    if wanted is not None:
        rows = await (await conn.execute("SELECT name FROM flux.device_templates")).fetchall()
        templates = [*builtin_template_names(), *(name for (name,) in rows)]
        if wanted not in templates:
            nearest = difflib.get_close_matches(wanted, templates, n=1)
            hint = f"did you mean {nearest[0]}? If not, " if nearest else ""
            doubts.append(f"template {wanted}: not known here; {hint}the site's edge needs it in its templates_dir")
    return doubts


async def add_device(conn: AsyncConnection[Any], new: NewDevice, *, actor: str) -> Device:
    """Register a device and, where its template and address are known, take it to testing, where polling begins.

    Raises :class:`ConflictError` when the name is taken by a device that is not decommissioned.
    """
    metadata = parse_metadata(new.type, new.metadata, new.name)
    async with conn.transaction():
        try:
            await conn.execute(
                "INSERT INTO flux.mg_device_registry (id, name, type, site, metadata, active)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (uuid4(), new.name, new.type, new.site, Jsonb(new.metadata), new.active),
            )
        except errors.UniqueViolation:
            raise ConflictError(f"{new.name}: a device of this name is registered already") from None
        device = await get_device(conn, new.name)
        if metadata.template_name and metadata.host:
            await set_state(conn, device.id, DeviceState.CONFIGURED, trigger="configured", actor=actor)
            await set_state(conn, device.id, DeviceState.TESTING, trigger="first poll", actor=actor)
    return await get_device(conn, new.name)


async def list_devices(
    conn: AsyncConnection[Any],
    *,
    site: str | None = None,
    type: DeviceType | None = None,
    state: DeviceState | None = None,
) -> list[Device]:
    """Devices by name; those decommissioned only when that state is asked for."""
    wanted = {"site": site, "type": type, "state": state}
    clauses = [f"{column} = %({column})s" for column, value in wanted.items() if value is not None]
    if state is None:
        clauses.append(f"state <> '{DeviceState.DECOMMISSIONED}'")
    query = f"SELECT {_COLUMNS} FROM flux.mg_device_registry WHERE {' AND '.join(clauses)} ORDER BY name"  # noqa: S608 - columns are ours
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), wanted)
        return [device for row in await cursor.fetchall() if (device := _readable(row)) is not None]


async def get_device(conn: AsyncConnection[Any], name_or_id: str | UUID) -> Device:
    """The device of this name (not decommissioned) or id; :class:`NotFoundError` names the nearest that exist."""
    identity = _as_uuid(name_or_id)
    where = "id = %s" if identity else f"name = %s AND state <> '{DeviceState.DECOMMISSIONED}'"
    query = f"SELECT {_COLUMNS} FROM flux.mg_device_registry WHERE {where}"  # noqa: S608 - columns are ours
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), (identity or str(name_or_id),))
        row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"no device {str(name_or_id)!r}{await _suggestion(conn, str(name_or_id))}")
    return _device(row)


async def set_metadata(conn: AsyncConnection[Any], device_id: DeviceId, changes: dict[str, Any]) -> Device:
    """Set these keys of a device's metadata and keep the others; checked whole before anything is written."""
    async with conn.transaction():
        cursor = await conn.execute(
            "SELECT name, type, metadata FROM flux.mg_device_registry WHERE id = %s FOR UPDATE", (device_id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"no device with id {device_id}")
        name, kind, metadata = row
        parse_metadata(DeviceType(kind), metadata | changes, name)
        await conn.execute(
            "UPDATE flux.mg_device_registry SET metadata = metadata || %s WHERE id = %s", (Jsonb(changes), device_id)
        )
    return await get_device(conn, device_id)


async def set_state(
    conn: AsyncConnection[Any],
    device_id: DeviceId,
    new_state: DeviceState,
    *,
    trigger: str,
    actor: str,
    reason: str | None = None,
) -> bool:
    """Take a device to ``new_state`` and record the event; False when it is there already.

    Raises :class:`RefusedError` for a change that :data:`ACTIVATION_PATH` does not have.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            "SELECT name, state FROM flux.mg_device_registry WHERE id = %s FOR UPDATE", (device_id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"no device with id {device_id}")
        name, old_state = row[0], DeviceState(row[1])
        if old_state is new_state:
            return False
        if new_state not in ACTIVATION_PATH.get(old_state, frozenset()):
            raise RefusedError(f"{name}: a device that is {old_state} cannot become {new_state}")
        await conn.execute("UPDATE flux.mg_device_registry SET state = %s WHERE id = %s", (new_state, device_id))
        await conn.execute(
            "INSERT INTO flux.device_events (device_id, from_state, to_state, trigger, actor, reason)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (device_id, old_state, new_state, trigger, actor, reason),
        )
    return True


async def history(conn: AsyncConnection[Any], device_id: DeviceId) -> list[DeviceEvent]:
    """The device's changes of state, oldest first."""
    async with conn.cursor(row_factory=class_row(DeviceEvent)) as cursor:
        await cursor.execute(
            "SELECT device_id, time, from_state, to_state, trigger, actor, reason"
            " FROM flux.device_events WHERE device_id = %s ORDER BY time, id",
            (device_id,),
        )
        return await cursor.fetchall()


def _device(row: dict[str, Any]) -> Device:
    metadata = parse_metadata(DeviceType(row["type"]), row["metadata"], row["name"])
    return Device.model_validate({**row, "metadata": metadata})


def _readable(row: dict[str, Any]) -> Device | None:
    """The device, or None and a line in the log: one row that can't be used must not stop the rest of a site."""
    try:
        return _device(row)
    except (InputError, ValidationError) as error:
        _logger.warning("device left out: its row in the registry is not valid", device=row["name"], problem=str(error))
        return None


def _as_uuid(text: str | UUID) -> UUID | None:
    try:
        return TypeAdapter(UUID).validate_python(text)
    except ValidationError:
        return None


async def _suggestion(conn: AsyncConnection[Any], name: str) -> str:
    cursor = await conn.execute("SELECT name FROM flux.mg_device_registry WHERE state <> 'decommissioned'")
    near = difflib.get_close_matches(name.upper(), [row[0] for row in await cursor.fetchall()], n=1)
    return f"; did you mean {near[0]}?" if near else "; `flux devices list` shows those that exist"
