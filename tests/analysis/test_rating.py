"""Rates by hand, and rates of every step against a plain reading of the same tariff, instant by instant."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.analysis.flows import Direction, Flow, split_flows
from flux.analysis.rating import cost, daily_charges, rate_steps
from flux.analysis.tariff import Market, Tariff, TariffRate, parse_tariff
from flux.analysis.timeline import Timeline
from flux.config import YamlDocument
from flux.control.periods import Timetable
from flux.control.zones import holidays_of
from flux.errors import InputError

HALF_HOUR = timedelta(minutes=30)

TARIFF = """\
supply_points: {msp: 1.0, nsp: 1.11}
rates:
  import:
    - {name: imbalance, market: imbalance, supply_point: nsp}
    - {name: account, price: 11.77, supply_point: nsp}
    - {name: red, price: 113.85, supply_point: msp, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}
    - {name: supplier, share: 0.05}
  export:
    - {name: imbalance, market: imbalance, factor: -1, supply_point: nsp}
    - {name: red, price: -100.54, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}
    - {name: supplier, share: -0.05}
  load:
    - {name: homes, price: -210}
  solar_to_battery:
    - {name: lease, price: 5}
daily:
  - {name: meter, charge: 12.5}
  - {name: standing, charge: -20}
"""


def tariff_of(text: str) -> Tariff:
    return parse_tariff(YamlDocument(text, "tariff.yaml"))


def steps(start: str, count: int, step: timedelta = HALF_HOUR) -> Timeline:
    return Timeline(datetime.fromisoformat(start).replace(tzinfo=UTC), step, count)


def imbalance(*values: float) -> dict[Market, np.ndarray]:
    return {Market.IMBALANCE: np.array(values, dtype=np.float64)}


def test_a_worked_example() -> None:
    # Thursday 16:30 and 17:00 in winter: the second half hour is red
    rated = rate_steps(tariff_of(TARIFF), steps("2024-01-11T16:30", 2), imbalance(100.0, -40.0))
    # 100 × 1.11 + 11.77 × 1.11 = 124.0647; with 5 % of it 130.267935
    # −40 × 1.11 + 11.77 × 1.11 + 113.85 = 82.5147; with 5 % of it 86.640435
    np.testing.assert_allclose(rated.direction[Direction.IMPORT], [130.267935, 86.640435], rtol=1e-12)
    # −100 × 1.11 = −111, less 5 %: −105.45; then 40 × 1.11 − 100.54 = −56.14, less 5 %: −53.333
    np.testing.assert_allclose(rated.direction[Direction.EXPORT], [-105.45, -53.333], rtol=1e-12)
    np.testing.assert_allclose(rated.lines[Direction.IMPORT]["supplier"], [6.203235, 4.125735], rtol=1e-12)


def test_a_flow_pays_every_direction_that_it_is_part_of() -> None:
    rated = rate_steps(tariff_of(TARIFF), steps("2024-01-11T16:30", 1), imbalance(100.0))
    assert {flow: round(float(rates[0]), 6) for flow, rates in rated.flow.items()} == {
        Flow.SOLAR_TO_LOAD: -210.0,
        Flow.SOLAR_TO_BATTERY: 5.0,
        Flow.SOLAR_TO_GRID: -105.45,
        Flow.GRID_TO_LOAD: -79.732065,  # 130.267935 bought, sold at 210
        Flow.GRID_TO_BATTERY: 130.267935,
        Flow.BATTERY_TO_LOAD: -210.0,
        Flow.BATTERY_TO_GRID: -105.45,
    }


def test_energy_times_rate() -> None:
    assert cost(np.array([2.0, 0.0, 0.0, 1.0]), np.array([121.0, 50.0, np.nan, np.nan])) == pytest.approx(
        [0.242, 0.0, 0.0, np.nan], nan_ok=True
    )


def test_a_market_rate_is_shaped_before_its_losses() -> None:
    text = "supply_points: {nsp: 2}\nrates: {export: [{name: e, market: day_ahead, factor: -0.9, offset: 4,"
    rated = rate_steps(
        tariff_of(text + " floor: -90, cap: 0, supply_point: nsp}]}"),
        steps("2024-06-01T00:00", 4),
        {Market.DAY_AHEAD: np.array([10.0, 200.0, -50.0, np.nan])},
    )
    # −0.9 × 10 + 4 = −5; −176 is below the floor; 49 above the cap
    np.testing.assert_allclose(rated.direction[Direction.EXPORT], [-10.0, -180.0, 0.0, np.nan])
    assert rated.missing().tolist() == [False, False, False, True]


def test_a_share_can_be_of_named_rates_and_never_of_shares() -> None:
    rates = "[{name: a, price: 100}, {name: b, price: 50}, {name: s, share: 0.1, of: [a]}, {name: t, share: 0.5}]"
    rated = rate_steps(tariff_of(f"rates: {{import: {rates}}}"), steps("2024-06-01T00:00", 1), {})
    assert {name: values[0] for name, values in rated.lines[Direction.IMPORT].items()} == {
        "a": 100.0,
        "b": 50.0,
        "s": 10.0,
        "t": 75.0,
    }


def test_a_new_price_follows_an_old_one_under_its_name() -> None:
    rates = "[{name: red, price: 10, to: 2024-04-01}, {name: red, price: 12, from: 2024-04-01}]"
    rated = rate_steps(tariff_of(f"rates: {{import: {rates}}}"), steps("2024-03-31T22:00", 4), {})
    # local midnight is 23:00Z: the clocks went forward that morning
    assert rated.direction[Direction.IMPORT].tolist() == [10.0, 10.0, 12.0, 12.0]


def test_a_period_that_covers_part_of_a_step_counts_for_that_part() -> None:
    rates = '[{name: amber, price: 8, periods: [{start: "07:30", end: "09:15"}]}]'
    rated = rate_steps(tariff_of(f"rates: {{import: {rates}}}"), steps("2024-01-11T07:00", 4, timedelta(hours=1)), {})
    assert rated.direction[Direction.IMPORT].tolist() == [4.0, 8.0, 2.0, 0.0]


def test_holidays_count_as_weekend_only_by_a_calendar() -> None:
    red = 'rates: {import: [{name: red, price: 10, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}]}'
    new_year = steps("2024-01-01T17:00", 1)
    assert rate_steps(tariff_of(red), new_year, {}).direction[Direction.IMPORT].tolist() == [10.0]
    by_calendar = tariff_of(f"holidays: GB-ENG\n{red}")
    assert rate_steps(by_calendar, new_year, {}).direction[Direction.IMPORT].tolist() == [0.0]


@pytest.mark.parametrize(
    ("day", "periods"), [("2024-03-31", 46), ("2024-10-27", 50), ("2024-02-29", 48)], ids=["short", "long", "leap"]
)
def test_daily_charges_are_paid_once_a_local_day(day: str, periods: int) -> None:
    tariff = tariff_of(TARIFF)
    start = datetime.fromisoformat(day).replace(tzinfo=tariff.zone).astimezone(UTC)
    end = start + periods * HALF_HOUR
    assert daily_charges(tariff, start, end) == pytest.approx({"meter": 12.5, "standing": -20.0})
    assert daily_charges(tariff, start, start + periods * HALF_HOUR / 2)["meter"] == pytest.approx(6.25)
    assert daily_charges(tariff, start, start) == {"meter": 0.0, "standing": 0.0}


def test_a_year_has_366_daily_charges_in_2024() -> None:
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
    assert daily_charges(tariff_of(TARIFF), start, end)["meter"] == pytest.approx(366 * 12.5)


def test_a_daily_charge_holds_from_its_first_day_to_its_last() -> None:
    tariff = tariff_of(
        "rates: {load: [{name: a, price: 1}]}\ndaily: [{name: d, charge: 2, from: 2024-01-03, to: 2024-01-05}]"
    )
    assert daily_charges(tariff, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)) == {"d": 4.0}


def test_prices_that_the_tariff_follows_must_be_given() -> None:
    with pytest.raises(InputError, match="follows the imbalance price"):
        rate_steps(tariff_of(TARIFF), steps("2024-01-11T16:30", 1), {})


def test_the_flows_of_a_step() -> None:
    flows = split_flows(*(np.array([x]) for x in (4.0, 10.0, 8.0, 0.0)))
    assert {flow.value: float(kwh[0]) for flow, kwh in flows.items() if kwh[0]} == {
        "solar_to_load": 4.0,
        "solar_to_battery": 6.0,
        "grid_to_battery": 2.0,
    }


amounts = st.floats(0, 500).map(lambda x: round(x, 3))


@given(load=amounts, solar=amounts, charge=amounts, discharge=amounts)
def test_flows_balance_and_are_never_negative(load: float, solar: float, charge: float, discharge: float) -> None:
    f = {
        flow: float(kwh[0])
        for flow, kwh in split_flows(*(np.array([x]) for x in (load, solar, charge, discharge))).items()
    }
    assert min(f.values()) >= 0
    assert f[Flow.SOLAR_TO_LOAD] + f[Flow.GRID_TO_LOAD] + f[Flow.BATTERY_TO_LOAD] == pytest.approx(load, abs=1e-9)
    assert f[Flow.SOLAR_TO_LOAD] + f[Flow.SOLAR_TO_BATTERY] + f[Flow.SOLAR_TO_GRID] == pytest.approx(solar, abs=1e-9)
    assert f[Flow.SOLAR_TO_BATTERY] + f[Flow.GRID_TO_BATTERY] == pytest.approx(charge, abs=1e-9)
    assert f[Flow.BATTERY_TO_LOAD] + f[Flow.BATTERY_TO_GRID] == pytest.approx(discharge, abs=1e-9)


# ── every step against a plain reading of the tariff ──────────────────────────────────────────────────────────────


def plain_rate(tariff: Tariff, direction: Direction, instant: datetime, prices: dict[Market, float]) -> float:
    """The direction's rate at an instant, by asking each rate's timetable whether it holds then."""
    is_holiday = holidays_of(tariff.holidays) if tariff.holidays else lambda _day: False

    def holds(rate: TariffRate) -> bool:
        day = instant.astimezone(tariff.zone).date()
        in_force = (rate.from_ is None or day >= rate.from_) and (rate.to is None or day < rate.to)
        return in_force and Timetable(rate.periods, tariff.zone, is_holiday).holding(instant) is not None

    own, shares = {}, []
    for number, rate in enumerate(tariff.rates.of(direction)):
        if not holds(rate):
            continue
        if rate.share is not None:
            shares.append(rate)
            continue
        figure = rate.price if rate.market is None else rate.factor * prices[rate.market] + rate.offset
        assert figure is not None
        own[number, rate.name] = figure * tariff.supply_points.get(rate.supply_point or "", 1.0)
    share = 0.0
    for r in shares:
        share += (r.share or 0.0) * sum(v for (_, n), v in own.items() if r.of is None or n in r.of)
    return sum(own.values()) + share


clocks = st.integers(0, 47).map(lambda half: f"{half // 2:02d}:{half % 2 * 30:02d}")


@st.composite
def tariffs(draw: st.DrawFn) -> str:
    days = draw(st.sampled_from(["all", "weekdays", "weekends", "[mon, sat]"]))
    start, end = draw(st.tuples(clocks, clocks).filter(lambda pair: pair[0] != pair[1]))
    zone = draw(st.sampled_from(["Europe/London", "America/New_York", "Pacific/Auckland"]))
    first = draw(st.dates(date(2024, 1, 1), date(2024, 12, 30)))
    return f"""\
