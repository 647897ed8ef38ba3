"""Settlement periods on ordinary and clock-change days."""

import itertools
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.model import SETTLEMENT_PERIOD, SettlementPeriod, period_start, periods_in_day, settlement_period

CLOCK_CHANGE_DAYS = {date(2026, 3, 29): 46, date(2026, 10, 25): 50, date(2026, 6, 1): 48, date(2024, 2, 29): 48}


@pytest.mark.parametrize(("day", "count"), CLOCK_CHANGE_DAYS.items())
def test_a_day_has_46_48_or_50_periods_that_join_up(day: date, count: int) -> None:
    assert periods_in_day(day) == count
    periods = [SettlementPeriod(day, number) for number in range(1, count + 1)]
    assert all(a.end == b.start for a, b in itertools.pairwise(periods))
    assert periods[-1].end == SettlementPeriod(day + timedelta(days=1), 1).start


def test_the_hour_that_comes_twice_has_periods_of_its_own() -> None:
    first, second = datetime(2026, 10, 25, 0, 15, tzinfo=UTC), datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    assert settlement_period(first).number == 3
    assert settlement_period(second).number == 5


def test_a_summer_day_starts_at_2300_utc_of_the_day_before() -> None:
    assert settlement_period(datetime(2026, 6, 30, 23, 0, tzinfo=UTC)) == SettlementPeriod(date(2026, 7, 1), 1)


def test_a_number_beyond_the_day_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.46"):
        SettlementPeriod(date(2026, 3, 29), 47)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2049, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - st adds UTC
def test_every_instant_is_inside_its_period(instant: datetime) -> None:
    period = settlement_period(instant)
    assert period.start <= instant < period.end
    assert period.start == period_start(instant)
    assert period.end - period.start == SETTLEMENT_PERIOD
