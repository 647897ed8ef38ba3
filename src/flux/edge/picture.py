"""A day as a picture: SoE, site and battery power and price over time, with the mode that took effect as bands. SVG."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from itertools import groupby
from zoneinfo import ZoneInfo

from flux.charts.parts import GRID, LEFT, RIGHT, TOP, WIDTH, Scale, page
from flux.control.colours import MODE_COLOURS, OTHER_COLOUR
from flux.edge.day import DayPoint

_GAP = 30
_MOST_POINTS = 720


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel."""

    name: str
    colour: str
    value: Callable[[DayPoint], float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one scale, whose unit stands above it."""

    unit: str
    height: int
    series: tuple[Series, ...]


_SOE = Panel("SoE, kWh", 130, (Series("SoE", "#0969da", lambda p: p.soe_kwh),))
_POWER = Panel(
    "power, kW",
    190,
    (
        Series("site (+ import)", "#57606a", lambda p: p.site_kw),
        Series("battery (+ discharge)", "#cf222e", lambda p: p.battery_kw),
    ),
)
_PRICE = Panel("price, £/MWh", 90, (Series("price", "#1a7f37", lambda p: p.price),))


def draw_day(points: Sequence[DayPoint], zone: ZoneInfo, title: str) -> str:
    """The SVG of a day's points (in order, at least two), times in ``zone``; without prices it has no price panel."""
    panels = [_SOE, _POWER, *([_PRICE] if any(point.price is not None for point in points) else [])]
    begin = points[0].time.replace(minute=0, second=0, microsecond=0)
    canvas = _Canvas(begin, points[-1].time, zone)
    thinned = list(points[:: max(1, -(-len(points) // _MOST_POINTS))])
    y, parts = TOP, list[str]()
    bottom = TOP + sum(panel.height + _GAP for panel in panels) - _GAP
    parts += canvas.bands(points, TOP, bottom)
    parts += canvas.hours(TOP, bottom)
    for panel in panels:
        parts += canvas.panel(panel, thinned, y)
        y += panel.height + _GAP
    legend, height = _legend(points, bottom + 36)
    return page(title, height, [*parts, *legend])


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Where time is, from left to right."""

    start: datetime
    end: datetime
    zone: ZoneInfo

    def x(self, instant: datetime) -> float:
        share = (instant - self.start) / (self.end - self.start)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def bands(self, points: Sequence[DayPoint], top: int, bottom: int) -> Iterator[str]:
        """A rectangle for each stretch in which one mode took effect."""
        for mode, (first, after) in _stretches(points):
            if mode is not None:
                left, right = self.x(first), self.x(after)
                yield (
                    f'<rect x="{left}" y="{top}" width="{max(right - left, 0.3):.1f}" height="{bottom - top}" '
                    f'fill="{MODE_COLOURS.get(mode, OTHER_COLOUR)}" fill-opacity="0.35"/>'
                )

    def hours(self, top: int, bottom: int) -> Iterator[str]:
        """A line for every second hour of the local day, counted from its start."""
        instant = self.start
        while instant <= self.end + timedelta(minutes=5):
            x = min(self.x(instant), WIDTH - RIGHT)
            label = f"{instant.astimezone(self.zone):%H:%M}"
            yield f'<path d="M{x} {top}V{bottom}" stroke="{GRID}"/>'
            yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
            instant += timedelta(hours=2)

    def panel(self, panel: Panel, points: Sequence[DayPoint], top: int) -> Iterator[str]:
        """Scale, grid and lines."""
        values = [v for series in panel.series for v in map(series.value, points) if v is not None]
        scale = Scale.of(values, panel.height)
        bottom = top + panel.height
        right = WIDTH - RIGHT
        for mark in scale.marks():
            y, width = round(bottom - scale.at(mark), 1), 1.4 if mark == 0 else 0.7
            yield f'<path d="M{LEFT} {y}H{right}" stroke="{GRID}" stroke-width="{width}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{mark:g}</text>'
        yield f'<text x="{LEFT}" y="{top - 7}">{panel.unit}</text>'
        for number, series in enumerate(panel.series):
            yield from self._line(series, points, scale, bottom)
            if len(panel.series) > 1:
                x = LEFT + 90 + 170 * number
                yield f'<path d="M{x} {top - 11}h22" stroke="{series.colour}" stroke-width="2"/>'
                yield f'<text x="{x + 28}" y="{top - 7}">{series.name}</text>'

    def _line(self, series: Series, points: Sequence[DayPoint], scale: Scale, bottom: int) -> Iterator[str]:
        """A path for each stretch without gaps; a value holds until the next."""
        for known, group in groupby(points, key=lambda point: series.value(point) is not None):
            if known:
                yield f'<path d="{self._steps(series, group, scale, bottom)}" fill="none" stroke="{series.colour}"/>'

    def _steps(self, series: Series, points: Iterable[DayPoint], scale: Scale, bottom: int) -> str:
        path, last = "", None
        for point in points:
            value = series.value(point)
            y = round(bottom - scale.at(0.0 if value is None else value), 1)
            x = self.x(point.time)
            if not path:
                path = f"M{x:g} {y:g}"
            elif y != last:
                path += f"H{x:g}V{y:g}"
            last, end = y, x
        return f"{path}H{end:g}" if path else ""


def _stretches(points: Sequence[DayPoint]) -> Iterator[tuple[str | None, tuple[datetime, datetime]]]:
    """Each mode with when it began and when the next did."""
    begins = [(mode, next(group).time) for mode, group in groupby(points, key=lambda point: point.mode)]
    ends = [time for _, time in begins[1:]] + [points[-1].time]
    for (mode, first), after in zip(begins, ends, strict=True):
        yield mode, (first, after)


def _legend(points: Sequence[DayPoint], top: int) -> tuple[list[str], int]:
    """The colours of the modes that took effect; and how high the picture is with them."""
    modes = sorted({point.mode for point in points if point.mode is not None})
    x, y, parts = LEFT, top, list[str]()
    for mode in modes:
        width = 30 + 7 * len(mode)
        if x + width > WIDTH - RIGHT:
            x, y = LEFT, y + 20
        colour = MODE_COLOURS.get(mode, OTHER_COLOUR)
        parts.append(f'<rect x="{x}" y="{y - 10}" width="14" height="12" fill="{colour}" fill-opacity="0.6"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{escape(mode)}</text>')
        x += width
    return parts, y + 16
