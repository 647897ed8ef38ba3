"""Charge to a level by the end of a period, evenly over what is left of it."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from flux.control.cycle import Cycle
from flux.control.modes.base import ModeContext, PeriodicMode, Problem, Propose, check_level
from flux.control.numbers import NotNegative
from flux.control.parts import BatteryConfig, Periods
from flux.control.shapes import Offer, charge_more_allowed
from flux.model import CommandSource


class ChargeToSoe(PeriodicMode):
    """Charges to ``soe_kwh`` (at most the battery's soe_max) by the end of the period."""

    source: ClassVar[CommandSource] = CommandSource.TO_SOE
    mode: Literal["charge_to_soe"] = "charge_to_soe"
    soe_kwh: NotNegative
    periods: Periods

    def problems(self, battery: BatteryConfig) -> Iterator[Problem]:
        yield from check_level(battery, "soe_kwh", self.soe_kwh)

    def build(self, context: ModeContext) -> Propose:
        periods = context.timetable(self.periods)
        level = min(self.soe_kwh, context.battery.soe_max_kwh)
        efficiency = context.battery.charge_efficiency

        def propose(cycle: Cycle) -> Offer | None:
            window = periods.holding(cycle.time)
            if window is None or cycle.soe_kwh >= level:
                return None
            power = (level - cycle.soe_kwh) / efficiency / cycle.hours_to(window.end)
            why = f"charge to SoE, {level - cycle.soe_kwh:.1f} kWh below {level:g} kWh, due {context.clock(window.end)}"
            return charge_more_allowed(-power, why)

        return propose
