"""Lines over time, in panels one above the other, each with a scale of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby

from flux.charts.parts import LEFT, RIGHT, TOP, WIDTH, Scale, page, rule, text

_GAP = 34
_STEPS = tuple(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12, 24, 48, 168, 336, 720, 2160, 8760))
_MOST_MARKS = 16


@dataclass(frozen=True, slots=True)
class Line:
    """``points`` in order of time; a value holds until the next point, None ends it there."""

    name: str
    colour: str
    points: Sequence[tuple[datetime, float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one scale, whose unit stands above it."""

    unit: str
    lines: Sequence[Line]
    height: int = 150


def draw_series(panels: Sequence[Panel], start: datetime, end: datetime, zone: tzinfo, title: str) -> str:
    """The SVG of start ≤ time < end, times written in ``zone``."""
    axis = _TimeAxis(start, end, zone)
    bottom = TOP + sum(panel.height + _GAP for panel in panels) - _GAP
    parts = list(axis.marks(TOP, bottom))
    top = TOP
    for panel in panels:
        parts += _panel(panel, axis, top)
        top += panel.height + _GAP
    return page(title, bottom + 34, parts)


@dataclass(frozen=True, slots=True)
class _TimeAxis:
    start: datetime
    end: datetime
    zone: tzinfo

    def x(self, instant: datetime) -> float:
        share = (min(max(instant, self.start), self.end) - self.start) / (self.end - self.start)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def marks(self, top: int, bottom: int) -> Iterator[str]:
        """A line at round local times; a clock change moves them with the clock."""
        step = next((s for s in _STEPS if (self.end - self.start) / s <= _MOST_MARKS), _STEPS[-1])
        layout = "%H:%M" if step < timedelta(days=1) else "%-d %b" if step < timedelta(days=300) else "%Y"
        midnight = self.start.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for number in range(round((self.end - self.start + timedelta(days=2)) / step) + 2):
            local = midnight + number * step
            instant = local.replace(tzinfo=self.zone).astimezone(UTC)
            if self.start <= instant <= self.end:
                x = self.x(instant)
                yield rule(f"M{x} {top}V{bottom}")
                label = f"{local:%-d %b}" if local.hour == 0 and step < timedelta(days=1) else f"{local:{layout}}"
                yield text(x, bottom + 16, label, "middle")


def _panel(panel: Panel, axis: _TimeAxis, top: int) -> Iterator[str]:
    values = [value for line in panel.lines for _, value in line.points if value is not None]
    scale = Scale.of(values, panel.height)
    for mark in scale.marks():
        y = top + panel.height - scale.at(mark)
        yield rule(f"M{LEFT} {y:g}H{WIDTH - RIGHT}", strong=mark == 0)
        yield text(LEFT - 6, y + 4, f"{mark:g}", "end")
    yield text(LEFT, top - 8, panel.unit)
    x = LEFT + 20 + 7 * len(panel.unit)
    for line in panel.lines:
        yield from _line(line, axis, scale, top + panel.height)
        yield f'<path d="M{x} {top - 12}h22" stroke="{line.colour}" stroke-width="2"/>'
        yield text(x + 28, top - 8, line.name)
        x += 60 + 7 * len(line.name)


def _line(line: Line, axis: _TimeAxis, scale: Scale, bottom: int) -> Iterator[str]:
    """A path for each stretch without gaps."""
    ends = [time for time, _ in line.points[1:]] + [axis.end]
    stretch = list(zip(line.points, ends, strict=True))
    for known, group in groupby(stretch, key=lambda one: one[0][1] is not None):
        if known:
            yield f'<path d="{_steps(list(group), axis, scale, bottom)}" fill="none" stroke="{line.colour}"/>'


def _steps(
    group: Sequence[tuple[tuple[datetime, float | None], datetime]], axis: _TimeAxis, scale: Scale, bottom: int
) -> str:
    path, last = "", None
    for (time, value), _ in group:
        x, y = axis.x(time), round(bottom - scale.at(value or 0.0), 1)
        if not path:
            path = f"M{x:g} {y:g}"
        elif y != last:
            path += f"H{x:g}V{y:g}"
        last = y
    return f"{path}H{axis.x(group[-1][1]):g}"
