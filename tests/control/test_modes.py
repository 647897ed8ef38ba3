"""Each mode alone, as stories: time, SoE, demand → power. The figures are worked out by hand.

Battery of the stories: 500 kWh, charge efficiency 0.9, −100/+105 kW, SoE 25 to 475 kWh; site −475/+220 kW.
2026-01-15 is a Thursday; in January local time is UTC.
"""

import math
from typing import Any

import pytest
from tests.control.kit import ALL_DAY, SiteLimits, at, market, plan_of, run, schedule

from flux.control.decision import Decision
from flux.control.plan import ControllerPlan
from flux.control.state import Cause, FullDischarge, MarketState, Memory
from flux.model import CommandSource

INF = math.inf
DAY = "2026-01-15"


def power(decision: Decision) -> Any:
    return pytest.approx(decision.target_power_kw, rel=1e-9, abs=1e-9)


def proposed(decision: Decision) -> list[tuple[Any, Any, Any]]:
    return [(p.target_kw, p.min_kw, p.max_kw) for p in decision.proposals]


class TestImportAvoidance:
    PLAN = plan_of('import_avoidance, periods: [{start: "16:00", end: "21:00"}]')

    @pytest.mark.parametrize(
        ("time", "load", "expected", "bounds"),
        [
            ("16:00", 42, 42, (42, 42, None)),
            ("20:59", 42, 42, (42, 42, None)),
            ("17:00", 0, 0, (0, 0, None)),
            ("17:00", -30, 0, (None, -30, None)),
            ("17:00", 150, 105, (150, 150, None)),
        ],
    )
    def test_in_its_period(self, time: str, load: float, expected: float, bounds: tuple[float, ...]) -> None:
        decision = run(self.PLAN, f"{DAY} {time}", 250, load)
        assert power(decision) == expected
        assert proposed(decision) == [bounds]

    def test_outside_it_idles(self) -> None:
        decision = run(self.PLAN, f"{DAY} 15:59:59", 250, 42)
        assert (decision.target_power_kw, decision.command_source, decision.active) == (0, None, ())
        assert decision.reason == "idle: no mode asks for anything"

    def test_it_explains_itself(self) -> None:
        decision = run(self.PLAN, f"{DAY} 17:00", 250, 42)
        assert decision.reason == "discharging 42.0 kW: import avoidance, site would draw 42.0 kW"
        assert (decision.command_source, decision.effective) == (CommandSource.IMPORT_AVOIDANCE, "import_avoidance")

    def test_with_no_more_energy(self) -> None:
        decision = run(self.PLAN, f"{DAY} 17:00", 25, 42)
        assert power(decision) == 0
        assert decision.reason == (
            "0 kW: import avoidance, site would draw 42.0 kW; discharging 42.0 kW was asked for,"
            " changed by lowest SoE 25 kWh"
        )


class TestExportAvoidance:
    PLAN = plan_of(f"export_avoidance, {ALL_DAY}")

    @pytest.mark.parametrize(
        ("load", "expected", "bounds"),
        [
            (-42, -42, (-42, None, -42)),
            (0, 0, (0, None, 0)),
            (30, 0, (None, None, 30)),
            (-150, -100, (-150, None, -150)),
        ],
    )
    def test_takes_up_the_surplus(self, load: float, expected: float, bounds: tuple[float, ...]) -> None:
        decision = run(self.PLAN, f"{DAY} 12:00", 250, load)
        assert power(decision) == expected
        assert proposed(decision) == [bounds]

    def test_source_is_its_own(self) -> None:
        assert run(self.PLAN, f"{DAY} 12:00", 250, -42).command_source is CommandSource.EXPORT_AVOIDANCE

    def test_a_full_battery_takes_nothing(self) -> None:
        assert run(self.PLAN, f"{DAY} 12:00", 475, -42).limits == ("soe_max",)


