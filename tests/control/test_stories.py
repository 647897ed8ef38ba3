"""Nights in which the clocks change, told as they go: time in UTC, SoE and demand → what the battery is told.

Expected figures are worked out by hand from the periods' lengths on those nights.
"""

import pytest
from tests.control.kit import plan_of, run

from flux.control.decision import Limit

CHARGE_AT_NIGHT = (
    'charge_to_soe, soe_kwh: 400, periods: [{days: all, start: "23:00", end: "05:00"}]',
    'import_avoidance, periods: [{days: all, start: "05:00", end: "23:00"}]',
    "export_avoidance",
)
LATE_PEAK = (
    'dynamic_peak_discharge, target_soe_kwh: 100, periods: [{days: all, start: "23:00", end: "02:30"}]',
    'charge_to_soe, soe_kwh: 400, periods: [{days: all, start: "00:00", end: "05:00"}]',
)


@pytest.mark.parametrize(
    ("time", "soe", "load", "expected", "effective"),
    [
        # spring: 23:00 GMT to 05:00 BST is 23:00Z to 04:00Z, five hours; 90 kWh at 0.9 are 100 kWh drawn
        ("2026-03-28 22:59:59", 310, 10, 10, "import_avoidance"),
        ("2026-03-28 23:00", 310, 10, -20, "charge_to_soe"),
        ("2026-03-29 00:30", 310, 10, -100 / 3.5, "charge_to_soe"),
        ("2026-03-29 01:30", 310, 10, -40, "charge_to_soe"),  # 02:30 BST, an hour after 00:30 by the clock on the wall
        ("2026-03-29 01:30", 310, -60, -60, "export_avoidance"),  # solar that would be exported is taken up too
        ("2026-03-29 04:00", 310, 10, 10, "import_avoidance"),
        # autumn: 23:00 BST to 05:00 GMT is 22:00Z to 05:00Z, seven hours
        ("2026-10-24 21:59:59", 310, 10, 10, "import_avoidance"),
        ("2026-10-24 22:00", 310, 10, -100 / 7, "charge_to_soe"),
        ("2026-10-25 00:30", 310, 10, -100 / 4.5, "charge_to_soe"),  # 01:30 for the first time
        ("2026-10-25 01:30", 310, 10, -100 / 3.5, "charge_to_soe"),  # 01:30 for the second time
        ("2026-10-25 05:00", 310, 10, 10, "import_avoidance"),
        # any other night
        ("2026-01-15 23:00", 310, 10, -100 / 6, "charge_to_soe"),
        ("2026-01-16 02:00", 400, 10, 0, None),
        ("2026-01-16 05:00", 400, 10, 10, "import_avoidance"),
    ],
)
def test_charging_over_a_night(time: str, soe: float, load: float, expected: float, effective: str | None) -> None:
    decision = run(plan_of(*CHARGE_AT_NIGHT), time, soe, load)
    assert decision.target_power_kw == pytest.approx(expected)
    assert decision.effective == effective


def test_the_grid_connection_is_looked_at_in_the_repeated_hour_too() -> None:
    decision = run(plan_of(*CHARGE_AT_NIGHT), "2026-10-25 01:30", 310, 200)
    assert decision.target_power_kw == pytest.approx(-20)  # 28.6 kW more would import 228.6 kW of 220 kW
    assert decision.limits == (Limit.SITE_IMPORT,)


@pytest.mark.parametrize(
    ("time", "soe", "expected", "effective"),
    [
        # 105 kWh to spend are one hour at 105 kW; spring: 02:30 BST is 01:30Z
        ("2026-03-28 23:30", 205, 0, None),
        ("2026-03-29 00:30", 205, 0, None),  # the latest start itself is not late; charging below it is refused
        ("2026-03-29 00:31", 205, 105, "dynamic_peak_discharge"),
        ("2026-03-29 01:30", 205, -195 / 0.9 / 2.5, "charge_to_soe"),
        # autumn: 02:30 is after the repeated hour, 02:30Z
        ("2026-10-25 00:31", 205, 0, None),
        ("2026-10-25 01:30", 205, 0, None),
        ("2026-10-25 01:31", 205, 105, "dynamic_peak_discharge"),
        ("2026-10-25 02:30", 205, -195 / 0.9 / 2.5, "charge_to_soe"),
        # the period belongs to the evening it starts on: on an ordinary night 02:30Z ends it
        ("2026-01-16 01:30", 205, 0, None),
        ("2026-01-16 01:31", 205, 105, "dynamic_peak_discharge"),
        ("2026-01-16 01:31", 100, 0, None),
    ],
)
def test_a_peak_over_midnight_before_a_charge(time: str, soe: float, expected: float, effective: str | None) -> None:
    decision = run(plan_of(*LATE_PEAK), time, soe, 30)
    assert decision.target_power_kw == pytest.approx(expected)
    assert decision.effective == effective
