"""Periods of the day in local time, and the instants they mean.

A period ``22:00``–``02:00`` on ``weekdays`` belongs to the day it starts on: Friday's ends on Saturday at 02:00.
A local time that the clocks skip means the instant of the change, one that comes twice its first coming:
``01:30``–``03:00`` in London is 01:00Z–02:00Z on 2026-03-29 and 00:30Z–03:00Z on 2026-10-25.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, field_validator

from flux.control.zones import ZoneName

DAY_S = 86_400
_CLOCK = re.compile(r"(\d{2}):(\d{2})(?::(\d{2}))?")
_ONE_DAY = timedelta(days=1)
_NEVER = datetime.max.replace(tzinfo=UTC)
_CACHED_DAYS = 1024
_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

IsHoliday = Callable[[date], bool]


def _parse_clock(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= DAY_S:
        return value  # already seconds since midnight: a model given to a model
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a time of day; write it like 17:00 or 17:00:30")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if minutes > 59 or seconds > 59 or (total := hours * 3600 + minutes * 60 + seconds) > DAY_S:
        raise ValueError("not a time of day; it must be from 00:00 to 24:00")
    return total


def format_clock(seconds: int) -> str:
    """``61200`` → ``17:00``; seconds are written only where there are any."""
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
    return f"{text}:{seconds % 60:02d}" if seconds % 60 else text


ClockTime = Annotated[
    int,
    BeforeValidator(_parse_clock),
    PlainSerializer(format_clock, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{2}:\d{2}(:\d{2})?$", "examples": ["17:00", "24:00"]}),
]
"""A local time of day: ``HH:MM`` or ``HH:MM:SS`` in text, seconds since midnight inside; 24:00 is 86400."""


class Days(StrEnum):
    """Sets of days that have a name; a holiday counts as a day of the weekend."""

    ALL = "all"
    WEEKDAYS = "weekdays"
    WEEKENDS = "weekends"


def _parse_days(value: object) -> object:
    if isinstance(value, str):
        if value not in set(Days):
            raise ValueError(f"must be one of {', '.join(Days)}, or a list of day names like [mon, tue]")
        return value
    if isinstance(value, Sequence):
        if not value:
            raise ValueError("no day is named, so the period never holds")
        return tuple(sorted({_day_number(day) for day in value}))
    raise ValueError(f"must be one of {', '.join(Days)}, or a list of day names like [mon, tue]")


def _day_number(day: object) -> int:
    if isinstance(day, int) and not isinstance(day, bool) and 0 <= day <= 6:
        return day
    text = str(day).lower()
    for number, name in enumerate(_NAMES):
        if text in (name, name[:3]):
            return number
    raise ValueError(f"{day!r} is not a day; write mon, tue, wed, thu, fri, sat or sun")


def _write_days(days: Days | tuple[int, ...]) -> str | list[str]:
    return days.value if isinstance(days, Days) else [_NAMES[day][:3] for day in days]


DaySet = Annotated[
    Days | tuple[int, ...],
    BeforeValidator(_parse_days),
    PlainSerializer(_write_days),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [day.value for day in Days]},
                {"type": "array", "minItems": 1, "items": {"enum": [n for name in _NAMES for n in (name[:3], name)]}},
            ]
        }
    ),
]


class PeriodConfig(BaseModel):
    """``{days: weekdays, start: "17:00", end: "19:00"}``: half-open; an end before the start is the next day's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: DaySet = Days.ALL
    start: ClockTime
    end: ClockTime
    timezone: ZoneName | None = Field(default=None, description="IANA name; default: the plan's")

    @field_validator("start")
    @classmethod
    def _start_is_in_the_day(cls, start: int) -> int:
        if start == DAY_S:
            raise ValueError("a period can't start at 24:00; write 00:00 of the next day")
        return start

    @field_validator("end")
    @classmethod
    def _end_is_not_the_start(cls, end: int, info: Any) -> int:
        if end == info.data.get("start"):
            raise ValueError("end must differ from start; a whole day is 00:00 to 24:00")
        return end

    @property
    def crosses_midnight(self) -> bool:
        return self.end < self.start

    def on(self, day: date, is_holiday: IsHoliday) -> bool:
        """Whether a period of this kind starts on ``day``."""
        if self.days is Days.ALL:
            return True
        if isinstance(self.days, Days):
            return (day.weekday() >= 5 or is_holiday(day)) is (self.days is Days.WEEKENDS)
        return day.weekday() in self.days


ALL_DAY = PeriodConfig(start=0, end=DAY_S)


def instant_of(day: date, clock_s: int, zone: ZoneInfo) -> datetime:
    """The UTC instant of a local time: skipped → the instant of the change, twice → the first coming."""
    local = datetime.combine(day, time()) + timedelta(seconds=clock_s)
    instant = local.replace(tzinfo=zone).astimezone(UTC)  # fold=0: the first coming
    if instant.astimezone(zone).replace(tzinfo=None) == local:
        return instant
    return _change_between(local.replace(tzinfo=zone, fold=1).astimezone(UTC), instant, zone)


