"""Whether the site answers to the load or to the battery's own moves."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from flux.control.echo import Echo, listen

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
STEP = timedelta(seconds=4)


def listened(lag: int, load: random.Random, cycles: int = 100, noise_kw: float = 0.0, gain: float = 1.0) -> Echo:
    """A battery that follows a load that jumps every 5 cycles; the grid meter is ``lag`` cycles behind."""
    echo, load_kw, powers = Echo(), 30.0, [0.0] * 10
    for cycle in range(cycles):
        if cycle % 5 == 0:
            load_kw += load.gauss(0, 5)
        rest_kw = load_kw + powers[-1] - powers[-1 - lag] + load.gauss(0, noise_kw)
        echo = listen(echo, START + cycle * STEP, STEP, rest_kw, powers[-1])
        powers.append(min(max(powers[-1] + gain * (rest_kw - powers[-1]), -100), 100))
    return echo


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_a_meter_that_lags_is_heard_with_its_delay(lag: int, gain: float) -> None:
    heard = listened(lag, random.Random(1), gain=gain).heard
    assert heard is not None
    assert heard[0] == lag
    assert heard[1] == pytest.approx(1.0, abs=0.4 if gain < 1 else 0.15)


@pytest.mark.parametrize("seed", range(20))
def test_a_load_that_jumps_is_no_echo(seed: int) -> None:
    heard = listened(0, random.Random(seed), noise_kw=0.3).heard
    assert heard is not None
    assert -0.75 < heard[1] < 0.6


def test_of_a_battery_that_rests_nothing_is_known() -> None:
    echo = Echo()
    for cycle in range(50):
        echo = listen(echo, START + cycle * STEP, STEP, 40.0 + cycle % 7, 12.0)
    assert echo.heard is None


def test_after_a_gap_it_begins_with_new_moves_and_keeps_what_it_heard() -> None:
    before = listened(2, random.Random(1))
    assert before.at is not None
    after = listen(before, before.at + timedelta(minutes=5), STEP, 500.0, -100.0)
    assert after.sums == before.sums
    assert after.battery_kw == (-100.0,)
    assert listen(before, before.at - STEP, STEP, 500.0, -100.0).sums == before.sums, "a clock that was set back"
