"""The cheapest course that a battery could have taken, had it known every price, load and sun before.

Two half hours at £50 and £250/MWh, a battery of 10 kWh, empty and lossless, 20 kW: it draws 10 kWh for £0.50 and
gives them back for £2.50 less. One power holds for a whole step, so a step either charges or discharges, and the site
either imports or exports; docs/optimum.md has the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from flux.analysis.flows import Flow, Series, split_flows
from flux.analysis.lp import InfeasibleError, Program, Solution, UnsolvedError
from flux.analysis.rating import cost
from flux.analysis.timeline import Timeline
from flux.control.parts import BatteryConfig, SiteConfig
from flux.errors import InputError

_TOLERANCE_KWH = 1e-6
_TOLERANCE = 1e-4
"""Of a step's cost, in £/1000."""
_PENALTY = 100.0
"""A kWh beyond a grid limit costs so many times the dearest rate: limits come before money."""
_KWH_PER_MWH = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimumInputs:
    """What the best course depends on; energies in kWh of each step at the site's meters."""

    timeline: Timeline
    battery: BatteryConfig
    site: SiteConfig
    load_kwh: Series
    solar_kwh: Series
    rates: Mapping[Flow, Series]
    """£/MWh of each flow in each step, as ``RatedSteps.flow``; where one is nan the battery rests."""
    start_soe_kwh: float
    end_soe_kwh: float | None = None
    """It must hold at least so much at the end; None: it may end anywhere."""
    cycles_per_day: float | None = None
    """Discharged energy of a local day, in times the capacity; None: as much as it can."""
    zone: ZoneInfo
    """Of the local days."""
    limits_kw: tuple[Series, Series] | None = None
    """Import and export limit of each step, where they are not always those of ``site``."""
    horizon: timedelta | None = None
    """How far it sees ahead; None: to the end."""
    stride: timedelta | None = None
    """How long it keeps to what it saw before it looks again; default: half the horizon."""
    tolerance: float = 0.01
    """£ that the course may cost more than the bound, where binaries are needed."""
    time_limit_s: float = 20.0
    """After so long the best course found is taken, with its bound; only what needs binaries takes long."""

    @property
    def limits_kwh(self) -> tuple[Series, Series]:
        """What may be imported, and exported, in each step."""
        if self.limits_kw is None:
            every = np.full(self.timeline.count, self.timeline.step_h)
            return self.site.import_limit_kw * every, self.site.export_limit_kw * every
        return self.limits_kw[0] * self.timeline.step_h, self.limits_kw[1] * self.timeline.step_h


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best course; energies in kWh, money in £, + cost. Nothing that the site could do costs less than ``bound``.

    ``bound`` is None where the horizon is shorter than the whole span: then it is a good course, no bound.
    """

    timeline: Timeline
    charge_kwh: Series
    discharge_kwh: Series
    soe_kwh: Series
    """Stored at the end of each step."""
    flows: Mapping[Flow, Series]
    costs: Mapping[Flow, Series]
    cost_without: float
    """£ of the same site without its battery."""
    bound: float | None
    over_limits_kwh: float
    """Beyond the grid's limits, where no course could keep them."""
    unpriced_steps: int
    binaries: int
    """Steps that had to be told to charge or discharge: there, doing both at once would have paid."""
    capacity_kwh: float

    @property
    def cost(self) -> float:
        """£ of all flows, of what has a price; daily charges are no part of it."""
        return float(sum(np.nansum(part) for part in self.costs.values()))

    @property
    def earned(self) -> float:
        """£ by which the battery made the site cheaper."""
        return self.cost_without - self.cost

    @property
    def cycles(self) -> float:
        """How often the whole capacity was discharged."""
        return float(self.discharge_kwh.sum()) / self.capacity_kwh


def optimum(inputs: OptimumInputs) -> Optimum:
    """The cheapest course of ``inputs``; an InputError says what of them can't be met."""
    _check(inputs)
    if inputs.horizon is None or inputs.horizon >= inputs.timeline.end - inputs.timeline.start:
        whole = _solve(inputs, {})
        return _told(inputs, whole.charge, whole.discharge, whole.cost - whole.bound, whole.binaries)
    return _rolling(inputs, inputs.horizon, inputs.stride or inputs.horizon / 2)


