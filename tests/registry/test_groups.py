"""Groups: who is in them, and who acts."""

from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import add_device

from flux.errors import ConflictError, InputError, NotFoundError
from flux.registry import (
    GroupRole,
    GroupType,
    add_member,
    create_group,
    decommission,
    group_members,
    list_groups,
    remove_member,
    start_maintenance,
)

Conn = AsyncConnection[Any]


async def acting(db: Conn) -> str | None:
    (group,) = await list_groups(db)
    return group.acts


async def test_the_primary_acts_then_the_backups_by_priority(db: Conn) -> None:
    await create_group(db, "FLEET", site="WLCE", type=GroupType.CONTROL)
    devices = {name: await add_device(db, name, "bess") for name in ("B1", "B2", "B3", "B4")}
    await add_member(db, "FLEET", "B3", role=GroupRole.BACKUP, priority=1)
    await add_member(db, "FLEET", "B2", role=GroupRole.BACKUP, priority=2)
    await add_member(db, "FLEET", "B4", role=GroupRole.MONITOR, priority=0)
    assert await acting(db) == "B3"
    await add_member(db, "FLEET", "B1", role=GroupRole.PRIMARY, priority=9)
    assert await acting(db) == "B1"
    await start_maintenance(db, devices["B1"], actor="ada", reason="x")
    assert await acting(db) == "B3"
    await db.execute("UPDATE flux.mg_device_registry SET active = false WHERE name = 'B3'")
    assert await acting(db) == "B2"
    await decommission(db, devices["B2"], actor="ada", reason="x")
    assert await acting(db) is None
    assert [(m.name, m.role) for m in await group_members(db, "FLEET")] == [
        ("B1", "primary"), ("B3", "backup"), ("B2", "backup"), ("B4", "monitor"),
    ]  # fmt: skip


async def test_only_a_group_of_all_sites_spans_sites(db: Conn) -> None:
    await create_group(db, "ONE", site="WLCE", type=GroupType.MONITORING)
    await create_group(db, "ALL-METERS", site="ALL", type=GroupType.ANALYSIS)
    await add_device(db, "M1")
    await add_device(db, "M2", site="HMCE")
    with pytest.raises(InputError, match="M2: the group is of site WLCE, the device of site HMCE"):
        await add_member(db, "ONE", "M2", role=GroupRole.MONITOR, priority=1)
    for name in ("M1", "M2"):
        await add_member(db, "ALL-METERS", name, role=GroupRole.MONITOR, priority=1)
    assert [(g.name, g.members) for g in await list_groups(db)] == [("ALL-METERS", 2), ("ONE", 0)]
    assert [g.name for g in await list_groups(db, site="HMCE")] == ["ALL-METERS"]


async def test_what_is_not_there_and_what_is_there_already(db: Conn) -> None:
    await create_group(db, "G", site="ALL", type=GroupType.CONTROL)
    await add_device(db, "M1")
    with pytest.raises(ConflictError, match="there is a group of this name"):
        await create_group(db, "G", site="WLCE", type=GroupType.CONTROL)
    with pytest.raises(InputError, match="a site is like WLCE"):
        await create_group(db, "H", site="no site", type=GroupType.CONTROL)
    with pytest.raises(NotFoundError, match="no group 'X'; there are: G"):
        await group_members(db, "X")
    with pytest.raises(NotFoundError, match="M1 is not in group G"):
        await remove_member(db, "G", "M1")


async def test_a_group_as_people_write_it(db: Conn) -> None:
    meter = await add_device(db, "M1")
    await db.execute("INSERT INTO flux.device_groups (name) VALUES ('G')")
    await db.execute(
        "INSERT INTO flux.device_group_members (group_id, device_id) SELECT id, %s FROM flux.device_groups", (meter,)
    )
    (group,) = await list_groups(db)
    assert (group.site, group.type, group.members) == ("ALL", "monitoring", 1)
