"""What each flow costs in each step of a timeline, by a tariff and the market's prices.

With ``import: [{name: energy, market: imbalance, supply_point: nsp}, {name: fee, price: 10}]`` and nsp at 1.11, an
imbalance price of £100/MWh makes import £121/MWh; 2 kWh in that step cost £0.242.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import numpy.typing as npt

from flux.analysis.flows import FLOWS_OF, Direction, Flow, Series
from flux.analysis.tariff import DailyCharge, Market, Tariff, TariffRate
from flux.analysis.timeline import Timeline
from flux.control.periods import ALL_DAY, Timetable, instant_of
from flux.control.zones import holidays_of
from flux.errors import InputError

_ONE_DAY = timedelta(days=1)
_KWH_PER_MWH = 1000.0


@dataclass(frozen=True, slots=True)
class RatedSteps:
    """Rates of each step, £/MWh, + cost; nan where a market price that they follow is missing.

    ``lines`` has each rate by itself, by direction and name; ``direction`` their sums; ``flow`` what a flow pays: the
    sum over the directions that it is part of.
    """

    timeline: Timeline
    lines: Mapping[Direction, Mapping[str, Series]]
    direction: Mapping[Direction, Series]
    flow: Mapping[Flow, Series]

    def costs(self, energies_kwh: Mapping[Flow, Series]) -> dict[Flow, Series]:
        """£ of each flow in each step; + cost. No energy costs nothing, whatever the rate."""
        return {flow: cost(energy, self.flow[flow]) for flow, energy in energies_kwh.items()}

    def missing(self) -> npt.NDArray[np.bool_]:
        """The steps in which some flow has no price."""
        unpriced = np.zeros(self.timeline.count, dtype=np.bool_)
        for rates in self.flow.values():
            unpriced |= np.isnan(rates)
        return unpriced


def cost(energy_kwh: Series, rate: Series) -> Series:
    """£ of an energy at a rate (£/MWh); 0 where there is no energy, nan where there is and the rate is missing."""
    return np.where(energy_kwh == 0.0, 0.0, energy_kwh * rate / _KWH_PER_MWH)


def rate_steps(tariff: Tariff, timeline: Timeline, prices: Mapping[Market, Series]) -> RatedSteps:
    """The rates of every step. ``prices``: £/MWh for each step, nan where missing, of each market the tariff follows.

    A rate whose period covers part of a step counts for that part.
    """
    for market in sorted(tariff.markets):
        if market not in prices:
            raise InputError(f"the tariff follows the {market.value} price, and there are no prices of it")
        if len(prices[market]) != timeline.count:
            raise ValueError(f"{len(prices[market])} {market.value} prices for {timeline.count} steps")
    rater = _Rater(tariff, timeline, prices)
    lines = {direction: rater.lines(tariff.rates.of(direction)) for direction in Direction}
    sums = {direction: _total(parts.values(), timeline.count) for direction, parts in lines.items()}
    flows = {
        flow: _total([sums[direction] for direction in Direction if flow in FLOWS_OF[direction]], timeline.count)
        for flow in Flow
    }
    return RatedSteps(timeline, lines, sums, flows)


def daily_charges(tariff: Tariff, start: datetime, end: datetime) -> dict[str, float]:
    """£ of the daily charges over [start, end): one charge for each whole local day, of a part of a day that part."""
    totals = dict.fromkeys([charge.name for charge in tariff.daily], 0.0)
    for charge in tariff.daily:
        totals[charge.name] += charge.charge * _days_in_force(tariff, charge, start, end)
    return totals


def _days_in_force(tariff: Tariff, charge: DailyCharge, start: datetime, end: datetime) -> float:
    """Local days, and parts of them, of [start, end) on which ``charge`` is in force."""
    day, last = start.astimezone(tariff.zone).date(), end.astimezone(tariff.zone).date()
    days = 0.0
    while day <= last:
        if (charge.from_ is None or day >= charge.from_) and (charge.to is None or day < charge.to):
            midnight, next_midnight = (instant_of(d, 0, tariff.zone) for d in (day, day + _ONE_DAY))
            inside = min(end, next_midnight) - max(start, midnight)
            days += max(inside, timedelta()) / (next_midnight - midnight)
        day += _ONE_DAY
    return days


def _total(parts: Iterable[Series], count: int) -> Series:
    total = np.zeros(count)
    for part in parts:
        total = total + part
    return total


class _Rater:
    """Works out the rates of one timeline; rates that hold in the same periods share the work."""

    def __init__(self, tariff: Tariff, timeline: Timeline, prices: Mapping[Market, Series]) -> None:
        self._tariff = tariff
        self._timeline = timeline
        self._prices = prices
        self._is_holiday: Callable[[date], bool] = holidays_of(tariff.holidays) if tariff.holidays else _no_holiday
        self._shares: dict[object, Series] = {}

    def lines(self, rates: Sequence[TariffRate]) -> dict[str, Series]:
        """Each rate of a direction, by name; a name that comes again, for other days, is one line."""
        own = [(rate, self._own(rate)) for rate in rates if rate.share is None]
        lines: dict[str, Series] = {}
        for rate in rates:
            values = self._of_others(rate, own) if rate.share is not None else next(v for r, v in own if r is rate)
            lines[rate.name] = lines[rate.name] + values if rate.name in lines else values
        return lines

    def _own(self, rate: TariffRate) -> Series:
        """A rate that stands by itself."""
        if rate.market is None:
            values = np.full(self._timeline.count, rate.price, dtype=np.float64)
        else:
            values = rate.factor * self._prices[rate.market] + rate.offset
            if rate.floor is not None or rate.cap is not None:
                values = np.clip(values, rate.floor, rate.cap)
        loss = 1.0 if rate.supply_point is None else self._tariff.supply_points[rate.supply_point]
        return self._while_it_holds(rate, values * loss)

    def _of_others(self, rate: TariffRate, own: Sequence[tuple[TariffRate, Series]]) -> Series:
        """A share of the sum of the direction's rates that are no shares themselves."""
        base = [values for other, values in own if rate.of is None or other.name in rate.of]
        return self._while_it_holds(rate, (rate.share or 0.0) * _total(base, self._timeline.count))

    def _while_it_holds(self, rate: TariffRate, values: Series) -> Series:
        share = self._share(rate)
        # a missing price matters only while the rate holds
        return values if share is None else np.where(share == 0.0, 0.0, values * share)

    def _share(self, rate: TariffRate) -> Series | None:
        """How much of each step the rate holds, 0 to 1; None: all of all."""
        if rate.periods == (ALL_DAY,) and rate.from_ is None and rate.to is None:
            return None
        key = (rate.periods, rate.from_, rate.to)
        if key not in self._shares:
            self._shares[key] = self._timeline.share_inside(self._windows(rate))
        return self._shares[key]

    def _windows(self, rate: TariffRate) -> list[tuple[datetime, datetime]]:
        zone = self._tariff.zone
        timetable = Timetable(rate.periods, zone, self._is_holiday)
        # zones are up to 14 h from UTC, and a period that began the day before may still hold
        first = self._timeline.start.date() - 2 * _ONE_DAY
        last = self._timeline.end.date() + 2 * _ONE_DAY
        low = instant_of(rate.from_, 0, zone) if rate.from_ else None
        high = instant_of(rate.to, 0, zone) if rate.to else None
        windows = []
        for window in timetable.windows(first, last):
            start = window.start if low is None else max(window.start, low)
            end = window.end if high is None else min(window.end, high)
            if start < end:
                windows.append((start, end))
        return windows


def _no_holiday(_day: date) -> bool:
    return False
