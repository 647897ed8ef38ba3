"""Follows what the platform tells the controller, and keeps the newest on disk for when the platform is away."""

import asyncio
import sqlite3

import structlog

from flux.control.feed import ControlFeed
from flux.edge.learned import LearnedStore
from flux.edge.link import PlatformLink
from flux.edge.ticks import Sleep
from flux.model import UnavailableError

_logger = structlog.get_logger(__name__)

_RETRY_S = 5.0
_READ_AGAIN_S = 60.0
"""The feed is read again this often whether or not anybody announced a change."""


class FeedFollower:
    """``feed`` is the newest; an empty one until something is known."""

    def __init__(self, link: PlatformLink, learned: LearnedStore, sleep: Sleep = asyncio.sleep) -> None:
        self._link = link
        self._learned = learned
        self._sleep = sleep
        self._saved: str | None = None
        self.feed = ControlFeed()

    async def begin(self, patience_s: float) -> None:
        """The feed as the platform has it, else as it was when the platform last answered."""
        learned = await asyncio.to_thread(self._learned.load_feed)
        if learned is not None:
            self.feed, self._saved = learned, learned.cursor
        try:
            async with asyncio.timeout(patience_s):
                await self.take(await self._link.control_feed(None, 0))
        except (UnavailableError, TimeoutError):  # the uploader's alarm tells of it
            return

    async def run(self) -> None:
        """Follow the feed for ever."""
        while True:
            try:
                await self.take(await self._link.control_feed(self.feed.cursor, _READ_AGAIN_S))
            except UnavailableError:
                await self._sleep(_RETRY_S)

    async def take(self, feed: ControlFeed | None) -> None:
        """Use ``feed`` from now on, and remember it; None: nothing has changed."""
        if feed is not None:
            self.feed = feed
        if (cursor := self.feed.cursor) == self._saved:
            return
        try:
            await asyncio.to_thread(self._learned.save_feed, self.feed)
        except (OSError, sqlite3.Error) as error:
            _logger.warning("what the platform tells the controller can't be kept on disk", error=str(error))
        else:
            self._saved = cursor
