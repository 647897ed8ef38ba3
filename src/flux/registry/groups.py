"""Groups of devices: for control (one member acts), monitoring or analysis."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, errors
from psycopg.rows import class_row

from flux.errors import ConflictError, InputError, NotFoundError
from flux.registry.devices import get_device

ALL_SITES = "ALL"
"""The site of a group whose members may be of several sites."""


class GroupType(StrEnum):
    CONTROL = "control"
    MONITORING = "monitoring"
    ANALYSIS = "analysis"


class GroupRole(StrEnum):
    PRIMARY = "primary"
    BACKUP = "backup"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Group:
    """``acts``: of a control group the device that acts now; None: nobody can."""

    id: UUID
    name: str
    site: str
    type: str
    members: int
    acts: str | None


@dataclass(frozen=True, slots=True)
class GroupMember:
    """Of the members with one role, priority 1 comes before 2."""

    device_id: UUID
    name: str
    site: str
    state: str
    active: bool
    role: str
    priority: int


async def create_group(conn: AsyncConnection[Any], name: str, *, site: str, type: GroupType) -> None:
    """Raises ConflictError when the name is taken, InputError when it or the site is none."""
    try:
        await conn.execute(
            "INSERT INTO flux.device_groups (name, site, type) VALUES (%s, %s, %s)", (name, site, str(type))
        )
    except errors.UniqueViolation:
        raise ConflictError(f"{name}: there is a group of this name") from None
    except errors.CheckViolation:
        raise InputError(f"group {name!r} of site {site!r}: a name is not empty, a site is like WLCE, or ALL") from None


async def delete_group(conn: AsyncConnection[Any], name: str) -> None:
    """The group and who was in it; the devices stay."""
    cursor = await conn.execute("DELETE FROM flux.device_groups WHERE name = %s", (name,))
    if cursor.rowcount == 0:
        raise await _unknown(conn, name)


async def list_groups(conn: AsyncConnection[Any], *, site: str | None = None) -> list[Group]:
    """By name; those of ``site`` and, with it, those that span sites."""
    async with conn.cursor(row_factory=class_row(Group)) as cursor:
        await cursor.execute(
            """SELECT g.id, g.name, g.site, g.type, a.device_name AS acts,
                      (SELECT count(*) FROM flux.device_group_members m WHERE m.group_id = g.id)::int AS members
               FROM flux.device_groups g LEFT JOIN flux.device_group_actors a ON a.group_id = g.id
               WHERE %(site)s::text IS NULL OR g.site IN (%(site)s, 'ALL') ORDER BY g.name""",
            {"site": site},
        )
        return await cursor.fetchall()


async def group_members(conn: AsyncConnection[Any], name: str) -> list[GroupMember]:
    """Primaries first, then backups by priority, then monitors. NotFoundError when there is no such group."""
    group_id = await _group_id(conn, name)
    async with conn.cursor(row_factory=class_row(GroupMember)) as cursor:
        await cursor.execute(
            """SELECT r.id AS device_id, r.name, r.site, r.state, r.active, m.role, m.priority
               FROM flux.device_group_members m JOIN flux.mg_device_registry r ON r.id = m.device_id
               WHERE m.group_id = %s
               ORDER BY array_position(ARRAY['primary', 'backup', 'monitor'], m.role), m.priority, r.name""",
            (group_id,),
        )
        return await cursor.fetchall()


async def add_member(conn: AsyncConnection[Any], group: str, device: str, *, role: GroupRole, priority: int) -> None:
    """Add a device to a group, or change what it is there. InputError when the group is of another site."""
    group_id, found = await _group_id(conn, group), await get_device(conn, device)
    try:
        await conn.execute(
            """INSERT INTO flux.device_group_members (group_id, device_id, role, priority) VALUES (%s, %s, %s, %s)
               ON CONFLICT (group_id, device_id) DO UPDATE SET role = excluded.role, priority = excluded.priority""",
            (group_id, found.id, str(role), priority),
        )
    except errors.CheckViolation as error:
        raise InputError(f"{found.name}: {error.diag.message_primary}") from None


async def remove_member(conn: AsyncConnection[Any], group: str, device: str) -> None:
    """NotFoundError when it is not in the group."""
    group_id, found = await _group_id(conn, group), await get_device(conn, device)
    cursor = await conn.execute(
        "DELETE FROM flux.device_group_members WHERE group_id = %s AND device_id = %s", (group_id, found.id)
    )
    if cursor.rowcount == 0:
        raise NotFoundError(f"{found.name} is not in group {group}")


async def _group_id(conn: AsyncConnection[Any], name: str) -> UUID:
    cursor = await conn.execute("SELECT id FROM flux.device_groups WHERE name = %s", (name,))
    row = await cursor.fetchone()
    if row is None:
        raise await _unknown(conn, name)
    found: UUID = row[0]
    return found


async def _unknown(conn: AsyncConnection[Any], name: str) -> NotFoundError:
    rows = await (await conn.execute("SELECT name FROM flux.device_groups ORDER BY name")).fetchall()
    known = ", ".join(row[0] for row in rows) or "none yet"
    return NotFoundError(f"no group {name!r}; there are: {known}")
