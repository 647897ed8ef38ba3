"""The state as the modes see it: checked, fresh, and with what several of them need worked out once."""

from datetime import datetime, timedelta
from typing import NamedTuple

from flux.control.state import MarketState, Memory, ScheduleStep
from flux.model import SETTLEMENT_PERIOD

HOUR = timedelta(hours=1)


class Cycle(NamedTuple):
    """One cycle with usable readings; ``time`` and ``sp_start`` are in UTC.

    ``rest_kw`` is L, what the site would draw with the battery at rest. ``full_discharge_kw`` is what +∞ becomes after
    the inverter and grid limits (not SoE's).
    """

    time: datetime
    soe_kwh: float
    rest_kw: float
    full_discharge_kw: float
    sp_start: datetime
    sp_elapsed: timedelta
    market: MarketState
    schedule: tuple[ScheduleStep, ...]
    memory: Memory

    @property
    def sp_end(self) -> datetime:
        return self.sp_start + SETTLEMENT_PERIOD

    def hours_to(self, instant: datetime) -> float:
        """Hours from now to ``instant``; positive when it is ahead."""
        return (instant - self.time) / HOUR