class TestImportAvoidanceWhenShort:
    PLAN = plan_of(f"import_avoidance_when_short, {ALL_DAY}, when_short: {{guess: true, min_niv_mw: 50, cutoff: 20m}}")

    @pytest.mark.parametrize(
        ("time", "sp", "niv", "expected"),
        [
            ("12:15", "12:00", 10, 42),
            ("12:15", "12:00", 0, 0),
            ("12:15", "12:00", -10, 0),
            ("12:05", "11:30", 50, 42),
            ("12:05", "11:30", 49, 0),
            ("12:20", "11:30", 50, 0),
            ("12:05", "11:30", -50, 0),
        ],
    )
    def test_only_while_short(self, time: str, sp: str, niv: float, expected: float) -> None:
        decision = run(self.PLAN, f"{DAY} {time}", 250, 42, market=market(f"{DAY} {sp}", 100, niv))
        assert power(decision) == expected

    def test_source_is_that_of_import_avoidance(self) -> None:
        decision = run(self.PLAN, f"{DAY} 12:15", 250, 42, market=market(f"{DAY} 12:00", 100, 180))
        assert decision.command_source is CommandSource.IMPORT_AVOIDANCE
        assert decision.reason == (
            "discharging 42.0 kW: import avoidance when short, system short by 180 MW, site would draw 42.0 kW"
        )


class TestChargeToSoe:
    PLAN = plan_of('charge_to_soe, soe_kwh: 130, periods: [{start: "02:00", end: "05:00"}]')

    @pytest.mark.parametrize(
        ("time", "soe", "expected"),
        [
            ("04:00", 100, -30 / 0.9),
            ("02:00", 100, -30 / 0.9 / 3),
            ("04:59", 129, -1 / 0.9 * 60),
            ("04:00", 130, 0),
            ("04:00", 131, 0),
            ("05:00", 100, 0),
            ("02:00", 25, -105 / 0.9 / 3),
            ("04:30", 30, -100),
        ],
    )
    def test_evenly_over_what_is_left(self, time: str, soe: float, expected: float) -> None:
        assert power(run(self.PLAN, f"{DAY} {time}", soe, 0)) == expected

    def test_more_is_allowed_below_it(self) -> None:
        decision = run(self.PLAN, f"{DAY} 04:00", 100, 0)
        assert proposed(decision) == [(pytest.approx(-30 / 0.9), None, pytest.approx(-30 / 0.9))]
        assert decision.command_source is CommandSource.TO_SOE
        assert decision.reason == "charging 33.3 kW: charge to SoE, 30.0 kWh below 130 kWh, due 05:00"

    def test_the_level_is_capped_at_soe_max(self) -> None:
        plan = plan_of('charge_to_soe, soe_kwh: 490, periods: [{start: "02:00", end: "05:00"}]')
        assert power(run(plan, f"{DAY} 04:00", 470, 0)) == -5 / 0.9
        assert run(plan, f"{DAY} 04:00", 475, 0).active == ()

    @pytest.mark.parametrize(
        ("time", "hours"),
        [
            ("2026-03-29 00:30", 1),  # 00:30 GMT to 02:30 BST
            ("2026-10-24 23:30", 3),  # 00:30 BST to 02:30 GMT
            ("2026-10-25 01:30", 1),  # the second 01:30
            ("2026-01-15 00:30", 2),
        ],
    )
    def test_the_hours_of_clock_change_nights(self, time: str, hours: float) -> None:
        plan = plan_of('charge_to_soe, soe_kwh: 130, periods: [{start: "00:30", end: "02:30"}]')
        assert power(run(plan, time, 100, 0)) == -30 / 0.9 / hours

    def test_across_midnight(self) -> None:
        plan = plan_of('charge_to_soe, soe_kwh: 130, periods: [{days: weekdays, start: "22:00", end: "02:00"}]')
        assert power(run(plan, "2026-01-16 23:00", 100, 0)) == -30 / 0.9 / 3  # Friday
        assert power(run(plan, "2026-01-17 01:00", 100, 0)) == -30 / 0.9  # still Friday's
        assert power(run(plan, "2026-01-17 23:00", 100, 0)) == 0


