"""A plan on the calendar: when each entry would be asked through a week, clock changes and holidays included."""

from dataclasses import dataclass
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from flux.control.periods import PeriodConfig, Window
from flux.control.plan import ControllerPlan

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """One entry of the plan (or a rate): for each day, by the local day they start on, its windows and their words."""

    name: str
    days: tuple[tuple[Window, ...], ...]
    words: tuple[tuple[str, ...], ...]


def calendar(plan: ControllerPlan, first: date, days: int = 7) -> list[CalendarRow]:
    """The entries of ``plan`` in order, then its rates, for ``days`` local days from ``first``."""
    rows = [_row(plan, mode.mode, *mode.on_a_calendar(), first, days) for mode in plan.modes]
    for direction, rates in (("import", plan.rates.import_), ("export", plan.rates.export)):
        rows += [_row(plan, f"{direction} rate {r.name}", r.periods, "{start}–{end}", first, days) for r in rates]
    return rows


def _row(
    plan: ControllerPlan, name: str, periods: tuple[PeriodConfig, ...], template: str, first: date, days: int
) -> CalendarRow:
    timetable = plan.compiled.timetable(periods)
    windows = []
    for offset in range(days):
        day = first + offset * _ONE_DAY
        windows.append(tuple(sorted(timetable.windows(day, day), key=lambda window: window.start)))
    words = tuple(tuple(_in_words(window, template, plan.zone) for window in day) for day in windows)
    return CalendarRow(name, tuple(windows), words)


def _in_words(window: Window, template: str, zone: ZoneInfo) -> str:
    start, end = window.start.astimezone(zone), window.end.astimezone(zone)
    last = "24:00" if end.strftime("%H:%M") == "00:00" else end.strftime("%H:%M")
    return template.format(start=start.strftime("%H:%M"), end=last)
