"""Dynamic peak approach: be charged in time for the peak, earlier while the system is long."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

from flux.control.cycle import HOUR, Cycle
from flux.control.modes.base import ModeConfig, ModeContext, Problem, Propose, check_level
from flux.control.numbers import NotNegative, Positive
from flux.control.outlook import NO_GUESS, GuessConfig, outlook
from flux.control.parts import BatteryConfig
from flux.control.periods import PeriodConfig, Window
from flux.control.shapes import Offer, charge_more_allowed
from flux.model import CommandSource, Duration

_LOOKS_AHEAD = timedelta(days=1)


class DynamicPeakApproach(ModeConfig):
    """Charges along a line that reaches ``to_soe_kwh`` a ``cushion`` before the peak.

    The line is as steep as ``assumed_charge_power_kw`` fills the battery, and a duration factor makes it longer.
    """

    source: ClassVar[CommandSource] = CommandSource.DYNAMIC_PEAK
    mode: Literal["dynamic_peak_approach"] = "dynamic_peak_approach"
    peak: PeriodConfig
    to_soe_kwh: NotNegative
    encourage_to_soe_kwh: NotNegative | None = None
    assumed_charge_power_kw: Positive
    force_duration_factor: Positive = 1.0
    encourage_duration_factor: Positive = 1.0
    cushion: Duration = timedelta()
    when_long: GuessConfig = NO_GUESS

    def problems(self, battery: BatteryConfig) -> Iterator[Problem]:
        yield from check_level(battery, "to_soe_kwh", self.to_soe_kwh)
        yield from check_level(battery, "encourage_to_soe_kwh", self.encourage_to_soe_kwh)
        if not timedelta() <= self.cushion < timedelta(days=1):
            yield ("cushion",), f"{self.cushion}: must be at least 0s and less than 1d"

    def on_a_calendar(self) -> tuple[tuple[PeriodConfig, ...], str | None]:
        return (self.peak,), None

    def asked_in(self, window: Window, battery: BatteryConfig, zone: ZoneInfo) -> Window | None:
        """From where the longer of its lines leaves 0, at most a day before the peak, until the peak."""
        del zone
        levels = (self.to_soe_kwh, self.force_duration_factor), (self._encourage_kwh, self.encourage_duration_factor)
        ramp_h = max(self._ramp_h(level, factor, battery) for level, factor in levels)
        ahead = min(self.cushion + timedelta(hours=min(ramp_h, _LOOKS_AHEAD / HOUR)), _LOOKS_AHEAD)
        return Window(window.start - ahead, window.start, window.index)

    @property
    def _encourage_kwh(self) -> float:
        return self.to_soe_kwh if self.encourage_to_soe_kwh is None else self.encourage_to_soe_kwh

    def _ramp_h(self, level_kwh: float, factor: float, battery: BatteryConfig) -> float:
        """How long the line to a level takes from 0, in hours."""
        return factor * level_kwh / (self.assumed_charge_power_kw * battery.charge_efficiency)

    def build(self, context: ModeContext) -> Propose:
        peak = context.timetable((self.peak,))

        def propose(cycle: Cycle) -> Offer | None:
            window = peak.next_start(cycle.time)
            if window is None:
                return None
            lines = [(self.to_soe_kwh, self.force_duration_factor, "force")]
            market = outlook(cycle, long=self.when_long)
            if market is not None and market.long:
                why = f"encourage while {market.in_words()}"
                lines.insert(0, (self._encourage_kwh, self.encourage_duration_factor, why))
            for level, factor, why in lines:
                if offer := self._along_line(cycle, window.start, context, (level, factor, why)):
                    return offer
            return None

        return propose

    def _along_line(
        self, cycle: Cycle, peak: datetime, context: ModeContext, line: tuple[float, float, str]
    ) -> Offer | None:
        level, factor, why = line
        efficiency = context.battery.charge_efficiency
        read_at = min(cycle.sp_end, peak)
        ramp_h = self._ramp_h(level, factor, context.battery)
        hours_to_top = (peak - self.cushion - read_at) / HOUR
        wanted = _line(level, ramp_h, hours_to_top)
        if wanted <= cycle.soe_kwh:
            return None
        power = (wanted - cycle.soe_kwh) / cycle.hours_to(read_at) / efficiency
        goal = f"{wanted:.1f} kWh due {context.clock(read_at)} on the way to {level:g} kWh for {context.clock(peak)}"
        return charge_more_allowed(-power, f"dynamic peak approach ({why}), {goal}")


def _line(level_kwh: float, ramp_h: float, hours_to_top: float) -> float:
    """A line that climbs from 0 to ``level_kwh`` in ``ramp_h`` hours, read ``hours_to_top`` hours before its top."""
    if hours_to_top <= 0:
        return level_kwh
    if hours_to_top >= ramp_h:
        return 0.0
    return level_kwh * (1 - hours_to_top / ramp_h)