def _check(inputs: OptimumInputs) -> None:
    battery = inputs.battery
    if not 0 <= inputs.start_soe_kwh <= battery.capacity_kwh:
        raise InputError(f"a start at {inputs.start_soe_kwh:g} kWh is outside 0 … {battery.capacity_kwh:g} kWh")
    end = inputs.end_soe_kwh
    if end is not None and not battery.soe_min_kwh <= end <= battery.soe_max_kwh:
        raise InputError(f"an end at {end:g} kWh is outside {battery.soe_min_kwh:g} … {battery.soe_max_kwh:g} kWh")
    if inputs.cycles_per_day is not None and inputs.cycles_per_day < 0:
        raise InputError(f"{inputs.cycles_per_day:g} cycles a day: must not be negative")
    for name, length in (("horizon", inputs.horizon), ("stride", inputs.stride)):
        if length is not None and (length < inputs.timeline.step or length % inputs.timeline.step):
            raise InputError(f"a {name} of {length} is no whole number of steps of {inputs.timeline.step}")
    if inputs.horizon is not None and inputs.stride is not None and inputs.stride > inputs.horizon:
        raise InputError(f"a stride of {inputs.stride} is longer than the horizon of {inputs.horizon}")
    if len(inputs.load_kwh) != inputs.timeline.count or len(inputs.solar_kwh) != inputs.timeline.count:
        raise ValueError("load and solar need one value for each step")


# ── the whole horizon ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Course:
    charge: Series
    discharge: Series
    cost: float
    """£/1000 of the site with it; what is beyond the grid's limits at its penalty."""
    bound: float
    """£/1000 that no course goes below."""
    binaries: int


@dataclass(frozen=True, slots=True)
class _Slopes:
    """£/1000 for each kWh more, and how many kWh there are of each: first what meets sun or load, then the grid.

    Of a step one of excess sun and residual load is 0: a kWh charged takes of the excess sun first, a kWh discharged
    serves the residual load first.
    """

    charge_sun: Series
    charge_grid: Series
    discharge_load: Series
    discharge_grid: Series
    most: tuple[Series, Series, Series, Series]
    must_charge: Series
    must_discharge: Series


def _slopes(inputs: OptimumInputs) -> _Slopes:
    rates = {flow: np.nan_to_num(values, nan=0.0) for flow, values in inputs.rates.items()}
    step_h, battery = inputs.timeline.step_h, inputs.battery
    excess = np.maximum(inputs.solar_kwh - inputs.load_kwh, 0.0)
    residual = np.maximum(inputs.load_kwh - inputs.solar_kwh, 0.0)
    awake = ~_unpriced(inputs)
    most_in, most_out = (awake * kw * step_h for kw in (battery.charge_limit_kw, battery.discharge_limit_kw))
    import_kwh, export_kwh = inputs.limits_kwh
    sun, load = np.minimum(most_in, excess), np.minimum(most_out, residual)
    return _Slopes(
        charge_sun=rates[Flow.SOLAR_TO_BATTERY] - rates[Flow.SOLAR_TO_GRID],
        charge_grid=rates[Flow.GRID_TO_BATTERY],
        discharge_load=rates[Flow.BATTERY_TO_LOAD] - rates[Flow.GRID_TO_LOAD],
        discharge_grid=rates[Flow.BATTERY_TO_GRID],
        most=(
            sun,
            np.clip(np.minimum(most_in - sun, import_kwh - residual), 0.0, None),
            load,
            np.clip(np.minimum(most_out - load, export_kwh - excess), 0.0, None),
        ),
        must_charge=excess - export_kwh,
        must_discharge=residual - import_kwh,
    )


def _solve(inputs: OptimumInputs, spent_kwh: Mapping[date, float]) -> _Course:
    """Solve it as a linear program; steps in which the answer does what no battery can get a binary of their own.

    Charging and discharging at once only pays where prices are strange (below 0, or export above import), so most
    programs need none. With one of the two taken off the other the answer is a course that a battery can take, so
    after each round there is one, and a bound below it; it ends when they meet.
    """
    slopes, fixed = _slopes(inputs), float(_without_battery(inputs).sum()) * _KWH_PER_MWH
    strict, seconds = np.zeros(inputs.timeline.count, dtype=np.bool_), 0.0
    best: _Course | None = None
    while solution := _solved(_program(inputs, slopes, strict, spent_kwh), inputs, seconds):
        seconds += solution.seconds
        course, wrong = _course_of(inputs, slopes, solution, fixed, int(strict.sum()))
        best = course if best is None else _better(best, course)
        new = wrong & ~strict
        if (
            best.cost - best.bound <= inputs.tolerance * _KWH_PER_MWH
            or not np.any(new)
            or seconds >= inputs.time_limit_s
        ):
            break
        strict |= new
    if best is None:
        raise UnsolvedError("the first round has no binaries, and always ends")
    return best


