"""The registry: every device, what it is, how to talk to it, what it may do now."""

from flux.registry.acting import acting
from flux.registry.alerts import list_alerts, refresh_alerts
from flux.registry.archive import archive_decommissioned
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
from flux.registry.templates import apply_template, changes_by, find_template, matching_devices, template_of
from flux.registry.testing import DeviceTest, run_device_test

__all__ = [
    "DeviceEvent",
    "DeviceTest",
    "Group",
    "GroupMember",
    "GroupRole",
    "GroupType",
    "NewDevice",
    "acting",
    "add_device",
    "add_member",
    "apply_template",
    "archive_decommissioned",
    "cancel_window",
    "changes_by",
    "create_group",
    "decommission",
    "delete_group",
    "doubts_about",
    "end_maintenance",
    "find_template",
    "get_device",
    "group_members",
    "history",
    "list_alerts",
    "list_devices",
    "list_groups",
    "list_windows",
    "matching_devices",
    "overdue",
    "parse_new_device",
    "plan_window",
    "refresh_alerts",
    "remove_member",
    "run_device_test",
    "run_due_windows",
    "set_metadata",
    "set_state",
    "start_maintenance",
    "template_of",
]
