"""One simulated device: what it is, its registers, and the physical thing behind them."""

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flux.devices.codec import Value
from flux.devices.simulator.bank import RegisterBank
from flux.devices.simulator.commands import BatteryCommands
from flux.devices.simulator.config import BatteryConfig, DeviceConfig
from flux.devices.simulator.physics import Battery, Meter
from flux.devices.simulator.values import BatteryView, DeviceView, MeterView, counters_of, set_counters
from flux.devices.template import DeviceTemplate
from flux.model import DeviceType

_KEPT = (
    "energy_kwh",
    "power_kw",
    "set_point_kw",
    "following",
    "timeout_s",
    "command_age_s",
    "ramp_up_kw_s",
    "ramp_down_kw_s",
    "available_blocks",
)
"""The fields of a battery that are its state; the others are its nature."""


_LOGGED_WRITES = 100_000


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """A value, in engineering units, that a register has taken; ``time`` is the simulated one."""

    time: datetime
    register: str
    value: Value


@dataclass(slots=True)
class SimulatedDevice:
    """One device: what it is, its registers, and the physical thing behind them.

    ``register_log`` has the writes that its registers took, whoever wrote them and by whatever way, oldest first; what
    was refused is not in it.
    """

    config: DeviceConfig
    template: DeviceTemplate
    thing: Battery | Meter
    host: str
    port: int
    commands: BatteryCommands | None = None
    lag: timedelta = timedelta()
    noise_kw: float = 0.0
    register_log: deque[RegisterWrite] = field(default_factory=lambda: deque(maxlen=_LOGGED_WRITES))
    bank: RegisterBank = field(init=False)
    shown: DeviceView = field(init=False)
    _past: deque[DeviceView] = field(default_factory=deque)
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.config.name)  # noqa: S311 - repeatable noise, not a secret

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def type(self) -> DeviceType:
        return self.config.type

    @property
    def unit(self) -> int:
        return self.config.unit

    @property
    def metadata(self) -> dict[str, Any]:
        """What the registry is to know of it; ``port`` is the one that it really listens on."""
        common = {
            "manufacturer": self.template.manufacturer,
            "model": self.template.model or self.template.name,
            "serial_number": self.config.serial_number,
            "firmware_version": self.config.firmware_version,
            "host": self.host,
            "port": self.port,
            "modbus_address": self.unit,
        }
        own = self._bess_metadata(self.config.battery) if self.config.battery else self._meter_metadata()
        return {key: value for key, value in (common | own).items() if value is not None}

    def _bess_metadata(self, battery: BatteryConfig) -> dict[str, Any]:
        return {
            "template": self.template.name,
            "capacity_kwh": battery.capacity_kwh,
            "max_power_kw": max(battery.charge_limit_kw, battery.discharge_limit_kw),
            "efficiency": battery.charge_efficiency,
        }

    def _meter_metadata(self) -> dict[str, Any]:
        return {
            "register_map": self.template.name,
            "meter_type": str(self.config.meter_type),
            "phases": 3,
            "ct_ratio": self.config.ct_ratio,
            "vt_ratio": self.config.vt_ratio,
            "max_power_kw": self.config.max_power_kw,
            "invert": True if self.config.invert else None,
        }

    def view(self, time_us: int) -> DeviceView:
        """The device at this instant, as well as it measures."""
        if isinstance(self.thing, Battery):
            view: DeviceView = BatteryView.of(self.thing, time_us)
        else:
            view = MeterView.of(self.thing, time_us, self.config.nominal_voltage_v, invert=self.config.invert)
        return view.shifted(self._chance.gauss(0.0, self.noise_kw)) if self.noise_kw else view

    def publish(self, time_us: int) -> None:
        """Let its registers show the present, or what it was ``lag`` ago."""
        view = self.view(time_us)
        if not self.lag:
            self._past.clear()
            self.shown = view
            return
        self._past.append(view)
        due_us = time_us - self.lag // timedelta(microseconds=1)
        while self._past and self._past[0].time_us <= due_us:
            self.shown = self._past.popleft()

    def restart(self) -> None:
        """Start anew: what was commanded is lost, counters and stored energy stay."""
        if self.commands is not None:
            self.commands.power_on()
            self.bank.forget(self.commands.register_names)

    def state(self) -> dict[str, Any]:
        """What must outlive a restart of the simulator, as plain JSON values."""
        written = {"written": self.bank.written}
        if isinstance(self.thing, Meter):
            return written | {"counters": counters_of(self.thing)}
        heartbeat = self.commands.heartbeat if self.commands else None
        return written | {name: getattr(self.thing, name) for name in _KEPT} | {"heartbeat": heartbeat}

    def restore(self, kept: Mapping[str, Any], away_s: float) -> None:
        """Go on from what :meth:`state` said, ``away_s`` later; commands have aged meanwhile."""
        if isinstance(self.thing, Meter):
            set_counters(self.thing.counters, kept["counters"])
        else:
            battery = self.thing
            for name in _KEPT:
                setattr(battery, name, _number(name, kept[name]))
            battery.energy_kwh = min(max(float(kept["energy_kwh"]), 0.0), battery.spec.capacity_kwh)
            battery.available_blocks = min(int(kept["available_blocks"]), battery.spec.blocks)
            battery.command_age_s = float(kept["command_age_s"]) + away_s
            if self.commands is not None:
                self.commands.heartbeat = kept["heartbeat"]
        self.bank.restore(kept["written"])


def _number(name: str, value: object) -> float | int | bool | None:
    """A number, or nothing where nothing may be."""
    if isinstance(value, bool | int | float) or (value is None and name == "timeout_s"):
        return value
    raise ValueError(f"{name} is {value!r}, not a number")