class TestDischargeToSoe:
    PLAN = plan_of('discharge_to_soe, soe_kwh: 70, periods: [{start: "13:30", end: "14:00"}]')

    @pytest.mark.parametrize(
        ("time", "soe", "expected"),
        [
            ("13:30", 100, 60),
            ("13:45", 75, 20),
            ("13:45", 70, 0),
            ("13:45", 60, 0),
            ("13:59", 100, 105),
            ("14:00", 100, 0),
        ],
    )
    def test_evenly_over_what_is_left(self, time: str, soe: float, expected: float) -> None:
        assert power(run(self.PLAN, f"{DAY} {time}", soe, 0)) == expected

    def test_at_the_level_it_is_inactive(self) -> None:
        assert run(self.PLAN, f"{DAY} 13:45", 70, 0).active == ()
        assert run(self.PLAN, f"{DAY} 13:45", 70.01, 0).active == ("discharge_to_soe",)

    def test_more_is_allowed_below_it(self) -> None:
        decision = run(self.PLAN, f"{DAY} 13:30", 100, 0)
        assert proposed(decision) == [(60, 60, None)]
        assert decision.command_source is CommandSource.TO_SOE


NIV = (
    f"niv_chase, {ALL_DAY}, charge_curve: [[-.inf, 475], [0, 475], [200, 0]],"
    " discharge_curve: [[300, 475], [400, 0], [.inf, 0]], shift_long: 60, shift_short: 20,"
    " when_short: {guess: true, min_niv_mw: 400, cutoff: 15m}, when_long: {guess: true, min_niv_mw: 6, cutoff: 15m}"
)
DEFAULTS = 'default_prices: [{price: 120, periods: [{start: "11:00", end: "13:00"}]}, {price: 80}]'
RED = (
    '{import: [{name: red, price: 113.85, periods: [{days: weekdays, start: "17:00", end: "19:00"}]},'
    " {name: flat, price: 10}]}"
)


