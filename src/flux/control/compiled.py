"""A plan made ready to decide: each mode built, each list of periods a timetable, each duration in hours."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from flux.control.cycle import HOUR
from flux.control.modes.base import ModeContext, Propose
from flux.control.parts import RateConfig, RateSum
from flux.control.periods import PeriodConfig, Timetable
from flux.control.zones import holidays_of
from flux.model import CommandSource

if TYPE_CHECKING:
    from flux.control.plan import ControllerPlan


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the plan's ``modes``, built."""

    number: int
    name: str
    source: CommandSource
    propose: Propose


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """What ``decide`` needs of a plan."""

    entries: tuple[Entry, ...]
    step_h: float
    max_reading_age: timedelta
    interval: timedelta
    timetable: Callable[[tuple[PeriodConfig, ...]], Timetable]


def compile_plan(plan: "ControllerPlan") -> CompiledPlan:
    """Build every entry of ``plan``."""
    is_holiday = holidays_of(plan.holidays) if plan.holidays else _no_holiday
    timetable = partial(_timetable, plan, is_holiday)
    import_rates, export_rates = (_rate_sum(rates, timetable) for rates in (plan.rates.import_, plan.rates.export))
    entries = []
    for number, mode in enumerate(plan.modes):
        context = ModeContext(number, plan.battery, plan.zone, import_rates, export_rates, timetable)
        entries.append(Entry(number, mode.mode, mode.source, mode.build(context)))
    return CompiledPlan(tuple(entries), plan.interval / HOUR, plan.max_reading_age, plan.interval, timetable)


def _no_holiday(_day: date) -> bool:
    return False


def _timetable(
    plan: "ControllerPlan", is_holiday: Callable[[date], bool], periods: tuple[PeriodConfig, ...]
) -> Timetable:
    return Timetable(periods, plan.zone, is_holiday)


def _rate_sum(rates: tuple[RateConfig, ...], timetable: Callable[[tuple[PeriodConfig, ...]], Timetable]) -> RateSum:
    return RateSum([(rate.price, timetable(rate.periods)) for rate in rates])
