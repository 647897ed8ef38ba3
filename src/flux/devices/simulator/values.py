"""What the registers of simulated devices say, by the names that templates give them.

A name that is not here belongs to nothing that is simulated: its register holds what was last written to it, else 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from flux.devices.simulator.physics import Battery, BatterySpec, Counter, Meter

Number = float | int


@dataclass(frozen=True, slots=True)
class BatteryView:
    """A battery at one instant, as its registers are to show it."""

    time_us: int
    spec: BatterySpec
    energy_kwh: float
    power_kw: float
    target_kw: float
    available_blocks: int
    commanded: bool

    @classmethod
    def of(cls, battery: Battery, time_us: int) -> "BatteryView":
        commanded = battery.following and not battery.timed_out
        return cls(
            time_us,
            battery.spec,
            battery.energy_kwh,
            battery.power_kw,
            battery.target_kw,
            battery.available_blocks,
            commanded,
        )

    def shifted(self, power_kw: float) -> "BatteryView":
        """With a measured power that is off by so much."""
        return replace(self, power_kw=self.power_kw + power_kw)


@dataclass(frozen=True, slots=True)
class MeterView:
    """A meter at one instant. ``counters``: (imported, exported) of active, phases a, b, c, reactive, apparent."""

    time_us: int
    nominal_voltage_v: float
    sign: float
    power_kw: float
    phase_powers_kw: tuple[float, float, float]
    reactive_kvar: float
    phase_reactive_kvar: tuple[float, float, float]
    counters: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, meter: Meter, time_us: int, nominal_voltage_v: float, *, invert: bool) -> "MeterView":
        """``invert``: its transformers are mounted the wrong way round, and so it sees everything reversed."""
        pairs = tuple((counter.imported, counter.exported) for counter in meter.counters)
        if invert:
            pairs = tuple((exported, imported) for imported, exported in pairs)
        return cls(
            time_us,
            nominal_voltage_v,
            -1.0 if invert else 1.0,
            meter.power_kw,
            meter.phase_powers_kw,
            meter.reactive_kvar,
            meter.phase_reactive_kvar,
            pairs,
        )

    def shifted(self, power_kw: float) -> "MeterView":
        """With powers that are off by so much, a third of it on each phase; counters are exact."""
        a, b, c = (phase + power_kw / 3 for phase in self.phase_powers_kw)
        return replace(self, power_kw=self.power_kw + power_kw, phase_powers_kw=(a, b, c))

    @property
    def frequency_hz(self) -> float:
        """The grid's frequency wanders about 50 Hz; every meter of a site sees the same."""
        seconds = self.time_us / 1e6
        return 50 + 0.045 * math.sin(seconds / 97) + 0.03 * math.sin(seconds / 41 + 1) + 0.01 * math.sin(seconds / 7)

    @property
    def line_voltage_v(self) -> float:
        """It wanders by a per cent or so through the day, and sags a little under load."""
        seconds = self.time_us / 1e6
        wander = 0.008 * math.sin(seconds / 3700) + 0.004 * math.sin(seconds / 310)
        return self.nominal_voltage_v * (1 + wander - 0.00002 * self.power_kw)

    def phase_current_a(self, phase: int) -> float:
        """|S| of the phase over its voltage to neutral."""
        kva = math.hypot(self.phase_powers_kw[phase], self.phase_reactive_kvar[phase])
        return kva * 1000 / (self.line_voltage_v / math.sqrt(3))

    @property
    def apparent_kva(self) -> float:
        return math.hypot(self.power_kw, self.reactive_kvar)

    @property
    def power_factor(self) -> float:
        """P/S, with the sign of P; 1 when nothing flows."""
        kva = self.apparent_kva
        return self.sign * self.power_kw / kva if kva > 0 else 1.0


DeviceView = BatteryView | MeterView

BATTERY_VALUES: dict[str, Callable[[BatteryView], Number]] = {
    "soe": lambda view: 100 * view.energy_kwh / view.spec.capacity_kwh,
    "stored_energy": lambda view: view.energy_kwh,
    "capacity": lambda view: view.spec.capacity_kwh,
    "target_power": lambda view: view.target_kw,
    "measured_power": lambda view: view.power_kw,
    "max_charge_power": lambda view: view.spec.charge_limit_kw,
    "max_discharge_power": lambda view: view.spec.discharge_limit_kw,
    "available_blocks": lambda view: view.available_blocks,
    "command_source": lambda view: int(view.commanded),
    "status": lambda view: 2 if view.commanded else 1,
}


def _phase_power(phase: int) -> Callable[[MeterView], Number]:
    return lambda view: view.sign * view.phase_powers_kw[phase]


def _phase_current(phase: int) -> Callable[[MeterView], Number]:
    return lambda view: view.phase_current_a(phase)


def _counter(index: int, side: int) -> Callable[[MeterView], Number]:
    return lambda view: view.counters[index][side]


METER_VALUES: dict[str, Callable[[MeterView], Number]] = {
    "frequency": lambda view: view.frequency_hz,
    "voltage_line_average": lambda view: view.line_voltage_v,
    **{f"current_phase_{name}": _phase_current(phase) for phase, name in enumerate("abc")},
    "current_phase_average": lambda view: sum(view.phase_current_a(phase) for phase in range(3)) / 3,
    **{f"power_phase_{name}_active": _phase_power(phase) for phase, name in enumerate("abc")},
    "power_total_active": lambda view: view.sign * view.power_kw,
    "power_total_reactive": lambda view: view.sign * view.reactive_kvar,
    "power_total_apparent": lambda view: view.apparent_kva,
    "power_factor_total": lambda view: view.power_factor,
    "status": lambda _: 1,
    **{
        f"energy_{direction}_{what}": _counter(index, side)
        for index, what in enumerate(
            ("active", "phase_a_active", "phase_b_active", "phase_c_active", "reactive", "apparent")
        )
        for side, direction in enumerate(("imported", "exported"))
    },
}


def counters_of(meter: Meter) -> list[list[float]]:
    """A meter's counters as plain numbers, for its state."""
    return [[counter.imported, counter.exported] for counter in meter.counters]


def set_counters(counters: tuple[Counter, ...], values: list[list[float]]) -> None:
    """The other way round."""
    for counter, (imported, exported) in zip(counters, values, strict=True):
        counter.imported, counter.exported = float(imported), float(exported)
