"""The physics conserve energy, balance and stay within their limits, whatever is asked of them."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.devices.simulator.physics import (
    Battery,
    BatterySpec,
    Counter,
    LoadShape,
    Meter,
    MeterTap,
    Segment,
    SitePhysics,
)

SPEC = BatterySpec(capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, charge_efficiency=0.9)

powers = st.floats(-300, 300)
durations = st.floats(0.001, 7200)
ramps = st.one_of(st.just(math.inf), st.floats(0.05, 200))


@st.composite
def batteries(draw: Callable[..., float]) -> Battery:
    return Battery(
        SPEC,
        energy_kwh=draw(st.floats(0, 500)),
        set_point_kw=draw(powers),
        following=True,
        timeout_s=draw(st.one_of(st.none(), st.floats(0, 100))),
        ramp_up_kw_s=draw(ramps),
        ramp_down_kw_s=draw(ramps),
    )


def through_kwh(segments: list[Segment]) -> tuple[float, float]:
    """(into, out of) the battery, through its meter."""
    into = sum(-(s.start_kw + s.end_kw) / 2 * s.duration_s / 3600 for s in segments if s.start_kw + s.end_kw < 0)
    out = sum((s.start_kw + s.end_kw) / 2 * s.duration_s / 3600 for s in segments if s.start_kw + s.end_kw > 0)
    return into, out


@settings(deadline=None)  # a busy machine is no fault
@given(battery=batteries(), steps=st.lists(st.tuples(durations, powers), min_size=1, max_size=8))
def test_what_is_stored_is_what_went_through_the_meter(battery: Battery, steps: list[tuple[float, float]]) -> None:
    for duration_s, set_point_kw in steps:
        battery.set_point_kw, battery.command_age_s = set_point_kw, 0.0
        before = battery.energy_kwh
        segments = battery.advance(duration_s)
        into, out = through_kwh(segments)
        assert battery.energy_kwh - before == pytest.approx(into * 0.9 - out, abs=1e-9)
        assert sum(s.duration_s for s in segments) == pytest.approx(duration_s, rel=1e-12)
        assert 0 <= battery.energy_kwh <= 500


@settings(deadline=None)  # a busy machine is no fault
@given(battery=batteries(), steps=st.lists(st.tuples(durations, powers), min_size=1, max_size=8))
def test_power_never_leaves_the_limits_or_changes_sign_within_a_segment(
    battery: Battery, steps: list[tuple[float, float]]
) -> None:
    for duration_s, set_point_kw in steps:
        battery.set_point_kw, battery.command_age_s = set_point_kw, 0.0
        for segment in battery.advance(duration_s):
            assert min(segment.start_kw, segment.end_kw) >= -100 - 1e-9
            assert max(segment.start_kw, segment.end_kw) <= 105 + 1e-9
            assert segment.start_kw * segment.end_kw >= 0


@settings(deadline=None)  # a busy machine is no fault
@given(battery=batteries(), duration_s=st.floats(0.01, 3600), cuts=st.lists(st.floats(0, 1), max_size=5))
def test_a_step_cut_into_pieces_comes_out_the_same(battery: Battery, duration_s: float, cuts: list[float]) -> None:
    whole = Battery(
        SPEC,
        battery.energy_kwh,
        set_point_kw=battery.set_point_kw,
        following=True,
        timeout_s=battery.timeout_s,
        ramp_up_kw_s=battery.ramp_up_kw_s,
        ramp_down_kw_s=battery.ramp_down_kw_s,
    )
    whole.advance(duration_s)
    edges = [0.0, *sorted(cuts), 1.0]
    for start, end in pairwise(edges):
        battery.advance((end - start) * duration_s)
    assert battery.energy_kwh == pytest.approx(whole.energy_kwh, abs=1e-7)
    at_timeout = battery.timeout_s is not None and abs(battery.timeout_s - duration_s) < 1e-6
    at_limit = min(whole.energy_kwh, 500 - whole.energy_kwh) < 1e-6
    if not (at_timeout or at_limit):  # at such an instant the power jumps, and rounding decides on which side it is
        assert battery.power_kw == pytest.approx(whole.power_kw, abs=1e-5)


def approximately(*segment: float) -> object:
    return pytest.approx(segment)


def test_an_hour_of_charging() -> None:
    battery = Battery(SPEC, 250, set_point_kw=-90, following=True)
    assert battery.advance(3600) == [Segment(3600, -90, -90)]
    assert battery.energy_kwh == pytest.approx(331)


def test_power_stops_at_the_instant_that_it_is_empty() -> None:
    battery = Battery(SPEC, 10, set_point_kw=100, following=True)
    assert battery.advance(3600) == [approximately(360, 100, 100), approximately(3240, 0, 0)]
    assert (battery.energy_kwh, battery.power_kw) == (0, 0)
    assert battery.advance(60) == [Segment(60, 0, 0)]
    battery.set_point_kw = -10
    battery.advance(3600)
    assert battery.energy_kwh == pytest.approx(9)


def test_power_stops_at_the_instant_that_it_is_full() -> None:
    battery = Battery(SPEC, 491, set_point_kw=-100, following=True)
    assert battery.advance(3600) == [approximately(360, -100, -100), approximately(3240, 0, 0)]
    assert battery.energy_kwh == 500


def test_ramps_through_zero_use_the_ramp_down_first_then_the_ramp_up() -> None:
    battery = Battery(SPEC, 250, power_kw=50, set_point_kw=-50, following=True, ramp_up_kw_s=10, ramp_down_kw_s=25)
    segments = battery.advance(10)
    assert segments == [Segment(2, 50, 0), Segment(5, 0, -50), Segment(3, -50, -50)]


def test_a_command_that_is_not_repeated_ends_in_0_kw_within_the_step() -> None:
    battery = Battery(SPEC, 250, set_point_kw=60, following=True, timeout_s=10)
    assert battery.advance(6) == [Segment(6, 60, 60)]
    assert battery.advance(20) == [Segment(4, 60, 60), Segment(16, 0, 0)]
    assert battery.timed_out
    assert battery.target_kw == 0
    battery.command_age_s = 0
    assert battery.target_kw == 60


def test_fewer_blocks_shrink_both_limits() -> None:
    spec = BatterySpec(capacity_kwh=500, charge_limit_kw=100, discharge_limit_kw=105, blocks=10)
    battery = Battery(spec, 250, set_point_kw=1000, following=True, available_blocks=4)
    assert battery.target_kw == pytest.approx(42)
    battery.set_point_kw = -1000
    assert battery.target_kw == pytest.approx(-40)


def test_not_in_direct_control_it_rests() -> None:
    battery = Battery(SPEC, 250, power_kw=30, set_point_kw=30, following=False, ramp_down_kw_s=10)
    assert battery.advance(5) == [Segment(3, 30, 0), Segment(2, 0, 0)]


@pytest.mark.parametrize(
    ("start", "end", "imported", "exported"), [(4, 2, 3, 0), (-4, -2, 0, 3), (3, -1, 1.125, 0.125)]
)
def test_a_counter_integrates_each_sign_by_itself(start: float, end: float, imported: float, exported: float) -> None:
    counter = Counter()
    counter.add(start, end, 1.0)
    assert (counter.imported, counter.exported) == pytest.approx((imported, exported))


def site(*site_batteries: Battery) -> tuple[SitePhysics, dict[str, Meter]]:
    every = tuple(range(len(site_batteries)))
    meters = {name: Meter() for name in ("grid", "generation", "load", "storage")}
    taps = [
        MeterTap(meters["grid"], True, True, every),
        MeterTap(meters["generation"], False, True, ()),
        MeterTap(meters["load"], True, False, ()),
        MeterTap(meters["storage"], False, False, every),
    ]
    return SitePhysics(site_batteries, taps), meters


def net(counter: Counter) -> float:
    return counter.imported - counter.exported


steps_of_a_site = st.lists(
    st.tuples(st.floats(0.01, 1800), powers, powers, st.floats(0, 300), st.floats(0, 300)), min_size=1, max_size=10
)


@settings(deadline=None)  # a busy machine is no fault
@given(first=batteries(), second=batteries(), steps=steps_of_a_site)
def test_the_meters_of_a_site_balance_at_each_step(
    first: Battery, second: Battery, steps: list[tuple[float, float, float, float, float]]
) -> None:
    physics, meters = site(first, second)
    stored = first.energy_kwh + second.energy_kwh
    grid, generation, load, storage = meters.values()
    counters = [counter for meter in meters.values() for counter in meter.counters]
    for duration_s, one_kw, two_kw, load_kw, solar_kw in steps:
        before = [(counter.imported, counter.exported) for counter in counters]
        first.set_point_kw, second.set_point_kw = one_kw, two_kw
        physics.advance(duration_s, load_kw, solar_kw)
        assert grid.power_kw == pytest.approx(load.power_kw + generation.power_kw + storage.power_kw, abs=1e-9)
        assert storage.power_kw == pytest.approx(-(first.power_kw + second.power_kw), abs=1e-9)
        for counter, (imported, exported) in zip(counters, before, strict=True):
            assert counter.imported >= imported
            assert counter.exported >= exported
    assert net(grid.active) == pytest.approx(net(load.active) + net(generation.active) + net(storage.active), abs=1e-6)
    assert net(grid.active) == pytest.approx(sum(net(phase) for phase in grid.phases), abs=1e-6)
    assert generation.active.imported == 0
    assert load.active.exported == 0
    # both batteries may have charged while the other discharged, so only bounds hold for the pair
    rise = first.energy_kwh + second.energy_kwh - stored
    assert rise <= net(storage.active) + 1e-6


@settings(deadline=None)  # a busy machine is no fault
@given(battery=batteries(), steps=steps_of_a_site)
def test_the_battery_s_meter_accounts_for_what_it_stores(
    battery: Battery, steps: list[tuple[float, float, float, float, float]]
) -> None:
    physics, meters = site(battery)
    before = battery.energy_kwh
    for duration_s, set_point_kw, _, load_kw, solar_kw in steps:
        battery.set_point_kw = set_point_kw
        physics.advance(duration_s, load_kw, solar_kw)
    counter = meters["storage"].active
    assert battery.energy_kwh - before == pytest.approx(0.9 * counter.imported - counter.exported, abs=1e-6)


@settings(deadline=None)  # a busy machine is no fault
@given(load_kw=st.floats(0, 300), balanced_kw=powers)
def test_power_factor_and_phases_are_consistent(load_kw: float, balanced_kw: float) -> None:
    meter = Meter(LoadShape(phases=(0.5, 0.3, 0.2), power_factor=0.9))
    meter.record(0.5, load_kw, balanced_kw, balanced_kw)
    assert sum(meter.phase_powers_kw) == pytest.approx(meter.power_kw, abs=1e-9)
    assert sum(meter.phase_reactive_kvar) == pytest.approx(meter.reactive_kvar, abs=1e-9)
    assert meter.apparent_kva**2 == pytest.approx(meter.power_kw**2 + meter.reactive_kvar**2, abs=1e-6)
    assert meter.apparent.imported + meter.apparent.exported == pytest.approx(meter.apparent_kva / 2)
    assert meter.reactive.imported == pytest.approx(meter.reactive_kvar / 2)


def test_reactive_power_follows_the_power_factor() -> None:
    meter = Meter(LoadShape(power_factor=0.8))
    meter.record(1.0, 80, 0, 0)
    assert (meter.reactive_kvar, meter.apparent_kva) == pytest.approx((60, 100))


@pytest.mark.parametrize(
    "wrong", [{"capacity_kwh": 0}, {"charge_limit_kw": -1}, {"charge_efficiency": 1.1}, {"ramp_kw_s": 0}, {"blocks": 0}]
)
def test_an_impossible_battery_is_refused(wrong: dict[str, float]) -> None:
    fields = {"capacity_kwh": 500.0, "charge_limit_kw": 100.0, "discharge_limit_kw": 105.0, **wrong}
    with pytest.raises(ValueError, match="a battery needs"):
        BatterySpec(**fields)  # type: ignore[arg-type]  # blocks is an int, and stays one


def test_more_energy_than_it_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.500"):
        Battery(SPEC, 500.1)
