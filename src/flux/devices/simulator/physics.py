"""The physics of a simulated site: a battery, meters and their balance. Pure: no clock, no I/O, no randomness.

Every step is integrated exactly, whatever its length: a step of 20 s that holds a ramp, a command that times out and
a battery that runs empty gives the same energies as 20,000 steps of a millisecond.

Worked example: 500 kWh at 250 kWh stored, told to charge at 90 kW (efficiency 0.9, no ramp) for an hour: its meter
imports 90 kWh, the battery holds 331 kWh; the grid meter, with 40 kW of load and 100 kW of sun, imports 30 kWh.

Signs as everywhere in Flux: a battery's power is + when it discharges; a meter's is + when power flows from the grid
side into what it meters, so that at each instant grid = load + generation + storage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_SECONDS_PER_HOUR = 3600.0


class Segment(NamedTuple):
    """A stretch of time in which the battery's power goes in a straight line from start to end (kW, + discharge)."""

    duration_s: float
    start_kw: float
    end_kw: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatterySpec:
    """What a battery is. Limits are magnitudes in kW; the efficiency applies to charging, discharging is lossless."""

    capacity_kwh: float
    charge_limit_kw: float
    discharge_limit_kw: float
    charge_efficiency: float = 0.9
    ramp_kw_s: float = math.inf
    blocks: int = 1

    def __post_init__(self) -> None:
        if not (self.capacity_kwh > 0 and self.charge_limit_kw >= 0 and self.discharge_limit_kw >= 0):
            raise ValueError(f"a battery needs a capacity above 0 and limits of 0 or more, not {self}")
        if not (0 < self.charge_efficiency <= 1 and self.ramp_kw_s > 0 and self.blocks >= 1):
            raise ValueError(
                f"a battery needs an efficiency in (0, 1], a ramp above 0 and at least a block, not {self}"
            )


@dataclass(slots=True)
class Battery:
    """A battery that follows its set-point within its limits, and rests when the command has timed out.

    ``following`` is False in every mode but direct control. ``timeout_s`` None: commands never time out.
    ``command_age_s`` counts since the last sign of life of whoever commands it. The ramps are in kW/s, ``ramp_up``
    away from rest and ``ramp_down`` towards it. ``power_kw`` and ``set_point_kw`` are + when discharging.
    ``tripped``: it takes its commands and rests all the same.
    """

    spec: BatterySpec
    energy_kwh: float
    power_kw: float = 0.0
    set_point_kw: float = 0.0
    following: bool = False
    timeout_s: float | None = None
    command_age_s: float = 0.0
    ramp_up_kw_s: float = math.inf
    ramp_down_kw_s: float = math.inf
    available_blocks: int = 1
    tripped: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.energy_kwh <= self.spec.capacity_kwh:
            raise ValueError(f"stored energy {self.energy_kwh} kWh is outside 0..{self.spec.capacity_kwh} kWh")

    @property
    def timed_out(self) -> bool:
        return self.timeout_s is not None and self.command_age_s >= self.timeout_s

    @property
    def target_kw(self) -> float:
        """The power that it is steering to now: the set-point within the limits, 0 when it isn't commanded."""
        return 0.0 if self.timed_out else self._commanded_kw()

    def advance(self, duration_s: float) -> list[Segment]:
        """Let time pass; the stretches of power through its meter, together ``duration_s`` long."""
        segments: list[Segment] = []
        left_s = math.inf if self.timeout_s is None else self.timeout_s - self.command_age_s
        commanded_s = min(max(left_s, 0.0), duration_s)
        if commanded_s > 0:
            self._steer(commanded_s, 0.0 if self.tripped else self._commanded_kw(), segments)
        if commanded_s < duration_s:
            self._steer(duration_s - commanded_s, 0.0, segments)
        self.command_age_s += duration_s
        if left_s <= duration_s and self.timeout_s is not None:  # rounding must not bring an expired command back
            self.command_age_s = max(self.command_age_s, self.timeout_s)
        return segments

    def _commanded_kw(self) -> float:
        if not self.following:
            return 0.0
        share = min(self.available_blocks / self.spec.blocks, 1.0)
        return min(max(self.set_point_kw, -self.spec.charge_limit_kw * share), self.spec.discharge_limit_kw * share)

    def _steer(self, duration_s: float, target_kw: float, segments: list[Segment]) -> None:
        """Ramp towards the target, by way of 0 when the direction changes, then hold it."""
        if target_kw == self.power_kw:
            self._flow(duration_s, target_kw, segments)
            return
        if self.power_kw * target_kw < 0 or abs(target_kw) < abs(self.power_kw):
            same_direction = self.power_kw * target_kw >= 0
            duration_s -= self._ramp(duration_s, target_kw if same_direction else 0.0, self.ramp_down_kw_s, segments)
        if abs(target_kw) > abs(self.power_kw) and duration_s > 0:
            duration_s -= self._ramp(duration_s, target_kw, self.ramp_up_kw_s, segments)
        if duration_s > 0:
            self._flow(duration_s, self.power_kw, segments)

    def _ramp(self, duration_s: float, target_kw: float, rate_kw_s: float, segments: list[Segment]) -> float:
        """Move to the target at the given rate; the seconds that it took."""
        rate = min(rate_kw_s, self.spec.ramp_kw_s)
        needed_s = abs(target_kw - self.power_kw) / rate
        if needed_s == 0.0:  # an infinite rate
            self.power_kw = target_kw
            return 0.0
        if needed_s <= duration_s:
            self._flow(needed_s, target_kw, segments)
            return needed_s
        change = math.copysign(rate * duration_s, target_kw - self.power_kw)
        self._flow(duration_s, self.power_kw + change, segments)
        return duration_s

    def _flow(self, duration_s: float, end_kw: float, segments: list[Segment]) -> None:
        """Go in a straight line from the present power to ``end_kw``; cut to 0 at the instant it is full or empty."""
        if duration_s <= 0:
            return
        start_kw = self.power_kw
        through_kwh = (start_kw + end_kw) / 2 * duration_s / _SECONDS_PER_HOUR  # + out of the battery
        if through_kwh >= 0:
            room_kwh, after_kwh = self.energy_kwh, self.energy_kwh - through_kwh
        else:
            efficiency = self.spec.charge_efficiency
            room_kwh = (self.spec.capacity_kwh - self.energy_kwh) / efficiency
            after_kwh = self.energy_kwh - through_kwh * efficiency
        if through_kwh != 0 and abs(through_kwh) >= room_kwh:
            self._cut(duration_s, end_kw, room_kwh, segments)
            return
        self.energy_kwh = min(max(after_kwh, 0.0), self.spec.capacity_kwh)
        self.power_kw = end_kw
        segments.append(Segment(duration_s, start_kw, end_kw))

    def _cut(self, duration_s: float, end_kw: float, room_kwh: float, segments: list[Segment]) -> None:
        """Flow until ``room_kwh`` (through the meter) have passed, then rest."""
        start, end = abs(self.power_kw), abs(end_kw)
        slope = (end - start) / duration_s
        energy = room_kwh * _SECONDS_PER_HOUR
        root = math.sqrt(max(start * start + 2 * slope * energy, 0.0))  # the power at that instant
        until_s = min(2 * energy / (start + root), duration_s) if energy > 0 else 0.0
        if until_s > 0:
            sign = 1.0 if self.power_kw + end_kw > 0 else -1.0
            segments.append(Segment(until_s, self.power_kw, sign * root))
        self.energy_kwh = 0.0 if self.power_kw + end_kw > 0 else self.spec.capacity_kwh
        self.power_kw = 0.0
        if until_s < duration_s:
            segments.append(Segment(duration_s - until_s, 0.0, 0.0))


