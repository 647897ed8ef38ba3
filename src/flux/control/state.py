"""What a decision is made from: everything frozen before any mode looks at it.

Signs: battery power + discharge, − charge; site power + import, − export. Units: kW, kWh, £/MWh, MW (NIV + short).
Times are aware; a missing value is ``None`` (a non-finite number counts as missing too), never 0.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import isfinite


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value and the time at which the device says it was true (not when it arrived)."""

    value: float
    time: datetime


@dataclass(frozen=True, slots=True)
class MarketPair:
    """Price and NIV of one settlement period, known together. ``sp_start`` is the start of that half hour."""

    sp_start: datetime
    price: float  # £/MWh
    niv_mw: float  # + short, − long


@dataclass(frozen=True, slots=True)
class MarketState:
    """For each settlement period the last complete pair; the current and the previous one are looked at."""

    pairs: tuple[MarketPair, ...] = ()

    def pair_of(self, sp_start: datetime) -> MarketPair | None:
        """The pair of the period that starts at ``sp_start``, of several the last; one with no number in it is none."""
        for pair in reversed(self.pairs):
            if pair.sp_start == sp_start and isfinite(pair.price) and isfinite(pair.niv_mw):
                return pair
        return None


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """One step of an external dispatch, in force in [start, end). ``action`` is kept as it came, known or not."""

    start: datetime
    end: datetime
    action: str


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """The grid connection's limits now (an operating envelope), kW; ``None`` or non-finite: the plan's."""

    import_kw: float | None = None
    export_kw: float | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """Limits of the grid connection in [start, end) in place of the plan's."""

    start: datetime
    end: datetime
    limits: SiteLimits


@dataclass(frozen=True, slots=True)
class BatteryCapability:
    """What the battery itself reports that it can do; ``None``: it does not say. Powers in kW, both ≥ 0."""

    charge_limit_kw: float | None = None
    discharge_limit_kw: float | None = None
    available_blocks: int | None = None
    blocks_total: int | None = None


@dataclass(frozen=True, slots=True)
class AcknowledgedCommand:
    """The last set-point that the battery acknowledged; one that was refused or never sent is none."""

    power_kw: float
    time: datetime


@dataclass(frozen=True, slots=True)
class Stop:
    """Control is to rest: stopped, in maintenance, inactive, decommissioned or shutting down.

    0 kW is commanded until a command of 0 kW was acknowledged at or after ``since``; then nothing is sent.
    """

    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class SetPoint:
    """A power by hand for ``battery``, kW (+ discharge, − charge), that ``actor`` set; it ends by itself at ``until``.

    It goes before every mode and stays within all limits; the other batteries of the plan rest meanwhile.
    """

    battery: str
    power_kw: float
    until: datetime
    actor: str


class Cause(StrEnum):
    """Why a dynamic peak began to discharge at full power."""

    SHORT = "short"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class FullDischarge:
    """The plan's entry ``entry`` began to discharge at full power in its period that starts at ``period_start``."""

    entry: int
    period_start: datetime
    cause: Cause


@dataclass(frozen=True, slots=True)
class Memory:
    """What was begun in earlier cycles; goes into ``decide`` with the state and comes out with the decision."""

    full_discharges: tuple[FullDischarge, ...] = ()

    def full_discharge(self, entry: int, period_start: datetime) -> FullDischarge | None:
        for begun in self.full_discharges:
            if begun.entry == entry and begun.period_start == period_start:
                return begun
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleState:
    """One control cycle, frozen.

    ``battery_power`` is a measurement (its own meter, or a register that measures it), never a set-point; without one
    ``last_command`` stands in for it, and counts as 0 kW once older than ``command_timeout`` (``None``: it never does).
    ``step`` is the time until the next cycle; ``None``: the plan's interval.
    """

    time: datetime
    site_power: Measurement | None
    soe_kwh: Measurement | None
    battery_power: Measurement | None = None
    last_command: AcknowledgedCommand | None = None
    command_timeout: timedelta | None = None
    market: MarketState = MarketState()
    schedule: tuple[ScheduleStep, ...] = ()
    limits: SiteLimits = SiteLimits()
    capability: BatteryCapability = BatteryCapability()
    step: timedelta | None = None
    memory: Memory = Memory()
    stop: Stop | None = None
    set_point: SetPoint | None = None

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError("the time of a cycle must be aware")
        if self.step is not None and self.step <= timedelta():
            raise ValueError(f"the step of a cycle must be longer than {self.step}")
