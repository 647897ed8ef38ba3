"""The uploader against a platform in memory, in virtual time."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from tests.edge.fakes import MemoryOutbox, MemoryPlatform, VirtualClock, meter_reading, run_virtual

from flux.edge.alarms import Alarms
from flux.edge.link import PushResult
from flux.edge.recorder import Recorder
from flux.edge.uploader import Uploader
from flux.model import Reading, UnavailableError


class Setup:
    """A recorder with a platform behind it."""

    def __init__(self, largest_batch: int = 5_000) -> None:
        self.alarms = Alarms(VirtualClock())
        self.outbox = MemoryOutbox()
        self.recorder = Recorder(self.outbox, self.alarms, 100_000)
        self.platform = MemoryPlatform()
        self.sleeps: list[float] = []
        self.uploader = Uploader(
            self.recorder,
            self.platform,
            self.alarms,
            largest_batch,
            sleep=self._sleep,
            jitter=lambda: 1.0,
            timer=lambda: asyncio.get_running_loop().time(),
        )

    async def record(self, first: int, last: int) -> None:
        self.recorder.record([meter_reading(n) for n in range(first, last + 1)])
        await self.recorder.flush()

    async def run_for(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.uploader.run()

    @property
    def sent(self) -> list[Reading]:
        return [reading for batch in self.platform.batches for reading in batch]

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(seconds)


def story(coroutine: Coroutine[Any, Any, None]) -> None:
    run_virtual(coroutine)


def test_readings_arrive_in_order_and_leave_the_outbox() -> None:
    async def it() -> None:
        setup = Setup()
        await setup.record(1, 3)
        await setup.run_for(1)
        assert setup.sent == [meter_reading(n) for n in (1, 2, 3)]
        assert setup.recorder.depth == 0
        assert setup.uploader.sent == PushResult(stored=3)

    story(it())


def test_a_reading_recorded_later_wakes_the_uploader_at_once() -> None:
    async def it() -> None:
        setup = Setup()
        running = asyncio.create_task(setup.uploader.run())
        await asyncio.sleep(100)
        await setup.record(1, 1)
        await asyncio.sleep(0.001)
        assert setup.sent == [meter_reading(1)]
        running.cancel()

    story(it())


def test_a_platform_that_is_away_is_asked_ever_less_often_up_to_15_s() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform.away = True
        await setup.record(1, 10)
        await setup.run_for(60)
        assert setup.sleeps == [0.5, 1, 2, 4, 8, 15, 15, 15]
        assert [alarm.key for alarm in setup.alarms.active] == ["platform_away"]
        assert setup.recorder.depth == 10

    story(it())


def test_the_backlog_goes_out_at_full_speed_when_the_platform_returns() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform.away = True
        setup.platform.push_takes_s = 0.1
        await setup.record(1, 50_000)
        await setup.run_for(60)
        setup.platform.away = False
        await setup.run_for(15 + 3)
        assert setup.recorder.depth == 0
        assert setup.sent == [meter_reading(n) for n in range(1, 50_001)]
        assert max(len(batch) for batch in setup.platform.batches) == 5_000
        assert setup.platform.most_in_flight == 1
        assert setup.alarms.active == ()

    story(it())


def test_a_platform_that_commits_and_then_breaks_off_stores_nothing_twice() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform.commits_then_fails = True
        await setup.record(1, 10)
        await setup.run_for(0.3)
        assert setup.recorder.depth == 10
        setup.platform.commits_then_fails = False
        await setup.run_for(5)
        assert setup.recorder.depth == 0
        assert len(setup.platform.stored) == 10
        assert setup.uploader.sent == PushResult(duplicates=10)

    story(it())


def test_rejected_readings_are_acknowledged_and_block_nothing() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform = MemoryPlatform(reject=lambda reading: reading == meter_reading(2))
        setup.uploader = Uploader(setup.recorder, setup.platform, setup.alarms, 5_000)
        await setup.record(1, 3)
        await setup.uploader.send_all()
        assert setup.recorder.depth == 0
        assert setup.uploader.sent == PushResult(stored=2, rejected=1)

    story(it())


def test_batches_shrink_on_a_slow_link_and_never_pass_the_limit() -> None:
    async def it() -> None:
        setup = Setup(largest_batch=1_000)
        await setup.record(1, 30_000)
        for _ in range(4):
            await setup.uploader.send_batch()
        assert setup.uploader.batch_size == 1_000
        setup.platform.push_takes_s = 10
        for _ in range(5):
            await setup.uploader.send_batch()
        assert setup.uploader.batch_size == 100

    story(it())


def test_a_last_attempt_while_the_loop_is_sending_waits_its_turn() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform.push_takes_s = 1
        await setup.record(1, 700)
        running = asyncio.create_task(setup.uploader.run())
        await asyncio.sleep(0.5)
        await setup.uploader.send_all()
        assert setup.platform.most_in_flight == 1
        assert setup.sent == [meter_reading(n) for n in range(1, 701)]
        running.cancel()

    story(it())


def test_sending_everything_tells_when_the_platform_is_away() -> None:
    async def it() -> None:
        setup = Setup()
        setup.platform.away = True
        await setup.record(1, 1)
        with pytest.raises(UnavailableError):
            await setup.uploader.send_all()

    story(it())