class TestNivChase:
    PLAN = plan_of(NIV)

    @pytest.mark.parametrize(
        ("price", "niv", "soe", "expected"),
        [
            (100, 50, 185, -5 / 0.9 / 0.25),  # £120: the curve is at 190 kWh
            (100, -50, 370, -10 / 0.9 / 0.25),  # £40: 380 kWh
            (100, 0, 227.5, -10 / 0.9 / 0.25),  # £100: 237.5 kWh
            (-500, 0, 470, -5 / 0.9 / 0.25),
            (100, 50, 190, 0),
            (100, 50, 300, 0),  # above the charge curve, and no discharge curve at £120
            (330, 50, 240, 2.5 / 0.25),  # £350: the discharge curve is at 237.5 kWh
            (330, 50, 237.5, 0),
            (410, -50, 240, 2.5 / 0.25),
            (9000, 50, 125, 105),
            (280, 0, 250, 0),  # between the curves
        ],
    )
    def test_by_curves(self, price: float, niv: float, soe: float, expected: float) -> None:
        decision = run(self.PLAN, f"{DAY} 12:15", soe, 0, market=market(f"{DAY} 12:00", price, niv))
        assert power(decision) == expected

    @pytest.mark.parametrize(("price", "soe"), [(80, 237.5), (330, 237.5)])
    def test_on_a_curve_it_asks_for_nothing(self, price: float, soe: float) -> None:
        decision = run(self.PLAN, f"{DAY} 12:15", soe, 0, market=market(f"{DAY} 12:00", price, 50))
        assert decision.active == ()

    def test_bounds_let_the_modes_below_do_more(self) -> None:
        charging = run(self.PLAN, f"{DAY} 12:15", 185, 0, market=market(f"{DAY} 12:00", 100, 50))
        assert proposed(charging) == [(pytest.approx(-200 / 9), None, pytest.approx(-200 / 9))]
        discharging = run(self.PLAN, f"{DAY} 12:15", 240, 0, market=market(f"{DAY} 12:00", 330, 50))
        assert proposed(discharging) == [(10, 10, None)]
        assert discharging.command_source is CommandSource.NIV_CHASE

    def test_the_time_left_in_the_settlement_period_counts(self) -> None:
        plan = plan_of(NIV)
        guess = market(f"{DAY} 11:30", 330, 400)
        assert power(run(plan, f"{DAY} 12:00", 240, 0, market=guess)) == 5
        assert power(run(plan, f"{DAY} 12:12", 240, 0, market=guess)) == 2.5 / 0.3

    def test_a_guess_below_the_minimum_is_none(self) -> None:
        decision = run(self.PLAN, f"{DAY} 12:00", 240, 0, market=market(f"{DAY} 11:30", 330, 399))
        assert decision.active == ()

    def test_import_rates_make_charging_dearer(self) -> None:
        plan = plan_of(NIV, rates=RED)
        # £20 + 20 (short) + 113.85 + 10 = £163.85: the curve is at 475 × 36.15/200 kWh
        decision = run(plan, f"{DAY} 17:15", 80, 0, market=market(f"{DAY} 17:00", 20, 50))
        assert power(decision) == -(475 * 36.15 / 200 - 80) / 0.9 / 0.25
        # on Saturday, the flat rate alone: £50
        decision = run(plan, "2026-01-17 17:15", 350, 0, market=market("2026-01-17 17:00", 20, 50))
        assert power(decision) == -(475 * 0.75 - 350) / 0.9 / 0.25

    def test_an_export_rate_below_zero_is_income(self) -> None:
        plan = plan_of(NIV, rates="{export: [{name: GDUoS, price: -50}]}")
        decision = run(plan, f"{DAY} 12:15", 240, 0, market=market(f"{DAY} 12:00", 280, 50))
        assert power(decision) == 10  # £280 + 20 + 50 = £350

    @pytest.mark.parametrize(("time", "level"), [("12:15", 190), ("13:15", 285), ("12:59:59", 190)])
    def test_the_first_default_price_that_holds(self, time: str, level: float) -> None:
        decision = run(plan_of(f"{NIV}, {DEFAULTS}"), f"{DAY} {time}", level + 1, 0)
        assert decision.active == ()
        assert run(plan_of(f"{NIV}, {DEFAULTS}"), f"{DAY} {time}", level - 1, 0).active == ("niv_chase",)

    def test_a_default_price_is_not_shifted_but_rated(self) -> None:
        plan = plan_of(f"{NIV}, default_prices: [{{price: 80}}]", rates=RED)
        assert power(run(plan, f"{DAY} 12:15", 256.25, 0)) == -5 / 0.9 / 0.25  # £90: 261.25 kWh

    def test_without_outlook_or_default_it_is_inactive(self) -> None:
        assert run(self.PLAN, f"{DAY} 12:15", 100, 0).active == ()

    @pytest.mark.parametrize(("empty", "expected"), [("charge_curve", 0), ("discharge_curve", -100)])
    def test_an_empty_curve_disables_its_side(self, empty: str, expected: float) -> None:
        curve = '"charge_curve": [[-.inf, 475], [.inf, 475]]' if empty == "discharge_curve" else '"charge_curve": []'
        plan = plan_of(f"niv_chase, {curve}, discharge_curve: []")
        assert power(run(plan, f"{DAY} 12:15", 100, 0, market=market(f"{DAY} 12:00", 900, 0))) == expected

    @pytest.mark.parametrize(
        ("niv", "expected"),
        [(300, 60), (-300, -60), (50, 0), (-50, 0), (51, 10.2), (450, 80), (-1000, -80), (0, 0)],
    )
    def test_in_proportion_to_niv(self, niv: float, expected: float) -> None:
        plan = plan_of("niv_chase, response: proportional, factor_kw_per_mw: 0.2, deadband_mw: 50, power_limit_kw: 80")
        decision = run(plan, f"{DAY} 12:15", 250, 0, market=market(f"{DAY} 12:00", 100, niv))
        assert power(decision) == expected
        if expected > 0:
            assert proposed(decision) == [(pytest.approx(expected), pytest.approx(expected), None)]

    def test_proportional_needs_an_outlook(self) -> None:
        plan = plan_of("niv_chase, response: proportional, factor_kw_per_mw: 0.2, default_prices: [{price: 900}]")
        assert run(plan, f"{DAY} 12:15", 250, 0).active == ()


def peak(prioritise: bool = True, guess: bool = True) -> ControllerPlan:
    return plan_of(
        'dynamic_peak_discharge, periods: [{days: weekdays, start: "17:00", end: "19:00"}], target_soe_kwh: 100,'
        f" prioritise_residual_load: {str(prioritise).lower()},"
        f" when_short: {{guess: {str(guess).lower()}, cutoff: 20m}}"
    )


SHORT = market(f"{DAY} 16:30", 100, 10)  # a guess, from 17:00 on
LONG = market(f"{DAY} 16:30", 100, -10)


