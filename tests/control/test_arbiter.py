"""Proposals and priority, case by case."""

import math

import pytest

from flux.control.arbiter import Arbiter
from flux.control.compiled import Entry
from flux.control.shapes import (
    Offer,
    charge_more_allowed,
    discharge_more_allowed,
    export_avoidance,
    hold,
    import_avoidance,
    import_avoidance_no_more,
    take_over,
)
from flux.model import CommandSource

INF = math.inf


def hear(*offers: Offer) -> Arbiter:
    arbiter = Arbiter()
    for number, offer in enumerate(offers):
        arbiter.hear(Entry(number, f"mode{number}", CommandSource.MANUAL, lambda _cycle: None), offer)
    return arbiter


def winner(arbiter: Arbiter) -> str | None:
    return arbiter.winner.name if arbiter.winner else None


def offer(target: float | None = None, low: float | None = None, high: float | None = None) -> Offer:
    return Offer(target, low, high, "because")


@pytest.mark.parametrize(
    ("offers", "power", "low", "high", "name"),
    [
        ([], 0, -INF, INF, None),
        ([offer(50)], 50, -INF, INF, "mode0"),
        ([offer(50), offer(-20)], -20, -INF, INF, "mode1"),  # only bounds protect a higher mode
        ([offer(50), offer(50)], 50, -INF, INF, "mode0"),  # the one that set it first keeps it
        ([offer(50, 50, 50), offer(60)], 50, 50, 50, "mode0"),
        ([offer(50, 50, None), offer(80)], 80, 50, INF, "mode1"),
        ([offer(50, 50, None), offer(20, 10, 30)], 50, 50, INF, "mode0"),  # refused whole, its bounds too
        ([offer(None, 10, None)], 10, 10, INF, None),  # idle is brought inside
        ([offer(None, None, -10)], -10, -INF, -10, None),
        ([offer(20), offer(None, 30, None)], 20, -INF, INF, "mode0"),  # a minimum never passes T
        ([offer(20), offer(None, 10, None)], 20, 10, INF, "mode0"),
        ([offer(None, 10, None), offer(None, None, 5)], 10, 10, INF, None),  # a maximum never passes lo
        ([offer(None, None, 5), offer(None, 10, None)], 0, -INF, 5, None),
        ([offer(None, 10, None), offer(None, 5, None)], 10, 10, INF, None),  # bounds only move inwards
        ([offer(None, None, 10), offer(None, None, 20)], 0, -INF, 10, None),
        ([offer(30, 40, 20)], 30, -INF, INF, "mode0"),  # neither of its own bounds may pass its own target
        ([offer(INF, INF, INF), offer(INF, 5, None)], INF, INF, INF, "mode0"),
        ([offer(INF, INF, INF), offer(50)], INF, INF, INF, "mode0"),
        ([offer(-INF, None, -INF), offer(-50)], -INF, -INF, -INF, "mode0"),
        ([hold(""), charge_more_allowed(-50, "")], 0, 0, INF, None),
        ([hold(""), discharge_more_allowed(50, "")], 50, 50, INF, "mode1"),
        ([charge_more_allowed(-50, ""), take_over(-80, "")], -80, -80, -80, "mode1"),
        ([charge_more_allowed(-50, ""), take_over(-20, "")], -50, -INF, -50, "mode0"),
        ([import_avoidance(40)], 40, 40, INF, "mode0"),
        ([import_avoidance(-40)], 0, -40, INF, None),
        ([import_avoidance(-40), export_avoidance(-40)], -40, -40, -40, "mode1"),
        ([import_avoidance(0)], 0, 0, INF, "mode0"),
        ([export_avoidance(-40)], -40, -INF, -40, "mode0"),
        ([export_avoidance(40)], 0, -INF, 40, None),
        ([export_avoidance(0)], 0, -INF, 0, "mode0"),
        ([export_avoidance(40), discharge_more_allowed(60, "")], 0, -INF, 40, None),
        ([import_avoidance_no_more(40, ""), discharge_more_allowed(60, "")], 40, 40, 40, "mode0"),
        ([import_avoidance_no_more(-40, ""), discharge_more_allowed(60, "")], 0, -40, 0, None),
        ([import_avoidance_no_more(-40, ""), charge_more_allowed(-30, "")], -30, -40, -30, "mode1"),
    ],
)
def test_outcomes(offers: list[Offer], power: float, low: float, high: float, name: str | None) -> None:
    arbiter = hear(*offers)
    assert (arbiter.outcome(), arbiter.low, arbiter.high, winner(arbiter)) == (power, low, high, name)


def test_a_refusal_is_told_and_kept_with_what_was_asked() -> None:
    arbiter = hear(take_over(50, "first"), charge_more_allowed(-20, "second"))
    kept, refused = arbiter.records
    assert (kept.refused, refused.refused) == (False, True)
    assert (refused.target_kw, refused.min_kw, refused.max_kw) == (-20, None, -20)
    assert refused.reason == "second; refused: outside [50.0, 50.0] kW set by higher modes"
