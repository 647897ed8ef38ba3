"""The optimum: by hand, against an exhaustive search of small cases, and against any course that a battery can take."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.kit import MARKET, START, plan_of, setting_of

from flux.analysis.backtest import Backtest
from flux.analysis.flows import Flow, Series, split_flows
from flux.analysis.known import DEFAULT_DELAY, released_after
from flux.analysis.optimum import Optimum, OptimumInputs, optimum
from flux.analysis.tariff import parse_tariff
from flux.analysis.timeline import Timeline
from flux.config import YamlDocument
from flux.control.parts import BatteryConfig, SiteConfig
from flux.devices.simulator.profiles import SyntheticLoad, SyntheticSolar
from flux.errors import InputError
from flux.model import SETTLEMENT_PERIOD

LONDON = ZoneInfo("Europe/London")
HOUR = timedelta(hours=1)


def rates_of(import_: list[float], export: list[float], **more: list[float]) -> dict[Flow, Series]:
    """£/MWh of each flow; export as cost: income is negative."""
    zero = np.zeros(len(import_))
    rates = dict.fromkeys(Flow, zero)
    for flow in (Flow.GRID_TO_LOAD, Flow.GRID_TO_BATTERY):
        rates[flow] = np.array(import_, dtype=np.float64)
    for flow in (Flow.SOLAR_TO_GRID, Flow.BATTERY_TO_GRID):
        rates[flow] = np.array(export, dtype=np.float64)
    return rates | {Flow(name): np.array(values, dtype=np.float64) for name, values in more.items()}


def inputs_of(rates: dict[Flow, Series], load: list[float], solar: list[float], **given: Any) -> OptimumInputs:
    battery = {"capacity_kwh": 10, "charge_limit_kw": 20, "discharge_limit_kw": 20} | given.pop("battery", {})
    site = {"import_limit_kw": 100, "export_limit_kw": 100} | given.pop("site", {})
    return OptimumInputs(
        timeline=Timeline(datetime(2024, 1, 11, tzinfo=UTC), given.pop("step", HOUR), len(load)),
        battery=BatteryConfig(**battery),
        site=SiteConfig(**site),
        load_kwh=np.array(load, dtype=np.float64),
        solar_kwh=np.array(solar, dtype=np.float64),
        rates=rates,
        zone=LONDON,
        **({"start_soe_kwh": 0.0, "tolerance": 1e-7} | given),
    )


def check(inputs: OptimumInputs, found: Optimum) -> None:
    """That a battery can take the course, and what is said of it."""
    assert np.minimum(found.charge_kwh, found.discharge_kwh).max(initial=0.0) == 0.0
    step_h, battery = inputs.timeline.step_h, inputs.battery
    assert found.charge_kwh.max(initial=0.0) <= battery.charge_limit_kw * step_h + 1e-6
    assert found.discharge_kwh.max(initial=0.0) <= battery.discharge_limit_kw * step_h + 1e-6
    assert found.soe_kwh.min() >= min(battery.soe_min_kwh, inputs.start_soe_kwh) - 1e-6
    assert found.soe_kwh.max() <= max(battery.soe_max_kwh, inputs.start_soe_kwh) + 1e-6
    if found.bound is not None:
        assert found.bound <= found.cost + 1e-6
        assert found.bound == pytest.approx(found.cost, abs=1e-5)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_buys_low_and_serves_the_load_when_it_is_dear() -> None:
    inputs = inputs_of(rates_of([50, 250], [0, 0]), [0, 30], [0, 0])
    found = optimum(inputs)
    check(inputs, found)
    assert found.charge_kwh.tolist() == pytest.approx([10, 0])
    assert found.discharge_kwh.tolist() == pytest.approx([0, 10])
    # 10 kWh at £50 and 20 kWh at £250; without the battery 30 kWh at £250
    assert (found.cost, found.cost_without, found.earned) == pytest.approx((5.5, 7.5, 2.0))
    assert found.cycles == pytest.approx(1.0)


def test_losses_must_be_earned() -> None:
    dear_enough = optimum(inputs_of(rates_of([100, 126], [0, 0]), [0, 30], [0, 0], battery={"charge_efficiency": 0.8}))
    too_cheap = optimum(inputs_of(rates_of([100, 124], [0, 0]), [0, 30], [0, 0], battery={"charge_efficiency": 0.8}))
    assert dear_enough.charge_kwh.tolist() == pytest.approx([12.5, 0])
    assert too_cheap.charge_kwh.tolist() == pytest.approx([0, 0])


def test_a_negative_price_is_not_earned_twice_in_one_step() -> None:
    """Charging and discharging at once would burn energy and be paid for it; a battery can do only one."""
    inputs = inputs_of(rates_of([-100] * 3, [100] * 3), [0.0] * 3, [0.0] * 3, battery={"charge_efficiency": 0.5})
    found = optimum(inputs)
    check(inputs, found)
    # 20 kWh fill it. What it gives to the grid costs £100 a MWh, and drawing two for one more pays £200.
    assert found.binaries > 0
    assert found.charge_kwh.sum() == pytest.approx(40.0)
    assert found.cost == pytest.approx(-3.0)


def test_export_that_pays_more_than_import_costs_is_not_fed_by_the_grid_at_once() -> None:
    inputs = inputs_of(rates_of([100], [-300]), [8.0], [0.0], start_soe_kwh=10.0)
    found = optimum(inputs)
    check(inputs, found)
    assert found.flows[Flow.BATTERY_TO_LOAD].tolist() == pytest.approx([8.0])
    assert found.flows[Flow.BATTERY_TO_GRID].tolist() == pytest.approx([2.0])


def test_the_grid_limits_hold_and_come_before_money() -> None:
    inputs = inputs_of(rates_of([50, 500], [0, 0]), [0, 30], [0, 0], site={"import_limit_kw": 22})
    found = optimum(inputs)
    assert found.flows[Flow.GRID_TO_LOAD].tolist() == pytest.approx([0, 20])
    # even at no gain: the second hour needs 8 kWh of the battery
    level = optimum(inputs_of(rates_of([50, 50], [0, 0]), [0, 30], [0, 0], site={"import_limit_kw": 22}))
    assert level.over_limits_kwh == 0.0
    assert level.discharge_kwh[1] >= 8 - 1e-6


def test_what_no_course_can_keep_is_told() -> None:
    inputs = inputs_of(rates_of([50, 50], [-10, -10]), [40, 0], [0, 130], site={"import_limit_kw": 22})
    found = optimum(inputs)
    assert found.over_limits_kwh == pytest.approx(18.0 + 20.0)  # empty at first; then 10 of 30 kWh too many fit


def test_it_ends_where_it_must() -> None:
    free = optimum(inputs_of(rates_of([50, 40], [0, 0]), [0, 0], [0, 0], start_soe_kwh=2.0))
    held = optimum(inputs_of(rates_of([50, 40], [0, 0]), [0, 0], [0, 0], start_soe_kwh=2.0, end_soe_kwh=7.0))
    assert free.charge_kwh.sum() == pytest.approx(0.0)
    assert held.charge_kwh.tolist() == pytest.approx([0.0, 5.0])


def test_cycles_are_capped_by_the_local_day() -> None:
    # 23:00Z … 01:00Z in June: local midnight is in the middle, where the price changes sides
    rates = rates_of([50, 250, 50, 250] * 2, [0] * 8)
    inputs = inputs_of(rates, [20.0] * 8, [0.0] * 8, cycles_per_day=1.0)
    found = optimum(inputs)
    check(inputs, found)
    assert found.cycles == pytest.approx(1.0)
    assert optimum(inputs_of(rates, [20.0] * 8, [0.0] * 8)).cycles == pytest.approx(4.0)
    half = optimum(inputs_of(rates, [20.0] * 8, [0.0] * 8, cycles_per_day=0.5, horizon=4 * HOUR, stride=2 * HOUR))
    assert half.cycles == pytest.approx(0.5)


def test_a_short_horizon_costs_at_least_as_much() -> None:
    generator = np.random.default_rng(3)
    prices = generator.uniform(20, 300, 96)
    rates = rates_of(prices.tolist(), (-prices * 0.9).tolist())
    load = generator.uniform(0, 5, 96).tolist()
    whole = optimum(inputs_of(rates, load, [0.0] * 96, battery={"charge_efficiency": 0.9}))
    short = inputs_of(rates, load, [0.0] * 96, battery={"charge_efficiency": 0.9}, horizon=2 * HOUR, stride=HOUR)
    rolled = optimum(short)
    check(short, rolled)
    assert rolled.bound is None
    assert whole.cost < rolled.cost < rolled.cost_without


def test_a_battery_rests_while_there_is_no_price() -> None:
    found = optimum(inputs_of(rates_of([50, float("nan"), 250], [0, 0, 0]), [5, 5, 5], [0, 0, 0]))
    assert found.unpriced_steps == 1
    assert found.discharge_kwh.tolist() == pytest.approx([0.0, 0.0, 5.0])
    assert found.cost == pytest.approx(0.5)  # the first hour's load and 5 kWh for the third


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_soe_kwh": 11.0}, "a start at 11 kWh is outside 0 … 10 kWh"),
        ({"end_soe_kwh": 11.0}, "an end at 11 kWh is outside 0 … 10 kWh"),
        ({"cycles_per_day": -1.0}, "must not be negative"),
        ({"horizon": timedelta(minutes=90)}, "no whole number of steps"),
        ({"horizon": HOUR, "stride": 2 * HOUR}, "longer than the horizon"),
        ({"end_soe_kwh": 9.0, "battery": {"charge_limit_kw": 1}}, "9 kWh can't be reached"),
    ],
)
def test_what_cannot_be_met_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimum(inputs_of(rates_of([50, 40], [0, 0]), [0, 0], [0, 0], **given))


# ── an exhaustive search of small cases ───────────────────────────────────────────────────────────────────────────

GRID_KWH = 0.5
"""With whole powers, loads and capacities, and an efficiency of 0.5 or 1, a best course lies on this grid."""


def cost_of(inputs: OptimumInputs, step: int, charge: float, discharge: float) -> tuple[float, float, float]:
    """kWh beyond the import and the export limit, and £, of one step, read off the words' meaning without arrays."""
    load, solar = float(inputs.load_kwh[step]), float(inputs.solar_kwh[step])
    rate = {flow: float(values[step]) for flow, values in inputs.rates.items()}
    sun_used = min(load, solar)
    residual, excess = load - sun_used, solar - sun_used
    to_load, from_sun = min(discharge, residual), min(charge, excess)
    flows = {
        Flow.SOLAR_TO_LOAD: sun_used,
        Flow.SOLAR_TO_BATTERY: from_sun,
        Flow.SOLAR_TO_GRID: excess - from_sun,
        Flow.GRID_TO_LOAD: residual - to_load,
        Flow.GRID_TO_BATTERY: charge - from_sun,
        Flow.BATTERY_TO_LOAD: to_load,
        Flow.BATTERY_TO_GRID: discharge - to_load,
    }
    net = load - solar + charge - discharge
    limits, step_h = inputs.site, inputs.timeline.step_h
    over_import = max(0.0, net - limits.import_limit_kw * step_h)
    over_export = max(0.0, -net - limits.export_limit_kw * step_h)
    return over_import, over_export, sum(kwh * rate[flow] for flow, kwh in flows.items()) / 1000


