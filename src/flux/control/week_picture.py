"""A week of a plan as a picture: a lane for each entry, bands where it would be asked. SVG.

Time runs evenly from left to right, so the day on which the clocks change is narrower or wider than the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from html import escape
from zoneinfo import ZoneInfo

from flux.control.colours import GRID, INK, MODE_COLOURS, OTHER_COLOUR
from flux.control.periods import Window, instant_of
from flux.control.plan import ControllerPlan
from flux.control.week import CalendarRow, calendar, in_words

DAYS = 7
_WIDTH, _LEFT, _RIGHT, _TOP = 1240, 210, 16, 76
_LANE, _BAND = 28, 18
_LETTER = 5.3
_ONE_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_DAY_S = 86_400
_RATE_COLOUR = "#afb8c1"


def draw_week(plan: ControllerPlan, first: date) -> str:
    """The SVG of the week from the local day ``first`` on."""
    days = [first + number * _ONE_DAY for number in range(DAYS + 1)]
    frame = _Frame(tuple(instant_of(day, 0, plan.zone) for day in days), tuple(days), plan.zone)
    rows = calendar(plan, first - _ONE_DAY, DAYS + 2)  # a period may reach into the week, or be before a peak after it
    bottom = _TOP + _LANE * len(rows)
    title = f"Plan for {', '.join(plan.bess)}: what would be asked, highest priority first; {plan.timezone} time"
    parts = [*frame.columns(bottom)]
    for number, row in enumerate(rows):
        parts += frame.lane(row, _TOP + number * _LANE)
    height = bottom + 26
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    background = f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
    name = f'<title>{escape(title)}</title><text x="16" y="22" font-size="15">{escape(title)}</text>'
    return "\n".join([head, background, name, *parts, "</svg>"]) + "\n"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where time is: ``midnights`` are the instants at which the local ``days`` begin, the last one's being the end."""

    midnights: tuple[datetime, ...]
    days: tuple[date, ...]
    zone: ZoneInfo

    @property
    def start(self) -> datetime:
        return self.midnights[0]

    @property
    def end(self) -> datetime:
        return self.midnights[-1]

    def x(self, instant: datetime) -> float:
        share = (instant - self.start) / (self.end - self.start)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def columns(self, bottom: int) -> Iterator[str]:
        """Days with their names, and lines at 06:00, 12:00 and 18:00 of local time."""
        for number, day in enumerate(self.days[:-1]):
            start, end = self.midnights[number], self.midnights[number + 1]
            hours = (end - start) / _HOUR
            unusual = "" if hours == 24 else f" ({hours:g} h)"
            x = (self.x(start) + self.x(end)) / 2
            name = f"{day:%a} {day.day} {day:%b}{unusual}"
            yield f'<text x="{x:.1f}" y="{_TOP - 26}" text-anchor="middle">{name}</text>'
            for hour in (6, 12, 18):
                x = self.x(instant_of(day, hour * 3600, self.zone))
                yield f'<path d="M{x} {_TOP}V{bottom}" stroke="{GRID}" stroke-width="0.6"/>'
                yield f'<text x="{x}" y="{_TOP - 8}" font-size="10" text-anchor="middle">{hour:02d}</text>'
        for midnight in self.midnights:
            yield f'<path d="M{self.x(midnight)} {_TOP - 20}V{bottom}" stroke="{INK}" stroke-width="0.8"/>'
        yield from self._clock_changes(bottom)

    def _clock_changes(self, bottom: int) -> Iterator[str]:
        instant = self.start
        while instant < self.end:
            before, after = (at.astimezone(self.zone).utcoffset() for at in (instant, instant + _HOUR))
            if before != after and before is not None and after is not None:
                x, words = self.x(instant + _HOUR), f"{(after - before) / _HOUR:+g} h".replace("-", "−")
                yield f'<path d="M{x} {_TOP}V{bottom}" stroke="#cf222e" stroke-dasharray="3 3"/>'
                yield f'<text x="{x}" y="{bottom + 15}" font-size="10" text-anchor="middle">clocks {words}</text>'
            instant += _HOUR

    def lane(self, row: CalendarRow, top: int) -> Iterator[str]:
        """One entry: its name, and a band for each stretch of time."""
        colour = _RATE_COLOUR if row.mode is None else MODE_COLOURS.get(row.mode, OTHER_COLOUR)
        yield f'<path d="M16 {top + _LANE}H{_WIDTH - _RIGHT}" stroke="{GRID}" stroke-width="0.6"/>'
        yield f'<text x="16" y="{top + 18}">{escape(_shortened(row.name))}</text>'
        stretches = self._stretches(row)
        edges = [(max(_LEFT, self.x(one.start)), min(_WIDTH - _RIGHT, self.x(one.end))) for one in stretches]
        begins = [left for left, _ in edges]
        taken = float(_LEFT)
        for stretch, band, free_until in zip(stretches, edges, [*begins[1:], _WIDTH - _RIGHT], strict=False):
            words = self._words(row, stretch)
            yield _bar(band, top, colour, 0.3 if row.says else 0.75, f"{row.name}: {words}")
            label, taken = self._label(band, (taken, free_until), words)
            yield label.format(y=top + 18)

    def _stretches(self, row: CalendarRow) -> list[Window]:
        """The windows of the row that are seen in the week; those that touch or overlap are one."""
        merged: list[Window] = []
        for window in sorted((w for day in row.days for w in day), key=lambda one: one.start):
            if window.end <= self.start or window.start >= self.end:
                continue
            if merged and window.start <= merged[-1].end:
                merged[-1] = replace(merged[-1], end=max(merged[-1].end, window.end))
            else:
                merged.append(window)
        return merged

    def _label(self, band: tuple[float, float], free: tuple[float, float], words: str) -> tuple[str, float]:
        """Inside the band, or beside it where there is room on the band's own day; and up to where it is full then."""
        left, right = band
        room = len(words) * _LETTER + 4
        borders = [self.x(midnight) for midnight in self.midnights]
        next_border = next((x for x in borders if x >= right), free[1])
        last_border = next((x for x in reversed(borders) if x <= left), free[0])
        if room <= right - left:
            return _text((left + right) / 2, "middle", words), right
        if right + room <= min(free[1], next_border):
            return _text(right + 3, "start", words), right + room
        if left - room >= max(free[0], last_border):
            return _text(left - 3, "end", words), right
        return "", right

    def _words(self, row: CalendarRow, stretch: Window) -> str:
        if row.says is not None:
            return row.says
        if stretch.start <= self.start and stretch.end >= self.end:
            return "always"
        start, end = stretch.start.astimezone(self.zone), stretch.end.astimezone(self.zone)
        if stretch.end - stretch.start > _ONE_DAY + _HOUR:
            since = f"from {start:%a %H:%M}" if stretch.start > self.start else ""
            until = f"until {end:%a %H:%M}" if stretch.end < self.end else ""
            return f"{since} {until}".strip()
        return in_words(stretch, self.zone, start.date())


def _bar(band: tuple[float, float], top: int, colour: str, opacity: float, words: str) -> str:
    left, right = band
    return (
        f'<rect x="{left}" y="{top + (_LANE - _BAND) // 2}" width="{max(right - left, 1):.1f}" height="{_BAND}" '
        f'fill="{colour}" fill-opacity="{opacity}"><title>{escape(words)}</title></rect>'
    )


def _text(x: float, anchor: str, words: str) -> str:
    """A small text; where from top to bottom is filled in by the lane."""
    safe = escape(words).replace("{", "{{").replace("}", "}}")
    return f'<text x="{x:.1f}" y="{{y}}" font-size="10" text-anchor="{anchor}">{safe}</text>'


def _shortened(name: str) -> str:
    most = 32
    return name if len(name) <= most else f"{name[: most - 1]}…"
