"""Time that is not waited for, and a platform in memory, for the tests of the edge."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import async_solipsism

from flux.control.feed import ControlFeed
from flux.control.ledger import KeptDecision
from flux.edge.alarms import Alarms
from flux.edge.link import JobAnswer, LeaseAnswer, PushResult, RegistrySnapshot
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import Entry, OutboxFile
from flux.model import BessReading, DeviceId, DeviceState, Job, MeterReading, Reading, UnavailableError
from flux.store.encoding import Recorded

ResultT = TypeVar("ResultT")

START = datetime(2026, 1, 15, 12, 0, 30, tzinfo=UTC)
METER = DeviceId(UUID(int=1))
BESS = DeviceId(UUID(int=2))


def run_virtual(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run on a loop whose time jumps to the next thing due: an hour of sleeping takes no time."""
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        return runner.run(coroutine)


class VirtualClock:
    """Wall-clock time that goes with the loop's time; ``shift`` sets it as NTP or a person would."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._shifted = timedelta()

    def __call__(self) -> datetime:
        return self._start + self._shifted + timedelta(seconds=asyncio.get_running_loop().time())

    def shift(self, by: timedelta) -> None:
        self._shifted += by


class FixedClock:
    """A clock that a test moves by hand."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def meter_reading(number: int, device_id: DeviceId = METER) -> MeterReading:
    """The reading of second ``number``; its values follow from it."""
    return MeterReading(
        device_id=device_id,
        time=START + timedelta(seconds=number, microseconds=number % 7),
        frequency=50.0 + number / 1000,
        power_total_active=-number / 3,
        energy_imported_active=1_000_000.01 + number,
    )


def bess_reading(number: int) -> BessReading:
    time = START + timedelta(seconds=number)
    return BessReading(device_id=BESS, time=time, soe=number / 7, available_inverter_blocks=3, command_source=4)


def kept_decision(number: int, device_id: DeviceId = BESS, plan: str = "") -> KeptDecision:
    """The decision of second ``number`` on 40 kW of site power."""
    time = START + timedelta(seconds=number)
    return KeptDecision(
        device_id=device_id,
        plan=plan,
        time=time,
        plan_hash="5da279fb240a1993",
        target_power_kw=40.0 + number / 7,
        command_source=3,
        active=("import_avoidance",),
        effective="import_avoidance",
        limits=("inverter",),
        reason="discharging 40.0 kW: import avoidance",
        stale=False,
        events=(),
        faults=("WLCE-BESS-01 does not follow",),
        inputs={"time": time.isoformat(), "soe_kwh": {"value": "nan", "time": time.isoformat(), "age_s": 0.0}},
    )


