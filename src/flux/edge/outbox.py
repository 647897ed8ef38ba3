"""The outbox: every reading is on the edge's disk until the platform has acknowledged it.

One thread owns the file, so the event loop never waits for a disk. All appends that wait when the thread gets to them
are committed together: one flush to the disk serves them all.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from flux.edge.alarms import Alarms
from flux.edge.outbox_file import Entry, OutboxCorruptError, OutboxError, OutboxFile
from flux.store.encoding import Recorded

_logger = structlog.get_logger(__name__)
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Job:
    """Something to do for a waiting coroutine: an append, or a call in the thread."""

    future: "asyncio.Future[Any]"
    readings: Sequence[Recorded] = ()
    call: Callable[[], Any] | None = None


@dataclass(slots=True)
class _Worker:
    """The thread and what it is to do next; None ends it."""

    file: OutboxFile
    alarms: Alarms
    loop: asyncio.AbstractEventLoop
    jobs: "queue.SimpleQueue[_Job | None]" = field(default_factory=queue.SimpleQueue)
    count: int = 0
    acknowledged: int = 0
    handed_out: int = 0

    def run(self) -> None:
        while True:
            jobs = [self.jobs.get()]
            while not self.jobs.empty():
                jobs.append(self.jobs.get_nowait())
            self._append([job for job in jobs if job is not None and job.call is None])
            for job in jobs:
                if job is None:
                    self.file.close()
                    return
                if job.call is not None:
                    self._resolve([job], job.call)

    def _append(self, jobs: list[_Job]) -> None:
        readings = [reading for job in jobs for reading in job.readings]
        if jobs:
            self._resolve(jobs, lambda: self.write(readings))

    def _resolve(self, jobs: list[_Job], call: Callable[[], Any]) -> None:
        try:
            result = self._healing(call)
        except Exception as error:  # noqa: BLE001 - handed whole to whoever waits for it
            self._tell(jobs, lambda future, error=error: future.set_exception(error))  # type: ignore[misc]
        else:
            self._tell(jobs, lambda future: future.set_result(result))

    def _tell(self, jobs: list[_Job], outcome: "Callable[[asyncio.Future[Any]], None]") -> None:
        def tell() -> None:
            for job in jobs:
                if not job.future.done():
                    outcome(job.future)

        self.loop.call_soon_threadsafe(tell)

    def _healing(self, call: Callable[[], ResultT]) -> ResultT:
        try:
            return call()
        except OutboxCorruptError as error:
            self.begin_anew(str(error))
            return call()

    def open(self) -> None:
        if not self.file.is_open:
            self.count = self.file.open()

    def begin_anew(self, why: str) -> None:
        """Set the damaged file aside and begin a new one with what could be read of it."""
        aside, saved = self.file.set_aside()
        text = f"{why}; kept as {aside.name}, the {len(saved)} readings that could be read go on in a new file"
        self.loop.call_soon_threadsafe(self.alarms.set, "outbox_damaged", text)
        self.open()
        # An acknowledgement of what was read from the old file must not hit other readings in the new one.
        self.file.number_from(max(self.acknowledged, self.handed_out))
        self.count += self.file.write(saved, 0)

    def write(self, readings: Sequence[Recorded]) -> None:
        self.count += self.file.write(readings, self.acknowledged)

    def read(self, limit: int) -> list[Entry]:
        entries = self.file.read(self.acknowledged, limit)
        if entries:
            self.handed_out = max(self.handed_out, entries[-1][0])
        return entries

    def acknowledge(self, upto: int) -> None:
        # Remembered first: when the disk is too full even to delete, the same rows are not sent over and over.
        self.acknowledged = max(self.acknowledged, upto)
        self.write(())


class Outbox:
    """Readings that the platform does not have yet, in order, on disk.

    ``append`` and the others raise OutboxError when the disk refuses. A damaged file is set aside under another name,
    an alarm is raised, and what can still be read goes on in a new file.
    """

    def __init__(self, file: OutboxFile, alarms: Alarms) -> None:
        self._file = file
        self._alarms = alarms
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a file, of this run or an earlier one."""
        return self._file.path.exists()

    @property
    def depth(self) -> int:
        """How many readings wait in the file."""
        return self._worker.count if self._worker else 0

    async def start(self) -> None:
        """Start the thread and open the file; OutboxError when it can't be opened now (``open`` tries again)."""
        self._worker = _Worker(self._file, self._alarms, asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._worker.run, name="flux-outbox", daemon=True)
        self._thread.start()
        await self.open()

    async def open(self) -> None:
        """Open the file if it is not open."""
        await self._call(self._running.open)

    async def stop(self) -> None:
        """Finish what was asked for, close the file and end the thread."""
        worker, thread = self._worker, self._thread
        if worker is None or thread is None:
            return
        self._worker = self._thread = None
        worker.jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def append(self, readings: Sequence[Recorded]) -> None:
        """Returns when ``readings`` are on the disk; OutboxError when they are not."""
        worker = self._running
        job = _Job(worker.loop.create_future(), readings=readings)
        worker.jobs.put(job)
        await job.future

    async def peek(self, limit: int) -> list[Entry]:
        """The oldest ``limit`` readings that were not acknowledged, with their places in the order."""
        worker = self._running
        return await self._call(lambda: worker.read(limit))

    async def acknowledge(self, upto: int) -> None:
        """The platform has every reading up to the place ``upto``: forget them."""
        worker = self._running
        await self._call(lambda: worker.acknowledge(upto))

    async def _call(self, call: Callable[[], ResultT]) -> ResultT:
        worker = self._running
        job = _Job(worker.loop.create_future(), call=call)
        worker.jobs.put(job)
        result: ResultT = await job.future
        return result

    @property
    def _running(self) -> _Worker:
        if self._worker is None:
            raise OutboxError(f"{self._file.path}: the outbox is not running")
        return self._worker
