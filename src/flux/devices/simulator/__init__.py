"""A simulated site: devices of any template, served over Modbus TCP by a physical model. See docs/simulator.md."""

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
