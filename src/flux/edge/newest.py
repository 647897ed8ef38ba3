"""The newest poll of each device, for the controller: the only thing that control and polling share.

Older values are gone; nothing here is recorded.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from flux.devices.driver import Poll


class NewestPolls:
    """The newest poll by device name, and up to which control tick each device has been asked."""

    def __init__(self) -> None:
        self._polls: dict[str, Poll] = {}
        self._asked: dict[str, datetime] = {}
        self._polled: set[str] = set()
        self._news = asyncio.Event()

    def expect(self, name: str) -> None:
        """The device ``name`` is polled for the controller from now on."""
        self._polled.add(name)

    def put(self, name: str, poll: Poll) -> None:
        """Keep ``poll`` as the newest of the device ``name``."""
        self._polls[name] = poll

    def get(self, name: str) -> Poll | None:
        """The newest poll, however old; whether it may be used is for the controller to say."""
        return self._polls.get(name)

    def forget(self, name: str) -> None:
        """The device is no longer polled."""
        self._polled.discard(name)
        self._polls.pop(name, None)
        self._asked.pop(name, None)
        self._news.set()

    def asked(self, name: str, tick: datetime) -> None:
        """The control poll of ``tick`` has ended, with an answer or without."""
        self._asked[name] = tick
        self._news.set()

    async def wait_until_asked(self, names: Collection[str], tick: datetime, timeout_s: float) -> None:
        """Returns when each of ``names`` has been asked for ``tick``, and after ``timeout_s`` in any case.

        Names that nobody polls are not waited for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(self._is_behind(name, tick) for name in names if name in self._polled):
                    self._news.clear()
                    await self._news.wait()

    def _is_behind(self, name: str, tick: datetime) -> bool:
        asked = self._asked.get(name)
        return asked is None or asked < tick
