"""How often something was done, by UTC day: register writes wear out a device's memory."""

from datetime import date, datetime


class DailyCount:
    """Counts of today and of the day before, per UTC day."""

    def __init__(self) -> None:
        self._day: date | None = None
        self._today = 0
        self._yesterday = 0

    def add(self, count: int, now: datetime) -> None:
        """``now`` is aware, in UTC."""
        self._turn_to(now.date())
        self._today += count

    def today(self, now: datetime) -> int:
        self._turn_to(now.date())
        return self._today

    def yesterday(self, now: datetime) -> int:
        self._turn_to(now.date())
        return self._yesterday

    def go_on_from(self, day: date, count: int) -> None:
        """Take up what was counted on ``day`` before this process began."""
        if self._day is None:
            self._day, self._today = day, count

    def _turn_to(self, day: date) -> None:
        if self._day is not None and day > self._day:
            self._yesterday = self._today if (day - self._day).days == 1 else 0
            self._today = 0
        if self._day is None or day > self._day:
            self._day = day
