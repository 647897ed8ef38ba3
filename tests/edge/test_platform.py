"""Following the registry, reporting states, comparing clocks: against a platform in memory."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.edge.fakes import METER, START, FixedClock, MemoryPlatform, VirtualClock, run_virtual

from flux.edge.alarms import Alarms
from flux.edge.learned import LearnedStore
from flux.edge.link import RegistrySnapshot
from flux.edge.platform import ClockCheck, RegistryFollower, StateReporter
from flux.model import Device, DeviceState, DeviceType, MeterMetadata, RefusedError
from flux.registry.for_edges import StopOrder


def device(state: DeviceState = DeviceState.ACTIVE, name: str = "WLCE-GRID-METER") -> Device:
    metadata = MeterMetadata.model_validate({"host": "10.0.0.1", "ct_ratio": 160, "colour": "grey"})
    return Device(
        id=METER,
        name=name,
        type=DeviceType.METER,
        site="WLCE",
        metadata=metadata,
        state=state,
        created_at=START,
        updated_at=START,
    )


def snapshot(name: str = "WLCE-GRID-METER") -> RegistrySnapshot:
    return RegistrySnapshot((device(name=name),), {"own_meter": "type: meter\n"})


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "edge" / "learned.sqlite"
    assert LearnedStore(path, FixedClock()).load_registry() is None
    LearnedStore(path, FixedClock()).save_registry(snapshot("OLD"))
    LearnedStore(path, FixedClock()).save_registry(snapshot())
    assert LearnedStore(path, FixedClock()).load_registry() == snapshot()


def test_a_damaged_file_is_set_aside_and_learned_anew(tmp_path: Path) -> None:
    path = tmp_path / "learned.sqlite"
    path.write_bytes(b"nonsense" * 1000)
    learned = LearnedStore(path, FixedClock())
    assert learned.load_registry() is None
    assert [kept.read_bytes()[:8] for kept in tmp_path.glob("*.damaged-*")] == [b"nonsense"]
    learned.save_registry(snapshot())
    assert learned.load_registry() == snapshot()


async def test_the_follower_applies_news_only_and_remembers_it(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    applied: list[RegistrySnapshot] = []
    news = asyncio.Event()

    async def apply(one: RegistrySnapshot) -> None:
        applied.append(one)
        news.set()

    learned = LearnedStore(tmp_path / "learned.sqlite", FixedClock())
    platform.snapshot = snapshot()
    follower = RegistryFollower(platform, learned, apply, alarms=Alarms(FixedClock()))
    running = asyncio.create_task(follower.run())
    await news.wait()
    news.clear()
    platform.registry_changed.set()  # announced, but the same
    await asyncio.sleep(0)
    platform.snapshot = snapshot("RENAMED")
    platform.registry_changed.set()
    await news.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert applied == [snapshot(), snapshot("RENAMED")]
    await follower.take(snapshot("RENAMED"))
    assert learned.load_registry() == snapshot("RENAMED")


async def test_a_registry_without_any_device_ends_neither_them_nor_a_stop(tmp_path: Path) -> None:
    applied: list[RegistrySnapshot] = []

    async def apply(one: RegistrySnapshot) -> None:
        applied.append(one)

    alarms = Alarms(FixedClock())
    learned = LearnedStore(tmp_path / "learned.sqlite", FixedClock())
    follower = RegistryFollower(MemoryPlatform(), learned, apply, alarms=alarms)
    stopped = replace(snapshot(), stop=StopOrder("anna", "smoke"), resumed_at=START)
    await follower.take(snapshot())
    await follower.take(RegistrySnapshot(stop=stopped.stop))
    assert applied[-1] == replace(snapshot(), stop=stopped.stop)
    await follower.take(stopped)
    await follower.take(RegistrySnapshot())
    assert applied[-1] == learned.load_registry() == stopped
    assert [alarm.key for alarm in alarms.active] == ["registry_empty"]
    await follower.take(snapshot("RENAMED"))
    assert applied[-1] == snapshot("RENAMED")
    assert alarms.active == ()


def test_a_device_in_testing_is_reported_once_also_when_the_platform_is_away_at_first() -> None:
    async def story() -> None:
        platform = MemoryPlatform()
        platform.away = True
        reporter = StateReporter(platform)
        running = asyncio.create_task(reporter.run())
        for _ in range(3):
            reporter.answered(device(DeviceState.TESTING))
        await asyncio.sleep(60)
        assert platform.states == []
        platform.away = False
        await asyncio.sleep(60)
        assert platform.states == [(METER, DeviceState.ACTIVE)]
        reporter.answered(device(DeviceState.ACTIVE))
        reporter.answered(device(DeviceState.TESTING))  # it was in maintenance meanwhile
        await asyncio.sleep(60)
        assert platform.states == [(METER, DeviceState.ACTIVE)] * 2
        running.cancel()

    run_virtual(story())


def test_a_device_that_failed_is_tested_again_ever_more_rarely_until_it_answers() -> None:
    async def story() -> None:
        platform = MemoryPlatform()
        reporter = StateReporter(platform)
        running = asyncio.create_task(reporter.run())
        began = asyncio.get_running_loop().time()
        tested_after = []
        for _ in range(6):
            reporter.failed(device(DeviceState.TESTING), "no answer")
            reporter.failed(device(DeviceState.TESTING), "no answer")
            await asyncio.sleep(1)
            assert platform.states[-1] == (METER, DeviceState.FAILED)
            reporter.follow([device(DeviceState.FAILED)])
            reporter.follow([device(DeviceState.FAILED)])
            count = len(platform.states)
            while len(platform.states) == count:
                await asyncio.sleep(1)
            tested_after.append((asyncio.get_running_loop().time() - began) // 60)
            began = asyncio.get_running_loop().time()
            assert platform.states[count:] == [(METER, DeviceState.TESTING)]
            reporter.follow([device(DeviceState.TESTING)])
        assert tested_after == [5, 10, 20, 40, 60, 60]
        reporter.answered(device(DeviceState.TESTING))
        await asyncio.sleep(1)
        assert platform.states[-1] == (METER, DeviceState.ACTIVE)
        running.cancel()

    run_virtual(story())


def test_one_that_somebody_sees_to_is_left_to_them() -> None:
    async def story() -> None:
        platform = MemoryPlatform()
        reporter = StateReporter(platform)
        running = asyncio.create_task(reporter.run())
        reporter.follow([device(DeviceState.FAILED)])
        reporter.follow([device(DeviceState.MAINTENANCE)])
        await asyncio.sleep(7200)
        assert platform.states == []
        running.cancel()

    run_virtual(story())


def test_a_device_tested_again_is_reported_again_though_no_poll_saw_it_active() -> None:
    async def story() -> None:
        platform = MemoryPlatform()
        reporter = StateReporter(platform)
        running = asyncio.create_task(reporter.run())
        reporter.answered(device(DeviceState.TESTING))
        reporter.follow([device(DeviceState.ACTIVE)])
        reporter.follow([device(DeviceState.MAINTENANCE)])
        reporter.follow([device(DeviceState.TESTING)])
        reporter.answered(device(DeviceState.TESTING))
        await asyncio.sleep(1)
        assert platform.states == [(METER, DeviceState.ACTIVE)] * 2
        running.cancel()

    run_virtual(story())


def test_a_refused_report_is_not_repeated() -> None:
    class Refusing(MemoryPlatform):
        async def report_state(self, *_arguments: object) -> None:
            self.states.append((METER, DeviceState.ACTIVE))
            raise RefusedError("a device that is decommissioned cannot become active")

    async def story() -> None:
        platform = Refusing()
        reporter = StateReporter(platform)
        running = asyncio.create_task(reporter.run())
        reporter.answered(device(DeviceState.TESTING))
        await asyncio.sleep(600)
        assert len(platform.states) == 1
        running.cancel()

    run_virtual(story())


def test_a_clock_that_differs_by_more_than_two_seconds_is_an_alarm() -> None:
    async def story() -> None:
        clock = VirtualClock()
        platform, alarms = MemoryPlatform(), Alarms(clock)
        platform.clock = clock
        check = ClockCheck(platform, alarms, clock, timer=lambda: asyncio.get_running_loop().time())
        running = asyncio.create_task(check.run())
        await asyncio.sleep(1)
        assert (check.difference_s, alarms.active) == (0.0, ())
        platform.clock_ahead = timedelta(seconds=-3)
        await asyncio.sleep(400)
        assert check.difference_s == 3.0
        assert alarms.active[0].text == "this machine's clock is 3.0 s ahead of the platform's"
        platform.clock_ahead = timedelta(seconds=1)
        await asyncio.sleep(400)
        assert (check.difference_s, alarms.active) == (-1.0, ())
        running.cancel()

    run_virtual(story())


def test_an_answer_that_took_long_says_nothing_about_the_clock() -> None:
    class Slow(MemoryPlatform):
        async def platform_time(self):  # type: ignore[no-untyped-def]
            await asyncio.sleep(3)
            return await super().platform_time()

    async def story() -> None:
        clock = VirtualClock()
        platform, alarms = Slow(), Alarms(clock)
        platform.clock = clock
        check = ClockCheck(platform, alarms, clock, timer=lambda: asyncio.get_running_loop().time())
        assert not await check.compare()
        assert check.difference_s is None

    run_virtual(story())