class TestDynamicPeakDischarge:
    def test_outside_its_period_it_is_inactive(self) -> None:
        assert run(peak(), f"{DAY} 16:59:59", 210, 35).active == ()
        assert run(peak(), "2026-01-17 18:00", 210, 35).active == ()

    @pytest.mark.parametrize("soe", [100, 60])
    def test_nothing_to_spend_holds(self, soe: float) -> None:
        decision = run(peak(), f"{DAY} 18:00", soe, 35)
        assert proposed(decision) == [(None, 0, None)]
        assert (power(decision), decision.effective) == (0, None)

    @pytest.mark.parametrize(
        ("time", "soe", "load", "late"),
        [
            ("17:57:08", 210, 35, False),  # 110 kWh at 105 kW are 62 min 51.4 s
            ("17:57:09", 210, 35, True),
            ("18:00", 205, 35, False),  # exactly the latest start
            ("18:00:00.000001", 205, 35, True),
            ("18:00", 175, -400, False),  # 75 kW may leave
            ("18:00:01", 175, -400, True),
            ("17:00", 210, -475, True),  # nothing may leave: the latest start has passed
        ],
    )
    def test_latest_start(self, time: str, soe: float, load: float, late: bool) -> None:
        decision = run(peak(prioritise=False), f"{DAY} {time}", soe, load)
        assert proposed(decision) == [(INF, INF, INF) if late else (None, 0, None)]

    def test_limits_of_the_moment_move_the_latest_start(self) -> None:
        plan = peak(prioritise=False)
        tight = SiteLimits(export_kw=15)  # 50 kW may be discharged
        assert run(plan, f"{DAY} 17:00", 200, 35, limits=tight).effective is None
        assert run(plan, f"{DAY} 17:00:01", 200, 35, limits=tight).effective == "dynamic_peak_discharge"

    @pytest.mark.parametrize("outlook", [LONG, MarketState()])
    def test_not_short_or_unknown_it_meets_the_sites_demand(self, outlook: MarketState) -> None:
        assert proposed(run(peak(), f"{DAY} 17:05", 210, 35, market=outlook)) == [(35, 35, 35)]
        assert proposed(run(peak(), f"{DAY} 17:05", 210, -40, market=outlook)) == [(None, -40, 0)]

    def test_a_site_that_draws_nothing_is_met_with_nothing(self) -> None:
        assert proposed(run(peak(), f"{DAY} 17:05", 210, 0, market=LONG)) == [(0, 0, 0)]

    def test_or_holds_where_the_demand_has_no_priority(self) -> None:
        assert proposed(run(peak(prioritise=False), f"{DAY} 17:05", 210, 35, market=LONG)) == [(None, 0, None)]

    @pytest.mark.parametrize(
        ("soe", "load", "full"),
        [
            (210, 35, True),  # 110 kWh > 35 kW × 1 h 55 min
            (210, 60, False),  # 110 kWh < 115 kWh
            (215, 60, False),  # exactly 115 kWh
            (215.1, 60, True),
            (101, 0, True),
            (101, -20, True),
        ],
    )
    def test_short_it_keeps_enough_for_the_sites_demand(self, soe: float, load: float, full: bool) -> None:
        decision = run(peak(), f"{DAY} 17:05", soe, load, market=SHORT)
        assert proposed(decision) == [(INF, INF, INF) if full else (load, load, load)]

    def test_short_without_priority_of_the_demand_takes_over(self) -> None:
        decision = run(peak(prioritise=False), f"{DAY} 17:05", 110, 60, market=SHORT)
        assert (power(decision), decision.limits, decision.command_source) == (105, ("inverter",), 2)

    def test_a_guess_is_only_taken_where_it_is_allowed(self) -> None:
        assert run(peak(guess=False), f"{DAY} 17:05", 210, 35, market=SHORT).target_power_kw == 35

    def test_begun_because_short_it_goes_on_while_short(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 17:05", 210, 35, market=SHORT)
        begun = FullDischarge(0, at(f"{DAY} 17:00"), Cause.SHORT)
        assert first.memory == Memory((begun,))
        later = run(plan, f"{DAY} 17:06", 209, 90, market=SHORT, memory=first.memory)
        assert (later.target_power_kw, later.memory) == (105, Memory((begun,)))
        assert run(plan, f"{DAY} 17:06", 209, 90, market=SHORT).target_power_kw == 90

    def test_and_stops_when_the_system_is_no_longer_short(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 17:05", 210, 35, market=SHORT)
        later = run(plan, f"{DAY} 17:12", 200, 35, market=market(f"{DAY} 17:00", 100, -1), memory=first.memory)
        assert (later.target_power_kw, later.memory) == (35, Memory())

    def test_begun_late_it_goes_on_even_if_it_would_no_longer_be_late(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 18:00:01", 205, 35)
        later = run(plan, f"{DAY} 18:05", 150, 35, market=market(f"{DAY} 17:30", 100, -5), memory=first.memory)
        assert (later.target_power_kw, later.memory) == (105, first.memory)
        assert run(plan, f"{DAY} 18:05", 150, 35).target_power_kw == 35

    def test_begun_because_short_it_turns_late_when_its_time_has_come(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 17:05", 400, 35, market=SHORT)
        later = run(plan, f"{DAY} 17:06", 399, 35, market=LONG, memory=first.memory)
        assert (later.target_power_kw, later.memory.full_discharges[0].cause) == (105, Cause.LATE)

    def test_it_ends_when_nothing_is_spendable_and_does_not_begin_again_at_once(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 18:00:01", 205, 35)
        empty = run(plan, f"{DAY} 18:50", 100, 35, memory=first.memory)
        assert (empty.target_power_kw, empty.memory) == (0, Memory())
        assert run(plan, f"{DAY} 18:51", 100.2, 35, memory=empty.memory).target_power_kw == 35

    def test_another_evening_begins_afresh(self) -> None:
        plan = peak()
        first = run(plan, f"{DAY} 18:00:01", 205, 35)
        assert run(plan, "2026-01-16 17:05", 150, 35, memory=first.memory).target_power_kw == 35

    def test_what_a_higher_mode_refused_has_not_begun(self) -> None:
        plan = plan_of("axle", PEAK_TEXT)
        dispatch = schedule((f"{DAY} 17:00", f"{DAY} 17:10", "charge_max"))
        refused = run(plan, f"{DAY} 17:05", 210, 35, market=SHORT, schedule=dispatch)
        assert (refused.target_power_kw, refused.memory) == (-100, Memory())

    def test_what_had_begun_goes_on_after_an_interruption(self) -> None:
        plan = plan_of("axle", PEAK_TEXT)
        first = run(plan, f"{DAY} 17:05", 210, 35, market=SHORT)
        dispatch = schedule((f"{DAY} 17:06", f"{DAY} 17:07", "charge_max"))
        second = run(plan, f"{DAY} 17:06", 210, 35, market=SHORT, schedule=dispatch, memory=first.memory)
        assert second.target_power_kw == -100
        assert run(plan, f"{DAY} 17:08", 210, 90, market=SHORT, memory=second.memory).target_power_kw == 105

    def test_two_peaks_of_one_plan_remember_apart(self) -> None:
        other = PEAK_TEXT.replace("100", "200")
        decision = run(plan_of(other, PEAK_TEXT), f"{DAY} 17:05", 210, 1, market=SHORT)
        assert [begun.entry for begun in decision.memory.full_discharges] == [0, 1]


PEAK_TEXT = (
    'dynamic_peak_discharge, periods: [{days: weekdays, start: "17:00", end: "19:00"}], target_soe_kwh: 100,'
    " prioritise_residual_load: true, when_short: {guess: true, cutoff: 20m}"
)


def approach(**more: str) -> ControllerPlan:
    keys = {
        "peak": '{days: weekdays, start: "17:00", end: "19:00"}',
        "to_soe_kwh": "400",
        "encourage_to_soe_kwh": "450",
        "assumed_charge_power_kw": "90",
        "encourage_duration_factor": "2.0",
        "cushion": "20m",
        "when_long": "{guess: true, cutoff: 20m}",
    } | more
    return plan_of("dynamic_peak_approach, " + ", ".join(f"{key}: {value}" for key, value in keys.items()))


class TestDynamicPeakApproach:
    """Force: 0 at 11:43:42, 81 kWh an hour, 400 kWh from 16:40 on. Encourage: 0 at 05:33:20, 40.5 an hour, 450 kWh."""

    @pytest.mark.parametrize(
        ("time", "soe", "expected"),
        [
            ("12:00", 50, -12.5 / 0.9 / 0.5),  # read at 12:30: 62.5 kWh
            ("12:20", 60, -2.5 / 0.9 * 6),
            ("12:00", 62.5, 0),
            ("11:00", 0, 0),  # read at 11:30
            ("11:29:59", 0, 0),
            ("11:30", 10, -12 / 0.9 / 0.5),  # read at 12:00: 22 kWh
            ("16:30", 391, -9 / 0.9 / 0.5),  # read at 17:00: level since 16:40
            ("16:50", 391, -9 / 0.9 * 6),
            ("16:59:59", 300, -100),
            ("17:00", 30, 0),
            ("18:59", 30, 0),
        ],
    )
    def test_along_the_force_line(self, time: str, soe: float, expected: float) -> None:
        decision = run(approach(), f"{DAY} {time}", soe, 0)
        assert power(decision) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("soe", "expected"),
        [
            (280, -1.25 / 0.9 / 0.5),  # read at 12:30: 281.25 kWh
            (281.25, 0),
            (300, 0),
            (50, -100),
        ],
    )
    def test_while_long_along_the_encourage_line(self, soe: float, expected: float) -> None:
        decision = run(approach(), f"{DAY} 12:00", soe, 0, market=market(f"{DAY} 11:30", 50, -1))
        assert power(decision) == expected

    def test_a_guess_of_short_encourages_nothing(self) -> None:
        assert run(approach(), f"{DAY} 12:00", 280, 0, market=market(f"{DAY} 11:30", 50, 1)).active == ()

    def test_the_force_line_when_encourage_asks_for_nothing(self) -> None:
        plan = approach(encourage_to_soe_kwh="40", encourage_duration_factor="1.0")
        decision = run(plan, f"{DAY} 12:00", 50, 0, market=market(f"{DAY} 11:30", 50, -1))
        assert power(decision) == -12.5 / 0.9 / 0.5

    def test_encourage_has_the_same_level_by_default(self) -> None:
        plan = plan_of(
            'dynamic_peak_approach, peak: {start: "17:00", end: "19:00"}, to_soe_kwh: 400, assumed_charge_power_kw: 90,'
            " encourage_duration_factor: 2.0, cushion: 20m, when_long: {guess: true}"
        )
        # 400 × (1 − 4.1667 h / 9.8765 h) = 231.25 kWh at 12:30
        decision = run(plan, f"{DAY} 12:00", 230, 0, market=market(f"{DAY} 11:30", 50, -1))
        assert power(decision) == -1.25 / 0.9 / 0.5

    def test_a_peak_inside_a_settlement_period_is_read_at_its_start(self) -> None:
        plan = approach(peak='{start: "16:45", end: "19:00"}', cushion="0s")
        assert power(run(plan, f"{DAY} 16:40", 395, 0)) == -5 / 0.9 * 12

    def test_the_next_peak_is_at_most_a_day_away(self) -> None:
        plan = approach(force_duration_factor="10.0")  # the line would begin two days before
        assert run(plan, "2026-01-17 12:00", 30, 0).active == ()  # Saturday: Monday's is too far
        assert run(plan, "2026-01-18 16:59:59", 30, 0).active == ()
        assert run(plan, "2026-01-18 17:00", 30, 0).active == ("dynamic_peak_approach",)

    def test_during_a_peak_the_next_days_is_approached(self) -> None:
        assert run(approach(force_duration_factor="10.0"), f"{DAY} 18:00", 30, 0).active == ("dynamic_peak_approach",)

    def test_on_the_line_it_asks_for_nothing(self) -> None:
        plan = approach(assumed_charge_power_kw="100", cushion="0s", to_soe_kwh="450")  # 90 kWh an hour, from 12:00 on
        assert run(plan, f"{DAY} 12:30", 90, 0).active == ()
        assert run(plan, f"{DAY} 12:30", 89.99, 0).active == ("dynamic_peak_approach",)

    def test_source_and_bounds(self) -> None:
        decision = run(approach(), f"{DAY} 12:00", 50, 0)
        assert proposed(decision) == [(pytest.approx(-12.5 / 0.45), None, pytest.approx(-12.5 / 0.45))]
        assert decision.command_source is CommandSource.DYNAMIC_PEAK

    def test_in_summer_the_peak_is_an_hour_earlier_in_utc(self) -> None:
        assert power(run(approach(), "2026-07-15 11:00", 50, 0)) == -12.5 / 0.9 / 0.5


class TestAxle:
    PLAN = plan_of("axle")

    @pytest.mark.parametrize(
        ("action", "load", "expected", "bounds"),
        [
            ("charge_max", 35, -100, (-INF, -INF, -INF)),
            ("discharge_max", 35, 105, (INF, INF, INF)),
            ("avoid_import", 35, 35, (35, 35, None)),
            ("avoid_import", -35, 0, (None, -35, None)),
            ("avoid_export", -35, -35, (-35, None, -35)),
            ("avoid_export", 35, 0, (None, None, 35)),
        ],
    )
    def test_actions(self, action: str, load: float, expected: float, bounds: tuple[float, ...]) -> None:
        steps = schedule((f"{DAY} 17:00", f"{DAY} 17:30", action))
        decision = run(self.PLAN, f"{DAY} 17:05", 250, load, schedule=steps)
        assert power(decision) == expected
        assert proposed(decision) == [bounds]

    def test_steps_are_half_open_and_the_first_that_holds_counts(self) -> None:
        steps = schedule(
            (f"{DAY} 17:00", f"{DAY} 17:30", "charge_max"),
            (f"{DAY} 17:15", f"{DAY} 18:00", "discharge_max"),
        )
        powers = [
            run(self.PLAN, f"{DAY} {time}", 250, 0, schedule=steps).target_power_kw
            for time in ("16:59:59", "17:00", "17:29:59", "17:30", "18:00")
        ]
        assert powers == [0, -100, -100, 105, 0]

    def test_an_unknown_action_is_told_and_left_alone(self) -> None:
        steps = schedule((f"{DAY} 17:00", f"{DAY} 17:30", "self_destruct"))
        decision = run(self.PLAN, f"{DAY} 17:05", 250, 35, schedule=steps)
        assert (decision.target_power_kw, decision.active) == (0, ())
        assert "'self_destruct'" in decision.reason
        assert decision.events == ("axle: dispatch until 17:30 asks for an action that is not known: 'self_destruct'",)

    def test_source(self) -> None:
        steps = schedule((f"{DAY} 17:00", f"{DAY} 17:30", "charge_max"))
        assert run(self.PLAN, f"{DAY} 17:05", 250, 0, schedule=steps).command_source is CommandSource.AXLE


class TestFixed:
    def test_until_its_time(self) -> None:
        plan = plan_of("fixed, power_kw: -20, until: 2026-01-15T18:00:00Z")
        before, after = run(plan, f"{DAY} 17:59:59", 250, 0), run(plan, f"{DAY} 18:00", 250, 0)
        assert proposed(before) == [(-20, -20, -20)]
        assert (before.command_source, before.effective) == (CommandSource.MANUAL, "fixed")
        assert (before.target_power_kw, after.target_power_kw, after.active) == (-20, 0, ())

    @pytest.mark.parametrize(
        ("until", "end"),
        [
            ("2026-07-15T18:00:00", "2026-07-15 17:00"),  # local time of the plan
            ("2026-07-15T18:00:00+02:00", "2026-07-15 16:00"),
            ('"2026-07-15 18:00"', "2026-07-15 17:00"),
            ("2026-03-29T01:30:00", "2026-03-29 01:00"),  # skipped
            ("2026-10-25T01:30:00", "2026-10-25 00:30"),  # comes twice
        ],
    )
    def test_without_an_offset_it_is_local_time(self, until: str, end: str) -> None:
        plan = plan_of(f"fixed, power_kw: 20, until: {until}")
        assert run(plan, end, 250, 0).active == ()
        assert run(plan, f"{end.split()[0]} 00:00", 250, 0).active == ("fixed",)

    def test_zero_is_a_set_point_too(self) -> None:
        plan = plan_of("fixed, power_kw: 0, until: 2026-01-15T18:00:00Z", f"import_avoidance, {ALL_DAY}")
        decision = run(plan, f"{DAY} 17:00", 250, 42)
        assert (decision.target_power_kw, decision.effective, decision.command_source) == (0, "fixed", 0)