def _course_of(
    inputs: OptimumInputs, slopes: _Slopes, solution: Solution, fixed: float, binaries: int
) -> tuple[_Course, npt.NDArray[np.bool_]]:
    """The course that a solution means, and the steps in which a battery can't do what the solution does."""
    n = inputs.timeline.count
    parts = solution.values[: 4 * n].reshape(4, -1).clip(min=0.0)
    charge, discharge = _netted(parts[0] + parts[1], parts[2] + parts[3], inputs.battery.charge_efficiency)
    steps_in, steps_out, soft = _soft(slopes)
    paid = _paid(slopes, parts)
    np.add.at(paid, np.concatenate([steps_in, steps_out]), solution.values[5 * n :][:soft] * _penalty(slopes))
    changes = _changes(slopes, charge, discharge)
    cost_, bound = fixed + float(changes.sum()), fixed + solution.bound
    return _Course(charge, discharge, cost_, min(bound, cost_), binaries), changes > paid + _TOLERANCE


def _better(one: _Course, other: _Course) -> _Course:
    """The cheaper course, with the higher of the bounds: each round's program says more than the one before."""
    cheaper = one if one.cost <= other.cost else other
    return replace(cheaper, bound=min(max(one.bound, other.bound), cheaper.cost), binaries=other.binaries)


def _solved(program: Program, inputs: OptimumInputs, seconds: float) -> Solution | None:
    left_s = max(inputs.time_limit_s - seconds, 0.1)
    try:
        return program.solve(time_limit_s=left_s, gap=inputs.tolerance * _KWH_PER_MWH / 2)
    except InfeasibleError:
        # the grid's limits may be missed and a battery may always rest: only the end can be out of reach
        start, end = inputs.start_soe_kwh, inputs.end_soe_kwh
        raise InputError(f"an end at {end:g} kWh can't be reached from {start:g} kWh within the limits") from None


def _program(
    inputs: OptimumInputs, slopes: _Slopes, strict: npt.NDArray[np.bool_], spent_kwh: Mapping[date, float]
) -> Program:
    """Columns: charge from sun, from grid, discharge to load, to grid, stored; then missed limits, then binaries."""
    n, battery = inputs.timeline.count, inputs.battery
    step = np.arange(n)
    steps_in, steps_out, soft = _soft(slopes)
    named = np.flatnonzero(strict)
    low = np.full(n, min(battery.soe_min_kwh, inputs.start_soe_kwh))
    if inputs.end_soe_kwh is not None:
        low[-1] = inputs.end_soe_kwh
    high = np.full(n, max(battery.soe_max_kwh, inputs.start_soe_kwh))
    marginal = (slopes.charge_sun, slopes.charge_grid, slopes.discharge_load, slopes.discharge_grid)
    binaries = 5 * n + soft + np.arange(3 * len(named))
    program = Program(
        cost=np.concatenate([*marginal, np.zeros(n), np.full(soft, _penalty(slopes)), np.zeros(len(binaries))]),
        lower=np.concatenate([np.zeros(4 * n), low, np.zeros(soft + len(binaries))]),
        upper=np.concatenate([*slopes.most, high, np.full(soft, np.inf), np.ones(len(binaries))]),
        integer=binaries,
    )
    into, start = -battery.charge_efficiency, np.zeros(n)
    start[0] = inputs.start_soe_kwh
    balance = [(step, step + part * n, factor) for part, factor in ((0, into), (1, into), (2, 1.0), (3, 1.0), (4, 1.0))]
    program.add_rows(start, start, *balance, (step[1:], step[:-1] + 4 * n, -1.0))
    _limit_rows(program, slopes, steps_in, steps_out, n)
    _cycle_rows(program, inputs, spent_kwh)
    _binary_rows(program, slopes, named, binaries, n)
    return program


def _limit_rows(
    program: Program, slopes: _Slopes, steps_in: npt.NDArray[np.int64], steps_out: npt.NDArray[np.int64], n: int
) -> None:
    """What the battery must take or give for the grid's limits; where it can't, the rest is missed."""
    for steps, must, part, offset in (
        (steps_in, slopes.must_charge, 0, 0),
        (steps_out, slopes.must_discharge, 2, len(steps_in)),
    ):
        rows = np.arange(len(steps))
        program.add_rows(
            must[steps], np.full(len(steps), np.inf), (rows, steps + part * n, 1.0), (rows, 5 * n + offset + rows, 1.0)
        )


