"""History lived again: the same physics as the simulator's, the market as it was known, and no look-ahead."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.kit import (
    HEAD,
    HOUR,
    IMPORT_AVOIDANCE,
    MARKET,
    MINUTE,
    START,
    decisions_of,
    half_hours,
    plan_of,
    setting_of,
)

from flux.analysis.flows import Flow
from flux.analysis.halfhours import half_hour_columns
from flux.analysis.known import MarketAsKnown, Release, newest_prices
from flux.analysis.outcome import outcome_of, priced
from flux.analysis.simulate import Setting, simulate
from flux.analysis.summary import months_of
from flux.analysis.tariff import parse_tariff
from flux.config import YamlDocument
from flux.control.plan import ControllerPlan
from flux.control.state import MarketPair
from flux.devices.simulator.physics import Battery, BatterySpec, Meter, MeterTap, SitePhysics
from flux.devices.simulator.profiles import Constant, SyntheticLoad, SyntheticSolar
from flux.model import SETTLEMENT_PERIOD

LONDON = ZoneInfo("Europe/London")
EVENINGS = parse_tariff(
    YamlDocument(
        """
rates: {import: [{name: evening, price: 400, periods: [{start: "17:00", end: "18:00"}]}]}
daily: [{name: standing, charge: 2.0}]
""",
        "tariff.yaml",
    )
)


def test_import_avoidance_takes_the_load_from_the_battery_until_it_is_at_its_lowest() -> None:
    course = simulate(plan_of(), setting_of())
    outcome = outcome_of("day", plan_of(), setting_of(), course, {})
    by_hour = outcome.flows[Flow.BATTERY_TO_LOAD].reshape(-1, 6).sum(axis=1)
    assert by_hour[:5] == pytest.approx([40.0] * 5)
    assert by_hour[5:7] == pytest.approx([25.0, 0.0]), "225 kWh are above soe_min"
    assert outcome.soe_kwh[-1] == pytest.approx(25.0)
    assert outcome.import_kwh.sum() == pytest.approx(24 * 40 - 225)
    assert outcome.mode_hours() == {"import_avoidance": 24.0}
    assert outcome.limit_hours()["soe_min"] == pytest.approx(18.5, abs=0.2)


def test_a_battery_that_runs_full_within_a_step_is_cut_there() -> None:
    plan = plan_of(HEAD.replace("soe_max_kwh: 475", "soe_max_kwh: 500") + "modes: [{mode: export_avoidance}]\n")
    setting = setting_of(load=Constant(0.0), solar=Constant(90.0), end=START + 4 * HOUR, step=30 * MINUTE)
    outcome = outcome_of("sun", plan, setting, simulate(plan, setting), {})
    assert outcome.charge_kwh.sum() == pytest.approx(250 / 0.9)
    assert outcome.flows[Flow.SOLAR_TO_GRID].sum() == pytest.approx(4 * 90 - 250 / 0.9)
    assert outcome.losses_kwh == pytest.approx(250 / 0.9 - 250)
    assert outcome.self_consumption == pytest.approx(250 / 0.9 / 360)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 5, 10, 30]))
def test_energies_are_those_of_the_simulators_meters(seed: int, minutes: int) -> None:
    """The same targets given to the simulator's site: what its exact counters say is what the flows add up to."""
    source = random.Random(seed)
    figures = [(source.uniform(-50, 500), source.uniform(-300, 300)) for _ in range(24)]
    setting = setting_of(
        load=SyntheticLoad(mean_kw=60, seed=seed, resolution_s=420),
        solar=SyntheticSolar(peak_kw=200, seed=seed, resolution_s=300),
        releases=half_hours(figures, START + 9 * HOUR),
        start=START + 9 * HOUR,
        end=START + 21 * HOUR,
        step=minutes * MINUTE,
    )
    plan = plan_of(MARKET)
    course = simulate(plan, setting)
    outcome = outcome_of("day", plan, setting, course, {})
    grid, storage = Meter(), Meter()
    spec = BatterySpec(capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, charge_efficiency=0.9)
    battery = Battery(spec, 250.0, following=True)
    site = SitePhysics([battery], [MeterTap(grid, True, True, (0,)), MeterTap(storage, False, False, (0,))])
    for number, target in enumerate(course.target_kw):
        battery.set_point_kw = target
        live_through(site, setting, number)
    assert outcome.import_kwh.sum() == pytest.approx(grid.active.imported, abs=1e-6)
    assert outcome.export_kwh.sum() == pytest.approx(grid.active.exported, abs=1e-6)
    assert outcome.charge_kwh.sum() == pytest.approx(storage.active.imported, abs=1e-6)
    assert outcome.discharge_kwh.sum() == pytest.approx(storage.active.exported, abs=1e-6)
    assert outcome.soe_kwh[-1] == battery.energy_kwh


