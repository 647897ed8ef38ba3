"""Limits by hand: inverter, grid, inverter again, SoE."""

import math
from typing import Any

import pytest

from flux.control.decision import Limit
from flux.control.limits import GridRange, InverterRange, apply_limits, full_discharge_kw, grid_range, inverter_range
from flux.control.parts import BatteryConfig, SiteConfig
from flux.control.state import BatteryCapability, SiteLimits

BATTERY = BatteryConfig(
    capacity_kwh=500,
    charge_efficiency=0.9,
    charge_limit_kw=100,
    discharge_limit_kw=105,
    soe_min_kwh=25,
    soe_max_kwh=475,
)
SITE = SiteConfig(import_limit_kw=220, export_limit_kw=475)
STEP_H = 4 / 3600
INF = math.inf


def limited(
    power: float, load: float = 0.0, soe: float = 250.0, capability: BatteryCapability | None = None, **site: float
) -> tuple[Any, list[str]]:
    inverter = inverter_range(BATTERY, capability or BatteryCapability())
    result = apply_limits(power, inverter, grid_range(load, SITE, SiteLimits(**site)), soe, BATTERY, STEP_H)
    return pytest.approx(result.power_kw), [str(limit) for limit in result.limits]


@pytest.mark.parametrize(
    ("power", "expected", "limits"),
    [
        (50, 50, []),
        (105, 105, []),
        (105.1, 105, ["inverter"]),
        (-100.1, -100, ["inverter"]),
        (INF, 105, ["inverter"]),
        (-INF, -100, ["inverter"]),
    ],
)
def test_the_inverter(power: float, expected: float, limits: list[str]) -> None:
    assert limited(power) == (expected, limits)


def test_an_idle_battery_helps_a_site_that_draws_too_much() -> None:
    assert limited(0, load=250) == (30, ["site_import"])


def test_charging_is_turned_round_by_the_import_limit() -> None:
    assert limited(-50, load=250) == (30, ["site_import"])


def test_surplus_beyond_the_export_limit_is_charged() -> None:
    assert limited(0, load=-500) == (-25, ["site_export"])
    assert limited(80, load=-500) == (-25, ["site_export"])


def test_discharge_is_cut_at_the_export_limit() -> None:
    assert limited(105, load=-400) == (75, ["site_export"])


def test_the_inverter_counts_again_after_the_grid() -> None:
    assert limited(0, load=400) == (105, ["inverter", "site_import"])
    assert limited(0, load=-700) == (-100, ["inverter", "site_export"])


def test_limits_of_the_moment_replace_the_plans() -> None:
    assert limited(0, load=50, import_kw=10) == (40, ["site_import"])
    assert limited(100, load=0, export_kw=30) == (30, ["site_export"])


@pytest.mark.parametrize("unusable", [math.nan, math.inf, -math.inf])
def test_a_limit_that_is_not_finite_is_the_plans(unusable: float) -> None:
    assert limited(0, load=250, import_kw=unusable) == (30, ["site_import"])
    assert limited(0, load=-500, export_kw=unusable) == (-25, ["site_export"])


def test_a_site_may_be_told_to_export() -> None:
    """An envelope of [−475, −20] kW has a range, so it counts."""
    assert limited(0, load=10, import_kw=-20) == (30, ["site_import"])


def test_limits_that_leave_one_point_are_a_range_and_less_is_none() -> None:
    assert grid_range(0, SITE, SiteLimits(import_kw=-20, export_kw=20)).invalid is None
    invalid = grid_range(0, SITE, SiteLimits(import_kw=-20, export_kw=19))
    assert invalid.invalid is not None
    assert (invalid.low_kw, invalid.high_kw) == (-220, 475)


def test_a_limit_that_meets_the_plans_other_one_badly_is_invalid_too() -> None:
    assert grid_range(0, SITE, SiteLimits(import_kw=-500)).invalid is not None


@pytest.mark.parametrize(
    ("power", "soe", "expected", "limits"),
    [
        (50, 25, 0, ["soe_min"]),
        (50, 20, 0, ["soe_min"]),
        (-50, 475, 0, ["soe_max"]),
        (-50, 480, 0, ["soe_max"]),
        (-50, 25, -50, []),
        (50, 475, 50, []),
        (90, 25.05, 45, ["soe_min"]),  # 0.05 kWh in 4 s is 45 kW
        (-90, 474.955, -45, ["soe_max"]),  # 0.045 kWh stored is 0.05 kWh drawn
        (0, 10, 0, []),
    ],
)
def test_soe(power: float, soe: float, expected: float, limits: list[str]) -> None:
    assert limited(power, soe=soe) == (expected, limits)


