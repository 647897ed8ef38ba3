"""Curves of SoE over price."""

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from flux.control.curves import Curve, curve_at, distance

INF = math.inf
CURVE: Any = TypeAdapter(Curve)


@pytest.mark.parametrize(
    ("price", "energy"),
    [(-1000, 475), (0, 475), (100, 237.5), (199, 2.375), (200, 0), (200.001, None)],
)
def test_points_are_joined_by_straight_lines(price: float, energy: float | None) -> None:
    assert curve_at([(-INF, 475), (0, 475), (200, 0)], price) == (None if energy is None else pytest.approx(energy))


def test_nothing_outside_the_span() -> None:
    curve = [(300.0, 475.0), (400.0, 0.0), (INF, 0.0)]
    assert [curve_at(curve, x) for x in (299.99, 300, 350, 5000)] == [None, 475, 237.5, 0]


def test_at_a_step_the_later_point_holds() -> None:
    curve = [(0.0, 400.0), (100.0, 300.0), (100.0, 50.0), (200.0, 0.0)]
    assert curve_at(curve, 100) == 50
    assert curve_at(curve, 99.999) == pytest.approx(300.001)


def test_a_step_is_in_order() -> None:
    points = ((0.0, 400.0), (100.0, 300.0), (100.0, 50.0))
    assert CURVE.validate_python(points) == points


def test_a_step_of_three_points_and_at_the_last_point() -> None:
    assert curve_at([(0.0, 1.0), (5.0, 2.0), (5.0, 9.0), (5.0, 3.0)], 5) == 3


def test_an_empty_curve_is_none_and_one_point_is_a_point() -> None:
    assert curve_at([], 10) is None
    assert [curve_at([(10.0, 7.0)], x) for x in (9, 10, 11)] == [None, 7, None]


def test_distance_is_positive_below_the_curve() -> None:
    assert distance([(0.0, 100.0), (10.0, 100.0)], 5, 30) == 70
    assert distance([(0.0, 100.0), (10.0, 100.0)], 5, 130) == -30
    assert distance([(0.0, 100.0), (10.0, 100.0)], 11, 30) is None


def test_level_from_end_to_end() -> None:
    assert curve_at(CURVE.validate_python([["-inf", 5], [INF, 5]]), 1e6) == 5


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[10, 1], [5, 2]], r"point 2 \[5.0, 2.0\]: its price is below the 10.0"),
        ([[0, 1], [INF, 2]], "points 1 and 2: a curve is level towards infinity"),
        ([[-INF, 3], [0, 1]], "level towards infinity"),
        ([[INF, 1], [INF, 1]], "only the first point may be at -.inf"),
        ([[0, 1], [-INF, 1]], "only the first point"),
        ([[0, 1], [INF, 1], [INF, 1]], "only the first point"),
        ([[0, INF]], "must be finite"),
        ([[0, math.nan]], "not a number"),
        ([["cheap", 1]], "not a number"),
        ([[0, 1e12]], "at most"),
        ([[0, 1, 2]], "at most 2 items"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(points: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CURVE.validate_python(points)