timezone: {zone}
holidays: GB-ENG
supply_points: {{a: 1.08}}
rates:
  import:
    - {{name: m, market: imbalance, supply_point: a}}
    - {{name: p, price: {draw(st.integers(-200, 200))}, periods: [{{days: {days}, start: "{start}", end: "{end}"}}]}}
    - {{name: q, price: 7, from: {first}}}
    - {{name: s, share: {draw(st.sampled_from([0.05, -0.1]))}, periods: [{{start: "00:00", end: "16:00"}}]}}
"""


@settings(max_examples=30, deadline=None)
@given(text=tariffs(), day=st.dates(date(2024, 1, 1), date(2024, 12, 29)), seed=st.integers(0, 9))
def test_steps_agree_with_a_plain_reading(text: str, day: date, seed: int) -> None:
    tariff = tariff_of(text)
    timeline = Timeline(datetime(day.year, day.month, day.day, tzinfo=UTC), HALF_HOUR, 96)
    prices = np.random.default_rng(seed).uniform(-100, 400, 96)
    rated = rate_steps(tariff, timeline, {Market.IMBALANCE: prices}).direction[Direction.IMPORT]
    for number in range(0, 96, 3):
        at = timeline.start + number * timeline.step
        expected = plain_rate(tariff, Direction.IMPORT, at, {Market.IMBALANCE: float(prices[number])})
        assert rated[number] == pytest.approx(expected, abs=1e-9), at
