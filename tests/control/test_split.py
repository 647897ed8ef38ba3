"""How a target is split among batteries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.control.split import SplitPart, most_together, split

STEP_H = 4 / 3600


def part(
    limit_kw: float = 100.0,
    soe_kwh: float = 100.0,
    soe_min_kwh: float = 0.0,
    soe_max_kwh: float = 200.0,
    eff: float = 1,
) -> SplitPart:
    return SplitPart(limit_kw, limit_kw, soe_kwh, soe_min_kwh, soe_max_kwh, eff)


def test_equal_batteries_share_equally() -> None:
    assert split(60, [part(), part()], STEP_H) == (30, 30)
    assert split(-60, [part(), part()], STEP_H) == (-30, -30)
    assert split(0, [part(), part()], STEP_H) == (0, 0)


def test_the_fuller_one_gives_more_and_takes_less() -> None:
    full, low = part(soe_kwh=160), part(soe_kwh=80)
    assert split(60, [full, low], STEP_H) == pytest.approx((40, 20))
    assert split(-80, [full, low], STEP_H) == pytest.approx((-20, -60))


def test_a_bigger_one_carries_more() -> None:
    assert split(90, [part(100), part(50)], STEP_H) == pytest.approx((60, 30))


def test_what_one_cannot_carry_goes_to_the_other() -> None:
    assert split(140, [part(100), part(50)], STEP_H) == pytest.approx((93.333, 46.667), abs=0.001)
    assert split(140, [part(100, soe_kwh=20), part(100, soe_kwh=180)], STEP_H) == pytest.approx((40, 100))


def test_an_empty_one_gives_nothing_and_a_full_one_takes_nothing() -> None:
    assert split(60, [part(soe_kwh=0), part()], STEP_H) == (0, 60)
    assert split(-60, [part(soe_kwh=200), part()], STEP_H) == (0, -60)


def test_the_better_one_is_charged_first() -> None:
    good, poor = split(-60, [part(eff=0.9), part(eff=0.6)], STEP_H)
    assert (good, poor) == pytest.approx((-36, -24))


def test_too_much_for_all_is_what_each_can() -> None:
    assert split(500, [part(100), part(50)], STEP_H) == (100, 50)
    assert most_together([part(100), part(50)], STEP_H) == (150, 150)


def test_one_that_is_nearly_empty_gives_what_it_has() -> None:
    nearly = part(soe_kwh=0.05)  # 0.05 kWh within 4 s are 45 kW
    assert split(150, [nearly, part()], STEP_H) == pytest.approx((45, 100))


parts = st.builds(
    lambda charge, discharge, low, width, level, eff: SplitPart(
        charge, discharge, low + level * width, low, low + width, eff
    ),
    st.floats(0, 2000),
    st.floats(0, 2000),
    st.floats(0, 100),
    st.floats(1, 5000),
    st.floats(-0.1, 1.1),
    st.floats(0.5, 1),
)
targets = st.floats(-10_000, 10_000)


@given(st.lists(parts, min_size=1, max_size=6), targets)
def test_within_limits_and_summing_to_the_target_where_possible(batteries: list[SplitPart], target_kw: float) -> None:
    powers = split(target_kw, batteries, STEP_H)
    charge, discharge = most_together(batteries, STEP_H)
    for one, power in zip(batteries, powers, strict=True):
        assert -one.most_charge_kw(STEP_H) <= power <= one.most_discharge_kw(STEP_H)
        assert power * target_kw >= 0  # none works against the others
    assert sum(powers) == pytest.approx(min(max(target_kw, -charge), discharge), abs=1e-6, rel=1e-9)


@given(parts, st.floats(0, 1), st.floats(0, 1), targets)
def test_of_two_alike_the_fuller_gives_no_less_and_takes_no_more(
    like: SplitPart, first: float, second: float, target_kw: float
) -> None:
    low, high = sorted((first, second))
    width = like.soe_max_kwh - like.soe_min_kwh

    def at(level: float) -> SplitPart:
        soe_kwh = like.soe_min_kwh + level * width
        return SplitPart(
            like.charge_limit_kw,
            like.discharge_limit_kw,
            soe_kwh,
            like.soe_min_kwh,
            like.soe_max_kwh,
            like.charge_efficiency,
        )

    emptier, fuller = split(target_kw, [at(low), at(high)], STEP_H)
    assert fuller >= emptier - 1e-6


@given(st.lists(parts, min_size=2, max_size=5), targets)
def test_the_order_of_the_batteries_changes_nothing(batteries: list[SplitPart], target_kw: float) -> None:
    powers = split(target_kw, batteries, STEP_H)
    assert split(target_kw, batteries[::-1], STEP_H)[::-1] == pytest.approx(powers, abs=1e-6)
