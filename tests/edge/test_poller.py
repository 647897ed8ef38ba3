"""Polling in virtual time: when a device is asked, for what, and what becomes of the answer."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs
from tests.edge.fakes import METER, START, VirtualClock, run_virtual

from flux.devices.driver import Poll
from flux.edge.newest import NewestPolls
from flux.edge.poller import DevicePoller
from flux.model import Device, DeviceError, DeviceType, MeterMetadata, MeterReading, Reading

MINUTE = timedelta(minutes=1)
CONTROL = timedelta(seconds=4)
NAMES = frozenset({"power_total_active"})


class FakeMeter:
    """Answers after ``takes_s``; ``dead`` does not answer at all."""

    def __init__(self, clock: VirtualClock, name: str = "WLCE-GRID-METER") -> None:
        self._clock = clock
        self.device = Device(
            id=METER,
            name=name,
            type=DeviceType.METER,
            site="WLCE",
            metadata=MeterMetadata(),
            created_at=START,
            updated_at=START,
        )
        self.control_names = NAMES
        self.takes_s = 0.05
        self.dead = False
        self.power_kw: float | None = 42.0
        self.polls: list[tuple[str, frozenset[str] | None]] = []
        self.problems: tuple[str, ...] = ()

    async def poll(self, names: Collection[str] | None = None) -> Poll:
        self.polls.append((f"{self._clock():%H:%M:%S}", None if names is None else frozenset(names)))
        await asyncio.sleep(self.takes_s)
        if self.dead:
            raise DeviceError(f"{self.device.name}: did not answer")
        return Poll(self._clock(), {"power_total_active": self.power_kw}, self.takes_s, self.problems)

    def reading(self, poll: Poll, *, command_source: int | None = None) -> Reading:
        return MeterReading(device_id=METER, time=poll.time, power_total_active=42.0)


class Setup:
    def __init__(self, control: timedelta | None = None) -> None:
        self.clock = VirtualClock()  # 12:00:30
        self.meter = FakeMeter(self.clock)
        self.newest = NewestPolls()
        self.recorded: list[Reading] = []
        self.returns = 0
        self.poller = DevicePoller(
            self.meter, MINUTE, control, self.newest, self._record, clock=self.clock, returned=self._returned
        )

    def _record(self, readings: Sequence[Reading]) -> None:
        self.recorded += readings

    def _returned(self) -> None:
        self.returns += 1

    async def run_for(self, seconds: float) -> None:
        task = asyncio.create_task(self.poller.run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def story(coroutine: Any) -> None:
    run_virtual(coroutine)


def test_a_day_is_1440_readings_each_at_the_time_of_its_poll() -> None:
    async def it() -> None:
        setup = Setup()
        await setup.run_for(24 * 3600)
        assert len(setup.recorded) == 1440
        assert all((reading.time.second, reading.time.microsecond) == (0, 50_000) for reading in setup.recorded)
        assert setup.poller.health.missed == 0

    story(it())


def test_a_device_is_asked_at_once_but_not_recorded() -> None:
    async def it() -> None:
        setup = Setup()
        await setup.run_for(1)
        assert setup.meter.polls == [("12:00:30", NAMES)]
        assert setup.newest.get("WLCE-GRID-METER") is not None
        assert setup.recorded == []

    story(it())


def test_control_polls_ask_for_less_and_are_not_recorded() -> None:
    async def it() -> None:
        setup = Setup(CONTROL)
        await setup.run_for(32)  # until 12:01:02
        assert setup.meter.polls[-3:] == [("12:00:52", NAMES), ("12:00:56", NAMES), ("12:01:00", None)]
        assert len(setup.recorded) == 1
        newest = setup.newest.get("WLCE-GRID-METER")
        assert newest is not None
        assert newest.time == setup.recorded[0].time  # asked once where both fall on one instant

    story(it())


def test_a_recording_poll_that_fails_is_retried_until_half_of_the_interval() -> None:
    async def it() -> None:
        setup = Setup()
        setup.meter.dead = True
        await setup.run_for(85)  # until 12:01:55
        assert [at for at, names in setup.meter.polls if names is None] == [
            f"12:01:{second:02d}" for second in (0, 5, 10, 15, 20, 25)
        ]
        assert (setup.recorded, setup.poller.health.missed) == ([], 1)

    story(it())


def test_a_reading_that_is_late_by_seconds_is_recorded_with_its_own_time() -> None:
    async def it() -> None:
        setup = Setup()
        setup.meter.dead = True
        running = asyncio.create_task(setup.run_for(100))
        await asyncio.sleep(37)  # 12:01:07
        setup.meter.dead = False
        await running
        assert [f"{reading.time:%H:%M:%S}" for reading in setup.recorded] == ["12:01:10", "12:02:00"]
        assert setup.poller.health.missed == 0

    story(it())


def test_a_device_that_goes_and_returns_is_logged_once_each() -> None:
    async def it() -> None:
        setup = Setup(CONTROL)
        with capture_logs() as logs:
            setup.meter.dead = True
            await setup.run_for(300)
            setup.meter.dead = False
            await setup.run_for(60)
        assert [entry["event"] for entry in logs] == ["device does not answer", "device answers again"]
        assert logs[1]["missed"] == 5
        assert setup.returns == 1

    story(it())


def test_a_slow_device_delays_no_other() -> None:
    async def it() -> None:
        slow, quick = Setup(CONTROL), Setup(CONTROL)
        slow.meter.takes_s = 20.0
        await asyncio.gather(slow.run_for(600), quick.run_for(600))
        assert len(quick.recorded) == 10
        assert len(slow.recorded) >= 9  # it is asked again and again, and still recorded each minute

    story(it())


def test_a_poll_with_gaps_is_recorded_and_told_once() -> None:
    async def it() -> None:
        setup = Setup()
        setup.meter.problems = ("registers 16456 to 16487: illegal data address",)
        with capture_logs() as logs:
            await setup.run_for(180)
            setup.meter.problems = ()
            await setup.run_for(60)
        assert len(setup.recorded) == 4
        assert [entry["event"] for entry in logs] == ["poll has gaps", "poll is whole again"]

    story(it())


def test_a_poll_in_which_nothing_is_plausible_is_no_reading() -> None:
    async def it() -> None:
        setup = Setup()
        setup.meter.power_kw = None
        await setup.run_for(60)
        assert (setup.recorded, setup.poller.health.missed) == ([], 1)

    story(it())


def test_the_controller_waits_for_the_polls_of_its_tick_but_not_for_ever() -> None:
    async def it() -> None:
        newest = NewestPolls()
        newest.expect("A")
        newest.expect("B")
        loop = asyncio.get_running_loop()
        newest.asked("A", START)
        loop.call_later(0.3, newest.asked, "B", START)
        await newest.wait_until_asked({"A", "B", "nobody polls this"}, START, 2.0)
        assert loop.time() == 0.3
        await newest.wait_until_asked({"A", "B"}, START + MINUTE, 2.0)
        assert loop.time() == 2.3
        newest.forget("A")
        newest.forget("B")
        await newest.wait_until_asked({"A", "B"}, START + MINUTE, 2.0)
        assert loop.time() == 2.3

    story(it())
