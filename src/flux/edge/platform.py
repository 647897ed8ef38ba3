"""What the edge does with the platform besides sending readings: follows the registry, reports states, compares clocks.

Each of these is a task of its own that waits while the platform is away.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import structlog

from flux.edge.alarms import Alarms
from flux.edge.learned import LearnedStore
from flux.edge.link import PlatformLink, RegistrySnapshot
from flux.edge.ticks import Clock, Sleep
from flux.model import Device, DeviceId, DeviceState, NotFoundError, RefusedError, UnavailableError

_logger = structlog.get_logger(__name__)

_RETRY_S = 5.0
_READ_AGAIN_S = 60.0
"""The registry is read again this often whether or not anybody announced a change."""
_FIRST_RETEST_S = 300.0
_LAST_RETEST_S = 3600.0
_CLOCK_EVERY_S = 300.0
_NO_DEVICES = "registry_empty"
_CLOCK_TOLERANCE_S = 2.0
_LONGEST_ROUND_TRIP_S = 1.0


class RegistryFollower:
    """Keeps ``apply`` informed of the registry, and the disk of what it was last."""

    def __init__(
        self,
        link: PlatformLink,
        learned: LearnedStore,
        apply: Callable[[RegistrySnapshot], Awaitable[None]],
        sleep: Sleep = asyncio.sleep,
        *,
        alarms: Alarms,
    ) -> None:
        self._link = link
        self._learned = learned
        self._apply = apply
        self._alarms = alarms
        self._sleep = sleep
        self._known: RegistrySnapshot | None = None
        self._saved: RegistrySnapshot | None = None
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Follow the registry for ever."""
        while True:
            try:
                await self.look()
                await self._link.wait_for_registry_change(_READ_AGAIN_S)
            except UnavailableError:  # the uploader's alarm tells of it
                await self._sleep(_RETRY_S)

    async def look(self) -> None:
        """Read the registry now and apply it; UnavailableError when the platform does not answer."""
        async with self._turn:
            await self.take(await self._link.registry())

    async def take(self, snapshot: RegistrySnapshot) -> None:
        """Apply ``snapshot`` if it is news, and remember it; one without any device ends nothing."""
        emptied = not snapshot.devices and self._known is not None and bool(self._known.devices)
        text = "the platform says that the site has no devices; they go on as they were known"
        self._alarms.set_or_clear(_NO_DEVICES, text if emptied else None)
        snapshot = without_loss(snapshot, self._known)
        if snapshot != self._known:
            await self._apply(snapshot)
            self._known = snapshot
        if snapshot != self._saved:
            await self._save(snapshot)

    async def _save(self, snapshot: RegistrySnapshot) -> None:
        try:
            await asyncio.to_thread(self._learned.save_registry, snapshot)
        except (OSError, sqlite3.Error) as error:
            _logger.warning("the registry can't be kept on disk", error=str(error))
        else:
            self._saved = snapshot


def without_loss(told: RegistrySnapshot, known: RegistrySnapshot | None) -> RegistrySnapshot:
    """What to go by: ``told``, unless it has lost every device that was ``known``.

    The registry deletes no device, so that is a platform in trouble: restored half, or one that may not see the site.
    Its silence about a stop ends none either; a stop that it tells of begins.
    """
    if told.devices or known is None or not known.devices:
        return told
    return replace(known, stop=told.stop or known.stop)


@dataclass(frozen=True, slots=True)
class _Seen:
    device: Device
    state: DeviceState
    reason: str


