"""Properties over random plans, states and markets, and a comparison with an independent oracle."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.control.oracle import Asked, Site, judge, limit

from flux.control.arbiter import Arbiter
from flux.control.compiled import Entry
from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.limits import apply_limits, grid_range, inverter_range
from flux.control.parts import BatteryConfig, SiteConfig
from flux.control.plan import ControllerPlan
from flux.control.shapes import Offer
from flux.control.state import (
    AcknowledgedCommand,
    BatteryCapability,
    CycleState,
    MarketPair,
    MarketState,
    Measurement,
    Memory,
    ScheduleStep,
    SiteLimits,
    Stop,
)
from flux.model import CommandSource, period_start

CLOCKS = [f"{hour:02d}:{minute:02d}" for hour in range(24) for minute in (0, 30)]
kw = st.floats(-600, 600) | st.sampled_from([0.0, -0.0, 105.0, -100.0])
any_number = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def periods(draw: st.DrawFn) -> list[dict[str, Any]]:
    start, end = draw(st.sampled_from(CLOCKS)), draw(st.sampled_from([*CLOCKS[1:], "24:00"]))
    assume(start != end)
    day = draw(st.sampled_from(["all", "weekdays", "weekends", ["mon", "sat", "sun"]]))
    return [{"days": day, "start": start, "end": end}]


guesses = st.fixed_dictionaries(
    {
        "guess": st.booleans(),
        "min_niv_mw": st.sampled_from([0, 6, 400]),
        "cutoff": st.sampled_from(["5m", "10m", "20m", "30m"]),
    }
)
levels = st.sampled_from([0, 25, 100, 130, 400, 475, 500])


@st.composite
def curves(draw: st.DrawFn) -> list[list[float]]:
    prices = sorted(draw(st.lists(st.sampled_from([-100, 0, 0, 50, 200, 300]), max_size=4)))
    points = [[float(price), float(draw(levels))] for price in prices]
    endless: bool = draw(st.booleans())
    if points and endless:
        points = [[-math.inf, points[0][1]], *points, [math.inf, points[-1][1]]]
    return points


def modes() -> st.SearchStrategy[dict[str, Any]]:
    def mode(name: str, **keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"mode": st.just(name), **keys})

    return st.one_of(
        mode("axle"),
        mode("import_avoidance", periods=periods()),
        mode("export_avoidance", periods=periods()),
        mode("import_avoidance_when_short", periods=periods(), when_short=guesses),
        mode("charge_to_soe", soe_kwh=levels, periods=periods()),
        mode("discharge_to_soe", soe_kwh=levels, periods=periods()),
        mode("fixed", power_kw=kw, until=st.just("2026-06-01T00:00:00Z")),
        mode(
            "niv_chase",
            periods=periods(),
            charge_curve=curves(),
            discharge_curve=curves(),
            shift_long=st.sampled_from([0, 60]),
            shift_short=st.sampled_from([0, 20]),
            when_short=guesses,
            when_long=guesses,
            default_prices=st.lists(st.fixed_dictionaries({"price": st.sampled_from([-50, 80, 350])}), max_size=2),
        ),
        mode(
            "niv_chase",
            response=st.just("proportional"),
            factor_kw_per_mw=st.sampled_from([0.1, 5.0]),
            deadband_mw=st.sampled_from([0, 50]),
        ),
        mode(
            "dynamic_peak_discharge",
            periods=periods(),
            target_soe_kwh=levels,
            prioritise_residual_load=st.booleans(),
            when_short=guesses,
        ),
        mode(
            "dynamic_peak_approach",
            peak=periods().map(lambda found: found[0]),
            to_soe_kwh=levels,
            assumed_charge_power_kw=st.sampled_from([10, 90]),
            encourage_duration_factor=st.sampled_from([1.0, 2.0]),
            cushion=st.sampled_from(["0s", "20m"]),
            when_long=guesses,
        ),
    )


@st.composite
def plans(draw: st.DrawFn) -> ControllerPlan:
    return ControllerPlan.model_validate(
        {
            "site_meter": "M",
            "bess": ["B"],
            "without_timeout": draw(st.sampled_from([None, "accepted"])),
            "battery": {
                "capacity_kwh": 500,
                "charge_efficiency": draw(st.sampled_from([0.5, 0.9, 1.0])),
                "charge_limit_kw": draw(st.sampled_from([0, 100])),
                "discharge_limit_kw": draw(st.sampled_from([0, 105])),
                "soe_min_kwh": draw(st.sampled_from([0, 25])),
                "soe_max_kwh": draw(st.sampled_from([475, 500])),
            },
            "site": {
                "import_limit_kw": draw(st.sampled_from([0, 220])),
                "export_limit_kw": draw(st.sampled_from([0, 475])),
            },
            "rates": {"import": [{"name": "red", "price": 113.85, "periods": draw(periods())}]},
            "modes": draw(st.lists(modes(), max_size=6)),
        }
    )


@st.composite
def states(draw: st.DrawFn, wild: bool = False) -> CycleState:
    """A random state; ``wild`` ones hold anything that a broken device or market might say."""
    now = draw(
        st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
        | st.sampled_from([datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)])
    )
    number = any_number if wild else kw
    ages = st.sampled_from([0, 4, 10, 11, -11] if wild else [0])

    def read(values: st.SearchStrategy[float]) -> Measurement:
        return Measurement(draw(values), now - timedelta(seconds=draw(ages)))

    soes = any_number if wild else st.floats(0, 500) | st.sampled_from([0.0, 24.999, 25.0, 100.0, 475.0, 500.0])
    start = period_start(now)
    pairs = draw(st.lists(st.tuples(st.sampled_from([-30, 0, 30]), number, number), max_size=3))
    steps = draw(
        st.lists(st.sampled_from(["charge_max", "discharge_max", "avoid_import", "avoid_export", "?"]), max_size=2)
    )
    limits = st.none() | (any_number if wild else st.floats(-50, 500))
    return CycleState(
        time=now,
        site_power=read(number),
        soe_kwh=read(soes),
        battery_power=draw(st.none() | st.just(read(number))),
        last_command=draw(st.none() | st.builds(AcknowledgedCommand, number, st.just(now - timedelta(seconds=30)))),
        market=MarketState(tuple(MarketPair(start + timedelta(minutes=m), price, niv) for m, price, niv in pairs)),
        schedule=tuple(
            ScheduleStep(now - timedelta(minutes=1), now + timedelta(minutes=1), action) for action in steps
        ),
        limits=SiteLimits(draw(limits), draw(limits)),
        capability=draw(
            st.builds(BatteryCapability, limits, limits, st.none() | st.integers(-1, 5), st.sampled_from([None, 4]))
        ),
        step=draw(st.sampled_from([None, timedelta(seconds=1), timedelta(minutes=30)])),
    )


def unusable(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def surroundings(plan: ControllerPlan, state: CycleState, decision: Decision) -> Site:
    """The limits of a cycle worked out anew, in the oracle's plain numbers."""
    battery, report = plan.battery, state.capability
    share = 1.0
    if report.blocks_total and report.available_blocks is not None:
        share = min(1.0, max(0.0, report.available_blocks / report.blocks_total))
    charge, discharge = battery.charge_limit_kw, battery.discharge_limit_kw
    if report.charge_limit_kw is not None and math.isfinite(report.charge_limit_kw):
        charge = max(0.0, min(charge, report.charge_limit_kw))
    if report.discharge_limit_kw is not None and math.isfinite(report.discharge_limit_kw):
        discharge = max(0.0, min(discharge, report.discharge_limit_kw))
    site_import = plan.site.import_limit_kw if unusable(state.limits.import_kw) else state.limits.import_kw
    site_export = plan.site.export_limit_kw if unusable(state.limits.export_kw) else state.limits.export_kw
    assert site_import is not None
    assert site_export is not None
    if site_import + site_export < 0:
        site_import, site_export = plan.site.import_limit_kw, plan.site.export_limit_kw
    assert decision.site_at_rest_kw is not None
    assert state.soe_kwh is not None
    return Site(
        rest=decision.site_at_rest_kw,
        soe=state.soe_kwh.value,
        charge=charge * share,
        discharge=discharge * share,
        efficiency=battery.charge_efficiency,
        soe_min=battery.soe_min_kwh,
        soe_max=battery.soe_max_kwh,
        step_h=(state.step or plan.interval) / timedelta(hours=1),
        import_limit=site_import,
        export_limit=site_export,
    )


