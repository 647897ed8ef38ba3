"""Which mode held when, as a carpet: a row for each local day, from midnight to midnight, in the modes' colours."""

from collections.abc import Iterator
from datetime import date
from itertools import groupby

from flux.analysis.halfhours import longest_modes
from flux.analysis.outcome import Outcome
from flux.charts.parts import LEFT, RIGHT, WIDTH, page, rule, text
from flux.control.colours import MODE_COLOURS, OTHER_COLOUR
from flux.model import SETTLEMENT_PERIOD

_TOP = 34
_HEIGHT = 420
_TALLEST_ROW, _LOWEST_ROW = 14.0, 1.5
_LABEL_EVERY = 13.0
_DAY_MINUTES = 24 * 60
_IDLE = "idle"


def draw_carpet(outcome: Outcome) -> str:
    """The SVG; half hours in which no mode took effect stay white."""
    days = _days(outcome)
    row = min(_TALLEST_ROW, max(_LOWEST_ROW, _HEIGHT / len(days)))
    bottom = _TOP + row * len(days)
    parts = list(_rows(days, row))
    for hour in range(0, 25, 3):
        x = _x(hour * 60)
        parts += [rule(f"M{x:g} {_TOP}V{bottom:g}"), text(x, bottom + 16, f"{hour:02d}:00", "middle")]
    modes = sorted({mode for cells in days.values() for _, mode in cells} - {_IDLE})
    legend, height = _legend(modes, bottom + 42)
    return page("modes, by local time", int(height), [*parts, *legend])


def _days(outcome: Outcome) -> dict[date, list[tuple[int, str]]]:
    """By local day: the local minute at which each half hour starts, and its mode."""
    each = SETTLEMENT_PERIOD // outcome.timeline.step
    days: dict[date, list[tuple[int, str]]] = {}
    for number, mode in enumerate(longest_modes(outcome, each)):
        local = (outcome.timeline.start + number * SETTLEMENT_PERIOD).astimezone(outcome.zone)
        days.setdefault(local.date(), []).append((local.hour * 60 + local.minute, mode))
    return days


def _rows(days: dict[date, list[tuple[int, str]]], row: float) -> Iterator[str]:
    every = max(1, round(_LABEL_EVERY / row))
    for number, (day, cells) in enumerate(days.items()):
        y = _TOP + number * row
        if number % every == 0:
            yield text(LEFT - 6, round(y + min(row, 11), 1), f"{day:%-d %b}", "end")
        for mode, group in groupby(cells, key=lambda cell: cell[1]):
            minutes = [minute for minute, _ in group]
            if mode != _IDLE:
                first, after = _x(min(minutes)), _x(min(max(minutes) + 30, _DAY_MINUTES))
                yield (
                    f'<rect x="{first:g}" y="{y:g}" width="{after - first:.1f}" height="{row:g}" '
                    f'fill="{MODE_COLOURS.get(mode, OTHER_COLOUR)}"/>'
                )


def _x(minute: int) -> float:
    return round(LEFT + minute / _DAY_MINUTES * (WIDTH - LEFT - RIGHT), 1)


def _legend(modes: list[str], top: float) -> tuple[list[str], float]:
    x, y, parts = float(LEFT), top, list[str]()
    for mode in modes:
        width = 34 + 7 * len(mode)
        if x + width > WIDTH - RIGHT:
            x, y = float(LEFT), y + 20
        colour = MODE_COLOURS.get(mode, OTHER_COLOUR)
        parts.append(f'<rect x="{x:g}" y="{y - 10:g}" width="14" height="12" fill="{colour}"/>')
        parts.append(text(x + 20, y, mode.replace("_", " ")))
        x += width
    return parts, y + 16
