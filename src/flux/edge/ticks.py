"""Ticks on the wall-clock grid: late ones are skipped and realigned, never drifted.

With an interval of 60 s the ticks are the full minutes. A body that takes 150 s after the tick of 12:00 gets the tick
of 12:02 at once (12:01 is skipped and counted) and the next one at 12:03. When the wall clock is set back, waiting for
an instant that is now far away would silence a device; the ticks realign to the new time instead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

Clock = Callable[[], datetime]
"""Returns the time now, aware, in UTC."""

Sleep = Callable[[float], Awaitable[None]]
"""Waits so many seconds; ``asyncio.sleep`` but in tests."""

KindT = TypeVar("KindT")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A sleep counts monotonic time, so a wall clock that jumps ahead is only seen upon waking.
_LONGEST_SLEEP_S = 10.0
# A clock that is stepped back by less than this does not repeat the tick that it was just given.
_STEP_TOLERANCE = timedelta(seconds=5)


def system_clock() -> datetime:
    """The machine's own clock."""
    return datetime.now(UTC)


def tick_at_or_before(instant: datetime, interval: timedelta) -> datetime:
    """The newest grid instant that is not after ``instant``; the grid counts from the Unix epoch, in UTC."""
    return instant - (instant - _EPOCH) % interval


def tick_after(instant: datetime, interval: timedelta) -> datetime:
    """The first grid instant strictly after ``instant``."""
    return tick_at_or_before(instant, interval) + interval


@dataclass(frozen=True, slots=True)
class Tick(Generic[KindT]):
    """One or several kinds of work that are due; ``times`` says for which grid instant each is."""

    times: Mapping[KindT, datetime]

    @property
    def due(self) -> frozenset[KindT]:
        return frozenset(self.times)


class Ticks(Generic[KindT]):
    """Grid instants of several intervals, merged: kinds that fall on one instant come as one tick.

    The first tick is strictly after the first call. ``skipped`` counts the ticks of each kind that were never given.
    """

    def __init__(self, intervals: Mapping[KindT, timedelta], clock: Clock, sleep: Sleep = asyncio.sleep) -> None:
        if any(interval <= timedelta() for interval in intervals.values()):
            raise ValueError("an interval must be longer than zero")
        self._intervals = dict(intervals)
        self._clock = clock
        self._sleep = sleep
        self._last: dict[KindT, datetime] = {}
        self.skipped: dict[KindT, int] = dict.fromkeys(intervals, 0)

    async def next(self) -> Tick[KindT]:
        """Wait for the next tick, or return at once with the newest of those that were missed."""
        while True:
            now = self._clock()
            upcoming = {kind: self._upcoming(kind, now) for kind in self._intervals}
            due = [kind for kind, instant in upcoming.items() if instant <= now]
            if due:
                return Tick({kind: self._take(kind, upcoming[kind], now) for kind in due})
            wait_s = (min(upcoming.values()) - now).total_seconds()
            await self._sleep(min(wait_s, _LONGEST_SLEEP_S))

    def _upcoming(self, kind: KindT, now: datetime) -> datetime:
        interval = self._intervals[kind]
        last = self._last.setdefault(kind, tick_at_or_before(now, interval))
        upcoming = last + interval
        if upcoming - now > interval + min(interval, _STEP_TOLERANCE):  # the clock was set back
            self._last[kind] = tick_at_or_before(now, interval)
            return self._last[kind] + interval
        return upcoming

    def _take(self, kind: KindT, upcoming: datetime, now: datetime) -> datetime:
        newest = tick_at_or_before(now, self._intervals[kind])
        self.skipped[kind] += (newest - upcoming) // self._intervals[kind]
        self._last[kind] = newest
        return newest
