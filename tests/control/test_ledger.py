"""Kept decisions: inputs come back exactly, and replaying them gives the same decision."""

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.control.kit import SAMPLE, plan_of, state
from tests.control.test_properties import any_number, plans, states

from flux.config import YamlDocument
from flux.control.decide import decide
from flux.control.ledger import (
    BatteryCommand,
    Fault,
    KeptDecision,
    differences,
    is_news,
    is_stale,
    keep,
    plan_of_text,
    plan_text,
    replay_kept,
)
from flux.control.plan import ControllerPlan, parse_plan, plan_hash
from flux.control.state import Cause, CycleState, FullDischarge, Measurement, Memory, Stop
from flux.control.state_json import decode_state, encode_state
from flux.model import DeviceId

BESS = DeviceId(UUID(int=2))


@st.composite
def kept_states(draw: st.DrawFn) -> CycleState:
    """Wild states with memory, a stop and a timeout as well."""
    base = draw(states(wild=True))
    moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
    begun = st.builds(FullDischarge, st.integers(0, 9), moments, st.sampled_from(Cause))
    return dataclasses.replace(
        base,
        memory=Memory(tuple(draw(st.lists(begun, max_size=2)))),
        stop=draw(st.none() | st.builds(Stop, st.text(), moments)),
        command_timeout=draw(st.none() | st.timedeltas(timedelta(), timedelta(days=100))),
    )


def through_json(body: dict[str, Any]) -> dict[str, Any]:
    """As jsonb gives it back: no not-a-number, no −0, whole numbers without a point."""
    text = json.dumps(body, allow_nan=False)

    def number(digits: str) -> float | int:
        value = float(digits)
        return int(value) if value.is_integer() else value

    read: dict[str, Any] = json.loads(text, parse_float=number)
    return read


def in_full(value: object) -> str:
    """For comparing: not-a-number is not equal to itself, and a fold says nothing in UTC."""
    return repr(value).replace(" fold=1,", "")


@settings(max_examples=150, deadline=None)
@given(kept_states())
def test_a_state_comes_back_exactly(one: CycleState) -> None:
    assert in_full(decode_state(through_json(encode_state(one)))) == in_full(one)


@settings(max_examples=100, deadline=None)
@given(plans(), kept_states())
def test_replaying_a_kept_decision_gives_the_same(plan: ControllerPlan, one: CycleState) -> None:
    decision = decide(plan, one)
    text = plan_text(plan)
    kept = keep(decision, one, device_id=BESS, hash_of_plan=text.hash)
    again = replay_kept(plan_of_text(json.loads(text.body)), through_json(dict(kept.inputs)))
    assert in_full(again) == in_full(decision)
    assert differences(as_row(kept), again) == []


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_plan_comes_back_with_its_hash(plan: ControllerPlan) -> None:
    text = plan_text(plan)
    back = plan_of_text(json.loads(text.body, parse_constant=refuse))
    assert plan_hash(back) == text.hash == plan_hash(plan)


@given(any_number)
def test_every_float_survives(value: float) -> None:
    one = dataclasses.replace(
        state("2026-01-15 12:00", 1, 2), soe_kwh=Measurement(value, datetime(2026, 1, 1, tzinfo=UTC))
    )
    back = decode_state(through_json(encode_state(one))).soe_kwh
    assert back is not None
    assert repr(back.value) == repr(value)


def as_row(kept: KeptDecision) -> dict[str, Any]:
    """As the database has it: arrays are lists."""
    row = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


NOON = state("2026-01-15 12:00", 210, 35)
PLAN = plan_of("import_avoidance")


def kept_at(one: CycleState = NOON, faults: tuple[Fault, ...] = ()) -> KeptDecision:
    return keep(decide(PLAN, one), one, device_id=BESS, hash_of_plan="h", faults=faults)


def news(one: CycleState, before: KeptDecision | None = None, faults: tuple[Fault, ...] = ()) -> bool:
    decision = decide(PLAN, one)
    return is_news(before or kept_at(), decision, is_stale(decision, one), faults)


def later(seconds: float, soe_kwh: float = 210, site_kw: float = 35) -> CycleState:
    time = NOON.time + timedelta(seconds=seconds)
    return dataclasses.replace(
        NOON, time=time, soe_kwh=Measurement(soe_kwh, time), site_power=Measurement(site_kw, time)
    )


