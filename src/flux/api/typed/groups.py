"""Groups of devices over HTTP."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flux import registry
from flux.api.identity import Role
from flux.api.typed.operation import Caller, Name, OfSite, Text, operation
from flux.registry import Group, GroupMember, GroupRole, GroupType
from flux.registry.groups import ALL_SITES

_TAG = "Groups"
GroupName = Annotated[Text, Field(max_length=100, description="Name of the group.", examples=["WLCE-BESS-Fleet"])]


class NewGroup(BaseModel):
    """A group to make. Of a control group one member acts: the primary, or the first backup that is active."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "WLCE-BESS-Fleet", "site": "WLCE", "type": "control"}]},
    )

    name: GroupName
    site: Text = Field(default=ALL_SITES, max_length=50, description="ALL: it may span sites.")
    type: GroupType = GroupType.MONITORING


class Membership(BaseModel):
    """What a device is in a group."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"role": "primary", "priority": 1}]})

    role: GroupRole = GroupRole.PRIMARY
    priority: int = Field(default=1, ge=0, le=1_000_000, description="Among those of one role: 1 comes before 2.")


@operation("GET", "/v1/groups", tag=_TAG)
async def list_groups(caller: Caller, site: OfSite = None) -> list[Group]:
    """List the groups; `acts` is the device that acts for a control group now."""
    return await registry.list_groups(caller.conn, site=site)


@operation("POST", "/v1/groups", tag=_TAG, needs=Role.OPERATOR, status=201, errors=(409,))
async def create_group(caller: Caller, body: NewGroup) -> NewGroup:
    """Make a group."""
    await registry.create_group(caller.conn, body.name, site=body.site, type=body.type)
    return body


@operation("DELETE", "/v1/groups/{group}", tag=_TAG, needs=Role.OPERATOR, status=204, errors=(404,))
async def delete_group(caller: Caller, group: GroupName) -> None:
    """Delete a group; its devices stay."""
    await registry.delete_group(caller.conn, group)


@operation("GET", "/v1/groups/{group}/members", tag=_TAG, errors=(404,))
async def group_members(caller: Caller, group: GroupName) -> list[GroupMember]:
    """Who is in a group: primaries first, then backups by priority, then monitors."""
    return await registry.group_members(caller.conn, group)


@operation("PUT", "/v1/groups/{group}/members/{name}", tag=_TAG, needs=Role.OPERATOR, errors=(404,))
async def add_member(caller: Caller, group: GroupName, name: Name, body: Membership) -> list[GroupMember]:
    """Add a device to a group, or change what it is there; answers with all members."""
    await registry.add_member(caller.conn, group, name, role=body.role, priority=body.priority)
    return await registry.group_members(caller.conn, group)


@operation("DELETE", "/v1/groups/{group}/members/{name}", tag=_TAG, needs=Role.OPERATOR, status=204, errors=(404,))
async def remove_member(caller: Caller, group: GroupName, name: Name) -> None:
    """Take a device out of a group."""
    await registry.remove_member(caller.conn, group, name)


OPERATIONS: tuple[Any, ...] = (list_groups, create_group, delete_group, group_members, add_member, remove_member)