def _cycle_rows(program: Program, inputs: OptimumInputs, spent_kwh: Mapping[date, float]) -> None:
    if inputs.cycles_per_day is None:
        return
    n, row = inputs.timeline.count, _day_numbers(inputs)
    days = _days(inputs)
    left = [inputs.cycles_per_day * inputs.battery.capacity_kwh - spent_kwh.get(day, 0.0) for day in days]
    step = np.arange(n)
    program.add_rows(
        np.full(len(days), -np.inf), np.maximum(left, 0.0), (row, step + 2 * n, 1.0), (row, step + 3 * n, 1.0)
    )


def _binary_rows(
    program: Program, slopes: _Slopes, named: npt.NDArray[np.int64], binaries: npt.NDArray[np.int64], n: int
) -> None:
    """In the steps ``named``: charge or discharge, and the grid's part only after all of the sun's or the load's."""
    rows, count = np.arange(len(named)), len(named)
    sun, grid_in, load, grid_out = (most[named] for most in slopes.most)
    charges, sun_full, load_full = (binaries[part * count : (part + 1) * count] for part in range(3))
    none, zero = np.full(count, -np.inf), np.zeros(count)
    program.add_rows(none, zero, (rows, named, 1.0), (rows, named + n, 1.0), (rows, charges, -(sun + grid_in)))
    out = load + grid_out
    program.add_rows(none, out, (rows, named + 2 * n, 1.0), (rows, named + 3 * n, 1.0), (rows, charges, out))
    for part, first, second, full in ((0, sun, grid_in, sun_full), (2, load, grid_out, load_full)):
        program.add_rows(none, zero, (rows, named + (part + 1) * n, 1.0), (rows, full, -second))
        program.add_rows(none, zero, (rows, named + part * n, -1.0), (rows, full, first))


