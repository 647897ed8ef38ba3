"""What waits to be sent to one socket: bounded, so that a client that does not read costs nobody else anything."""

import asyncio
from collections import deque


class Outbox:
    """Messages in order. :attr:`overrun` is set once more gathered than may: from then on nothing is taken."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self.overrun = asyncio.Event()

    def put(self, message: str) -> None:
        """Never waits."""
        if self.overrun.is_set():
            return
        self._waiting.append(message)
        self._bytes += len(message)
        if self._bytes > self._most:
            self.overrun.set()
            self._waiting.clear()
        elif self._bytes > self._most // 4:
            self._roomy.clear()
        self._changed.set()

    async def take(self) -> list[str]:
        """Everything that waits, as soon as there is something."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def sent(self, message: str) -> None:
        """One that was taken is on its way: only now it stops counting."""
        self._bytes -= len(message)
        if self._bytes <= self._most // 4:
            self._roomy.set()

    async def room(self) -> None:
        """Until there is plenty of room: for those who can wait, as a client that catches up can."""
        await self._roomy.wait()