def searched(inputs: OptimumInputs) -> tuple[float, float]:
    """The least kWh beyond the limits, and the least £ with it, over every course on the grid."""
    battery, step_h = inputs.battery, inputs.timeline.step_h
    levels = [GRID_KWH * n for n in range(round(battery.capacity_kwh / GRID_KWH) + 1)]
    best: dict[float, tuple[float, float]] = {inputs.start_soe_kwh: (0.0, 0.0)}
    for step in range(inputs.timeline.count):
        base_import, base_export, _ = cost_of(inputs, step, 0.0, 0.0)
        after: dict[float, tuple[float, float]] = {}
        for soe, (over, cost) in best.items():
            for level in levels:
                charge = max(level - soe, 0.0) / battery.charge_efficiency
                discharge = max(soe - level, 0.0)
                if charge > battery.charge_limit_kw * step_h or discharge > battery.discharge_limit_kw * step_h:
                    continue
                over_import, over_export, more = cost_of(inputs, step, charge, discharge)
                if over_import > base_import + 1e-9 or over_export > base_export + 1e-9:
                    continue  # a battery never adds to what is too much
                sum_ = (round(over + over_import + over_export, 9), cost + more)
                if level not in after or sum_ < after[level]:
                    after[level] = sum_
        best = after
    ends = [found for level, found in best.items() if level >= (inputs.end_soe_kwh or 0.0)]
    return min(ends)


