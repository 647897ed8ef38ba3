"""A simulated site: devices of any template, served over Modbus TCP by a physical model. See docs/simulator.md.

The names below are imported when they are first used: physics and profiles serve a backtest, which wants no server.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.devices.simulator.clock import Clock, SimClock, system_clock
    from flux.devices.simulator.config import (
        BatteryConfig,
        DeviceConfig,
        LoadConfig,
        SimConfig,
        SolarConfig,
        load_sim_config,
    )
    from flux.devices.simulator.demo import demo_site
    from flux.devices.simulator.device import RegisterWrite, SimulatedDevice
    from flux.devices.simulator.faults import Fault, FaultBoard, FaultKind, parse_fault
    from flux.devices.simulator.memory import MemoryTransport, memory_transport
    from flux.devices.simulator.replylog import Reply, ReplyLog, ReplySink, read_reply_log
    from flux.devices.simulator.server import SimulatorServer
    from flux.devices.simulator.statefile import StateFile, saved_time
    from flux.devices.simulator.world import SimulatedSite

_MODULE_OF = MappingProxyType(
    {
        "BatteryConfig": "config",
        "Clock": "clock",
        "DeviceConfig": "config",
        "Fault": "faults",
        "FaultBoard": "faults",
        "FaultKind": "faults",
        "LoadConfig": "config",
        "MemoryTransport": "memory",
        "RegisterWrite": "device",
        "Reply": "replylog",
        "ReplyLog": "replylog",
        "ReplySink": "replylog",
        "SimClock": "clock",
        "SimConfig": "config",
        "SimulatedDevice": "device",
        "SimulatedSite": "world",
        "SimulatorServer": "server",
        "SolarConfig": "config",
        "StateFile": "statefile",
        "demo_site": "demo",
        "load_sim_config": "config",
        "memory_transport": "memory",
        "parse_fault": "faults",
        "read_reply_log": "replylog",
        "saved_time": "statefile",
        "system_clock": "clock",
    }
)


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


__all__ = [
    "BatteryConfig",
    "Clock",
    "DeviceConfig",
    "Fault",
    "FaultBoard",
    "FaultKind",
    "LoadConfig",
    "MemoryTransport",
    "RegisterWrite",
    "Reply",
    "ReplyLog",
    "ReplySink",
    "SimClock",
    "SimConfig",
    "SimulatedDevice",
    "SimulatedSite",
    "SimulatorServer",
    "SolarConfig",
    "StateFile",
    "demo_site",
    "load_sim_config",
    "memory_transport",
    "parse_fault",
    "read_reply_log",
    "saved_time",
    "system_clock",
]
