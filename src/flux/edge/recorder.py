"""Where every reading passes: through a bounded queue in memory to the outbox on disk.

Nobody waits for the disk: whatever it does, poller and controller go on. Normally a reading is on disk within
milliseconds. While the disk refuses, readings stay in memory and are sent from there; what does not fit is lost,
counted and alarmed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import structlog

from flux.edge.alarms import Alarms
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import Entry, OutboxError
from flux.edge.ticks import Sleep
from flux.model import Reading
from flux.store.encoding import Recorded

_logger = structlog.get_logger(__name__)

_RETRY_S = 5.0
_WRITTEN_AT_ONCE = 1_000
_DOCUMENTS_SHARE = 2
"""While the disk refuses, what the controller decided is kept only until memory is half full."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings to send, oldest first; ``upto`` and ``in_memory`` say what an acknowledgement of it is for."""

    readings: Sequence[Recorded] = ()
    upto: int = 0
    in_memory: bool = False


@dataclass(slots=True)
class _Memory:
    """Readings on their way to the disk, numbered in order; the oldest go first when there are too many."""

    limit: int
    entries: deque[Entry] = field(default_factory=deque)
    numbered: int = 0
    documents_dropped: int = 0

    def add(self, readings: Sequence[Recorded]) -> int:
        """Keep ``readings``; how many readings were dropped for them. Documents are not taken at a reading's cost."""
        for reading in readings:
            if not isinstance(reading, Reading) and len(self.entries) >= self.limit // _DOCUMENTS_SHARE:
                self.documents_dropped += 1
                continue
            self.numbered += 1
            self.entries.append((self.numbered, reading))
        dropped = 0
        while len(self.entries) > self.limit:
            _, oldest = self.entries.popleft()
            if isinstance(oldest, Reading):
                dropped += 1
            else:
                self.documents_dropped += 1
        return dropped

    def oldest(self, limit: int) -> list[Entry]:
        return list(islice(self.entries, limit))

    def forget(self, upto: int) -> None:
        while self.entries and self.entries[0][0] <= upto:
            self.entries.popleft()


class Recorder:
    """Keeps readings until the platform has acknowledged them.

    ``lost`` counts the readings that neither the disk nor memory (``memory_limit`` readings) could hold.
    """

    def __init__(self, outbox: Outbox, alarms: Alarms, memory_limit: int, sleep: Sleep = asyncio.sleep) -> None:
        self._outbox = outbox
        self._alarms = alarms
        self._sleep = sleep
        self._memory = _Memory(memory_limit)
        self._to_write = asyncio.Event()
        self._to_send = asyncio.Event()
        self._writing = asyncio.Lock()
        self._disk_refuses = False
        self.recorded = 0
        self.lost = 0

    @property
    def depth(self) -> int:
        """Readings that the platform has not acknowledged, on disk and in memory."""
        return self._outbox.depth + len(self._memory.entries)

    @property
    def in_memory(self) -> int:
        """Readings that would be lost if the process were killed now."""
        return len(self._memory.entries)

    def change_memory_limit(self, limit: int) -> None:
        """From the next reading on."""
        self._memory.limit = limit

    def record(self, readings: Sequence[Recorded]) -> None:
        """Take ``readings``; returns at once."""
        self.recorded += sum(isinstance(one, Reading) for one in readings)
        dropped = self._memory.add(readings)
        if dropped:
            self.lost += dropped
            self._alarms.set("readings_lost", f"{self.lost} readings lost: disk and memory are full")
        if self._memory.documents_dropped:
            text = f"{self._memory.documents_dropped} decisions lost: the disk refuses, memory is kept for readings"
            self._alarms.set("decisions_lost", text)
        self._to_write.set()
        if self._disk_refuses:
            self._to_send.set()

    async def run(self) -> None:
        """Move readings from memory to the disk, for ever."""
        while True:
            await self._to_write.wait()
            if not await self.flush():
                await self._sleep(_RETRY_S)

    async def flush(self) -> bool:
        """Write everything that memory holds; False when the disk refuses."""
        async with self._writing:
            try:
                await self._outbox.open()
                await self._write_memory()
            except OutboxError as error:
                self._refused(error)
                return False
        self._disk_refuses = False
        self._alarms.clear("outbox_refuses", f"{self.lost} readings lost since the start")
        return True

    async def _write_memory(self) -> None:
        while entries := self._memory.oldest(_WRITTEN_AT_ONCE):
            await self._outbox.append([reading for _, reading in entries])
            self._memory.forget(entries[-1][0])
            self._to_send.set()
        self._to_write.clear()

    async def wait_for_more(self) -> None:
        """Returns once there is something to send that the last :meth:`peek` could not have seen."""
        await self._to_send.wait()

    async def peek(self, limit: int) -> Batch:
        """The oldest readings: those on disk first, then those that memory holds for a disk that refuses."""
        self._to_send.clear()
        entries = await self._entries_on_disk(limit)
        in_memory = not entries and self._disk_refuses
        if in_memory:
            entries = self._memory.oldest(limit)
        if not entries:
            return Batch()
        return Batch([reading for _, reading in entries], entries[-1][0], in_memory)

    async def _entries_on_disk(self, limit: int) -> list[Entry]:
        try:
            return await self._outbox.peek(limit)
        except OutboxError as error:
            self._refused(error)
            return []

    async def acknowledge(self, batch: Batch) -> None:
        """The platform has committed ``batch``."""
        if batch.in_memory:
            self._memory.forget(batch.upto)
            return
        try:
            await self._outbox.acknowledge(batch.upto)
        except OutboxError as error:  # they are not handed out again, and are deleted when the disk lets them
            self._refused(error)

    def _refused(self, error: OutboxError) -> None:
        self._disk_refuses = True
        self._to_write.set()
        self._to_send.set()
        text = f"{error}; readings are kept in memory (up to {self._memory.limit}) and written when there is space"
        self._alarms.set("outbox_refuses", text)