def asked_in(decision: Decision) -> list[Asked]:
    return [Asked(f"{p.entry}", p.target_kw, p.min_kw, p.max_kw) for p in decision.proposals]


@settings(max_examples=150, deadline=None)
@given(plans(), states())
def test_decisions_agree_with_the_oracle(plan: ControllerPlan, state: CycleState) -> None:
    decision = decide(plan, state)
    power, who, refused, _ = judge(asked_in(decision))
    expected, limits = limit(power, surroundings(plan, state, decision))
    assert decision.target_power_kw == expected
    assert set(decision.limits) == limits
    assert [p.refused for p in decision.proposals] == refused
    assert decision.effective == (None if who is None else plan.modes[int(who)].mode)
    assert decision.command_source == (None if who is None else plan.modes[int(who)].source)
    assert decision.active == tuple(p.mode for p in decision.proposals)


@settings(max_examples=150, deadline=None)
@given(plans(), states(wild=True))
def test_a_command_is_finite_and_inside_what_can_be_met(plan: ControllerPlan, state: CycleState) -> None:
    decision = decide(plan, state)
    target = decision.target_power_kw
    if decision.reason.startswith("stale"):
        assert target == (0 if plan.without_timeout else None)
        return
    assert target is not None
    assert math.isfinite(target)
    site = surroundings(plan, state, decision)
    assert -site.charge <= target <= site.discharge
    if target > 0:
        assert site.soe - target * site.step_h >= site.soe_min - 1e-6 * max(1, abs(site.soe))
    if target < 0:
        assert site.soe - target * site.efficiency * site.step_h <= site.soe_max + 1e-6 * max(1, abs(site.soe))
    low = max(-site.charge, site.rest - site.import_limit)
    high = min(site.discharge, site.rest + site.export_limit)
    room = (site.soe_max - site.soe) / site.efficiency / site.step_h
    low, high = max(low, -max(0.0, room)), min(high, max(0.0, (site.soe - site.soe_min) / site.step_h))
    if low <= high:  # all limits can be met at once
        assert low <= target <= high


