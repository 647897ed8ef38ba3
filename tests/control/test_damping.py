"""Anti-hunting, apart from any battery."""

from hypothesis import given
from hypothesis import strategies as st

from flux.control.damping import Damping, next_damping


def after(steps: list[float], start: Damping | None = None) -> Damping:
    now = start or Damping()
    for step in steps:
        now = next_damping(now, step)
    return now


def test_one_flip_or_two_are_the_load() -> None:
    assert after([40, -40, 40]).gain == 1


def test_flips_that_go_on_take_the_gain_down() -> None:
    assert after([40, -40, 40, -40]).gain == 0.5
    assert after([40, -40, 40, -40, 40]).gain == 0.25
    assert after([40, -40] * 50).gain == 1 / 32


def test_flips_without_an_echo_are_the_load() -> None:
    now = Damping()
    for step in [40, -40] * 50:
        now = next_damping(now, step, (1, 0.2))
    assert now.gain == 1
    assert next_damping(now, 40, None).gain == 1


def test_without_an_echo_it_is_soon_over() -> None:
    now = after([40, -40] * 50)
    for step in [40, -40] * 15:
        now = next_damping(now, step, (1, 0.1))
    assert now.gain == 1


def test_it_goes_no_lower_than_the_lag_needs() -> None:
    now = Damping()
    for step in [40, -40] * 50:
        now = next_damping(now, step, (1, 1.0))
    assert now.gain == 1 / 4


def test_flips_far_apart_are_the_load() -> None:
    assert after(([40.0] + [0.0] * 40 + [-40.0] + [0.0] * 40) * 10).gain == 1


def test_noise_in_the_dead_band_is_nothing() -> None:
    assert after([0.4, -0.4] * 100).gain == 1


def test_a_load_that_stays_on_one_side_is_followed_again() -> None:
    hunting = after([40, -40] * 5)
    assert hunting.gain < 0.1
    assert after([30.0] * 220, hunting).gain == 1


def test_after_a_quiet_time_it_is_over() -> None:
    hunting = after([40, -40] * 5)
    assert after([0.0] * 5_000, hunting).gain == 1


def test_a_loop_that_hunted_is_damped_at_its_next_flip() -> None:
    calm = after([0.0] * 300, after([40, -40, 40, -40]))
    assert calm.gain == 0.5
    assert after([40], calm).gain == 0.5  # far from the last flips
    assert after([40, -40], calm).gain == 0.25


def test_a_jump_that_is_answered_at_once_shows_that_no_meter_lags_any_more() -> None:
    calm = after([0.0] * 10, after([40, -40, 40, -40, 40]))
    assert calm.gain == 0.25
    assert after([40, 30, 15], calm).gain == 1
    assert after([40, 40, 40], calm).gain == 0.25


@given(st.lists(st.floats(-500, 500), max_size=300))
def test_the_gain_stays_in_its_range(steps: list[float]) -> None:
    assert 1 / 32 <= after(steps).gain <= 1


@given(st.integers(0, 8), st.floats(1, 100))
def test_any_delay_settles(delay: int, load_kw: float) -> None:
    """What the meter shows is ``delay`` cycles old: each step is the load minus an old power."""
    told, damping = [0.0] * (delay + 1), Damping()
    for _ in range(900):
        step = load_kw - told[-1 - delay]
        damping = next_damping(damping, step)
        told.append(told[-1] + damping.gain * step)
    assert all(abs(power - load_kw) <= 2 for power in told[-100:])
