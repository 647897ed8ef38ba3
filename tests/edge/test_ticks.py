"""Ticks on the grid of the wall clock, in virtual time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.edge.fakes import VirtualClock, run_virtual

from flux.edge.ticks import Ticks, tick_after, tick_at_or_before

MINUTE = timedelta(minutes=1)
SOMETIME = datetime(2000, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-15T{text}+00:00")


async def delivered(ticks: Ticks[str], clock: VirtualClock, bodies_s: list[float]) -> list[tuple[str, str]]:
    """What is given for ``bodies_s``: the grid instant and the time it was given, after each body's seconds."""
    given_at = []
    for body_s in bodies_s:
        tick = await ticks.next()
        given_at.append((f"{tick.times['record']:%H:%M:%S}", f"{clock():%H:%M:%S}"))
        await asyncio.sleep(body_s)
    return given_at


def test_ticks_fall_on_the_minute() -> None:
    async def story() -> list[tuple[str, str]]:
        clock = VirtualClock(at("12:00:30.250"))
        return await delivered(Ticks({"record": MINUTE}, clock), clock, [1, 1, 59.9])

    assert run_virtual(story()) == [("12:01:00", "12:01:00"), ("12:02:00", "12:02:00"), ("12:03:00", "12:03:00")]


def test_a_body_that_takes_too_long_skips_and_realigns() -> None:
    async def story() -> tuple[list[tuple[str, str]], int]:
        clock = VirtualClock(at("12:00:30"))
        ticks = Ticks({"record": MINUTE}, clock)
        return await delivered(ticks, clock, [0, 150, 0, 0]), ticks.skipped["record"]

    # the body of 12:02 ends at 12:04:30: 12:03 is skipped, 12:04 is made up for at once, then it is on the minute again
    times, skipped = run_virtual(story())
    assert times == [
        ("12:01:00", "12:01:00"),
        ("12:02:00", "12:02:00"),
        ("12:04:00", "12:04:30"),
        ("12:05:00", "12:05:00"),
    ]
    assert skipped == 1


def test_a_body_slower_than_the_interval_never_drifts_off_the_grid() -> None:
    async def story() -> list[tuple[str, str]]:
        clock = VirtualClock(at("12:00:30"))
        return await delivered(Ticks({"record": MINUTE}, clock), clock, [72.0] * 6)

    assert [tick for tick, _ in run_virtual(story())] == [f"12:0{minute}:00" for minute in (1, 2, 3, 4, 5, 7)]


def test_two_intervals_that_meet_come_as_one_tick() -> None:
    async def story() -> list[tuple[str, frozenset[str]]]:
        clock = VirtualClock(at("12:00:50"))
        ticks = Ticks({"record": MINUTE, "control": timedelta(seconds=4)}, clock)
        given_at = []
        for _ in range(4):
            due = (await ticks.next()).due
            given_at.append((f"{clock():%M:%S}", due))
        return given_at

    control, both = frozenset({"control"}), frozenset({"control", "record"})
    assert run_virtual(story()) == [("00:52", control), ("00:56", control), ("01:00", both), ("01:04", control)]


def test_a_recording_tick_missed_during_a_slow_control_poll_is_made_up_for() -> None:
    async def story() -> list[frozenset[str]]:
        clock = VirtualClock(at("12:00:55"))
        ticks = Ticks({"record": MINUTE, "control": timedelta(seconds=4)}, clock)
        first = (await ticks.next()).due  # 12:00:56
        await asyncio.sleep(6)  # until 12:01:02
        return [first, (await ticks.next()).due]

    assert run_virtual(story()) == [frozenset({"control"}), frozenset({"control", "record"})]


def test_a_clock_set_back_an_hour_does_not_silence_the_device() -> None:
    async def story() -> list[tuple[str, str]]:
        clock = VirtualClock(at("12:00:30"))
        ticks = Ticks({"record": MINUTE}, clock)
        first = await delivered(ticks, clock, [10])
        clock.shift(timedelta(hours=-1))
        return first + await delivered(ticks, clock, [0, 0])

    assert run_virtual(story()) == [("12:01:00", "12:01:00"), ("11:02:00", "11:02:00"), ("11:03:00", "11:03:00")]


def test_a_clock_set_ahead_gives_one_tick_at_once_and_goes_on() -> None:
    async def story() -> list[tuple[str, str]]:
        clock = VirtualClock(at("12:00:30"))
        ticks = Ticks({"record": MINUTE}, clock)
        first = await delivered(ticks, clock, [10])
        clock.shift(timedelta(hours=1))
        return first + await delivered(ticks, clock, [0, 0])

    assert run_virtual(story()) == [("12:01:00", "12:01:00"), ("13:01:00", "13:01:10"), ("13:02:00", "13:02:00")]


def test_a_jump_ahead_while_waiting_is_seen_within_seconds() -> None:
    async def story() -> float:
        clock = VirtualClock(at("12:00:00"))
        ticks = Ticks({"record": timedelta(hours=1)}, clock)
        waiting = asyncio.create_task(ticks.next())
        await asyncio.sleep(60)
        clock.shift(timedelta(hours=2))
        await waiting
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) <= 70


def test_a_step_back_by_half_a_second_does_not_repeat_the_tick() -> None:
    async def story() -> list[tuple[str, str]]:
        clock = VirtualClock(at("12:00:30"))
        ticks = Ticks({"record": MINUTE}, clock)
        first = await delivered(ticks, clock, [0])
        clock.shift(timedelta(seconds=-0.5))
        return first + await delivered(ticks, clock, [0])

    assert run_virtual(story()) == [("12:01:00", "12:01:00"), ("12:02:00", "12:02:00")]


def test_an_interval_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than zero"):
        Ticks({"record": timedelta()}, VirtualClock())


@given(
    st.integers(0, 4_000_000_000_000_000).map(lambda micros: SOMETIME + timedelta(microseconds=micros)),
    st.timedeltas(timedelta(microseconds=1), timedelta(days=1)),
)
def test_the_grid_has_one_instant_in_each_interval(instant: datetime, interval: timedelta) -> None:
    before, after = tick_at_or_before(instant, interval), tick_after(instant, interval)
    assert before <= instant < after
    assert after - before == interval
    assert tick_at_or_before(before, interval) == before