class SmallDisk:
    """Connections that report a full disk once the file has ``pages`` pages; ``grow`` frees space."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._db: sqlite3.Connection | None = None

    def __call__(self, path: Path) -> sqlite3.Connection:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute(f"PRAGMA max_page_count = {self._pages}")
        return self._db

    def grow(self, pages: int) -> None:
        assert self._db is not None
        self._db.execute(f"PRAGMA max_page_count = {pages}")

    def pragma(self, name: str) -> object:
        assert self._db is not None
        return self._db.execute(f"PRAGMA {name}").fetchone()[0]

    def break_writes(self) -> None:
        """From now on nothing can be written at all, not even a deletion."""
        assert self._db is not None
        self._db.execute("PRAGMA query_only = ON")


class MemoryOutbox(Outbox):
    """An outbox without file and thread, for virtual time."""

    def __init__(self) -> None:
        super().__init__(OutboxFile(Path("unused"), FixedClock()), Alarms(FixedClock()))
        self.entries: list[Entry] = []
        self._numbered = 0

    @property
    def depth(self) -> int:
        return len(self.entries)

    async def open(self) -> None:
        pass

    async def append(self, readings: Sequence[Recorded]) -> None:
        for reading in readings:
            self._numbered += 1
            self.entries.append((self._numbered, reading))

    async def peek(self, limit: int) -> list[Entry]:
        return self.entries[:limit]

    async def acknowledge(self, upto: int) -> None:
        self.entries = [entry for entry in self.entries if entry[0] > upto]


class MemoryPlatform:
    """A platform that keeps what it is sent; ``away`` makes it unreachable, ``reject`` refuses single readings."""

    def __init__(self, reject: Callable[[Reading], bool] = lambda reading: False) -> None:
        self.away = False
        self.commits_then_fails = False
        self.batches: list[list[Reading]] = []
        self.stored: dict[tuple[UUID, datetime], Reading] = {}
        self.documents: list[Recorded] = []
        self.snapshot = RegistrySnapshot()
        self.states: list[tuple[DeviceId, DeviceState]] = []
        self.stops_acknowledged = 0
        self.lease_of: str | None = None
        self.registry_changed = asyncio.Event()
        self.feed = ControlFeed()
        self.feed_changed = asyncio.Event()
        self.jobs: list[Job] = []
        self.job_ordered = asyncio.Event()
        self.job_answers: dict[UUID, JobAnswer] = {}
        self.clock_ahead = timedelta()
        self.clock: Callable[[], datetime] = FixedClock()
        self.in_flight = 0
        self.most_in_flight = 0
        self.push_takes_s = 0.0
        self.on_push: Callable[[], None] = lambda: None
        self._reject = reject

    async def push(self, records: Sequence[Recorded]) -> PushResult:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.push_takes_s)
            self._check()
            self.on_push()
            readings = [record for record in records if isinstance(record, Reading)]
            documents = [record for record in records if not isinstance(record, Reading)]
            self.documents += [document for document in documents if document not in self.documents]
            if readings or not documents:
                self.batches.append(readings)
            rejected = [reading for reading in readings if self._reject(reading)]
            kept = [reading for reading in readings if not self._reject(reading)]
            new = [reading for reading in kept if (reading.device_id, reading.time) not in self.stored]
            self.stored.update({(reading.device_id, reading.time): reading for reading in new})
            if self.commits_then_fails:
                raise UnavailableError("connection lost after the commit")
            return PushResult(len(new), len(kept) - len(new), len(rejected))
        finally:
            self.in_flight -= 1

    async def registry(self) -> RegistrySnapshot:
        self._check()
        return self.snapshot

    async def wait_for_registry_change(self, timeout_s: float) -> bool:
        self._check()
        try:
            async with asyncio.timeout(timeout_s):
                await self.registry_changed.wait()
        except TimeoutError:
            return False
        self.registry_changed.clear()
        return True

    async def control_feed(self, after: str | None, timeout_s: float) -> ControlFeed | None:
        self._check()
        if after == self.feed.cursor:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.feed_changed.wait()
            self._check()
        self.feed_changed.clear()
        return None if after == self.feed.cursor else self.feed

    async def platform_time(self) -> datetime:
        self._check()
        return self.clock() + self.clock_ahead

    async def report_state(self, device_id: DeviceId, state: DeviceState, reason: str) -> None:
        self._check()
        self.states.append((device_id, state))

    async def acknowledge_stop(self) -> None:
        self._check()
        self.stops_acknowledged += 1

    async def take_lease(self, holder: str, host: str, lasts: timedelta) -> LeaseAnswer:
        self._check()
        if self.lease_of is None or self.lease_of == holder:
            self.lease_of = holder
        return LeaseAnswer(self.lease_of == holder, self.lease_of, "elsewhere", 1)

    async def release_lease(self, holder: str) -> None:
        self._check()
        if self.lease_of == holder:
            self.lease_of = None

    async def take_job(self, holder: str, run: str, have: Sequence[UUID], timeout_s: float) -> Job | None:
        self._check()
        if not self.jobs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.job_ordered.wait()
            self._check()
        self.job_ordered.clear()
        return self.jobs.pop(0) if self.jobs else None

    async def finish_job(self, job_id: UUID, holder: str, run: str, answer: JobAnswer) -> bool:
        self._check()
        self.job_answers[job_id] = answer
        return True

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.away:
            raise UnavailableError("the platform is away")
