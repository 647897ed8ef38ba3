"""Polls one device: all of it for the record, and what the controller needs at the controller's interval.

Each device has a poller, and a task, of its own, so that one that is slow or dead delays no other. Where both polls
fall on one instant the device is asked once.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

import structlog

from flux.devices.driver import Poll
from flux.edge.newest import NewestPolls
from flux.edge.ticks import Clock, Sleep, Tick, Ticks, tick_at_or_before
from flux.model import Device, DeviceError, Reading

_logger = structlog.get_logger(__name__)

_FIRST_RETRY_SHARE = 12
"""A recording poll that failed is tried again after a twelfth of the interval (5 s of a minute) …"""
_LAST_RETRY_SHARE = 2
"""… until half of it has passed: a reading that is late by seconds is better than none."""
_SHORTEST_RETRY = timedelta(seconds=1)


class PolledDevice(Protocol):
    """What a poller needs of a device's driver."""

    @property
    def device(self) -> Device: ...

    @property
    def control_names(self) -> frozenset[str]: ...

    async def poll(self, names: Collection[str] | None = None) -> Poll: ...

    def reading(self, poll: Poll, *, command_source: int | None = None) -> Reading: ...


class Due(Enum):
    """Why a device is polled."""

    RECORDING = "recording"
    CONTROL = "control"


@dataclass(slots=True)
class PollerHealth:
    """How a device is doing, since the start of the edge."""

    last_success: datetime | None = None
    response_time_s: float | None = None
    away_since: datetime | None = None
    recorded: int = 0
    missed: int = 0
    problem: str | None = None


class DevicePoller:
    """One device.

    ``control_interval`` is None for a device that no plan uses. ``record`` is given each reading; ``answered`` is
    called after each poll that succeeded, ``returned`` after the first one that did after others had failed. ``away``
    is given the words of an alarm when it stops answering, and None with each answer; ``outcome`` what each poll gave.
    """

    def __init__(
        self,
        driver: PolledDevice,
        recording_interval: timedelta,
        control_interval: timedelta | None,
        newest: NewestPolls,
        record: Callable[[Sequence[Reading]], None],
        *,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        command_source: Callable[[], int | None] = lambda: None,
        answered: Callable[[], None] = lambda: None,
        returned: Callable[[], None] = lambda: None,
        away: Callable[[str | None], None] = lambda _text: None,
        outcome: Callable[[Poll | DeviceError], None] = lambda _outcome: None,
    ) -> None:
        self._driver = driver
        self.recording_interval = recording_interval
        self.control_interval = control_interval
        self._newest = newest
        self._record = record
        self._clock = clock
        self._sleep = sleep
        self._command_source = command_source
        self._answered = answered
        self._returned = returned
        self._away = away
        self._outcome = outcome
        self._missed_before = 0
        self._gaps = False
        self._log = _logger.bind(device=driver.device.name)
        self.health = PollerHealth()
        intervals = {Due.RECORDING: recording_interval}
        if control_interval is not None:
            intervals[Due.CONTROL] = control_interval
            newest.expect(driver.device.name)
        self._ticks = Ticks(intervals, clock, sleep)

    @property
    def name(self) -> str:
        return self._driver.device.name

    async def run(self) -> None:
        """Poll for ever; once at the start, unrecorded, so that nobody waits a minute to see whether it answers."""
        await self._poll(self._driver.control_names)
        while True:
            await self.poll_for(await self._ticks.next())

    async def poll_for(self, tick: Tick[Due]) -> None:
        """Do what is due at ``tick``."""
        if Due.RECORDING in tick.due:
            await self._poll_and_record(tick.times[Due.RECORDING])
        else:
            await self._poll(self._driver.control_names)

    async def _poll_and_record(self, due_at: datetime) -> None:
        give_up_at = due_at + self.recording_interval / _LAST_RETRY_SHARE
        while (poll := await self._poll(None)) is None:
            if self._clock() + self._retry_after >= give_up_at:
                self.health.missed += 1
                return
            await self._sleep(self._retry_after.total_seconds())
        if all(value is None for value in poll.values.values()):  # it answered, and nothing that it said is plausible
            self.health.missed += 1
            return
        reading = self._driver.reading(poll, command_source=self._command_source())
        self.health.recorded += 1
        self._record([reading])

    @property
    def _retry_after(self) -> timedelta:
        pause = max(self.recording_interval / _FIRST_RETRY_SHARE, _SHORTEST_RETRY)
        return pause if self.control_interval is None else min(pause, self.control_interval)

    async def _poll(self, names: Collection[str] | None) -> Poll | None:
        """The poll, kept as the newest; None when the device did not answer."""
        try:
            poll = await self._driver.poll(names)
        except DeviceError as error:
            self._went_away(error)
            self._outcome(error)
            return None
        else:
            self._newest.put(self.name, poll)
            self._came_back(poll)
            self._outcome(poll)
            return poll
        finally:
            if self.control_interval is not None:
                self._newest.asked(self.name, tick_at_or_before(self._clock(), self.control_interval))

    def _went_away(self, error: DeviceError) -> None:
        self.health.problem = str(error)
        if self.health.away_since is None:
            self.health.away_since = self._clock()
            self._missed_before = self.health.missed
            self._log.warning("device does not answer", error=str(error))
        self._away(f"{self.name} does not answer: {error}")

    def _came_back(self, poll: Poll) -> None:
        health = self.health
        self._away(None)
        if health.away_since is not None:
            away_s = round((poll.time - health.away_since).total_seconds(), 1)
            self._log.info("device answers again", away_s=away_s, missed=health.missed - self._missed_before)
            health.away_since = None
            self._returned()
        health.problem = "; ".join(poll.problems) or None
        if bool(poll.problems) is not self._gaps:
            self._gaps = not self._gaps
            if self._gaps:
                self._log.warning("poll has gaps", problem=health.problem)
            else:
                self._log.info("poll is whole again")
        health.last_success, health.response_time_s = poll.time, poll.response_time_s
        self._answered()
