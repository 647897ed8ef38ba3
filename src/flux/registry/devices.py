"""Devices in the registry: add, find and edit them. What they may become is in :mod:`flux.registry.lifecycle`."""

import difflib
import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection, errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from flux.devices.template import builtin_template, builtin_template_names
from flux.errors import ConflictError, InputError, NotFoundError
from flux.model import Device, DeviceId, DeviceName, DeviceState, DeviceType, SiteCode, parse_metadata
from flux.registry.acting import acting

_logger = structlog.get_logger(__name__)

# metadata as text: of 10,000 devices, a third of the time would go into making and leaving dictionaries
_COLUMNS = "id, name, type, site, metadata::text AS metadata, active, state, created_at, updated_at"
_FILTERED = frozenset({"id", "name", "type", "site", "active", "state"})
_DEFAULTS = {kind: parse_metadata(kind, {}).model_dump(mode="json", exclude_none=True) for kind in DeviceType}
"""What is meant where the metadata does not say it, by type."""
_METADATA_IS = """
    (SELECT CASE jsonb_typeof(v.value) WHEN 'number' THEN trim_scale((v.value #>> '{{}}')::numeric)::text
                                       ELSE v.value #>> '{{}}' END
     FROM (SELECT coalesce(metadata -> %(key{0})s, %(defaults)s -> type -> %(key{0})s)) v(value)) = %(value{0})s"""
"""As people write it: 200.0 is 200."""


class NewDevice(BaseModel):
    """What a person gives to register a device; ``metadata`` is checked by type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DeviceName
    type: DeviceType
    site: SiteCode
    metadata: dict[str, Any] = {}
    active: bool = True


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
    """Register a device; where its template and address are known it goes on to testing, where polling begins.

    Raises :class:`ConflictError` when the name is taken by a device that is not decommissioned.
    """
    parse_metadata(new.type, new.metadata, new.name)
    async with acting(conn, actor):
        try:
            cursor = await conn.execute(
                "INSERT INTO flux.mg_device_registry (name, type, site, metadata, active)"
                " VALUES (%s, %s, %s, %s, %s) RETURNING id",
                (new.name, new.type, new.site, Jsonb(new.metadata), new.active),
            )
        except errors.UniqueViolation:
            raise ConflictError(f"{new.name}: a device of this name is registered already") from None
        ((device_id,),) = await cursor.fetchall()
    return await get_device(conn, device_id)


async def list_devices(
    conn: AsyncConnection[Any],
    *,
    site: str | None = None,
    type: DeviceType | None = None,
    state: DeviceState | None = None,
    matching: Mapping[str, str] | None = None,
) -> list[Device]:
    """Devices by name; those decommissioned only when that state is asked for.

    ``matching``: columns and keys of the metadata, each with its value as text (``{"ct_ratio": "200"}``).
    """
    wanted: dict[str, Any] = {"site": site, "type": type, "state": state}
    clauses = [f"{column} = %({column})s" for column, value in wanted.items() if value is not None]
    for number, (key, value) in enumerate((matching or {}).items()):
        wanted |= {f"key{number}": key, f"value{number}": value, "defaults": Jsonb(_DEFAULTS)}
        clauses.append(f"{key}::text = %(value{number})s" if key in _FILTERED else _METADATA_IS.format(number))
    if state is None and "state" not in (matching or {}):
        clauses.append(f"state <> '{DeviceState.DECOMMISSIONED}'")
    query = f"SELECT {_COLUMNS} FROM flux.mg_device_registry WHERE {' AND '.join(clauses)} ORDER BY name"  # noqa: S608 - columns are ours
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), wanted)
        rows = await cursor.fetchall()
    with _collector_at_rest():
        return [device for row in rows if (device := _readable(row)) is not None]


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


async def set_metadata(
    conn: AsyncConnection[Any],
    device_id: DeviceId,
    changes: Mapping[str, Any],
    *,
    actor: str,
    removed: Collection[str] = (),
    unchanged_since: datetime | None = None,
) -> Device:
    """Set these keys of a device's metadata, take out the ``removed`` ones and keep the others.

    ``unchanged_since``: the ``updated_at`` of what was edited. Raises :class:`ConflictError`, and changes nothing, when
    somebody has changed the device since; InputError for a value that can't be.
    """
    async with acting(conn, actor):
        cursor = await conn.execute(
            "SELECT name, type, metadata, updated_at FROM flux.mg_device_registry WHERE id = %s FOR NO KEY UPDATE",
            (device_id,),
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"no device with id {device_id}")
        name, kind, before, updated_at = row
        if unchanged_since is not None and updated_at != unchanged_since:
            raise ConflictError(
                f"{name}: somebody changed it at {updated_at:%Y-%m-%d %H:%M:%S %Z}; look at it again first"
            )
        metadata = {key: value for key, value in {**before, **changes}.items() if key not in removed}
        parse_metadata(DeviceType(kind), metadata, name)
        if metadata != before:
            await conn.execute(
                "UPDATE flux.mg_device_registry SET metadata = %s WHERE id = %s", (Jsonb(metadata), device_id)
            )
    return await get_device(conn, device_id)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Thousands of devices are made and none of them is garbage: looking for it would take as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
