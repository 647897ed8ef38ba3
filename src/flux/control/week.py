"""A plan on the calendar: when each entry would be asked through a week, clock changes and holidays included."""

from dataclasses import dataclass
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from flux.control.modes.base import ModeConfig
from flux.control.parts import RateConfig
from flux.control.periods import Window
from flux.control.plan import ControllerPlan

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """One entry of the plan (or a rate): its windows for each day, by the local day that they belong to.

    ``mode`` is None for a rate. ``says`` stands in place of the times, as of an entry that waits for dispatch.
    """

    name: str
    mode: str | None
    days: tuple[tuple[Window, ...], ...]
    zone: ZoneInfo
    says: str | None = None

    def words(self, first: date) -> list[list[str]]:
        """For each day from ``first`` on what stands in the table."""
        days = [first + number * _ONE_DAY for number in range(len(self.days))]
        return [
            [self.says or in_words(window, self.zone, day) for window in windows]
            for day, windows in zip(days, self.days, strict=True)
        ]


def calendar(plan: ControllerPlan, first: date, days: int = 7) -> list[CalendarRow]:
    """The entries of ``plan`` in order, then its rates, for ``days`` local days from ``first``."""
    span = [first + number * _ONE_DAY for number in range(days)]
    rates = [("import", rate) for rate in plan.rates.import_] + [("export", rate) for rate in plan.rates.export]
    return [_of_mode(plan, mode, span) for mode in plan.modes] + [_of_rate(plan, *one, span) for one in rates]


def _of_mode(plan: ControllerPlan, mode: ModeConfig, span: list[date]) -> CalendarRow:
    periods, says = mode.on_a_calendar()
    timetable = plan.compiled.timetable(periods)
    asked = [[mode.asked_in(w, plan.battery, plan.zone) for w in timetable.windows(day, day)] for day in span]
    days = tuple(_sorted([w for w in windows if w is not None and w.start < w.end]) for windows in asked)
    return CalendarRow(mode.mode, mode.mode, days, plan.zone, says)


def _of_rate(plan: ControllerPlan, direction: str, rate: RateConfig, span: list[date]) -> CalendarRow:
    timetable = plan.compiled.timetable(rate.periods)
    days = tuple(_sorted(timetable.windows(day, day)) for day in span)
    return CalendarRow(f"{direction} rate {rate.name}", None, days, plan.zone)


def _sorted(windows: list[Window]) -> tuple[Window, ...]:
    return tuple(sorted(windows, key=lambda window: window.start))


def in_words(window: Window, zone: ZoneInfo, day: date) -> str:
    """``17:00–19:00``; a start on another day than ``day`` is told with its name, an end at midnight as 24:00."""
    start, end = window.start.astimezone(zone), window.end.astimezone(zone)
    last = "24:00" if end.strftime("%H:%M") == "00:00" else end.strftime("%H:%M")
    before = "" if start.date() == day else f"{start:%a} "
    return f"{before}{start:%H:%M}–{last}"
