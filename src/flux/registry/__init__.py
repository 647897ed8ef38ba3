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
from flux.registry.lifecycle import (
    DeviceEvent,
    decommission,
    end_maintenance,
    history,
    set_state,
    start_maintenance,
)

__all__ = [
    "DeviceEvent",
    "NewDevice",
    "acting",
    "add_device",
    "decommission",
    "doubts_about",
    "end_maintenance",
    "get_device",
    "history",
    "list_devices",
    "parse_new_device",
    "set_metadata",
    "set_state",
    "start_maintenance",
]
