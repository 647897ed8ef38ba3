"""Dynamic peak discharge: spend the energy in the peak, as late as it can be, or when the system is short."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Problem, Propose, check_level
from flux.control.numbers import NotNegative
from flux.control.outlook import NO_GUESS, GuessConfig, outlook
from flux.control.parts import BatteryConfig, Periods
from flux.control.periods import Window
from flux.control.shapes import Offer, hold, import_avoidance_no_more, site_at_rest, take_over
from flux.control.state import Cause, FullDischarge
from flux.model import CommandSource

FULL_KW = float("inf")
_US_PER_HOUR = 3_600_000_000
_MICROSECOND = timedelta(microseconds=1)


class DynamicPeakDischarge(PeriodicMode):
    """Discharges down to ``target_soe_kwh`` within the period.

    With ``prioritise_residual_load`` it meets the site's own demand until full power is called for, else it holds.
    Full discharge, once begun, goes on until nothing is spendable or the period ends; one that began because the
    system was short ends, too, when the outlook says anything else.
    """

    source: ClassVar[CommandSource] = CommandSource.DYNAMIC_PEAK
    mode: Literal["dynamic_peak_discharge"] = "dynamic_peak_discharge"
    periods: Periods
    target_soe_kwh: NotNegative
    prioritise_residual_load: bool = False
    when_short: GuessConfig = NO_GUESS

    def problems(self, battery: BatteryConfig) -> Iterator[Problem]:
        yield from check_level(battery, "target_soe_kwh", self.target_soe_kwh)

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)

        def propose(cycle: Cycle) -> Offer | None:
            window = periods.holding(cycle.time)
            return None if window is None else self._inside(cycle, window, context)

        return propose

    def _inside(self, cycle: Cycle, window: Window, context: ModeContext) -> Offer:
        spendable = cycle.soe_kwh - self.target_soe_kwh
        if spendable <= 0:
            return hold(f"dynamic peak, nothing to spend above {self.target_soe_kwh:g} kWh, holding")
        energy = f"{spendable:.1f} kWh above {self.target_soe_kwh:g} kWh"

        def full(cause: Cause, why: str) -> Offer:
            begun = FullDischarge(context.entry, window.start, cause)
            return take_over(FULL_KW, f"dynamic peak, {energy}, {why}", begun)

        begun = cycle.memory.full_discharge(context.entry, window.start)
        end = context.clock(window.end)
        if is_late(cycle.time, window.end, spendable, cycle.full_discharge_kw):
            return full(Cause.LATE, f"full discharge needed until {end}")
        if begun is not None and begun.cause is Cause.LATE:
            return full(Cause.LATE, f"full discharge begun, on until {end}")
        market = outlook(cycle, short=self.when_short)
        if market is None or not market.short:
            state = "no outlook" if market is None else market.in_words()
            return self._wait(cycle, f"dynamic peak, {energy} for before {end}, {state}")
        if begun is not None:
            return full(Cause.SHORT, f"full discharge begun, {market.in_words()}")
        enough = cycle.rest_kw <= 0 or spendable > cycle.rest_kw * cycle.hours_to(window.end)
        if enough or not self.prioritise_residual_load:
            return full(Cause.SHORT, market.in_words())
        return self._wait(cycle, f"dynamic peak, {market.in_words()} but {energy} kept for the site until {end}")

    def _wait(self, cycle: Cycle, why: str) -> Offer:
        if self.prioritise_residual_load:
            return import_avoidance_no_more(cycle.rest_kw, f"{why}, {site_at_rest(cycle.rest_kw)}")
        return hold(f"{why}, holding")


def is_late(now: datetime, end: datetime, spendable_kwh: float, full_kw: float) -> bool:
    """Whether ``now`` is strictly after the latest start that still spends the energy at full power by ``end``.

    Compared in whole microseconds, the resolution of time itself, so that a quotient's last bit decides nothing.
    """
    if full_kw <= 0:
        return True
    left_us = (end - now) // _MICROSECOND
    needed_h = spendable_kwh / full_kw
    # beyond a century it is late whatever the clock says, and a float of µs would lose its meaning
    return needed_h > 1e6 or round(needed_h * _US_PER_HOUR) > left_us
