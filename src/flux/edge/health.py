"""How a device is doing, told by its polls: online, degraded or offline, and whether it comes and goes.

A record is due at each change of status and once an interval; while a device is flapping, once an interval only. The
tracker is pure: time comes with the polls.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flux.devices.client import ConnectionPool
from flux.devices.driver import Poll
from flux.devices.transport import DeviceFaultError
from flux.edge.ticks import Clock
from flux.model import Device, DeviceError, DeviceId, DeviceState, HealthRecord, HealthStatus


@dataclass(frozen=True, slots=True)
class HealthRules:
    """``error_share``: of the last ``polls``, those that failed or had gaps; above it the device is degraded.

    ``offline_after``: without a poll that succeeded. Flapping: ``flaps`` changes of status within ``flapping_for``; it
    ends when there was none for as long.
    """

    interval: timedelta = timedelta(minutes=5)
    slow: timedelta = timedelta(seconds=1)
    error_share: float = 0.2
    polls: int = 20
    offline_after: timedelta = timedelta(minutes=2)
    flaps: int = 4
    flapping_for: timedelta = timedelta(minutes=15)


FAILED_AFTER = timedelta(seconds=60)
FAILED_POLLS = 3
"""A device in testing has failed when it was asked so often, over so long, and never answered."""


class HealthTracker:
    """One device. ``connection``: what is known of its connection, for the diagnostics."""

    def __init__(self, device_id: DeviceId, rules: HealthRules, started_at: datetime) -> None:
        self._device_id = device_id
        self._rules = rules
        self._seen_since = started_at
        self._good: deque[bool] = deque(maxlen=rules.polls)
        self._changes: deque[datetime] = deque(maxlen=rules.flaps)
        self._last_success: datetime | None = None
        self._response: timedelta | None = None
        self._errors = 0
        self._problem: dict[str, Any] = {}
        self._told_at: datetime | None = None
        self._flapping = False
        self.status: HealthStatus | None = None

    def failing_for(self, now: datetime) -> timedelta:
        """How long it has not answered; 0 for one that was asked less than :data:`FAILED_POLLS` times in vain."""
        if self._errors < FAILED_POLLS:
            return timedelta()
        return now - (self._last_success or self._seen_since)

    def succeeded(self, poll: Poll, connection: Mapping[str, int]) -> HealthRecord | None:
        """A poll that gave something; the record that is due, if any."""
        self._good.append(not poll.problems)
        self._last_success = poll.time
        self._response = timedelta(seconds=poll.response_time_s)
        self._errors = 0
        self._problem = {"problems": list(poll.problems)} if poll.problems else {}
        return self._judge(poll.time, connection)

    def failed(self, now: datetime, error: DeviceError, connection: Mapping[str, int]) -> HealthRecord | None:
        """A poll that gave nothing."""
        self._good.append(False)
        self._response = None
        self._errors += 1
        self._problem = {"error": str(error)}
        cause = error.__cause__ if isinstance(error.__cause__, DeviceFaultError) else error
        if isinstance(cause, DeviceFaultError):
            self._problem["exception_code"] = cause.code
        return self._judge(now, connection)

    def _judge(self, now: datetime, connection: Mapping[str, int]) -> HealthRecord | None:
        status = self._status(now)
        changed = status is not self.status
        if changed:
            if self.status is not None:
                self._changes.append(now)
            self.status = status
        began_flapping = self._look_for_flapping(now)
        told = self._told_at
        due = told is None or now - told >= self._rules.interval
        if not (due or began_flapping or (changed and not self._flapping)):
            return None
        self._told_at = now
        return self._record(now, status, connection)

    def _status(self, now: datetime) -> HealthStatus:
        last_well = self._last_success or self._seen_since
        if self._errors and now - last_well >= self._rules.offline_after:
            return HealthStatus.OFFLINE
        if self._last_success is None:  # it never answered, and had not the time to
            return HealthStatus.DEGRADED
        slow = self._response is not None and self._response > self._rules.slow
        share = self._good.count(False) / len(self._good)
        return HealthStatus.DEGRADED if slow or share > self._rules.error_share else HealthStatus.ONLINE

    def _look_for_flapping(self, now: datetime) -> bool:
        """True when it has just begun."""
        recent = [change for change in self._changes if now - change < self._rules.flapping_for]
        flapping = len(recent) >= self._rules.flaps or (self._flapping and bool(recent))
        began = flapping and not self._flapping
        self._flapping = flapping
        return began

    def _record(self, now: datetime, status: HealthStatus, connection: Mapping[str, int]) -> HealthRecord:
        flapping = {"flapping": True, "changes": len(self._changes)} if self._flapping else {}
        return HealthRecord(
            device_id=self._device_id,
            time=now,
            status=status,
            response_time_ms=None if self._response is None else round(self._response.total_seconds() * 1000, 3),
            error_count=self._errors,
            last_successful_poll=self._last_success,
            diagnostics={**self._problem, **flapping, **connection},
        )


class HealthWatch:
    """All devices of a site: their records, and the tests that failed."""

    def __init__(
        self,
        rules: HealthRules,
        pool: ConnectionPool,
        record: Callable[[Sequence[HealthRecord]], None],
        failed: Callable[[Device, str], None],
        clock: Clock,
    ) -> None:
        """``failed`` is told of a device in testing that does not answer, and why, with each further poll."""
        self._rules = rules
        self._pool = pool
        self._record = record
        self._failed = failed
        self._clock = clock
        self._trackers: dict[DeviceId, HealthTracker] = {}
        self._looked_at: dict[DeviceId, datetime] = {}

    def polled(self, device: Device, outcome: Poll | DeviceError) -> None:
        """What a poll of ``device`` gave."""
        now, device_id = self._clock(), DeviceId(device.id)
        tracker = self._tracker(device_id, now)
        metadata = device.metadata
        counters = self._pool.connection(metadata.host or "", metadata.port).counters()
        connection = {"retries": counters.retries, "timeouts": counters.timeouts, "reconnects": counters.reconnects}
        if isinstance(outcome, Poll):
            record = tracker.succeeded(outcome, connection)
        else:
            record = tracker.failed(now, outcome, connection)
            if device.state is DeviceState.TESTING and tracker.failing_for(now) >= FAILED_AFTER:
                self._failed(device, str(outcome))
        if record is not None:
            self._record([record])

    def _tracker(self, device_id: DeviceId, now: datetime) -> HealthTracker:
        """What it was before a rest, as in maintenance, says nothing of now."""
        last, self._looked_at[device_id] = self._looked_at.get(device_id), now
        if last is None or now - last > self._rules.flapping_for:
            self._trackers[device_id] = HealthTracker(device_id, self._rules, now)
        return self._trackers[device_id]