@settings(max_examples=75, deadline=None)
@given(plans(), states(wild=True))
def test_equal_inputs_give_equal_decisions(plan: ControllerPlan, state: CycleState) -> None:
    again = ControllerPlan.model_validate(plan.model_dump(mode="json", by_alias=True))
    first = decide(plan, state)
    decide(plan, dataclasses.replace(state, time=state.time + timedelta(days=3)))
    assert repr(decide(plan, state)) == repr(first)  # repr: not-a-number is not equal to itself
    assert repr(decide(again, state)) == repr(first)


@settings(max_examples=100, deadline=None)
@given(plans(), states(), st.data())
def test_a_lower_mode_never_moves_the_power_outside_what_a_higher_one_left(
    plan: ControllerPlan, state: CycleState, data: st.DataObject
) -> None:
    assume(plan.modes)
    count = data.draw(st.integers(0, len(plan.modes) - 1))
    above = decide(plan.model_copy(update={"modes": plan.modes[:count]}), state)
    whole = decide(plan, state)
    assert whole.proposals[: len(above.proposals)] == above.proposals
    *_, bounds = judge(asked_in(above))
    low, high = bounds[-1] if bounds else (-math.inf, math.inf)
    power, *_ = judge(asked_in(whole))
    assert low <= power <= high


@settings(max_examples=100, deadline=None)
@given(plans(), states())
def test_idle_only_when_nothing_asked(plan: ControllerPlan, state: CycleState) -> None:
    decision = decide(plan, state)
    targets = [p for p in decision.proposals if p.target_kw is not None and not p.refused]
    assert (decision.effective is None) is (not targets)
    if not decision.proposals and not decision.limits:
        assert decision.target_power_kw == 0
        assert decision.reason.startswith("idle")


@given(plans(), states(wild=True))
def test_a_stopped_site_is_sent_nothing_but_zero(plan: ControllerPlan, state: CycleState) -> None:
    stopped = dataclasses.replace(state, stop=Stop("stopped", state.time - timedelta(minutes=1)))
    assert decide(plan, stopped).target_power_kw in (0, None)


optional = st.none() | st.integers(-3, 3).map(float) | st.sampled_from([math.inf, -math.inf])


@given(st.lists(st.tuples(optional, optional, optional), max_size=5))
def test_priority_agrees_with_the_oracle(offers: list[tuple[float | None, float | None, float | None]]) -> None:
    arbiter = Arbiter()
    for number, (target, low, high) in enumerate(offers):
        arbiter.hear(Entry(number, str(number), CommandSource.MANUAL, lambda _: None), Offer(target, low, high, ""))
    power, who, refused, bounds = judge([Asked(str(n), *offer) for n, offer in enumerate(offers)])
    assert arbiter.outcome() == power
    assert (arbiter.winner.name if arbiter.winner else None) == who
    assert [record.refused for record in arbiter.records] == refused
    assert (arbiter.low, arbiter.high) == (bounds[-1] if bounds else (-math.inf, math.inf))


small = st.integers(-6, 6).map(lambda n: n * 25.0)


@settings(max_examples=500)
@given(
    st.integers(-8, 8).map(lambda n: n * 25.0) | optional.filter(lambda p: p is not None), small, small, small, small
)
def test_limits_agree_with_the_oracle(
    power: float, rest: float, soe: float, site_import: float, site_export: float
) -> None:
    assume(site_import + site_export >= 0)
    battery = BatteryConfig(
        capacity_kwh=100,
        charge_efficiency=0.5,
        charge_limit_kw=50,
        discharge_limit_kw=75,
        soe_min_kwh=25,
        soe_max_kwh=75,
    )
    inverter = inverter_range(battery, BatteryCapability())
    grid = grid_range(rest, SiteConfig(import_limit_kw=0, export_limit_kw=0), SiteLimits(site_import, site_export))
    found = apply_limits(power, inverter, grid, soe, battery, 1.0)
    expected, names = limit(power, Site(rest, soe, 50, 75, 0.5, 25, 75, 1.0, site_import, site_export))
    assert (found.power_kw, set(found.limits)) == (expected, names)


@settings(max_examples=50, deadline=None)
@given(plans(), st.lists(states(), min_size=2, max_size=6))
def test_memory_goes_in_and_out_whole(plan: ControllerPlan, cycles: list[CycleState]) -> None:
    """A run can be cut anywhere: what a decision needs of the past is in its state."""
    memory, decisions = Memory(), []
    for cycle in cycles:
        decisions.append(decide(plan, dataclasses.replace(cycle, memory=memory)))
        memory = decisions[-1].memory
    last = dataclasses.replace(cycles[-1], memory=decisions[-2].memory)
    assert decide(plan.model_copy(), last) == decisions[-1]
