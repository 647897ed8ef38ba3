"""Clouds of points: one quantity against another, side by side, coloured by group."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux.charts.parts import COLOURS, LEFT, RIGHT, TOP, WIDTH, Scale, page, rule, text

_HEIGHT = 320
_BETWEEN = 70
_MOST_POINTS = 4_000


@dataclass(frozen=True, slots=True)
class Cloud:
    """``points``: (x, y, group)."""

    x_name: str
    y_name: str
    points: Sequence[tuple[float, float, str]]


def draw_clouds(clouds: Sequence[Cloud], title: str) -> str:
    """The SVG of some clouds beside each other; of very many points evenly so many are drawn."""
    width = (WIDTH - LEFT - RIGHT - _BETWEEN * (len(clouds) - 1)) // len(clouds)
    groups = sorted({group for cloud in clouds for _, _, group in cloud.points})
    colours = {group: COLOURS[number % len(COLOURS)] for number, group in enumerate(groups)}
    parts = [
        part
        for number, cloud in enumerate(clouds)
        for part in _cloud(cloud, LEFT + number * (width + _BETWEEN), width, colours)
    ]
    x, bottom = LEFT, TOP + _HEIGHT + 62
    for group, colour in colours.items():
        parts += [f'<circle cx="{x + 6}" cy="{bottom - 4}" r="5" fill="{colour}"/>', text(x + 16, bottom, group)]
        x += 46 + 7 * len(group)
    return page(title, bottom + 20, parts)


def _cloud(cloud: Cloud, left: int, width: int, colours: dict[str, str]) -> Iterator[str]:
    points = cloud.points[:: max(1, -(-len(cloud.points) // _MOST_POINTS))]
    across = Scale.of((x for x, _, _ in points), width, mark_every=70)
    up = Scale.of((y for _, y, _ in points), _HEIGHT)
    bottom = TOP + _HEIGHT
    for mark in across.marks():
        x = left + across.at(mark)
        yield rule(f"M{x:g} {TOP}V{bottom}", strong=mark == 0)
        yield text(x, bottom + 16, f"{mark:g}", "middle")
    for mark in up.marks():
        y = bottom - up.at(mark)
        yield rule(f"M{left} {y:g}H{left + width}", strong=mark == 0)
        yield text(left - 6, y + 4, f"{mark:g}", "end")
    yield text(left, TOP - 8, cloud.y_name)
    yield text(left + width, bottom + 34, cloud.x_name, "end")
    for x, y, group in points:
        at = f'cx="{left + across.at(x):g}" cy="{bottom - up.at(y):g}"'
        yield f'<circle {at} r="2.2" fill="{colours[group]}" fill-opacity="0.45"/>'