def test_ages_can_be_read() -> None:
    one = dataclasses.replace(NOON, site_power=Measurement(35.0, NOON.time - timedelta(seconds=2.5)))
    assert encode_state(one)["site_power"] == {"value": 35.0, "time": "2026-01-15T11:59:57.500000+00:00", "age_s": 2.5}
    assert "market" not in encode_state(one), "what is as by default takes no room"


def test_the_same_decision_within_a_minute_is_no_news() -> None:
    assert not news(later(4))
    assert not news(later(59.9, site_kw=35.01))
    assert news(later(60)), "once a minute"
    assert news(later(-4)), "a clock set back begins another minute"


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(later(4, site_kw=35.02), id="power"),
        pytest.param(later(4, site_kw=-5), id="mode has no target"),
        pytest.param(later(4, soe_kwh=0), id="a limit"),
        pytest.param(dataclasses.replace(later(4), soe_kwh=None), id="stale"),
        pytest.param(dataclasses.replace(later(4), stop=Stop("in maintenance", later(4).time)), id="stopped"),
    ],
)
def test_what_is_news_within_a_minute(one: CycleState) -> None:
    assert news(one)


def test_a_fault_is_news_when_it_comes_and_when_it_goes() -> None:
    fault = Fault("not_acknowledged", "WLCE-BESS-01", NOON.time, "12.0 kW was not acknowledged")
    assert news(later(4), faults=(fault,))
    assert news(later(4), before=kept_at(faults=(fault,)))
    other_words = dataclasses.replace(fault, words="14.0 kW was not acknowledged")
    assert not news(later(4), before=kept_at(faults=(fault,)), faults=(other_words,)), "it is still the same fault"
    again = dataclasses.replace(fault, since=later(2).time)
    assert news(later(4), before=kept_at(faults=(fault,)), faults=(again,)), "it went and came back meanwhile"


def told(asked_kw: float | None, acknowledged_kw: float | None, battery: str = "WLCE-BESS-01") -> BatteryCommand:
    return BatteryCommand(battery, asked_kw, False, acknowledged_kw, None if acknowledged_kw is None else NOON.time)


@pytest.mark.parametrize(
    ("now", "is_new"),
    [
        pytest.param(told(35.0, 35.0), False, id="the same"),
        pytest.param(told(20.0, 35.0), True, id="damped"),
        pytest.param(told(35.0, 20.0), True, id="another acknowledged"),
        pytest.param(told(35.0, None), True, id="given up"),
        pytest.param(told(None, 35.0), True, id="nothing asked"),
        pytest.param(told(35.0, 35.0, "WLCE-BESS-02"), True, id="another battery"),
    ],
)
def test_what_a_battery_was_told_is_news(now: BatteryCommand, is_new: bool) -> None:
    before = keep(decide(PLAN, NOON), NOON, device_id=BESS, hash_of_plan="h", commands=[told(35.0, 35.0)])
    one = later(4)
    assert is_news(before, decide(PLAN, one), False, (), [now]) is is_new
    assert before.sent_power_kw == 35.0


def test_power_creeps_away_from_what_was_kept_last() -> None:
    before = kept_at()
    assert [news(later(4 * n, site_kw=35 + 0.004 * n), before) for n in range(1, 5)] == [False, False, True, True]


def test_only_missing_readings_are_stale() -> None:
    assert not kept_at().stale
    assert kept_at(dataclasses.replace(NOON, site_power=None)).stale
    assert not kept_at(dataclasses.replace(NOON, site_power=None, stop=Stop("stopped", NOON.time))).stale


@pytest.mark.parametrize(
    "body", [{}, {"time": 5}, {"time": "2026-01-15T12:00:00+00:00", "site_power": 3}, {"time": "x"}]
)
def test_what_is_no_state_is_told(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the state of a control cycle"):
        decode_state(body)


def test_a_changed_outcome_is_named() -> None:
    kept = as_row(kept_at())
    other = decide(plan_of("fixed, power_kw: 3, until: 2027-01-01T00:00Z"), NOON)
    assert differences(kept, other) == ["target_power_kw", "command_source", "active", "effective", "reason"]
    assert math.isclose(kept["target_power_kw"], 35.0)


def test_the_sample_plan_is_found_again() -> None:
    plan = parse_plan(YamlDocument(SAMPLE, "site.yaml"))
    text = plan_text(plan)
    assert plan_of_text(json.loads(text.body)) == plan
    assert parse_plan(YamlDocument(text.body, "kept.json")) == plan, "JSON is YAML: a kept plan can be replayed"