whole = st.integers(0, 6).map(float)
price = st.integers(-20, 30).map(lambda n: 10.0 * n)


@st.composite
def small_cases(draw: st.DrawFn) -> OptimumInputs:
    n = draw(st.integers(1, 6))

    def several(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=n, max_size=n))

    rates = {flow: np.array(several(price)) for flow in Flow}
    battery = {
        "capacity_kwh": draw(st.integers(1, 5)),
        "charge_efficiency": draw(st.sampled_from([0.5, 1.0])),
        "charge_limit_kw": draw(st.integers(0, 6)),
        "discharge_limit_kw": draw(st.integers(0, 6)),
    }
    site = {"import_limit_kw": draw(st.integers(0, 8)), "export_limit_kw": draw(st.integers(0, 8))}
    start = float(draw(st.integers(0, int(battery["capacity_kwh"]))))
    end = draw(st.sampled_from([None, 0.0]))
    return inputs_of(
        rates, several(whole), several(whole), battery=battery, site=site, start_soe_kwh=start, end_soe_kwh=end
    )


@settings(max_examples=50, deadline=None)
@given(inputs=small_cases())
def test_it_is_as_good_as_an_exhaustive_search(inputs: OptimumInputs) -> None:
    found = optimum(inputs)
    check(inputs, found)
    over, cost = searched(inputs)
    assert found.over_limits_kwh == pytest.approx(over, abs=1e-5)
    assert found.cost == pytest.approx(cost, abs=1e-5)


