"""What every control mode has: a config with its own keys, and a function that answers a cycle.

A mode is one module beside this one: a subclass of :class:`ModeConfig` and one line in ``modes/__init__.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import ClassVar
from zoneinfo import ZoneInfo

from flux.control.cycle import Cycle
from flux.control.parts import BatteryConfig, Periods, PlanPart, RateSum
from flux.control.periods import ALL_DAY, PeriodConfig, Timetable, Window
from flux.control.shapes import Notice, Offer
from flux.model import CommandSource

Propose = Callable[[Cycle], Offer | Notice | None]
"""A mode at work: an offer, a notice (nothing is offered, and somebody should know), or ``None``: not its hour."""


@dataclass(frozen=True, slots=True)
class ModeContext:
    """What a mode is built with: its place in the plan, and the parts of the plan that it shares with others."""

    entry: int
    battery: BatteryConfig
    zone: ZoneInfo
    import_rates: RateSum
    export_rates: RateSum
    timetable: Callable[[tuple[PeriodConfig, ...]], Timetable]

    def clock(self, instant: datetime) -> str:
        """``17:30``: an instant as the site's people say it."""
        return clock_in(self.zone, instant)


@lru_cache(maxsize=1024)
def clock_in(zone: ZoneInfo, instant: datetime) -> str:
    """``HH:MM`` of an instant; kept, since every cycle of an evening tells the same few."""
    return instant.astimezone(zone).strftime("%H:%M")


Problem = tuple[tuple[int | str, ...], str]
"""Where in a section something is wrong, and what."""


class ModeConfig(PlanPart):
    """One entry of the plan's ``modes``."""

    source: ClassVar[CommandSource]
    mode: str

    def build(self, context: ModeContext) -> Propose:
        """The entry, ready to answer; called once per plan."""
        raise NotImplementedError

    def problems(self, battery: BatteryConfig) -> Iterator[Problem]:
        """What is wrong with this entry for this battery."""
        del battery
        yield from ()

    def period_lists(self) -> Iterator[tuple[tuple[int | str, ...], Periods]]:
        """Each list of periods of which the first that holds counts, and where in the entry it stands."""
        yield from ()

    def on_a_calendar(self) -> tuple[tuple[PeriodConfig, ...], str | None]:
        """The periods that it goes by, and what to say in place of their times."""
        return (ALL_DAY,), "at any time"

    def asked_in(self, window: Window, battery: BatteryConfig, zone: ZoneInfo) -> Window | None:
        """When it may ask for something on account of one of those periods; None: never."""
        del battery, zone
        return window


class PeriodicMode(ModeConfig):
    """A mode that works in its ``periods``, all day where none are given."""

    periods: Periods = (ALL_DAY,)

    def period_lists(self) -> Iterator[tuple[tuple[int | str, ...], Periods]]:
        yield ("periods",), self.periods

    def on_a_calendar(self) -> tuple[tuple[PeriodConfig, ...], str | None]:
        return self.periods, None


def check_level(battery: BatteryConfig, key: str, value: float | None) -> Iterator[Problem]:
    """A level of energy must fit into the battery."""
    if value is not None and value > battery.capacity_kwh:
        yield (key,), f"{value:g}: must be at most battery.capacity_kwh = {battery.capacity_kwh:g}"
