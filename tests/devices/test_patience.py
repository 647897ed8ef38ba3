"""How long a unit is waited for, and how often one that is dead is tried."""

from hypothesis import given
from hypothesis import strategies as st

from flux.devices.patience import LAST_PROBE_S, UnitState


def test_an_unknown_unit_gets_half_a_second_and_more_each_time() -> None:
    unit = UnitState()
    waits = []
    for _ in range(5):
        waits.append(unit.patience_s(5.0))
        unit.went_silent(waits[-1])
    assert waits == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert UnitState().patience_s(0.2) == 0.2


def test_a_known_unit_gets_several_times_its_slowest_answer() -> None:
    unit = UnitState()
    unit.answered(0.3)
    unit.answered(0.01)
    assert 2.3 < unit.patience_s(5.0) < 2.4
    assert unit.patience_s(1.0) == 1.0
    quick = UnitState()
    quick.answered(0.002)
    assert quick.patience_s(5.0) == 0.5
    for _ in range(1000):
        unit.answered(0.01)
    assert unit.patience_s(5.0) == 0.5  # what was slow once is forgotten


def test_dead_only_after_a_whole_request_and_three_silent_tries() -> None:
    unit = UnitState()
    unit.went_silent(0.1)
    assert not unit.given_up(now=10.0, alone=False)
    assert unit.blocked_s(10.0) == 0
    unit.went_silent(0.1)
    unit.went_silent(0.1)
    assert unit.given_up(now=20.0, alone=False)  # news
    assert unit.blocked_s(20.25) == 0.75
    assert not unit.given_up(now=30.0, alone=False)  # known
    assert unit.answered(0.1)
    assert unit.blocked_s(30.0) == 0
    assert not unit.answered(0.1)


def test_a_unit_with_a_connection_of_its_own_is_tried_every_second() -> None:
    unit = UnitState()
    for _ in range(10):
        unit.went_silent(5.0)
        unit.given_up(now=100.0, alone=True)
    assert unit.blocked_s(100.0) == 1.0


def test_a_slow_unit_is_given_more_with_each_try_and_then_what_it_takes() -> None:
    unit = UnitState()
    unit.answered(0.01)
    waits = []
    for _ in range(4):
        waits.append(unit.patience_s(5.0))
        unit.went_silent(waits[-1])
    assert waits == [0.5, 1.0, 2.0, 2.0]
    unit.took(3.0)  # late
    assert unit.patience_s(5.0) == 5.0


@given(waited_s=st.floats(0.01, 10.0), probes=st.integers(1, 20))
def test_pauses_grow_to_a_cap_and_take_ten_times_the_wait(waited_s: float, probes: int) -> None:
    unit, now, pauses = UnitState(), 0.0, []
    for _ in range(3):
        unit.went_silent(waited_s)
    for _ in range(probes):
        unit.given_up(now, alone=False)
        pauses.append(round(unit.blocked_s(now), 6))
        now = unit.probe_at + waited_s
        unit.went_silent(waited_s)
    assert pauses == sorted(pauses)
    assert max(pauses) <= LAST_PROBE_S
    assert all(pause >= min(LAST_PROBE_S, 10 * waited_s) - 1e-6 for pause in pauses)