def _soft(slopes: _Slopes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The steps whose site is beyond the export, the import limit by itself; and how many there are."""
    steps_in, steps_out = np.flatnonzero(slopes.must_charge > 0), np.flatnonzero(slopes.must_discharge > 0)
    return steps_in, steps_out, len(steps_in) + len(steps_out)


def _penalty(slopes: _Slopes) -> float:
    marginal = (slopes.charge_sun, slopes.charge_grid, slopes.discharge_load, slopes.discharge_grid)
    return _PENALTY * max(1.0, *(float(np.abs(part).max(initial=0.0)) for part in marginal))


def _netted(charge: Series, discharge: Series, efficiency: float) -> tuple[Series, Series]:
    """The same stored energy after each step, with one of the two 0."""
    stored = efficiency * charge - discharge
    both = (charge > 0) & (discharge > 0)
    net_charge = np.where(both, np.maximum(stored, 0.0) / efficiency, charge)
    return net_charge, np.where(both, np.maximum(-stored, 0.0), discharge)


def _changes(slopes: _Slopes, charge: Series, discharge: Series) -> Series:
    """£/1000 by which each step costs more with the battery: sun and load come first, as they do, and limits count."""
    from_sun, to_load = np.minimum(charge, slopes.most[0]), np.minimum(discharge, slopes.most[2])
    paid = _paid(slopes, np.stack([from_sun, charge - from_sun, to_load, discharge - to_load]))
    missed = np.maximum(slopes.must_charge - charge, 0.0) + np.maximum(slopes.must_discharge - discharge, 0.0)
    return paid + missed * _penalty(slopes)


def _paid(slopes: _Slopes, parts: npt.NDArray[np.float64]) -> Series:
    paid: Series = (
        slopes.charge_sun * parts[0]
        + slopes.charge_grid * parts[1]
        + slopes.discharge_load * parts[2]
        + slopes.discharge_grid * parts[3]
    )
    return paid


# ── a rolling horizon ─────────────────────────────────────────────────────────────────────────────────────────────


def _rolling(inputs: OptimumInputs, horizon: timedelta, stride: timedelta) -> Optimum:
    """Look ``horizon`` ahead, keep to it for ``stride``, look again from where the battery then is."""
    count, ahead, kept = inputs.timeline.count, horizon // inputs.timeline.step, stride // inputs.timeline.step
    charge, discharge = np.zeros(count), np.zeros(count)
    soe, binaries, days = inputs.start_soe_kwh, 0, _days_of_steps(inputs)
    spent: dict[date, float] = {}
    firsts = range(0, count, kept)
    for first in firsts:
        after = min(first + ahead, count)
        until = count if after == count else first + kept
        course = _solve(_window(inputs, first, after, soe, inputs.time_limit_s / len(firsts)), spent)
        charge[first:until] = course.charge[: until - first]
        discharge[first:until] = course.discharge[: until - first]
        soe += inputs.battery.charge_efficiency * float(charge[first:until].sum()) - float(discharge[first:until].sum())
        soe, binaries = float(np.clip(soe, 0.0, inputs.battery.capacity_kwh)), binaries + course.binaries
        for day, energy in zip(days[first:until], discharge[first:until], strict=True):
            spent[day] = spent.get(day, 0.0) + float(energy)
        if after == count:
            break
    return _told(inputs, charge, discharge, None, binaries)


def _window(inputs: OptimumInputs, first: int, after: int, soe_kwh: float, time_limit_s: float) -> OptimumInputs:
    timeline, limits = inputs.timeline, inputs.limits_kw
    return replace(
        inputs,
        timeline=Timeline(timeline.start + first * timeline.step, timeline.step, after - first),
        load_kwh=inputs.load_kwh[first:after],
        solar_kwh=inputs.solar_kwh[first:after],
        rates={flow: rates[first:after] for flow, rates in inputs.rates.items()},
        limits_kw=None if limits is None else (limits[0][first:after], limits[1][first:after]),
        start_soe_kwh=soe_kwh,
        end_soe_kwh=inputs.end_soe_kwh if after == timeline.count else None,
        time_limit_s=time_limit_s,
    )


# ── telling it ────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(inputs: OptimumInputs, charge: Series, discharge: Series, gap: float | None, binaries: int) -> Optimum:
    """``gap``: £/1000 by which it may be off the best; None: nobody knows."""
    flows = split_flows(inputs.load_kwh, inputs.solar_kwh, charge, discharge)
    unpriced = _unpriced(inputs)
    costs = {flow: np.where(unpriced, np.nan, cost(energy, inputs.rates[flow])) for flow, energy in flows.items()}
    import_kwh, export_kwh = inputs.limits_kwh
    imported = flows[Flow.GRID_TO_LOAD] + flows[Flow.GRID_TO_BATTERY] - import_kwh
    exported = flows[Flow.SOLAR_TO_GRID] + flows[Flow.BATTERY_TO_GRID] - export_kwh
    over = np.maximum(imported, 0.0) + np.maximum(exported, 0.0)
    found = Optimum(
        timeline=inputs.timeline,
        charge_kwh=charge,
        discharge_kwh=discharge,
        soe_kwh=_soe(inputs, charge, discharge),
        flows=flows,
        costs=costs,
        cost_without=float(_without_battery(inputs).sum()),
        bound=None,
        over_limits_kwh=float(over[over > _TOLERANCE_KWH].sum()),
        unpriced_steps=int(unpriced.sum()),
        binaries=binaries,
        capacity_kwh=inputs.battery.capacity_kwh,
    )
    return found if gap is None else replace(found, bound=found.cost - gap / _KWH_PER_MWH)


def _soe(inputs: OptimumInputs, charge: Series, discharge: Series) -> Series:
    """Stored at the end of each step, without what sums leave behind of rounding."""
    stored = inputs.start_soe_kwh + np.cumsum(inputs.battery.charge_efficiency * charge - discharge)
    return np.clip(stored, 0.0, inputs.battery.capacity_kwh)


def _without_battery(inputs: OptimumInputs) -> Series:
    """£ of each step without a battery; 0 where there is no price."""
    nothing: Series = np.zeros(inputs.timeline.count)
    flows = split_flows(inputs.load_kwh, inputs.solar_kwh, nothing, nothing)
    total: Series = nothing
    for flow, energy in flows.items():
        total = total + cost(energy, inputs.rates[flow])
    return np.where(_unpriced(inputs), 0.0, total)


def _unpriced(inputs: OptimumInputs) -> npt.NDArray[np.bool_]:
    """Steps in which some flow has no price."""
    unpriced = np.zeros(inputs.timeline.count, dtype=np.bool_)
    for rates in inputs.rates.values():
        unpriced |= np.isnan(rates)
    return unpriced


def _days_of_steps(inputs: OptimumInputs) -> list[date]:
    return [start.astimezone(inputs.zone).date() for start in inputs.timeline.starts()]


def _days(inputs: OptimumInputs) -> list[date]:
    return sorted(set(_days_of_steps(inputs)))


def _day_numbers(inputs: OptimumInputs) -> npt.NDArray[np.int64]:
    """The place of each step's local day in :func:`_days`."""
    first = _days(inputs)[0]
    return np.array([(day - first).days for day in _days_of_steps(inputs)], dtype=np.int64)