# ── any course that a battery can take ────────────────────────────────────────────────────────────────────────────


def some_course(inputs: OptimumInputs, generator: np.random.Generator) -> tuple[Series, Series]:
    """A random course inside every limit."""
    battery, step_h = inputs.battery, inputs.timeline.step_h
    charge, discharge, soe = np.zeros(inputs.timeline.count), np.zeros(inputs.timeline.count), inputs.start_soe_kwh
    for step in range(inputs.timeline.count):
        rest = float(inputs.load_kwh[step] - inputs.solar_kwh[step])
        low = max(-battery.charge_limit_kw * step_h, rest - inputs.site.import_limit_kw * step_h)
        high = min(battery.discharge_limit_kw * step_h, rest + inputs.site.export_limit_kw * step_h)
        power = (
            float(generator.uniform(low, high)) if generator.random() < 0.8 else float(generator.choice([low, high]))
        )
        power = min(max(power, -(battery.soe_max_kwh - soe) / battery.charge_efficiency), soe - battery.soe_min_kwh)
        charge[step], discharge[step] = max(-power, 0.0), max(power, 0.0)
        soe += battery.charge_efficiency * charge[step] - discharge[step]
    return charge, discharge


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), low=st.sampled_from([-300.0, 0.0]))
def test_no_course_costs_less(seed: int, low: float) -> None:
    generator = np.random.default_rng(seed)
    n = 48
    rates = {flow: generator.uniform(low, 300, n) * (-1 if "to_grid" in flow else 1) for flow in Flow}
    inputs = inputs_of(
        rates,
        generator.uniform(0, 20, n).tolist(),
        generator.uniform(0, 20, n).tolist(),
        battery={"charge_efficiency": 0.85, "charge_limit_kw": 8, "soe_min_kwh": 1},
        site={"import_limit_kw": 30, "export_limit_kw": 30},
        start_soe_kwh=5.0,
    )
    found = optimum(inputs)
    check(inputs, found)
    for _ in range(40):
        flows = split_flows(inputs.load_kwh, inputs.solar_kwh, *some_course(inputs, generator))
        cost = sum(float((kwh * rates[flow]).sum()) for flow, kwh in flows.items()) / 1000
        assert found.cost <= cost + 1e-6


@pytest.mark.parametrize("seed", [1, 2])
def test_no_backtest_costs_less(seed: int) -> None:
    """Modes that follow the market, on random prices; the same physics and the same tariff."""
    generator = np.random.default_rng(seed)
    count = 3 * 48
    prices, niv = generator.normal(120, 120, count), generator.normal(0, 300, count)
    releases = tuple(
        released_after(DEFAULT_DELAY, START + n * SETTLEMENT_PERIOD, float(prices[n]), float(niv[n]))
        for n in range(count)
    )
    rates = """\
rates:
  import: [{name: energy, market: imbalance, factor: 1.1}, {name: fee, price: 20}]
  export: [{name: energy, market: imbalance, factor: -0.9}]
"""
    tariff = parse_tariff(YamlDocument(rates, "tariff.yaml"))
    load, solar = SyntheticLoad(mean_kw=40, timezone=LONDON), SyntheticSolar(peak_kw=60)
    setting = setting_of(load=load, solar=solar, releases=releases, end=START + count * SETTLEMENT_PERIOD)
    outcome = Backtest("plan", plan_of(MARKET), setting, tariff).run()
    assert outcome.money is not None
    assert outcome.hours_over_import_limit == outcome.hours_over_export_limit == 0
    found = optimum(
        OptimumInputs(
            timeline=outcome.timeline,
            battery=outcome.battery,
            site=outcome.site,
            load_kwh=outcome.load_kwh,
            solar_kwh=outcome.solar_kwh,
            rates=outcome.money.rated.flow,
            start_soe_kwh=outcome.course.start_soe_kwh,
            zone=LONDON,
            time_limit_s=2.0,
        )
    )
    assert found.bound is not None
    assert found.cost_without == pytest.approx(outcome.money.total_without)
    assert outcome.cycles > 0.5, "a battery that does nothing proves nothing"
    assert found.bound <= found.cost + 1e-9 <= outcome.money.total