@dataclass(slots=True)
class Counter:
    """A pair of cumulative registers: what flowed in and what flowed out, each only ever rising. kWh, kVArh or kVAh."""

    imported: float = 0.0
    exported: float = 0.0

    def add(self, start: float, end: float, hours: float) -> None:
        """Integrate a power that goes in a straight line from start to end, exactly, each sign by itself."""
        if start >= 0 <= end:
            self.imported += (start + end) / 2 * hours
        elif start <= 0 >= end:
            self.exported -= (start + end) / 2 * hours
        else:
            before = start / (start - end) * hours  # the straight line meets 0 here
            self.add(start, 0.0, before)
            self.add(0.0, end, hours - before)


Phases = tuple[float, float, float]
BALANCED: Phases = (1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """How the load sits on the three phases, and its power factor (lagging: it draws reactive power)."""

    phases: Phases = (0.36, 0.33, 0.31)
    power_factor: float = 0.97

    @property
    def kvar_per_kw(self) -> float:
        return math.sqrt(1 - self.power_factor**2) / self.power_factor


@dataclass(slots=True)
class Meter:
    """A three-phase meter: the power of the instant, and counters that integrate it exactly.

    Solar and batteries are balanced over the phases and make no reactive power; the load is and does as its shape
    says. ``power_kw`` is the sum of the phases; + into what is metered.
    """

    shape: LoadShape = field(default_factory=LoadShape)
    load_kw: float = 0.0
    balanced_kw: float = 0.0
    active: Counter = field(default_factory=Counter)
    phases: tuple[Counter, Counter, Counter] = field(default_factory=lambda: (Counter(), Counter(), Counter()))
    reactive: Counter = field(default_factory=Counter)
    apparent: Counter = field(default_factory=Counter)
    _kvar_per_kw: float = field(init=False)

    def __post_init__(self) -> None:
        self._kvar_per_kw = self.shape.kvar_per_kw

    @property
    def power_kw(self) -> float:
        return self.load_kw + self.balanced_kw

    @property
    def phase_powers_kw(self) -> Phases:
        third, (a, b, c) = self.balanced_kw / 3, self.shape.phases
        return (self.load_kw * a + third, self.load_kw * b + third, self.load_kw * c + third)

    @property
    def reactive_kvar(self) -> float:
        return self.load_kw * self._kvar_per_kw

    @property
    def phase_reactive_kvar(self) -> Phases:
        a, b, c = self.shape.phases
        return (self.reactive_kvar * a, self.reactive_kvar * b, self.reactive_kvar * c)

    @property
    def apparent_kva(self) -> float:
        return math.hypot(self.power_kw, self.reactive_kvar)

    @property
    def counters(self) -> tuple[Counter, ...]:
        """All of them, in a fixed order: active, phases a, b, c, reactive, apparent."""
        return (self.active, *self.phases, self.reactive, self.apparent)

    def record(self, hours: float, load_kw: float, start_kw: float, end_kw: float) -> None:
        """Meter a constant load beside a balanced power that goes in a straight line from start to end."""
        self.load_kw, self.balanced_kw = load_kw, end_kw
        self.active.add(load_kw + start_kw, load_kw + end_kw, hours)
        first, last = start_kw / 3, end_kw / 3
        for counter, share in zip(self.phases, self.shape.phases, strict=True):
            own = load_kw * share
            counter.add(own + first, own + last, hours)
        kvar = load_kw * self._kvar_per_kw
        if kvar:
            self.reactive.add(kvar, kvar, hours)
        self._record_apparent(hours, load_kw + start_kw, load_kw + end_kw, kvar)

    def _record_apparent(self, hours: float, start_kw: float, end_kw: float, kvar: float) -> None:
        """Apparent energy goes with the direction of the active power; along a ramp by Simpson's rule."""
        if start_kw * end_kw < 0:
            before = start_kw / (start_kw - end_kw) * hours
            self._record_apparent(before, start_kw, 0.0, kvar)
            self._record_apparent(hours - before, 0.0, end_kw, kvar)
            return
        kva = math.hypot(start_kw, kvar)
        if start_kw != end_kw:
            kva = (kva + 4 * math.hypot((start_kw + end_kw) / 2, kvar) + math.hypot(end_kw, kvar)) / 6
        if start_kw + end_kw >= 0:
            self.apparent.imported += kva * hours
        else:
            self.apparent.exported += kva * hours

    def reset(self) -> None:
        """Set every counter to zero, as a replaced or re-commissioned meter does."""
        for counter in self.counters:
            counter.imported = counter.exported = 0.0


@dataclass(frozen=True, slots=True)
class MeterTap:
    """What a meter sees: the load, the sun, and the batteries by their index."""

    meter: Meter
    sees_load: bool
    sees_solar: bool
    batteries: tuple[int, ...]


class SitePhysics:
    """The batteries and meters of one connection point, moved together; the balance holds at each instant."""

    def __init__(self, batteries: Sequence[Battery], taps: Sequence[MeterTap]) -> None:
        self.batteries = tuple(batteries)
        self.taps = tuple(taps)

    def advance(self, duration_s: float, load_kw: float, solar_kw: float) -> None:
        """Let ``duration_s`` pass with a constant load and sun (both 0 kW or more)."""
        courses = [battery.advance(duration_s) for battery in self.batteries]
        if all(len(course) == 1 for course in courses):
            powers = [(course[0].start_kw, course[0].end_kw) for course in courses]
            self._record(duration_s / _SECONDS_PER_HOUR, load_kw, solar_kw, powers)
            return
        for piece_s, powers in _in_step(courses):
            self._record(piece_s / _SECONDS_PER_HOUR, load_kw, solar_kw, powers)
        # the last piece may fall short by a rounding error, and what happened in it is seen from here on
        self._record(0.0, load_kw, solar_kw, [(battery.power_kw, battery.power_kw) for battery in self.batteries])

    def _record(self, hours: float, load_kw: float, solar_kw: float, powers: list[tuple[float, float]]) -> None:
        for tap in self.taps:
            start_kw = end_kw = -solar_kw if tap.sees_solar else 0.0
            for index in tap.batteries:
                start_kw -= powers[index][0]
                end_kw -= powers[index][1]
            tap.meter.record(hours, load_kw if tap.sees_load else 0.0, start_kw, end_kw)


def _in_step(courses: Sequence[list[Segment]]) -> list[tuple[float, list[tuple[float, float]]]]:
    """Cut the courses of several batteries at each other's corners: pieces in which all go in straight lines."""
    heads = [list(reversed(course)) for course in courses]
    pieces: list[tuple[float, list[tuple[float, float]]]] = []
    while all(heads):
        piece_s = min(head[-1].duration_s for head in heads)
        powers = []
        for head in heads:
            segment = head.pop()
            share = piece_s / segment.duration_s
            middle = segment.start_kw + (segment.end_kw - segment.start_kw) * share
            if segment.duration_s > piece_s:
                head.append(Segment(segment.duration_s - piece_s, middle, segment.end_kw))
            powers.append((segment.start_kw, middle if segment.duration_s > piece_s else segment.end_kw))
        pieces.append((piece_s, powers))
    return pieces
