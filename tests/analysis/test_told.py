"""Dispatch and envelopes of the past in a backtest: in force once known, never before, and in the bound too."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.kit import HEAD, HOUR, MINUTE, START, decisions_of, half_hours, plan_of, setting_of

from flux.analysis.backtest import Backtest
from flux.analysis.flows import Flow
from flux.analysis.outcome import Outcome
from flux.analysis.tariff import imbalance_tariff
from flux.analysis.timeline import Timeline
from flux.analysis.told import Told, ToldEnvelope, ToldStep, limits_on
from flux.analysis.told_files import read_dispatch, read_envelopes
from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.devices.simulator.profiles import Constant
from flux.errors import InputError

AXLE = HEAD + "modes: [{mode: axle}, {mode: import_avoidance}]\n"


def step(action: str, start: timedelta, end: timedelta, known: timedelta, gone: timedelta = 99 * HOUR) -> ToldStep:
    return ToldStep(ScheduleStep(START + start, START + end, action), START + known, START + gone)


def envelope(limits: SiteLimits, start: timedelta, end: timedelta, known: timedelta) -> ToldEnvelope:
    return ToldEnvelope(Envelope(START + start, START + end, limits), START + known)


def outcome_with(told: Told, text: str = AXLE, **changes: Any) -> Outcome:
    prices = half_hours([(20.0, 1.0)] * 24 + [(90.0, 1.0)] * 24)
    return Backtest("told", plan_of(text), setting_of(told=told, releases=prices, **changes), imbalance_tariff()).run()


def test_a_step_is_done_from_when_it_was_known_until_it_was_withdrawn() -> None:
    told = Told((step("charge_max", HOUR, 4 * HOUR, 2 * HOUR, 3 * HOUR),))
    outcome = outcome_with(told, start_soe_kwh=100.0)
    charged = outcome.charge_kwh.reshape(-1, 6).sum(axis=1)
    assert charged[:4] == pytest.approx([0.0, 0.0, 100.0, 0.0])
    assert outcome.mode_hours()["axle"] == 1.0


def test_the_first_of_several_steps_counts() -> None:
    told = Told((step("charge_max", HOUR, 2 * HOUR, HOUR), step("discharge_max", 0 * HOUR, 3 * HOUR, 0 * HOUR)))
    first = [decision.target_power_kw for decision in decisions_of(plan_of(AXLE), setting_of(told=told))][::6][:3]
    assert first == pytest.approx([105.0, -100.0, 105.0])


def test_an_envelope_limits_the_site_its_bound_and_what_counts_as_over() -> None:
    narrow = envelope(SiteLimits(import_kw=30.0), 0 * HOUR, 12 * HOUR, 0 * HOUR)
    text = HEAD + "modes: [{mode: discharge_to_soe, soe_kwh: 25, periods: [{start: '00:00', end: '01:00'}]}]\n"
    free, held = outcome_with(Told(), text), outcome_with(Told((), (narrow,)), text)
    assert free.hours_over_import_limit == 0
    assert held.hours_over_import_limit == pytest.approx(0.0), "10 kW of the load come from the battery"
    assert held.flows[Flow.BATTERY_TO_LOAD].reshape(-1, 6).sum(axis=1)[1:12] == pytest.approx([10.0] * 11)
    assert held.limit_hours()["site_import"] == pytest.approx(11.0)
    assert free.perfect is not None
    assert held.perfect is not None
    assert held.money is not None
    assert held.perfect.cost > free.perfect.cost + 1e-6, "energy that must be used cheaply can't be used dearly"
    assert held.perfect.cost <= held.money.total + 1e-6


def test_a_wider_envelope_widens_the_bound_too() -> None:
    limits = envelope(SiteLimits(220.0), 0 * HOUR, 24 * HOUR, 0 * HOUR)
    wide = Told((step("charge_max", 0 * HOUR, 6 * HOUR, 0 * HOUR),), (limits,))
    text = AXLE.replace("import_limit_kw: 220", "import_limit_kw: 60")
    outcome = outcome_with(wide, text, start_soe_kwh=25.0, load=Constant(40.0))
    assert outcome.highest_import_kw.max() == pytest.approx(140.0)
    assert outcome.hours_over_import_limit == 0
    assert outcome.perfect is not None
    assert outcome.money is not None
    assert outcome.perfect.cost <= outcome.money.total + 1e-6


def test_the_connection_is_above_plan_and_envelope() -> None:
    told = Told((), (envelope(SiteLimits(500.0), HOUR, 2 * HOUR, HOUR),), SiteLimits(100.0))
    imports, exports = limits_on(Timeline.between(START, START + 3 * HOUR, HOUR), told, plan_of(AXLE).site)
    assert list(imports) == [100.0, 100.0, 100.0]
    assert list(exports) == [475.0] * 3


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["charge_max", "discharge_max", "avoid_export", "sing"]),
            st.integers(0, 23 * 60),
            st.integers(1, 300),
            st.integers(0, 24 * 60),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(st.floats(-20, 300), st.integers(0, 23 * 60), st.integers(0, 24 * 60)), max_size=4),
    st.integers(0, 24 * 60 - 1),
)
def test_what_is_told_later_changes_no_earlier_decision(
    steps: list[tuple[str, int, int, int]], envelopes: list[tuple[float, int, int]], minute: int
) -> None:
    told = Told(
        tuple(step(what, at * MINUTE, (at + long) * MINUTE, known * MINUTE) for what, at, long, known in steps),
        tuple(envelope(SiteLimits(kw, kw), at * MINUTE, 24 * HOUR, known * MINUTE) for kw, at, known in envelopes),
    )
    now = START + minute * MINUTE
    known = Told(
        tuple(one for one in told.steps if one.known_at <= now),
        tuple(one for one in told.envelopes if one.known_at <= now),
    )
    plan = plan_of(AXLE)
    before, after = (decisions_of(plan, setting_of(told=one, step=30 * MINUTE)) for one in (known, told))
    count = sum(decision.time <= now for decision in before)
    assert before[:count] == after[:count]
    limits = limits_on(Timeline.between(START, START + 24 * HOUR, 30 * MINUTE), told, plan.site)
    assert all(np.isfinite(series).all() for series in limits)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "told.csv"
    path.write_text("start,end,action,known_at\n2026-01-14T01:00,2026-01-14T02:00Z,charge_max,\n")
    (only,) = read_dispatch(path)
    assert only.step == ScheduleStep(START + HOUR, START + 2 * HOUR, "charge_max")
    assert only.span == (START + HOUR, START + 2 * HOUR)
    path.write_text(
        "start,end,import_kw,export_kw,known_at,withdrawn_at\n"
        "2026-01-14T01:00Z,2026-01-14T05:00Z,30,,2026-01-14T02:00Z,\n"
        "2026-01-14T01:00Z,2026-01-14T05:00Z,,10,2026-01-14T03:00Z,2026-01-14T04:00Z\n"
        "2026-01-14T01:00Z,2026-01-14T05:00Z,50,,2026-01-14T02:00Z,\n"
    )
    assert [one.envelope.limits for one in read_envelopes(path)] == [
        SiteLimits(None, 10.0),
        SiteLimits(50.0),
        SiteLimits(30.0),
    ]
    assert read_envelopes(path)[0].span == (START + 3 * HOUR, START + 4 * HOUR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,end\n", "told.csv:1: needs the columns start, end, action; there is no action"),
        ("", "told.csv:1: needs the columns start, end, action; there is no start"),
        ("start,end,action\n2026-01-14T01:00Z,2026-01-14T01:00Z,x\n", "told.csv:2: ends at 2026-01-14T01:00Z"),
        ("start,end,action\nnow,2026-01-14T01:00Z,x\n", "told.csv:2: Invalid isoformat string: 'now'"),
        ("start,end,action\n2026-01-14T01:00Z,2026-01-14T02:00Z, \n", "told.csv:2: no action"),
        ("start,end,action\n2026-01-14T01:00Z\n", "told.csv:2: has 1 cells, its header 3"),
    ],
)
def test_wrong_files_are_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "told.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_dispatch(path)
    assert message in str(caught.value)
