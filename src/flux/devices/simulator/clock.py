"""The time of a simulated site: the real one, or one that runs at another speed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flux.errors import InputError

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The real time, aware UTC."""
    return datetime.now(UTC)


class SimClock:
    """A clock that shows ``start`` when it is made and from then on runs ``speed`` times as fast as the wall's.

    Call it for the time. Give the same object to an edge runtime and both live in the same time. A speed of 0 stands
    still; :meth:`advance` moves it by hand.
    """

    def __init__(self, start: datetime, speed: float = 1.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        if start.tzinfo is None:
            raise InputError(f"the clock's start {start.isoformat()} has no time zone")
        if not 0 <= speed <= 100_000:
            raise InputError(f"speed {speed:g} is outside 0 to 100000")
        self.speed = speed
        self._start = start.astimezone(UTC)
        self._monotonic = monotonic
        self._origin = monotonic()

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=(self._monotonic() - self._origin) * self.speed)

    def advance(self, by: timedelta) -> None:
        """Jump ahead."""
        if by < timedelta():
            raise InputError(f"time does not run backwards: {by}")
        self._start += by