def test_soe_outranks_the_grid_and_the_missed_limit_is_named() -> None:
    assert limited(0, load=250, soe=25) == (0, ["site_import", "soe_min"])
    assert limited(0, load=-500, soe=475) == (0, ["site_export", "soe_max"])
    assert limited(100, load=300, soe=20) == (0, ["site_import", "soe_min"])


def test_a_grid_limit_just_met_is_not_missed() -> None:
    """35 kWh are 10 above soe_min: 20 kW for half an hour, and the site then draws exactly its limit of 220 kW."""
    battery_range, importing = inverter_range(BATTERY, BatteryCapability()), grid_range(240, SITE, SiteLimits())
    found = apply_limits(50, battery_range, importing, 35, BATTERY, 0.5)
    assert (found.power_kw, found.limits, found.missed) == (20, (Limit.SOE_MIN,), None)
    exporting = grid_range(-495, SITE, SiteLimits())
    found = apply_limits(-50, battery_range, exporting, 466, BATTERY, 0.5)
    assert (found.power_kw, found.limits, found.missed) == (-20, (Limit.SOE_MAX,), None)


def test_soe_that_cuts_a_discharge_the_grid_can_do_without_names_no_grid_limit() -> None:
    assert limited(100, load=200, soe=20) == (0, ["soe_min"])


@pytest.mark.parametrize(
    ("capability", "charge", "discharge"),
    [
        (BatteryCapability(), -100, 105),
        (BatteryCapability(charge_limit_kw=60, discharge_limit_kw=300), -60, 105),
        (BatteryCapability(charge_limit_kw=math.nan, discharge_limit_kw=0), -100, 0),
        (BatteryCapability(charge_limit_kw=-5), 0, 105),
        (BatteryCapability(available_blocks=3, blocks_total=4), -75, 78.75),
        (BatteryCapability(available_blocks=3, blocks_total=4, charge_limit_kw=60), -45, 78.75),
        (BatteryCapability(available_blocks=0, blocks_total=4), 0, 0),
        (BatteryCapability(available_blocks=9, blocks_total=4), -100, 105),
        (BatteryCapability(available_blocks=3), -100, 105),
        (BatteryCapability(available_blocks=3, blocks_total=0), -100, 105),
    ],
)
def test_what_the_battery_reports_can_only_shrink_its_limits(
    capability: BatteryCapability, charge: float, discharge: float
) -> None:
    inverter = inverter_range(BATTERY, capability)
    assert (inverter.low_kw, inverter.high_kw) == (charge, discharge)


def test_the_plan_may_know_how_many_blocks_there_are() -> None:
    battery = BATTERY.model_copy(update={"blocks_total": 2})
    assert inverter_range(battery, BatteryCapability(available_blocks=1)).high_kw == 52.5


@pytest.mark.parametrize(("load", "expected"), [(0, 105), (-400, 75), (-475, 0), (-500, -25), (-900, -100), (900, 105)])
def test_full_discharge_is_what_infinity_becomes_before_soe(load: float, expected: float) -> None:
    inverter, grid = inverter_range(BATTERY, BatteryCapability()), grid_range(load, SITE, SiteLimits())
    assert full_discharge_kw(inverter, grid) == expected
    everything = BATTERY.model_copy(update={"soe_min_kwh": -1e9, "soe_max_kwh": 1e9})
    assert apply_limits(INF, inverter, grid, 0.0, everything, STEP_H).power_kw == expected


def test_no_negative_zero() -> None:
    assert math.copysign(1, apply_limits(-0.0, *_ranges(), 250, BATTERY, STEP_H).power_kw) == 1
    assert math.copysign(1, apply_limits(-50, *_ranges(), 475, BATTERY, STEP_H).power_kw) == 1


def _ranges() -> tuple[InverterRange, GridRange]:
    return inverter_range(BATTERY, BatteryCapability()), grid_range(0, SITE, SiteLimits())


def test_every_limit_has_a_name_of_the_contract() -> None:
    assert [str(limit) for limit in Limit] == ["inverter", "site_import", "site_export", "soe_min", "soe_max"]