def live_through(site: SitePhysics, setting: Setting, number: int) -> None:
    from flux.devices.simulator.profiles import to_us

    now, end = (to_us(setting.start + n * setting.step) for n in (number, number + 1))
    while now < end:
        (load_kw, first), (solar_kw, second) = setting.load.at(now), setting.solar.at(now)
        until = min(first, second, end)
        site.advance((until - now) / 1e6, load_kw, solar_kw)
        now = until


FIGURES = st.tuples(st.floats(-200, 900), st.floats(-800, 800))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(FIGURES, min_size=48, max_size=48),
    st.lists(FIGURES, min_size=48, max_size=48),
    st.integers(0, 24 * 60 - 1),
    st.sampled_from([timedelta(0), timedelta(minutes=10), timedelta(minutes=40)]),
)
def test_other_prices_of_the_future_change_no_decision_before_they_are_known(
    figures: list[tuple[float, float]], others: list[tuple[float, float]], minute: int, delay: timedelta
) -> None:
    known = START + minute * MINUTE
    past = [replace(one, known_at=one.sp_start + delay) for one in half_hours(figures)]
    changed = [replace(one, known_at=one.sp_start + delay) for one in half_hours(others)]
    mixed = [mine if mine.known_at <= known else other for mine, other in zip(past, changed, strict=True)]
    revised = [replace(one, known_at=max(known + MINUTE, one.known_at), price=-77.0) for one in past]
    plan = plan_of(MARKET)
    as_it_was = decisions_of(plan, setting_of(releases=tuple(past), step=30 * MINUTE))
    otherwise = decisions_of(plan, setting_of(releases=(*mixed, *revised), step=30 * MINUTE))
    before = sum(decision.time <= known for decision in as_it_was)
    assert as_it_was[:before] == otherwise[:before]


def test_the_look_ahead_check_can_fail() -> None:
    """Prices that are changed while they are known do change decisions."""
    cheap = setting_of(releases=half_hours([(-50.0, -100.0)] * 48))
    dear = setting_of(releases=half_hours([(600.0, 100.0)] * 48))
    plan = plan_of(MARKET)
    pairs = zip(decisions_of(plan, cheap), decisions_of(plan, dear), strict=True)
    first = next(mine.time for mine, other in pairs if mine != other)
    assert first == START + 10 * MINUTE


def test_a_revised_price_counts_from_when_it_came_out() -> None:
    first = Release(START + 10 * MINUTE, START, 50.0, 100.0)
    releases = [Release(START + 20 * MINUTE, START, price=70.0), first]
    market = MarketAsKnown(releases)
    seen = [market.at(START + minute * MINUTE).pairs for minute in (0, 9, 10, 19, 20, 59, 60)]
    old, new = MarketPair(START, 50.0, 100.0), MarketPair(START, 70.0, 100.0)
    assert seen == [(), (), (old,), (old,), (new,), (new,), ()]
    assert newest_prices(releases) == {START: 70.0}


def test_price_and_niv_make_a_pair_when_both_are_known() -> None:
    price = Release(START + 5 * MINUTE, START, price=50.0)
    niv = Release(START + 12 * MINUTE, START, niv_mw=-3.0)
    market = MarketAsKnown([niv, price])
    assert market.at(START + 11 * MINUTE).pairs == ()
    assert market.at(START + 12 * MINUTE).pairs == (MarketPair(START, 50.0, -3.0),)