def _change_between(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first second in (before, after] at which the zone's offset is no longer that of ``before``."""
    offset = before.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return before + timedelta(seconds=high)


@dataclass(frozen=True, slots=True)
class Window:
    """One coming of a period, [start, end) in UTC; ``index`` is the period's place in its list."""

    start: datetime
    end: datetime
    index: int


@dataclass(frozen=True, slots=True)
class _DayTable:
    """The answers for one UTC day: ``holding[i]`` holds from ``edges[i]`` on; ``coming`` are windows by start."""

    edges: list[datetime]
    end: datetime
    holding: list[Window | None]
    coming_starts: list[datetime]
    coming: list[Window]


class Timetable:
    """The periods of one entry, ready to be asked; answers depend on the arguments alone.

    A day, once worked out, is kept: of what was asked before only the time an answer takes depends.
    """

    __slots__ = ("_days", "_is_holiday", "_last", "_periods")

    def __init__(self, periods: Sequence[PeriodConfig], zone: ZoneInfo, is_holiday: IsHoliday) -> None:
        self._periods = [(p, ZoneInfo(p.timezone) if p.timezone else zone) for p in periods]
        self._is_holiday = is_holiday
        self._days: dict[int, _DayTable] = {}
        self._last: tuple[datetime, datetime, Window | None] = (_NEVER, _NEVER, None)

    def holding(self, now: datetime) -> Window | None:
        """The first of the periods that holds at ``now`` (UTC), as the window of its present coming."""
        # asked a dozen times in each cycle, mostly with what it was just asked
        since, until, window = self._last
        if since <= now < until:
            return window
        table = self._days.get(now.toordinal()) or self._table(now)
        place = bisect_right(table.edges, now)
        until = table.edges[place] if place < len(table.edges) else table.end
        self._last = table.edges[place - 1], until, table.holding[place - 1]
        return table.holding[place - 1]

    def next_start(self, now: datetime) -> Window | None:
        """The next window that starts strictly after ``now`` and within 24 h of it."""
        table = self._table(now)
        index = bisect_right(table.coming_starts, now)
        if index == len(table.coming) or table.coming_starts[index] - now > _ONE_DAY:
            return None
        return table.coming[index]

    def windows(self, first: date, last: date) -> list[Window]:
        """The windows whose period starts on a local day from ``first`` to ``last``; empty ones (skipped) left out."""
        found = []
        for offset in range((last - first).days + 1):
            day = first + offset * _ONE_DAY
            for index, (period, zone) in enumerate(self._periods):
                if period.on(day, self._is_holiday):
                    end_day = day + _ONE_DAY if period.crosses_midnight else day
                    start, end = instant_of(day, period.start, zone), instant_of(end_day, period.end, zone)
                    if start < end:
                        found.append(Window(start, end, index))
        return found

    def _table(self, now: datetime) -> _DayTable:
        key = now.toordinal()
        table = self._days.get(key)
        if table is None:
            if len(self._days) >= _CACHED_DAYS:
                self._days.clear()
            table = self._days[key] = self._work_out(now.date())
        return table

    def _work_out(self, utc_day: date) -> _DayTable:
        # zones are up to 14 h from UTC and windows up to a day and an hour long
        windows = self.windows(utc_day - 2 * _ONE_DAY, utc_day + 3 * _ONE_DAY)
        midnight = datetime.combine(utc_day, time(), UTC)
        inside = {edge for w in windows for edge in (w.start, w.end) if midnight < edge < midnight + _ONE_DAY}
        edges = sorted({midnight, *inside})
        by_priority = sorted(windows, key=lambda w: (w.index, w.start))
        holding = [next((w for w in by_priority if w.start <= edge < w.end), None) for edge in edges]
        coming = sorted((w for w in windows if w.start >= midnight), key=lambda w: (w.start, w.index))
        return _DayTable(edges, midnight + _ONE_DAY, holding, [w.start for w in coming], coming)


def overlap(periods: Sequence[PeriodConfig], zone: ZoneInfo) -> tuple[int, int] | None:
    """The first two of ``periods`` that can hold at once, as (earlier, later) places in the list.

    Those of one time zone in an ordinary week, those of different ones at any time of a year, since whether they meet
    may change with the season. ``zone`` is of periods that name none; public holidays count for nothing here.
    """
    for later, period in enumerate(periods):
        for earlier, other in enumerate(periods[:later]):
            if (_meet_in_a_year if period.timezone != other.timezone else _meet_in_a_week)(period, other, zone):
                return earlier, later
    return None


def _meet_in_a_week(one: PeriodConfig, other: PeriodConfig, zone: ZoneInfo) -> bool:
    del zone  # it is the same for both
    return _meet(_week_spans(one), _week_spans(other))


def _meet_in_a_year(one: PeriodConfig, other: PeriodConfig, zone: ZoneInfo) -> bool:
    first, last = date(2024, 1, 1), date(2024, 12, 31)
    windows = [Timetable((period,), zone, lambda _day: False).windows(first, last) for period in (one, other)]
    mine, theirs = (sorted(found, key=lambda window: window.start) for found in windows)
    for window in mine:  # one period's own windows never overlap, so their starts and ends are in one order
        at = bisect_right(theirs, window.start, key=lambda coming: coming.end)
        if at < len(theirs) and theirs[at].start < window.end:
            return True
    return False


def _week_spans(period: PeriodConfig) -> list[tuple[int, int]]:
    """The period's seconds of an ordinary week from Monday 00:00; what runs past Sunday comes round to Monday."""
    week = 7 * DAY_S
    length = (period.end - period.start) % DAY_S or DAY_S
    spans = []
    for number in range(7):
        if period.on(date(2024, 1, 1) + number * _ONE_DAY, lambda _day: False):  # 2024-01-01 was a Monday
            start = number * DAY_S + period.start
            spans += [(start, min(start + length, week))]
            spans += [(0, start + length - week)] if start + length > week else []
    return spans


def _meet(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in these for c, d in those)
