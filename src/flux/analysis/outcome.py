"""What a course came to: energies by flow, costs, cycles, losses, modes; by step, half hour and month.

An hour at 40 kW of load met by the battery: 40 kWh battery→load; at an import rate of £200/MWh it cost nothing, and
£8 without the battery, so £8 were earned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from flux.analysis.flows import Flow, Series, split_flows
from flux.analysis.optimum import OptimumInputs, optimum
from flux.analysis.rating import RatedSteps, daily_charges, rate_steps
from flux.analysis.simulate import Course, Setting
from flux.analysis.tariff import Market, Tariff
from flux.analysis.timeline import Timeline
from flux.analysis.told import limits_on
from flux.control.parts import BatteryConfig, SiteConfig
from flux.control.plan import ControllerPlan
from flux.model import SETTLEMENT_PERIOD

_OVER_KW = 1e-6


@dataclass(frozen=True, slots=True)
class Money:
    """£, + cost and − income. ``flows``: of each step; ``without``: the same site with no battery, of each step.

    nan where there was energy and no price. ``daily``: by name, over the whole span; the same with and without.
    """

    rated: RatedSteps
    flows: Mapping[Flow, Series]
    without: Mapping[Flow, Series]
    daily: Mapping[str, float]

    @property
    def total(self) -> float:
        """£ of everything that has a price."""
        return total_of(self.flows) + sum(self.daily.values())

    @property
    def total_without(self) -> float:
        """£ of the site without its battery, of everything that has a price."""
        return total_of(self.without) + sum(self.daily.values())

    @property
    def earned(self) -> float:
        """£ by which the battery made the site cheaper."""
        return self.total_without - self.total


def total_of(parts: Mapping[Flow, Series]) -> float:
    """The sum of all that is a number."""
    return float(sum(np.nansum(part) for part in parts.values()))


@dataclass(frozen=True, slots=True)
class Perfect:
    """What a battery could have earned that had known everything, half hour by half hour; £, + cost."""

    cost: float
    """Nothing that the site could do costs less; daily charges included, as in ``Money.total``."""
    earned: float
    cycles: float
    share: float | None
    """What the plan earned of it; None where there was nothing to earn."""


@dataclass(frozen=True)
class Outcome:
    """A course on its timeline. Energies in kWh of each step at the site's meters; powers in kW."""

    name: str
    zone: ZoneInfo
    timeline: Timeline
    battery: BatteryConfig
    site: SiteConfig
    course: Course
    load_kwh: Series
    solar_kwh: Series
    charge_kwh: Series
    discharge_kwh: Series
    flows: Mapping[Flow, Series]
    highest_import_kw: Series
    highest_export_kw: Series
    prices: Series
    """Imbalance price, £/MWh, what is settled by; nan where missing."""
    import_limit_kw: Series
    """In force in each step: the plan's, an envelope's or the connection's."""
    export_limit_kw: Series
    day_ahead: Series | None = None
    """Day-ahead price, £/MWh; nan where missing, None where none is known."""
    money: Money | None = None
    perfect: Perfect | None = None

    @cached_property
    def soe_kwh(self) -> Series:
        """Stored at the end of each step."""
        return np.frombuffer(self.course.soe_kwh)

    @cached_property
    def import_kwh(self) -> Series:
        return self.flows[Flow.GRID_TO_LOAD] + self.flows[Flow.GRID_TO_BATTERY]

    @cached_property
    def export_kwh(self) -> Series:
        return self.flows[Flow.SOLAR_TO_GRID] + self.flows[Flow.BATTERY_TO_GRID]

    @property
    def losses_kwh(self) -> float:
        """What went into the battery and neither came out nor is still there."""
        stored = float(self.course.soe_kwh[-1]) - self.course.start_soe_kwh
        return float(self.charge_kwh.sum() - self.discharge_kwh.sum()) - stored

    @property
    def cycles(self) -> float:
        """How often the whole capacity was discharged."""
        return float(self.discharge_kwh.sum()) / self.battery.capacity_kwh

    @property
    def self_consumption(self) -> float | None:
        """The part of the sun's energy that did not go to the grid, 0 to 1; None without any sun."""
        made = float(self.solar_kwh.sum())
        return None if made == 0 else 1 - float(self.flows[Flow.SOLAR_TO_GRID].sum()) / made

    @property
    def self_sufficiency(self) -> float | None:
        """The part of the load that the grid did not serve, 0 to 1; None without any load."""
        used = float(self.load_kwh.sum())
        return None if used == 0 else 1 - float(self.flows[Flow.GRID_TO_LOAD].sum()) / used

    @property
    def hours_over_import_limit(self) -> float:
        """Hours of the steps in which the site drew more than its import limit."""
        over = self.highest_import_kw > self.import_limit_kw + _OVER_KW
        return float(over.sum()) * self.timeline.step_h

    @property
    def hours_over_export_limit(self) -> float:
        over = self.highest_export_kw > self.export_limit_kw + _OVER_KW
        return float(over.sum()) * self.timeline.step_h

    def mode_hours(self) -> dict[str, float]:
        """Hours in which each mode took effect; ``idle``: no mode did."""
        return self._hours(self.course.mode, [mode or "idle" for mode in self.course.modes])

    def limit_hours(self) -> dict[str, float]:
        """Hours in which each limit changed what was asked for."""
        by_set = self._hours(self.course.limits, [" ".join(limits) for limits in self.course.limit_sets])
        hours: dict[str, float] = {}
        for names, value in by_set.items():
            for name in names.split():
                hours[name] = hours.get(name, 0.0) + value
        return hours

    def half_hours(self, steps: Series) -> Series:
        """Sums over each half hour."""
        summed: Series = steps.reshape(-1, SETTLEMENT_PERIOD // self.timeline.step).sum(axis=1)
        return summed

    def _hours(self, codes: "object", names: list[str]) -> dict[str, float]:
        counts = np.bincount(np.frombuffer(codes, dtype=np.intc), minlength=len(names))  # type: ignore[call-overload]
        pairs = zip(names, counts, strict=True)
        hours = {name: float(count) * self.timeline.step_h for name, count in pairs if count}
        return dict(sorted(hours.items(), key=lambda item: -item[1]))


def outcome_of(
    name: str, plan: ControllerPlan, setting: Setting, course: Course, prices: Mapping[datetime, float]
) -> Outcome:
    """Lay a course on the timeline of its setting. ``prices``: £/MWh by the start of each half hour."""
    timeline = Timeline.between(setting.start, setting.end, setting.step)
    hours, battery_kw = np.frombuffer(course.hours), np.frombuffer(course.battery_kw)
    load_kw, solar_kw = np.frombuffer(course.load_kw), np.frombuffer(course.solar_kw)
    site_kw = load_kw - solar_kw - battery_kw
    charge, discharge = np.maximum(-battery_kw, 0) * hours, np.maximum(battery_kw, 0) * hours
    counts = np.frombuffer(course.pieces, dtype=np.intc)
    firsts = np.cumsum(counts) - counts

    def by_step(pieces: Series) -> Series:
        summed: Series = np.add.reduceat(pieces, firsts)
        return summed

    flows = split_flows(load_kw * hours, solar_kw * hours, charge, discharge)
    import_limit_kw, export_limit_kw = limits_on(timeline, setting.told, plan.site)
    return Outcome(
        name=name,
        zone=plan.zone,
        timeline=timeline,
        battery=plan.battery,
        site=plan.site,
        course=course,
        load_kwh=by_step(load_kw * hours),
        solar_kwh=by_step(solar_kw * hours),
        charge_kwh=by_step(charge),
        discharge_kwh=by_step(discharge),
        flows={flow: by_step(pieces) for flow, pieces in flows.items()},
        highest_import_kw=np.maximum.reduceat(np.maximum(site_kw, 0), firsts),
        highest_export_kw=np.maximum.reduceat(np.maximum(-site_kw, 0), firsts),
        prices=prices_on(timeline, prices),
        import_limit_kw=import_limit_kw,
        export_limit_kw=export_limit_kw,
        day_ahead=prices_on(timeline, setting.day_ahead) if setting.day_ahead else None,
    )


def prices_on(timeline: Timeline, prices: Mapping[datetime, float]) -> Series:
    """The price of each step's half hour, £/MWh; nan where there is none."""
    each = SETTLEMENT_PERIOD // timeline.step
    starts = [timeline.start + number * SETTLEMENT_PERIOD for number in range(timeline.count // each)]
    return np.repeat(np.array([prices.get(start, np.nan) for start in starts]), each)


def market_prices(imbalance: Series, day_ahead: Series | None) -> dict[Market, Series]:
    """What a tariff may follow; a market of which nothing is known is left out."""
    prices = {Market.IMBALANCE: imbalance}
    return prices if day_ahead is None else {**prices, Market.DAY_AHEAD: day_ahead}


def priced(outcome: Outcome, tariff: Tariff) -> Outcome:
    """The outcome with what it cost by ``tariff``, what its site costs with no battery, and what was there to earn."""
    rated = rate_steps(tariff, outcome.timeline, market_prices(outcome.prices, outcome.day_ahead))
    nothing = np.zeros(outcome.timeline.count)
    without = split_flows(outcome.load_kwh, outcome.solar_kwh, nothing, nothing)
    daily = daily_charges(tariff, outcome.timeline.start, outcome.timeline.end)
    money = Money(rated, rated.costs(outcome.flows), rated.costs(without), daily)
    return replace(outcome, money=money, perfect=_perfect(outcome, tariff, money))


def _perfect(outcome: Outcome, tariff: Tariff, money: Money) -> Perfect | None:
    """The upper bound, on half hours: what load, sun and battery do within one can cost no less than their means.

    It ends with at least what the plan ended with. None where the market's prices are not all known.
    """
    known = market_prices(outcome.prices, outcome.day_ahead)
    if any(np.isnan(known[market]).any() for market in tariff.markets):
        return None
    battery, course, each = outcome.battery, outcome.course, SETTLEMENT_PERIOD // outcome.timeline.step
    timeline = replace(outcome.timeline, step=SETTLEMENT_PERIOD, count=outcome.timeline.count // each)
    import_kw, export_kw = (outcome.half_hours(kw) / each for kw in (outcome.import_limit_kw, outcome.export_limit_kw))
    left_kwh = min(course.soe_kwh[-1], battery.soe_max_kwh)
    best = optimum(
        OptimumInputs(
            timeline=timeline,
            battery=battery,
            site=outcome.site,
            load_kwh=outcome.half_hours(outcome.load_kwh),
            solar_kwh=outcome.half_hours(outcome.solar_kwh),
            limits_kw=(import_kw, export_kw),
            rates=rate_steps(tariff, timeline, {market: prices[::each] for market, prices in known.items()}).flow,
            start_soe_kwh=course.start_soe_kwh,
            end_soe_kwh=left_kwh if left_kwh >= battery.soe_min_kwh else None,
            zone=outcome.zone,
        )
    )
    cost = best.cost if best.bound is None else best.bound
    total = cost + sum(money.daily.values())
    earned = money.total_without - total
    return Perfect(total, earned, best.cycles, money.earned / earned if earned > 0 else None)


def unpriced_half_hours(outcome: Outcome) -> int:
    """Half hours of which some energy has no price."""
    if outcome.money is None:
        return 0
    missing: npt.NDArray[np.float64] = outcome.money.rated.missing().astype(np.float64)
    return int((outcome.half_hours(missing) > 0).sum())