@pytest.mark.parametrize(
    ("first", "days", "half_hours_each"),
    [((2026, 3, 29), 1, 46), ((2026, 10, 25), 1, 50), ((2024, 2, 29), 1, 48), ((2024, 1, 1), 366, 366 * 48)],
)
def test_local_days_are_as_long_as_they_are(first: tuple[int, int, int], days: int, half_hours_each: int) -> None:
    """Clock changes, the leap day, a whole year across both: the peak is at 17:00 of the clock, every day once."""
    text = HEAD + 'modes: [{mode: import_avoidance, periods: [{start: "17:00", end: "18:00"}]}]\n'
    local = datetime(*first, tzinfo=LONDON)
    setting = setting_of(
        load=Constant(0.25),
        start=local.astimezone(UTC),
        end=(local + timedelta(days=days)).astimezone(UTC),
        step=30 * MINUTE,
    )
    plan = plan_of(text)
    outcome = outcome_of("days", plan, setting, simulate(plan, setting), {})
    assert outcome.timeline.count == half_hours_each
    assert outcome.load_kwh.sum() == pytest.approx(half_hours_each * 0.125)
    assert outcome.discharge_kwh.sum() == pytest.approx(days * 0.25)
    when = [instant for instant, kwh in zip(outcome.timeline.starts(), outcome.discharge_kwh, strict=True) if kwh]
    assert {instant.astimezone(LONDON).strftime("%H:%M") for instant in when} == {"17:00", "17:30"}
    bill = priced(outcome, EVENINGS).money
    assert bill is not None
    assert bill.total_without == pytest.approx(days * (2.0 + 0.25 * 0.4)), "£400/MWh for an hour of each local day"
    assert bill.earned == pytest.approx(days * 0.25 * 0.4)
    assert bill.daily == {"standing": pytest.approx(days * 2.0)}
    periods = half_hour_columns(outcome)["settlement_period"]
    assert (periods[0], periods[-1]) == (1, half_hours_each if days == 1 else 48)
    months = months_of(outcome)
    assert len(months) == (12 if days > 1 else 1)
    assert sum(month["load_kwh"] for month in months) == pytest.approx(outcome.load_kwh.sum())
    if days > 1:
        march, october = (next(m for m in months if m["month"] == f"2024-{n}") for n in ("03", "10"))
        assert (march["load_kwh"], october["load_kwh"]) == pytest.approx(((31 * 24 - 1) / 4, (31 * 24 + 1) / 4))


def test_each_step_balances() -> None:
    setting = setting_of(load=SyntheticLoad(mean_kw=60), solar=SyntheticSolar(peak_kw=200), step=MINUTE)
    plan = plan_of(MARKET)
    outcome = outcome_of("day", plan, setting, simulate(plan, setting), {})
    out = outcome.load_kwh + outcome.charge_kwh + outcome.export_kwh
    back = outcome.solar_kwh + outcome.discharge_kwh + outcome.import_kwh
    assert np.abs(out - back).max() < 1e-6
    stored = np.diff(outcome.soe_kwh, prepend=250.0)
    assert np.abs(outcome.charge_kwh * 0.9 - outcome.discharge_kwh - stored).max() < 1e-6
    assert outcome.discharge_kwh.sum() > 10


def test_the_plan_decides_at_the_backtests_step() -> None:
    """The SoE limits look one step ahead: with half hours that is half an hour, whatever the plan's interval."""
    plan: ControllerPlan = plan_of(IMPORT_AVOIDANCE)
    setting = setting_of(start_soe_kwh=35.0, step=SETTLEMENT_PERIOD)
    assert decisions_of(plan, setting)[0].target_power_kw == pytest.approx(20.0)
    assert decisions_of(plan, replace(setting, step=10 * MINUTE))[0].target_power_kw == pytest.approx(40.0)
