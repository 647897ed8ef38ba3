"""Discharge to a level by the end of a period, evenly over what is left of it."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Problem, Propose, check_level
from flux.control.numbers import NotNegative
from flux.control.parts import BatteryConfig, Periods
from flux.control.shapes import Offer, discharge_more_allowed
from flux.model import CommandSource


class DischargeToSoe(PeriodicMode):
    """Discharges to ``soe_kwh`` by the end of the period."""

    source: ClassVar[CommandSource] = CommandSource.TO_SOE
    mode: Literal["discharge_to_soe"] = "discharge_to_soe"
    soe_kwh: NotNegative
    periods: Periods

    def problems(self, battery: BatteryConfig) -> Iterator[Problem]:
        yield from check_level(battery, "soe_kwh", self.soe_kwh)

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)

        def propose(cycle: Cycle) -> Offer | None:
            window = periods.holding(cycle.time)
            above = cycle.soe_kwh - self.soe_kwh
            if window is None or above <= 0:
                return None
            why = f"discharge to SoE, {above:.1f} kWh above {self.soe_kwh:g} kWh, due {context.clock(window.end)}"
            return discharge_more_allowed(above / cycle.hours_to(window.end), why)

        return propose
