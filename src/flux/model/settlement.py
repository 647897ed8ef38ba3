"""Settlement periods: the half hours of the GB local day.

2026-03-29T00:30Z is SP 2 and 2026-03-29T01:00Z is SP 3 of a day with 46; the autumn change has 50.
A period is counted in UTC from local midnight, so the hour that comes twice has periods of its own.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

SETTLEMENT_PERIOD = timedelta(minutes=30)
GB_TIMEZONE = ZoneInfo("Europe/London")
_INTO_PERIOD = tuple(timedelta(minutes=minute % 30) for minute in range(60))


@dataclass(frozen=True, slots=True, order=True)
class SettlementPeriod:
    """One half hour: ``number`` counts from 1 at local midnight of ``day``; ``start`` is in UTC, the end exclusive."""

    day: date
    number: int

    def __post_init__(self) -> None:
        count = periods_in_day(self.day)
        if not 1 <= self.number <= count:
            raise ValueError(f"settlement period {self.number} is outside 1..{count} of {self.day}")

    @property
    def start(self) -> datetime:
        return _midnight_utc(self.day) + (self.number - 1) * SETTLEMENT_PERIOD

    @property
    def end(self) -> datetime:
        return self.start + SETTLEMENT_PERIOD


def settlement_period(instant: datetime) -> SettlementPeriod:
    """The settlement period that contains ``instant`` (aware, any zone)."""
    local_day = instant.astimezone(GB_TIMEZONE).date()
    return SettlementPeriod(local_day, (instant - _midnight_utc(local_day)) // SETTLEMENT_PERIOD + 1)


def periods_in_day(day: date) -> int:
    """46 on the day the clocks go forward, 50 when they go back, else 48."""
    return (_midnight_utc(day + timedelta(days=1)) - _midnight_utc(day)) // SETTLEMENT_PERIOD


def period_start(instant: datetime) -> datetime:
    """The start, in UTC, of the half hour that contains ``instant``; GB clock changes never split one."""
    utc = instant.astimezone(UTC)
    into = _INTO_PERIOD[utc.minute]  # asked in each cycle: much faster than replacing minute, second and microsecond
    if utc.second or utc.microsecond:
        into += timedelta(seconds=utc.second, microseconds=utc.microsecond)
    return utc - into


def _midnight_utc(day: date) -> datetime:
    return datetime.combine(day, time(), GB_TIMEZONE).astimezone(UTC)
