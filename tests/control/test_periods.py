"""Local times of day and the instants they mean, clock changes and midnight included."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.control.kit import at

from flux.control.periods import PeriodConfig, Timetable, Window, instant_of, overlap
from flux.control.zones import holidays_of

LONDON = ZoneInfo("Europe/London")


def period(start: str, end: str, days: Any = "all", **more: Any) -> PeriodConfig:
    return PeriodConfig.model_validate({"days": days, "start": start, "end": end, **more})


def seconds(clock: str) -> int:
    return sum(int(part) * size for part, size in zip(clock.split(":"), (3600, 60, 1), strict=False))


def timetable(*periods: PeriodConfig, holidays: str | None = None) -> Timetable:
    is_holiday = holidays_of(holidays) if holidays else lambda _day: False
    return Timetable(periods, LONDON, is_holiday)


def holds(table: Timetable, *times: str) -> list[bool]:
    return [table.holding(at(time)) is not None for time in times]


def test_a_period_is_half_open() -> None:
    table = timetable(period("16:00", "21:00"))
    assert holds(table, "2026-01-15 15:59:59.999999", "2026-01-15 16:00", "2026-01-15 20:59:59.999999") == [
        False,
        True,
        True,
    ]
    assert holds(table, "2026-01-15 21:00") == [False]


def test_local_time_is_meant() -> None:
    assert holds(timetable(period("16:00", "17:00")), "2026-07-15 15:00", "2026-07-15 16:00") == [True, False]


def test_a_whole_day_joins_the_next() -> None:
    table = timetable(period("00:00", "24:00"))
    assert holds(table, "2026-01-15 23:59:59.999999", "2026-01-16 00:00") == [True, True]
    window = table.holding(at("2026-01-16 00:00"))
    assert window == Window(at("2026-01-16 00:00"), at("2026-01-17 00:00"), 0)


def test_seconds_count() -> None:
    table = timetable(period("16:00:30", "16:00:45"))
    assert holds(table, "2026-01-15 16:00:29", "2026-01-15 16:00:30", "2026-01-15 16:00:45") == [False, True, False]


def test_the_last_second_of_an_hour_is_a_time_of_day() -> None:
    assert period("15:59:59", "23:59:59").start == 57_599


def test_a_period_across_midnight_belongs_to_the_day_it_starts_on() -> None:
    table = timetable(period("22:00", "02:00", ["fri"]))  # 2026-01-16 is a Friday
    assert holds(table, "2026-01-16 01:00", "2026-01-16 22:00", "2026-01-17 01:59", "2026-01-17 02:00") == [
        False,
        True,
        True,
        False,
    ]
    assert holds(table, "2026-01-17 22:00") == [False]
    window = table.holding(at("2026-01-17 01:00"))
    assert window is not None
    assert (window.start, window.end) == (at("2026-01-16 22:00"), at("2026-01-17 02:00"))


def test_an_end_at_0000_is_the_next_midnight() -> None:
    table = timetable(period("22:00", "00:00"))
    assert holds(table, "2026-01-16 23:59", "2026-01-17 00:00") == [True, False]


# 2026-03-29: 00:59:59 GMT is followed by 02:00 BST at 01:00Z


@pytest.mark.parametrize(
    ("clock", "instant"),
    [
        ("00:30", "2026-03-29 00:30"),
        ("01:00", "2026-03-29 01:00"),
        ("01:30", "2026-03-29 01:00"),
        ("01:59:59", "2026-03-29 01:00"),
        ("02:00", "2026-03-29 01:00"),
        ("02:30", "2026-03-29 01:30"),
        ("24:00", "2026-03-29 23:00"),
    ],
)
def test_a_time_that_the_clocks_skip_is_the_instant_of_the_change(clock: str, instant: str) -> None:
    assert instant_of(date(2026, 3, 29), seconds(clock), LONDON) == at(instant)


# 2026-10-25: 01:59:59 BST is followed by 01:00 GMT at 01:00Z


@pytest.mark.parametrize(
    ("clock", "instant"),
    [
        ("00:30", "2026-10-24 23:30"),
        ("01:00", "2026-10-25 00:00"),
        ("01:30", "2026-10-25 00:30"),
        ("01:59:59", "2026-10-25 00:59:59"),
        ("02:00", "2026-10-25 02:00"),
    ],
)
def test_a_time_that_comes_twice_is_its_first_coming(clock: str, instant: str) -> None:
    assert instant_of(date(2026, 10, 25), seconds(clock), LONDON) == at(instant)


@pytest.mark.parametrize(
    ("zone", "day", "clock", "instant"),
    [
        ("Africa/Cairo", date(2026, 4, 24), "00:00", "2026-04-23 22:00"),  # midnight itself is skipped
        ("Africa/Cairo", date(2026, 4, 23), "24:00", "2026-04-23 22:00"),
        ("Australia/Lord_Howe", date(2026, 10, 4), "02:15", "2026-10-03 15:30"),  # half an hour is skipped
        ("Pacific/Apia", date(2011, 12, 30), "12:00", "2011-12-30 10:00"),  # a whole day is skipped
    ],
)
def test_clock_changes_elsewhere(zone: str, day: date, clock: str, instant: str) -> None:
    assert instant_of(day, seconds(clock), ZoneInfo(zone)) == at(instant)


def test_a_period_that_the_clocks_skip_whole_never_holds() -> None:
    table = timetable(period("01:15", "01:45"))
    assert holds(table, "2026-03-29 00:59:59", "2026-03-29 01:00", "2026-03-29 01:20") == [False, False, False]
    assert holds(table, "2026-03-28 01:20") == [True]


def test_a_period_in_the_hour_that_comes_twice_holds_once() -> None:
    table = timetable(period("01:15", "01:45"))
    assert holds(table, "2026-10-25 00:15", "2026-10-25 00:45", "2026-10-25 01:15") == [True, False, False]


def test_a_period_across_the_autumn_change_is_an_hour_longer() -> None:
    window = timetable(period("01:00", "02:00")).holding(at("2026-10-25 01:30"))
    assert window == Window(at("2026-10-25 00:00"), at("2026-10-25 02:00"), 0)


def test_a_night_over_the_spring_change_is_an_hour_shorter() -> None:
    window = timetable(period("22:00", "06:00")).holding(at("2026-03-29 03:00"))
    assert window == Window(at("2026-03-28 22:00"), at("2026-03-29 05:00"), 0)


def test_a_whole_local_day_has_23_or_25_hours() -> None:
    table = timetable(period("00:00", "24:00"))
    lengths = [w.end - w.start for w in table.windows(date(2026, 3, 29), date(2026, 3, 29))]
    lengths += [w.end - w.start for w in table.windows(date(2026, 10, 25), date(2026, 10, 25))]
    assert lengths == [timedelta(hours=23), timedelta(hours=25)]


def test_a_period_may_carry_its_own_time_zone() -> None:
    table = timetable(period("09:00", "10:00", timezone="Asia/Tokyo"))
    assert holds(table, "2026-01-15 00:00", "2026-01-15 09:00") == [True, False]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_zones_far_from_utc_find_their_day(zone: str) -> None:
    table = Timetable([period("23:00", "22:59", ["wed"])], ZoneInfo(zone), lambda _day: False)
    start = datetime(2026, 1, 14, 23, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # a Wednesday
    assert [table.holding(start + timedelta(hours=h)) is not None for h in (-1, 0, 23, 24)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_holiday_is_a_day_of_the_weekend() -> None:
    boxing_day_observed = "2026-12-28 12:00"  # a Monday
    weekdays, weekends = period("00:00", "24:00", "weekdays"), period("00:00", "24:00", "weekends")
    assert holds(timetable(weekdays), boxing_day_observed) == [True]
    assert holds(timetable(weekdays, holidays="GB-ENG"), boxing_day_observed) == [False]
    assert holds(timetable(weekends, holidays="GB-ENG"), boxing_day_observed) == [True]
    assert holds(timetable(period("00:00", "24:00", ["monday"]), holidays="GB-ENG"), boxing_day_observed) == [True]


def test_the_first_period_that_holds_counts() -> None:
    table = timetable(period("02:00", "05:00"), period("04:00", "06:00"))
    ends = [window.end for t in ("04:30", "05:00") if (window := table.holding(at(f"2026-01-15 {t}")))]
    assert ends == [at("2026-01-15 05:00"), at("2026-01-15 06:00")]


def test_next_start_is_strictly_ahead_and_within_a_day() -> None:
    table = timetable(period("17:00", "19:00", "weekdays"))
    friday, monday = at("2026-01-16 17:00"), at("2026-01-19 17:00")
    assert [w.start for w in [table.next_start(friday - timedelta(hours=24))] if w] == [friday]
    assert table.next_start(friday - timedelta(hours=24, seconds=1)) == table.next_start(
        friday - timedelta(days=1, hours=23)
    )
    assert table.next_start(friday) is None
    assert [w.start for w in [table.next_start(monday - timedelta(seconds=1))] if w] == [monday]


def test_next_start_looks_over_the_end_of_the_utc_day() -> None:
    table = timetable(period("01:00", "02:00"))
    window = table.next_start(at("2026-01-15 23:59"))
    assert window is not None
    assert window.start == at("2026-01-16 01:00")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"start": "17:00", "end": "17:00"}, "end must differ from start"),
        ({"start": "24:00", "end": "02:00"}, "can't start at 24:00"),
        ({"start": "24:01", "end": "02:00"}, "from 00:00 to 24:00"),
        ({"start": "12:60", "end": "13:00"}, "from 00:00 to 24:00"),
        ({"start": "7:00", "end": "13:00"}, "write it like 17:00"),
        ({"start": "17:00", "end": "19:00", "days": "weekday"}, "all, weekdays, weekends"),
        ({"start": "17:00", "end": "19:00", "days": []}, "never holds"),
        ({"start": "17:00", "end": "19:00", "days": ["mon", "funday"]}, "'funday' is not a day"),
        ({"start": "17:00", "end": "19:00", "timezone": "Europe/Londn"}, "did you mean 'Europe/London'"),
        ({"start": "17:00", "end": "19:00", "timezone": "../etc"}, "unknown time zone"),
    ],
)
def test_an_impossible_period_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PeriodConfig.model_validate(data)


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        (period("10:00", "14:00"), period("12:00", "16:00"), True),
        (period("10:00", "12:00"), period("12:00", "16:00"), False),
        (period("10:00", "14:00", "weekdays"), period("12:00", "16:00", "weekends"), False),
        (period("22:00", "02:00", ["sun"]), period("01:00", "03:00", ["mon"]), True),
        (period("22:00", "02:00", ["mon"]), period("01:00", "03:00", ["mon"]), False),
        (period("00:00", "24:00", ["sat"]), period("17:00", "19:00", "weekends"), True),
        (period("16:00", "21:00"), period("16:30", "17:00", timezone="UTC"), True),
        (period("16:00", "17:00"), period("16:00", "17:00", timezone="America/New_York"), False),
        (period("17:00", "18:00"), period("16:00", "17:00", timezone="UTC"), True),  # in summer
        (period("17:00", "18:00"), period("18:00", "19:00", timezone="UTC"), False),
        (period("23:00", "01:00", ["sat"]), period("00:30", "02:00", ["sun"], timezone="UTC"), True),  # in winter
    ],
)
def test_overlaps_are_found(first: PeriodConfig, second: PeriodConfig, meet: bool) -> None:
    assert overlap([first, second], LONDON) == ((0, 1) if meet else None)
    assert overlap([second, first], LONDON) == ((0, 1) if meet else None)


CLOCKS = st.integers(0, 86_399)
INSTANTS = st.datetimes(datetime(2026, 3, 20), datetime(2026, 11, 5), timezones=st.just(UTC))  # noqa: DTZ001


@given(CLOCKS, CLOCKS, st.sets(st.integers(0, 6), min_size=1), INSTANTS)
def test_a_timetable_agrees_with_the_wall_clock(start: int, end: int, days: set[int], now: datetime) -> None:
    """Against local wall time read off the clock, on days without a change (where the two are the same thing)."""
    local = now.astimezone(LONDON)
    changes = {date(2026, 3, 28), date(2026, 3, 29), date(2026, 3, 30), *(date(2026, 10, d) for d in (24, 25, 26))}
    if start == end or local.date() in changes:
        return
    entry = PeriodConfig(days=tuple(days), start=start, end=end)
    clock = (local.replace(tzinfo=None) - datetime.combine(local.date(), datetime.min.time())).total_seconds()
    today, yesterday = local.weekday() in days, (local.weekday() - 1) % 7 in days
    over_midnight = (today and clock >= start) or (yesterday and clock < end)
    expected = today and start <= clock < end if start < end else over_midnight
    window = timetable(entry).holding(now)
    assert (window is not None) is expected
    if window is not None:
        assert window.start <= now < window.end


@given(st.lists(st.tuples(CLOCKS, CLOCKS).filter(lambda p: p[0] != p[1]), min_size=1, max_size=3), INSTANTS)
def test_what_was_asked_before_changes_no_answer(spans: list[tuple[int, int]], now: datetime) -> None:
    periods = [PeriodConfig(start=a, end=b) for a, b in spans]
    used, fresh = timetable(*periods), timetable(*periods)
    for days in (-1, 0, 1, 40):
        used.holding(now + timedelta(days=days))
    assert used.holding(now) == fresh.holding(now)
    assert used.next_start(now) == fresh.next_start(now)
