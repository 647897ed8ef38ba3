"""A whole decision: what is measured, what is stale, what is stopped, and nine modes together."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.control.kit import ALL_DAY, HEAD, at, market, plan_of, run, sample_plan, schedule, state

from flux.control.decide import decide
from flux.control.decision import Limit
from flux.control.state import AcknowledgedCommand, BatteryCapability, CycleState, Measurement, SiteLimits, Stop
from flux.model import CommandSource

NOW = at("2026-01-15 17:00")
FOLLOW = plan_of(f"import_avoidance, {ALL_DAY}", f"export_avoidance, {ALL_DAY}")
ACCEPTED = plan_of(f"import_avoidance, {ALL_DAY}", head=HEAD + "  without_timeout: accepted\n")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def read(value: float, age_s: float = 0) -> Measurement:
    return Measurement(value, ago(age_s))


def now(site: Measurement | None = None, soe: Measurement | None = None, **more: Any) -> CycleState:
    return CycleState(time=NOW, site_power=site or read(20), soe_kwh=soe or read(250), **more)


class TestPowerAtRest:
    def test_site_and_measured_battery_add_up(self) -> None:
        decision = decide(FOLLOW, now(read(-12), battery_power=read(50)))
        assert (decision.site_at_rest_kw, decision.target_power_kw) == (38, 38)

    def test_without_a_measurement_the_last_acknowledged_command_counts(self) -> None:
        command = AcknowledgedCommand(50, ago(30))
        assert decide(FOLLOW, now(read(-12), last_command=command)).target_power_kw == 38

    def test_before_the_first_command_it_is_zero(self) -> None:
        assert decide(FOLLOW, now(read(30))).target_power_kw == 30

    @pytest.mark.parametrize(("age", "expected"), [(60, 38), (60.001, -12)])
    def test_a_command_older_than_the_batterys_timeout_counts_as_zero(self, age: float, expected: float) -> None:
        command = AcknowledgedCommand(50, ago(age))
        answer = decide(FOLLOW, now(read(-12), last_command=command, command_timeout=timedelta(seconds=60)))
        assert answer.target_power_kw == expected

    @pytest.mark.parametrize(
        ("site_age", "battery_age", "expected"),
        [(0, 4, 38), (0, 4.001, -12), (8, 4, 38), (9, 4.9, -12), (0, -3, 38), (2, -3, -12)],
    )
    def test_the_two_powers_are_from_within_one_interval(
        self, site_age: float, battery_age: float, expected: float
    ) -> None:
        answer = decide(FOLLOW, now(read(-12, site_age), battery_power=read(50, battery_age)))
        assert answer.target_power_kw == expected

    @pytest.mark.parametrize("useless", [read(math.nan), read(math.inf), read(50, 11)])
    def test_a_useless_measurement_is_none(self, useless: Measurement) -> None:
        command = AcknowledgedCommand(7, ago(1))
        assert decide(FOLLOW, now(read(-12), battery_power=useless, last_command=command)).target_power_kw == -5

    def test_measured_zero_is_a_measurement(self) -> None:
        command = AcknowledgedCommand(50, ago(1))
        assert decide(FOLLOW, now(read(-12), battery_power=read(0), last_command=command)).target_power_kw == -12


class TestStale:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"site_power": None}, "no site power"),
            ({"soe_kwh": None}, "no SoE"),
            ({"site_power": read(math.nan)}, "no site power"),
            ({"soe_kwh": read(-math.inf)}, "no SoE"),
            ({"site_power": read(20, 10.001)}, "site power is 10.0 s old, 10 s allowed"),
            ({"soe_kwh": read(250, 60)}, "SoE is 60.0 s old"),
            ({"site_power": read(20, -10.001)}, "site power is 10.0 s ahead of now"),
            ({"site_power": None, "soe_kwh": None}, "no site power, no SoE"),
            ({"site_power": read(1.7e308), "battery_power": read(1.7e308)}, "no number"),
        ],
    )
    def test_no_command_on_missing_or_stale_readings(self, change: dict[str, Any], words: str) -> None:
        decision = decide(FOLLOW, dataclasses.replace(now(), **change))
        assert (decision.target_power_kw, decision.command_source, decision.effective) == (None, None, None)
        assert (decision.active, decision.proposals, decision.limits) == ((), (), ())
        assert decision.reason.startswith("stale: ")
        assert words in decision.reason

    @pytest.mark.parametrize("age", [10, -10, 0])
    def test_exactly_the_greatest_age_is_fresh(self, age: float) -> None:
        assert decide(FOLLOW, now(read(20, age), read(250, age))).target_power_kw == 20

    def test_only_what_is_wrong_is_told(self) -> None:
        decision = decide(FOLLOW, dataclasses.replace(now(read(20, 10)), soe_kwh=None))
        assert decision.reason == "stale: no SoE; nothing is sent, the battery's own timeout takes over"

    def test_a_battery_without_timeout_is_sent_zero_instead(self) -> None:
        decision = decide(ACCEPTED, now(read(20, 60)))
        assert (decision.target_power_kw, decision.command_source) == (0, None)
        assert decision.reason.startswith("stale")

    def test_what_was_begun_is_not_forgotten(self) -> None:
        plan = sample_plan()
        begun = run(plan, "2026-01-15 18:00:01", 205, 35).memory
        assert begun.full_discharges
        blind = decide(plan, state("2026-01-15 18:00:05", None, 35, memory=begun))
        assert (blind.target_power_kw, blind.memory) == (None, begun)


class TestStop:
    STOP = Stop("stopped by flux control stop", ago(100))

    def test_zero_whatever_modes_grid_and_readings_say(self) -> None:
        for site in (read(500), read(-900), read(20, 60)):
            decision = decide(sample_plan(), now(site, stop=self.STOP))
            assert (decision.target_power_kw, decision.command_source, decision.active) == (0, None, ())
            assert decision.reason == "stopped by flux control stop: sending 0 kW"

    @pytest.mark.parametrize(
        ("command", "sent"),
        [
            (AcknowledgedCommand(0, ago(99)), None),
            (AcknowledgedCommand(0, ago(100)), None),
            (AcknowledgedCommand(0, ago(101)), 0),  # from before the stop
            (AcknowledgedCommand(30, ago(99)), 0),
            (None, 0),
        ],
    )
    def test_until_it_is_acknowledged_then_nothing(
        self, command: AcknowledgedCommand | None, sent: float | None
    ) -> None:
        assert decide(FOLLOW, now(stop=self.STOP, last_command=command)).target_power_kw == sent


class TestNineModesTogether:
    """The sample plan; 2026-01-15 is a Thursday."""

    PLAN = sample_plan()

    def test_the_example_of_the_contract(self) -> None:
        decision = decide(
            self.PLAN,
            state(
                "2026-01-15 17:05",
                210,
                35,
                market=market("2026-01-15 17:00", 95, -120),
                limits=SiteLimits(220, 475),
                schedule=schedule(("2026-01-15 17:00", "2026-01-15 17:30", "avoid_import")),
            ),
        )
        assert decision.target_power_kw == 35
        assert (decision.command_source, decision.effective) == (CommandSource.AXLE, "axle")
        # the pair of the current period is not usable yet, and there is none of the previous: the default price of
        # £80 + 113.85 puts the charge curve at 14.6 kWh, below the SoE
        assert decision.active == ("axle", "dynamic_peak_discharge", "import_avoidance", "export_avoidance")
        assert decision.limits == ()

    def test_dispatch_outranks_everything(self) -> None:
        steps = schedule(("2026-01-15 17:00", "2026-01-15 17:30", "charge_max"))
        decision = run(self.PLAN, "2026-01-15 17:05", 210, 35, schedule=steps)
        assert (decision.target_power_kw, decision.effective, decision.limits) == (-100, "axle", (Limit.INVERTER,))
        assert [(p.mode, p.refused) for p in decision.proposals] == [
            ("axle", False),
            ("dynamic_peak_discharge", True),
            ("import_avoidance", True),
            ("export_avoidance", False),
        ]

    def test_a_sunny_noon_charges_for_the_peak_and_takes_the_surplus(self) -> None:
        # noon, £80 by default: the charge curve is at 285 kWh, (285 − 284)/0.9/0.5 = 2.2 kW; surplus 60 kW
        decision = run(self.PLAN, "2026-01-15 12:00", 284, -60)
        assert decision.target_power_kw == -60
        assert decision.effective == "export_avoidance"
        assert decision.active == ("niv_chase", "export_avoidance")

    def test_charging_for_the_market_is_not_undone_by_import_avoidance(self) -> None:
        # 20:00, £80: 285 kWh, (285 − 280)/0.9/0.5 = 11.1 kW of charge, site draws 40 kW
        decision = run(self.PLAN, "2026-01-15 20:00", 280, 40)
        assert decision.target_power_kw == pytest.approx(-5 / 0.9 / 0.5)
        assert decision.effective == "niv_chase"
        assert decision.reason.endswith("; import_avoidance refused")

    def test_an_evening_after_the_peak_avoids_import(self) -> None:
        decision = run(self.PLAN, "2026-01-15 20:00", 300, 40)
        assert (decision.target_power_kw, decision.effective) == (40, "import_avoidance")

    def test_residual_load_in_the_peak_caps_what_is_below(self) -> None:
        # long: the peak meets the site's 40 kW, no more; a price of £500 would discharge harder
        decision = run(self.PLAN, "2026-01-15 17:15", 210, 40, market=market("2026-01-15 17:00", 500, -50))
        assert (decision.target_power_kw, decision.effective) == (40, "dynamic_peak_discharge")
        refused = [p.mode for p in decision.proposals if p.refused]
        assert refused == ["niv_chase"]

    def test_a_saturday_has_no_peak(self) -> None:
        decision = run(self.PLAN, "2026-01-17 17:15", 210, 40, market=market("2026-01-17 17:00", 500, 50))
        # £520 is beyond the charge curve; the discharge curve is at 0: 210/0.25 = 840 kW
        assert (decision.target_power_kw, decision.effective) == (105, "niv_chase")

    @pytest.mark.parametrize(
        ("time", "soe", "load", "expected", "limits"),
        [
            ("2026-01-15 22:00", 300, 250, 30, ("site_import",)),
            ("2026-01-15 22:00", 300, -600, -100, ("inverter", "site_export")),
            ("2026-01-15 22:00", 25, 250, 0, ("inverter", "site_import", "soe_min")),
        ],
    )
    def test_limits_come_last(
        self, time: str, soe: float, load: float, expected: float, limits: tuple[str, ...]
    ) -> None:
        decision = run(self.PLAN, time, soe, load)
        assert decision.limits == limits
        assert decision.target_power_kw == expected

    def test_limits_are_told_with_their_figures(self) -> None:
        dispatched = schedule(("2026-01-15 22:00", "2026-01-15 23:00", "discharge_max"))
        steps: list[tuple[float, float, str]] = [
            (300, 0, "changed by inverter limits -100.0 to 105.0 kW"),
            (300, -400, "changed by inverter limits -100.0 to 105.0 kW and site export limit 475.0 kW"),
            (20, 250, "site import limit 220.0 kW is missed, since SoE outranks it"),
            (20, 0, "changed by inverter limits -100.0 to 105.0 kW and lowest SoE 25 kWh"),
        ]
        for soe, load, words in steps:
            decision = run(plan_of("axle"), "2026-01-15 22:05", soe, load, schedule=dispatched)
            assert words in decision.reason
        full = run(FOLLOW, "2026-01-15 22:05", 475, -600)
        assert full.reason == (
            "0 kW: export avoidance, site would export 600.0 kW; charging 600.0 kW was asked for, changed by"
            " inverter limits -100.0 to 105.0 kW and highest SoE 475 kWh; site export limit 475.0 kW is missed,"
            " since SoE outranks it"
        )

    def test_limits_that_leave_no_range_are_reported(self) -> None:
        decision = run(self.PLAN, "2026-01-15 22:00", 300, 250, limits=SiteLimits(import_kw=-50, export_kw=10))
        assert decision.target_power_kw == 30
        assert decision.events == ("site limits leave no range (import -50 kW, export 10 kW): the plan's are used",)
        assert decision.events[0] in decision.reason

    def test_half_of_the_blocks_is_half_of_the_power(self) -> None:
        capability = BatteryCapability(available_blocks=1, blocks_total=2)
        decision = run(self.PLAN, "2026-01-15 20:00", 300, 90, capability=capability)
        assert (decision.target_power_kw, decision.limits) == (52.5, (Limit.INVERTER,))

    def test_a_longer_step_leaves_less_at_the_end(self) -> None:
        decision = run(FOLLOW, "2026-01-15 20:00", 30, 90, step=timedelta(minutes=30))
        assert (decision.target_power_kw, decision.limits) == (10, (Limit.SOE_MIN,))


def test_any_zone_of_the_state_is_the_same_instant() -> None:
    plan, utc = sample_plan(), state("2026-07-15 16:30", 210, 35)
    local = dataclasses.replace(utc, time=utc.time.astimezone(ZoneInfo("Asia/Tokyo")))
    assert decide(plan, local) == decide(plan, utc)
    assert decide(plan, local).time.tzinfo is UTC


@pytest.mark.parametrize("change", [{"time": datetime(2026, 1, 15)}, {"step": timedelta()}])  # noqa: DTZ001
def test_a_state_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cycle must be"):
        dataclasses.replace(now(), **change)


def test_idle_inside_bounds_tells_who_set_them() -> None:
    decision = run(FOLLOW, "2026-01-15 17:00", 250, 0)
    assert decision.effective == "import_avoidance"
    only_export = plan_of(f"export_avoidance, {ALL_DAY}")
    idle = run(only_export, "2026-01-15 17:00", 250, 30)
    assert idle.reason == "idle: no mode has a target, export avoidance, site would draw 30.0 kW"
