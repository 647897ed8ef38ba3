"""Where every reading passes: to the outbox, or to a bounded memory queue for as long as the disk refuses.

Whatever the disk does, the poller and the controller go on. What does not fit in memory either is counted and alarmed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import structlog

from flux.edge.alarms import Alarms
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import OutboxError
from flux.edge.ticks import Sleep
from flux.model import Reading

_logger = structlog.get_logger(__name__)

_RETRY_S = 5.0
_WRITTEN_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings to send, oldest first; ``upto`` and ``in_memory`` say what an acknowledgement of it is for."""

    readings: Sequence[Reading] = ()
    upto: int = 0
    in_memory: bool = False


@dataclass(slots=True)
class _Memory:
    """Readings that the disk has refused, numbered in order; the oldest go first when there are too many."""

    limit: int
    entries: deque[tuple[int, Reading]] = field(default_factory=deque)
    numbered: int = 0

    def add(self, readings: Sequence[Reading]) -> int:
        """Keep ``readings``; returns how many had to be dropped."""
        for reading in readings:
            self.numbered += 1
            self.entries.append((self.numbered, reading))
        dropped = max(0, len(self.entries) - self.limit)
        for _ in range(dropped):
            self.entries.popleft()
        return dropped

    def oldest(self, limit: int) -> list[tuple[int, Reading]]:
        return list(islice(self.entries, limit))

    def forget(self, upto: int) -> None:
        while self.entries and self.entries[0][0] <= upto:
            self.entries.popleft()


class Recorder:
    """Keeps readings until the platform has acknowledged them.

    ``lost`` counts the readings that neither the disk nor the memory queue (``memory_limit`` readings) could hold.
    """

    def __init__(self, outbox: Outbox, alarms: Alarms, memory_limit: int, sleep: Sleep = asyncio.sleep) -> None:
        self._outbox = outbox
        self._alarms = alarms
        self._sleep = sleep
        self._memory = _Memory(memory_limit)
        self._refused = asyncio.Event()
        self._changed = asyncio.Event()
        self.recorded = 0
        self.lost = 0

    @property
    def depth(self) -> int:
        """Readings that the platform has not acknowledged, on disk and in memory."""
        return self._outbox.depth + len(self._memory.entries)

    @property
    def in_memory(self) -> int:
        """Readings that would be lost if the process ended now."""
        return len(self._memory.entries)

    async def record(self, readings: Sequence[Reading]) -> None:
        """Returns when ``readings`` are on the disk, or at once when the disk refuses and memory has to hold them."""
        self.recorded += len(readings)
        if self._memory.entries:  # the order is kept: they wait behind the older ones
            self._keep(readings)
        else:
            try:
                await self._outbox.append(readings)
            except OutboxError as error:
                self._disk_refuses(error)
                self._keep(readings)
        self._changed.set()

    async def wait_for_more(self) -> None:
        """Returns once something was recorded since the last :meth:`peek` that found nothing."""
        await self._changed.wait()

    async def peek(self, limit: int) -> Batch:
        """The oldest readings: those on disk first, then those that memory holds for a disk that refuses."""
        self._changed.clear()
        entries = await self._entries_on_disk(limit)
        if entries:
            return Batch([reading for _, reading in entries], entries[-1][0])
        entries = self._memory.oldest(limit)
        if entries:
            return Batch([reading for _, reading in entries], entries[-1][0], in_memory=True)
        return Batch()

    async def _entries_on_disk(self, limit: int) -> list[tuple[int, Reading]]:
        try:
            return await self._outbox.peek(limit)
        except OutboxError as error:
            self._disk_refuses(error)
            return []

    async def acknowledge(self, batch: Batch) -> None:
        """The platform has committed ``batch``."""
        if batch.in_memory:
            self._memory.forget(batch.upto)
            return
        try:
            await self._outbox.acknowledge(batch.upto)
        except OutboxError as error:  # they are not handed out again, and are deleted when the disk lets them
            self._disk_refuses(error)

    async def run(self) -> None:
        """Write what memory holds to the disk as soon as it takes it again; for ever."""
        while True:
            await self._refused.wait()
            await self._sleep(_RETRY_S)
            await self.write_memory()

    async def write_memory(self) -> bool:
        """Try once to move everything from memory to the disk; True when the disk took it all."""
        try:
            await self._outbox.open()
            while entries := self._memory.oldest(_WRITTEN_AT_ONCE):
                await self._outbox.append([reading for _, reading in entries])
                self._memory.forget(entries[-1][0])
        except OutboxError as error:
            self._disk_refuses(error)
            return False
        self._refused.clear()
        self._alarms.clear("outbox_refuses", f"{self.lost} readings lost since the start")
        return True

    def _keep(self, readings: Sequence[Reading]) -> None:
        dropped = self._memory.add(readings)
        if dropped:
            self.lost += dropped
            self._alarms.set("readings_lost", f"{self.lost} readings lost: disk and memory are full")

    def _disk_refuses(self, error: OutboxError) -> None:
        self._refused.set()
        text = f"{error}; readings are kept in memory (up to {self._memory.limit}) and written when there is space"
        self._alarms.set("outbox_refuses", text)