class StateReporter:
    """Tells the registry what polls say of devices in testing, and has those that failed tested again.

    One that answered becomes active, one that did not for a while has failed. That one is tested again after 5 minutes,
    then after twice as long each time, up to an hour.
    """

    def __init__(self, link: PlatformLink, sleep: Sleep = asyncio.sleep) -> None:
        self._link = link
        self._sleep = sleep
        self._reported: set[DeviceId] = set()
        self._retries: dict[DeviceId, int] = {}
        self._waiting: dict[DeviceId, asyncio.Task[None]] = {}
        self._queue: asyncio.Queue[_Seen] = asyncio.Queue()

    def answered(self, device: Device) -> None:
        """A poll of ``device`` has succeeded."""
        self._retries.pop(DeviceId(device.id), None)
        self._report_once(device, DeviceState.ACTIVE, "it answered a poll")

    def failed(self, device: Device, reason: str) -> None:
        """A device in testing does not answer."""
        self._report_once(device, DeviceState.FAILED, reason)

    def _report_once(self, device: Device, state: DeviceState, reason: str) -> None:
        device_id = DeviceId(device.id)
        if device.state is not DeviceState.TESTING:
            self._reported.discard(device_id)
        elif device_id not in self._reported:
            self._reported.add(device_id)
            self._queue.put_nowait(_Seen(device, state, reason))

    def follow(self, devices: Sequence[Device]) -> None:
        """The registry as it is now: who failed is to be tested again in a while, unless somebody sees to it."""
        # one that was active meanwhile, however shortly, is reported again when it is tested again
        self._reported -= {DeviceId(one.id) for one in devices if one.state is not DeviceState.TESTING}
        failed = {DeviceId(one.id): one for one in devices if one.active and one.state is DeviceState.FAILED}
        for device_id in self._waiting.keys() - failed.keys():
            self._waiting.pop(device_id).cancel()
        for device_id, device in failed.items():
            self._reported.discard(device_id)
            if device_id not in self._waiting:
                self._waiting[device_id] = asyncio.create_task(self._retry_later(device))

    async def _retry_later(self, device: Device) -> None:
        device_id = DeviceId(device.id)
        retries = self._retries[device_id] = self._retries.get(device_id, 0) + 1
        await self._sleep(min(_FIRST_RETEST_S * 2 ** (retries - 1), _LAST_RETEST_S))
        self._queue.put_nowait(_Seen(device, DeviceState.TESTING, f"test {retries + 1}"))

    async def run(self) -> None:
        """Report for ever."""
        try:
            while True:
                seen = await self._queue.get()
                while not await self._report(seen):
                    await self._sleep(_RETRY_S)
        finally:
            for task in self._waiting.values():
                task.cancel()
            self._waiting.clear()

    async def _report(self, seen: _Seen) -> bool:
        """False: the platform is away, and it has to be reported again."""
        try:
            await self._link.report_state(DeviceId(seen.device.id), seen.state, seen.reason)
        except (RefusedError, NotFoundError) as error:  # somebody changed it meanwhile; the registry is the truth
            _logger.info("registry keeps the state that it has", device=seen.device.name, reason=str(error))
        except UnavailableError:
            return False
        return True


class ClockCheck:
    """Compares the edge's clock with the platform's; ``difference_s`` is positive when the edge's is ahead."""

    def __init__(
        self,
        link: PlatformLink,
        alarms: Alarms,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._link = link
        self._alarms = alarms
        self._clock = clock
        self._sleep = sleep
        self._timer = timer
        self.difference_s: float | None = None

    async def run(self) -> None:
        """Compare for ever."""
        while True:
            try:
                compared = await self.compare()
            except UnavailableError:
                compared = False
            await self._sleep(_CLOCK_EVERY_S if compared else _RETRY_S)

    async def compare(self) -> bool:
        """Compare once; False when the answer took too long to say anything."""
        before, began = self._clock(), self._timer()
        theirs = await self._link.platform_time()
        round_trip_s = self._timer() - began
        if round_trip_s > _LONGEST_ROUND_TRIP_S:
            return False
        ours_s = (before - theirs).total_seconds() + round_trip_s / 2
        self.difference_s = round(ours_s, 3)
        text = f"this machine's clock is {abs(ours_s):.1f} s {'ahead of' if ours_s > 0 else 'behind'} the platform's"
        self._alarms.set_or_clear("clock", text if abs(ours_s) > _CLOCK_TOLERANCE_S else None)
        return True
