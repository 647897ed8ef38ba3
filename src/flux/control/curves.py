"""Curves of the plan: SoE (kWh) over price (£/MWh), points joined by straight lines.

``[[-.inf, 475], [0, 475], [200, 0]]`` at £100/MWh is 237.5 kWh; at £201/MWh there is no curve.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

from flux.control.numbers import LARGEST, MaybeInfinite

Point = tuple[MaybeInfinite, MaybeInfinite]


def _check(points: tuple[Point, ...]) -> tuple[Point, ...]:
    for number, (x, y) in enumerate(points, start=1):
        if not math.isfinite(y):
            raise ValueError(f"point {number} [{x}, {y}]: the energy (kWh) must be finite")
        if abs(y) > LARGEST or LARGEST < abs(x) < math.inf:
            raise ValueError(f"point {number} [{x}, {y}]: a number must be at most {LARGEST:g}")
        inside = 1 < number < len(points)
        if math.isinf(x) and (inside or (x > 0) is (number == 1)):
            raise ValueError(
                f"point {number} [{x}, {y}]: only the first point may be at -.inf and only the last at .inf"
            )
    for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(points), start=2):
        if x1 < x0:
            raise ValueError(f"point {number} [{x1}, {y1}]: its price is below the {x0} of the point before it")
        if (math.isinf(x0) or math.isinf(x1)) and y0 != y1:
            raise ValueError(
                f"points {number - 1} and {number}: a curve is level towards infinity, here it is {y0} and {y1}"
            )
    return points


Curve = Annotated[tuple[Point, ...], AfterValidator(_check)]
"""Points by price, not descending; ``±.inf`` may end a curve that is level there; empty: no curve."""


def curve_at(points: Sequence[Point], x: float) -> float | None:
    """The curve's value at ``x``: ``None`` outside its span; at a step the later point holds."""
    after = bisect_right(points, x, key=lambda point: point[0])
    if after == 0:
        return None
    x0, y0 = points[after - 1]
    if x0 == x:
        return y0
    if after == len(points):
        return None
    x1, y1 = points[after]
    if y0 == y1:  # level, and perhaps infinitely long
        return y0
    return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))


def distance(points: Sequence[Point], x: float, y: float) -> float | None:
    """Curve − point: positive when the point (``x``, ``y``) lies below the curve; ``None`` outside its span."""
    value = curve_at(points, x)
    return None if value is None else value - y
