"""The registry: every device, what it is, how to talk to it, what it may do now."""

from flux.registry.devices import (
    ACTIVATION_PATH,
    DeviceEvent,
    NewDevice,
    add_device,
    doubts_about,
    get_device,
    history,
    list_devices,
    parse_new_device,
    set_metadata,
    set_state,
)

__all__ = [
    "ACTIVATION_PATH",
    "DeviceEvent",
    "NewDevice",
    "add_device",
    "doubts_about",
    "get_device",
    "history",
    "list_devices",
    "parse_new_device",
    "set_metadata",
    "set_state",
]
