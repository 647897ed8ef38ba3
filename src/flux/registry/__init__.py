"""The registry: every device, what it is, how to talk to it, what it may do now."""

from flux.registry.acting import acting
from flux.registry.devices import (
    NewDevice,
    add_device,
    doubts_about,
    get_device,
    list_devices,
    parse_new_device,
    set_metadata,
)
from flux.registry.groups import (
    Group,
    GroupMember,
    GroupRole,
    GroupType,
    add_member,
    create_group,
    delete_group,
    group_members,
    list_groups,
    remove_member,
)
from flux.registry.lifecycle import (
    DeviceEvent,
    decommission,
    end_maintenance,
    history,
    set_state,
    start_maintenance,
)
from flux.registry.maintenance import cancel_window, list_windows, overdue, plan_window, run_due_windows

__all__ = [
    "DeviceEvent",
    "Group",
    "GroupMember",
    "GroupRole",
    "GroupType",
    "NewDevice",
    "acting",
    "add_device",
    "add_member",
    "cancel_window",
    "create_group",
    "decommission",
    "delete_group",
    "doubts_about",
    "end_maintenance",
    "get_device",
    "group_members",
    "history",
    "list_devices",
    "list_groups",
    "list_windows",
    "overdue",
    "parse_new_device",
    "plan_window",
    "remove_member",
    "run_due_windows",
    "set_metadata",
    "set_state",
    "start_maintenance",
]
