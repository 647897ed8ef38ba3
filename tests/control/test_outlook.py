"""What the market state says, minute by minute, and when it says nothing."""

import math
from datetime import timedelta

import pytest
from tests.control.kit import at

from flux.control.cycle import Cycle
from flux.control.outlook import GuessConfig, outlook
from flux.control.state import MarketPair, MarketState, Memory
from flux.model import period_start

GUESS = GuessConfig(guess=True, min_niv_mw=100, cutoff=timedelta(minutes=15))
NEVER = GuessConfig()


def cycle(time: str, *pairs: tuple[str, float, float]) -> Cycle:
    now = at(f"2026-01-15 {time}")
    start = period_start(now)
    state = MarketState(tuple(MarketPair(at(f"2026-01-15 {sp}"), price, niv) for sp, price, niv in pairs))
    return Cycle(now, 100, 0, 105, start, now - start, state, (), Memory())


def seen(
    time: str, *pairs: tuple[str, float, float], short: GuessConfig = GUESS, long: GuessConfig = GUESS
) -> str | None:
    found = outlook(cycle(time, *pairs), short=short, long=long)
    return found.in_words() if found else None


OWN, BEFORE = ("17:00", 90.0, 50.0), ("16:30", 90.0, 180.0)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("17:09:59.999999", None),
        ("17:10", "system short by 50 MW"),
        ("17:29:59", "system short by 50 MW"),
        ("17:30", None),  # 50 MW is below the 100 MW asked of a guess
        ("18:00", None),
    ],
)
def test_the_periods_own_pair_counts_from_ten_minutes_on(time: str, words: str | None) -> None:
    assert seen(time, OWN) == words


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("17:00", "system short by 180 MW (guess)"),
        ("17:14:59.999999", "system short by 180 MW (guess)"),
        ("17:15", None),  # strictly below the cutoff
        ("16:45", "system short by 180 MW"),
    ],
)
def test_the_pair_before_is_a_guess_until_the_cutoff(time: str, words: str | None) -> None:
    assert seen(time, BEFORE) == words


def test_the_own_pair_goes_before_the_guess() -> None:
    assert seen("17:12", BEFORE, OWN) == "system short by 50 MW"
    assert seen("17:05", BEFORE, OWN) == "system short by 180 MW (guess)"


def test_a_guess_is_allowed_by_direction() -> None:
    long = ("16:30", 90.0, -180.0)
    assert seen("17:05", BEFORE, short=NEVER) is None
    assert seen("17:05", long, short=NEVER) == "system long by 180 MW (guess)"
    assert seen("17:05", long, long=NEVER) is None


@pytest.mark.parametrize(("niv", "usable"), [(100, True), (99.9, False), (-100, True), (-99.9, False)])
def test_a_guess_needs_a_large_niv(niv: float, usable: bool) -> None:
    assert (seen("17:05", ("16:30", 90.0, niv)) is not None) is usable


def test_a_balanced_system_is_neither_short_nor_long() -> None:
    own = outlook(cycle("17:15", ("17:00", 90.0, 0.0)), short=GUESS, long=GUESS)
    assert own is not None
    assert (own.short, own.long, own.in_words()) == (False, False, "system balanced")
    no_minimum = GuessConfig(guess=True, cutoff=timedelta(minutes=30))
    assert seen("17:05", ("16:30", 90.0, 0.0), short=no_minimum, long=no_minimum) is None


@pytest.mark.parametrize("pair", [("17:00", math.nan, 50.0), ("17:00", 90.0, math.inf)])
def test_no_number_is_no_pair(pair: tuple[str, float, float]) -> None:
    assert seen("17:15", pair) is None
    assert seen("17:15", OWN, pair) == "system short by 50 MW"


def test_a_pair_of_another_time_says_nothing() -> None:
    assert seen("17:15", ("16:00", 90.0, 500.0), ("17:30", 90.0, 500.0)) is None
