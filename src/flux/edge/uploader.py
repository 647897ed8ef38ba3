"""Sends what the recorder holds to the platform: in order, one batch at a time, acknowledged only when committed.

While the platform is away it tries again after a delay that grows to 15 s, with jitter so that the edges of many sites
do not come back in one instant. Once the platform is back the backlog goes out at full speed.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic

import structlog

from flux.edge.alarms import Alarms
from flux.edge.link import KeyRefusedError, PlatformLink, PushResult
from flux.edge.recorder import Recorder
from flux.edge.ticks import Sleep
from flux.model import UnavailableError

_logger = structlog.get_logger(__name__)

_SMALLEST_BATCH = 100
_FIRST_BATCH = 500
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 15.0
# a batch that takes longer is too large for this link; one that takes less than a quarter of it may grow
_SLOW_PUSH_S = 4.0


class Uploader:
    """One per edge. ``sent`` sums up what the platform said of the batches so far."""

    def __init__(
        self,
        recorder: Recorder,
        link: PlatformLink,
        alarms: Alarms,
        largest_batch: int,
        *,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._recorder = recorder
        self._link = link
        self._alarms = alarms
        self._largest_batch = largest_batch
        self._sleep = sleep
        self._jitter = jitter
        self._timer = timer
        self._batch_size = min(_FIRST_BATCH, largest_batch)
        self._failures = 0
        self._one_at_a_time = asyncio.Lock()
        self.sent = PushResult()

    @property
    def batch_size(self) -> int:
        """How many readings the next batch may hold."""
        return self._batch_size

    def change_largest_batch(self, largest_batch: int) -> None:
        """From the next batch on."""
        self._largest_batch = largest_batch
        self._batch_size = min(self._batch_size, largest_batch)

    async def run(self) -> None:
        """Send for ever."""
        while True:
            try:
                more = await self.send_batch()
            except UnavailableError as error:
                await self._sleep(self._back_off(error))
            else:
                if not more:
                    await self._recorder.wait_for_more()

    async def send_all(self) -> None:
        """Send until nothing is left; UnavailableError when the platform is away."""
        while await self.send_batch():
            pass

    async def send_batch(self) -> bool:
        """Send the oldest readings and acknowledge them; False when there was nothing to send."""
        async with self._one_at_a_time:
            batch = await self._recorder.peek(self._batch_size)
            if not batch.readings:
                return False
            began = self._timer()
            result = await self._link.push(batch.readings)
            await self._recorder.acknowledge(batch)
            self._sent(result, len(batch.readings), self._timer() - began)
            return True

    def _sent(self, result: PushResult, size: int, took_s: float) -> None:
        self._failures = 0
        self._alarms.clear("platform_away")
        self._alarms.clear("platform_key")
        self.sent = PushResult(
            self.sent.stored + result.stored,
            self.sent.duplicates + result.duplicates,
            self.sent.rejected + result.rejected,
        )
        if result.rejected:
            _logger.warning("platform rejected readings", rejected=result.rejected, of=size)
        if took_s > _SLOW_PUSH_S:
            self._batch_size = max(_SMALLEST_BATCH, self._batch_size // 2)
        elif size == self._batch_size and took_s < _SLOW_PUSH_S / 4:
            self._batch_size = min(self._largest_batch, self._batch_size * 2)

    def _back_off(self, error: UnavailableError) -> float:
        refused = isinstance(error, KeyRefusedError)
        self._alarms.clear("platform_away" if refused else "platform_key")
        self._alarms.set(
            "platform_key" if refused else "platform_away", f"{error}; {self._recorder.depth} readings wait"
        )
        self._batch_size = max(min(_SMALLEST_BATCH, self._largest_batch), self._batch_size // 2)
        delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return delay_s * (0.5 + 0.5 * self._jitter())
