"""History lived again: the real ``decide`` and the simulator's battery, step by step. Pure: no clock, no I/O.

At each step's start the controller sees the site as it is at that instant, and the market, dispatch and operating
envelopes as they were known then; the battery then does as it is told until the next step. At the plan's own interval
the damping of the live loop stands between decision and command, as it does there; at coarser steps there is nothing to
damp: no meter lags by minutes. With a load of 40 kW, no sun and import avoidance, an hour in steps of ten minutes takes
40 kWh out of the battery and nothing from the grid.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flux.analysis.known import MarketAsKnown, Release
from flux.analysis.told import Told, ToldAsKnown
from flux.control.damping import Damping, damped
from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState, Measurement, Memory
from flux.devices.simulator.physics import Battery, BatterySpec
from flux.devices.simulator.profiles import Profile, to_us

_NAN = float("nan")
_MICROSECOND = timedelta(microseconds=1)
_PROGRESS_EVERY = timedelta(days=1)

Observer = Callable[[CycleState, Decision], None]


@dataclass(slots=True)
class Course:
    """What happened, as columns.

    Of each piece, in which all powers stay the same: ``hours``, ``load_kw`` and ``solar_kw`` (≥ 0), ``battery_kw`` at
    its meter (+ discharge); ``pieces`` says how many pieces a step has. Of each step: ``target_kw`` as sent (nan:
    nothing was), ``mode`` and ``limits`` as places in ``modes`` and ``limit_sets``, ``soe_kwh`` at its end.
    """

    start_soe_kwh: float
    hours: "array[float]"
    load_kw: "array[float]"
    solar_kw: "array[float]"
    battery_kw: "array[float]"
    pieces: "array[int]"
    target_kw: "array[float]"
    soe_kwh: "array[float]"
    mode: "array[int]"
    limits: "array[int]"
    modes: tuple[str | None, ...] = (None,)
    limit_sets: tuple[tuple[str, ...], ...] = ((),)

    @classmethod
    def from_soe(cls, start_soe_kwh: float) -> "Course":
        """A course in which nothing has happened yet."""
        return cls(
            start_soe_kwh=start_soe_kwh,
            hours=array("d"),
            load_kw=array("d"),
            solar_kw=array("d"),
            battery_kw=array("d"),
            pieces=array("i"),
            target_kw=array("d"),
            soe_kwh=array("d"),
            mode=array("i"),
            limits=array("i"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a plan is tried on: the site's load and sun, the market, the span and its steps.

    ``step`` divides half an hour, and half an hour divides the span; ``start`` and ``end`` are half hours' edges.
    """

    load: Profile
    solar: Profile
    releases: tuple[Release, ...]
    start: datetime
    end: datetime
    step: timedelta
    start_soe_kwh: float
    told: Told = field(default_factory=Told)
    day_ahead: Mapping[datetime, float] = field(default_factory=dict)
    """£/MWh by the start of each half hour: no mode looks at it, a tariff may."""


def simulate(
    plan: ControllerPlan,
    setting: Setting,
    observe: Observer | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> Course:
    """Let ``plan`` control the battery through the setting's span.

    ``observe`` is told of every decision; ``progress`` hears of the share that is done (0 to 1), once a simulated day.
    """
    site, market = _Site.of(plan, setting), MarketAsKnown(setting.releases)
    told = ToldAsKnown(setting.told, plan.site)
    memory, damping = Memory(), Damping() if setting.step == plan.interval else None
    stepped = plan.model_copy(update={"interval": setting.step})
    _ = stepped.compiled
    now, next_report = setting.start.astimezone(UTC), setting.start
    now_us, step_us = to_us(now), setting.step // _MICROSECOND
    while now < setting.end:
        site.look(now_us)
        if now >= told.until:
            told.move_to(now)
        state = CycleState(
            time=now,
            site_power=Measurement(site.power_kw, now),
            soe_kwh=Measurement(site.battery.energy_kwh, now),
            battery_power=Measurement(site.battery.power_kw, now),
            market=market.at(now),
            schedule=told.schedule,
            limits=told.limits,
            memory=memory,
        )
        decision = decide(stepped, state)
        memory = decision.memory
        if observe is not None:
            observe(state, decision)
        power_kw = decision.target_power_kw
        if damping is not None and power_kw is not None:
            power_kw, damping = damped(stepped, state, decision, site.battery.set_point_kw, damping)
        now += setting.step
        now_us += step_us
        site.live(decision, power_kw, now_us)
        if now >= next_report:
            progress((now - setting.start) / (setting.end - setting.start))
            next_report += _PROGRESS_EVERY
    return site.finished()


class _Site:
    """The site at one instant: its battery, and what it draws and makes until the next change."""

    def __init__(self, battery: Battery, setting: Setting) -> None:
        self.battery = battery
        self.course = Course.from_soe(battery.energy_kwh)
        self._load, self._solar = setting.load, setting.solar
        self._load_kw = self._solar_kw = 0.0
        self._time_us = self._load_until_us = self._solar_until_us = to_us(setting.start)
        self._modes: dict[str | None, int] = {None: 0}
        self._limit_sets: dict[tuple[str, ...], int] = {(): 0}

    @classmethod
    def of(cls, plan: ControllerPlan, setting: Setting) -> "_Site":
        """The plan's batteries as one, that follow at once and are always told something in time."""
        spec = BatterySpec(
            capacity_kwh=plan.battery.capacity_kwh,
            charge_limit_kw=plan.battery.charge_limit_kw,
            discharge_limit_kw=plan.battery.discharge_limit_kw,
            charge_efficiency=plan.battery.charge_efficiency,
        )
        return cls(Battery(spec, setting.start_soe_kwh, following=True), setting)

    @property
    def power_kw(self) -> float:
        """Through the grid connection now, + import."""
        return self._load_kw - self._solar_kw - self.battery.power_kw

    def look(self, now_us: int) -> None:
        """What load and sun are from ``now_us`` on."""
        if now_us >= self._load_until_us:
            self._load_kw, self._load_until_us = self._load.at(now_us)
        if now_us >= self._solar_until_us:
            self._solar_kw, self._solar_until_us = self._solar.at(now_us)

    def live(self, decision: Decision, power_kw: float | None, until_us: int) -> None:
        """Do as told (None: go on as before) until ``until_us``, and note what happens."""
        course, battery = self.course, self.battery
        if power_kw is not None:
            battery.set_point_kw = power_kw
        pieces, time_us = 0, self._time_us
        while time_us < until_us:
            self.look(time_us)
            end_us = min(until_us, self._load_until_us, self._solar_until_us)
            for duration_s, start_kw, _ in battery.advance((end_us - time_us) / 1e6):
                course.hours.append(duration_s / 3600)
                course.load_kw.append(self._load_kw)
                course.solar_kw.append(self._solar_kw)
                course.battery_kw.append(start_kw)
                pieces += 1
            time_us = end_us
        self._time_us = time_us
        course.pieces.append(pieces)
        course.soe_kwh.append(battery.energy_kwh)
        course.target_kw.append(_NAN if power_kw is None else power_kw)
        course.mode.append(self._modes.setdefault(decision.effective, len(self._modes)))
        course.limits.append(self._limit_sets.setdefault(decision.limits, len(self._limit_sets)))

    def finished(self) -> Course:
        """The course, with the names of its modes and limits."""
        self.course.modes, self.course.limit_sets = tuple(self._modes), tuple(self._limit_sets)
        return self.course
