"""Readings while the disk is well, full, and well again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.edge.fakes import START, FixedClock, SmallDisk, kept_decision, meter_reading

from flux.edge.alarms import Alarms
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import OutboxFile
from flux.edge.recorder import Recorder
from flux.model import Reading

FULL, ROOMY = 12, 100_000
"""Pages: an outbox with no space for more than a handful of readings, and one without such worries."""


@dataclass
class Setup:
    recorder: Recorder
    outbox: Outbox
    alarms: Alarms
    disk: SmallDisk

    @property
    def alarm_keys(self) -> list[str]:
        return [alarm.key for alarm in self.alarms.active]

    async def put(self, numbers: range) -> bool:
        """Record a reading for each number and try to write them; False when the disk refuses."""
        self.recorder.record([meter_reading(number) for number in numbers])
        return await self.recorder.flush()

    async def everything(self) -> list[int]:
        """The number of each reading that would be sent, in order."""
        found: list[int] = []
        while (batch := await self.recorder.peek(1000)).readings:
            found += [
                round((reading.time - START).total_seconds())
                for reading in batch.readings
                if isinstance(reading, Reading)
            ]
            await self.recorder.acknowledge(batch)
        return found


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    disk = SmallDisk(ROOMY)
    alarms = Alarms(FixedClock())
    outbox = Outbox(OutboxFile(tmp_path / "outbox.sqlite", FixedClock(), disk), alarms)
    await outbox.start()
    yield Setup(Recorder(outbox, alarms, memory_limit=2_000), outbox, alarms, disk)
    await outbox.stop()


async def fill(setup: Setup) -> None:
    """A disk that has no page left: what is recorded now is refused."""
    setup.disk.grow(1)
    number = -1
    while not setup.recorder.in_memory:
        await setup.put(range(number, number - 1, -1))
        number -= 1


async def test_readings_go_to_the_disk(setup: Setup) -> None:
    await setup.put(range(1, 3))
    assert setup.outbox.depth == setup.recorder.depth == 2
    assert setup.recorder.in_memory == 0
    assert await setup.everything() == [1, 2]
    assert setup.recorder.depth == 0


async def test_recording_waits_for_nobody(setup: Setup) -> None:
    setup.recorder.record([meter_reading(1)])
    assert (setup.recorder.in_memory, setup.outbox.depth) == (1, 0)
    assert not (await setup.recorder.peek(10)).readings  # sent from the disk, unless that refuses


async def test_a_full_disk_raises_one_alarm_and_memory_takes_over(setup: Setup) -> None:
    await fill(setup)
    on_disk = setup.outbox.depth
    await setup.put(range(100))
    assert setup.outbox.depth == on_disk
    assert setup.recorder.in_memory == 101
    assert setup.recorder.lost == 0
    assert setup.alarm_keys == ["outbox_refuses"]
    assert "database or disk is full" in setup.alarms.active[0].text


async def test_what_memory_holds_is_written_in_order_when_space_returns(setup: Setup) -> None:
    await fill(setup)
    assert not await setup.put(range(1_500))
    setup.disk.grow(ROOMY)
    assert await setup.put(range(1_500, 1_501))
    assert setup.recorder.in_memory == 0
    assert setup.alarm_keys == []
    numbers = await setup.everything()
    assert numbers == [*range(-1, -1 - len(numbers) + 1_501, -1), *range(1_501)]


async def test_the_platform_gets_readings_from_memory_while_the_disk_is_full(setup: Setup) -> None:
    await fill(setup)
    await setup.put(range(10))
    numbers = await setup.everything()
    assert numbers[-10:] == list(range(10))
    assert setup.recorder.in_memory == 0


async def test_rows_that_a_full_disk_cannot_delete_are_not_sent_over_and_over(setup: Setup) -> None:
    await setup.put(range(5))
    setup.disk.break_writes()
    assert await setup.everything() == [0, 1, 2, 3, 4]
    assert await setup.everything() == []
    assert setup.alarm_keys == ["outbox_refuses"]


async def test_what_does_not_fit_in_memory_is_counted_and_alarmed(setup: Setup) -> None:
    await fill(setup)
    await setup.put(range(2_500))
    assert setup.recorder.lost == 501
    assert setup.recorder.in_memory == 2_000
    assert setup.alarm_keys == ["outbox_refuses", "readings_lost"]
    assert setup.alarms.active[1].text.startswith("501 readings lost")
    setup.disk.grow(ROOMY)
    assert await setup.recorder.flush()
    assert (await setup.everything())[-2_000:] == list(range(500, 2_500))


async def test_run_writes_by_itself_when_space_returns(setup: Setup) -> None:
    tries = asyncio.Queue[float]()

    async def sleep(seconds: float) -> None:
        setup.disk.grow(ROOMY)
        await tries.put(seconds)

    recorder = Recorder(setup.outbox, setup.alarms, 100, sleep)
    setup.disk.grow(1)
    running = asyncio.create_task(recorder.run())
    recorder.record([meter_reading(n) for n in range(90)])
    assert await tries.get() == 5.0
    assert await recorder.flush()
    running.cancel()
    assert setup.outbox.depth == 90


async def test_waiting_ends_when_something_can_be_sent(setup: Setup) -> None:
    assert not (await setup.recorder.peek(10)).readings
    waiting = asyncio.create_task(setup.recorder.wait_for_more())
    await asyncio.sleep(0)
    assert not waiting.done()
    await setup.put(range(1))
    await waiting


async def test_decisions_never_cost_a_reading_its_place(tmp_path: Path) -> None:
    alarms = Alarms(FixedClock())
    disk = SmallDisk(pages=8)
    outbox = Outbox(OutboxFile(tmp_path / "outbox.sqlite", FixedClock(), disk), alarms)
    await outbox.start()
    disk.break_writes()
    recorder = Recorder(outbox, alarms, memory_limit=10)
    recorder.record([kept_decision(n) for n in range(8)])
    assert not await recorder.flush()
    assert recorder.in_memory == 5
    recorder.record([meter_reading(n) for n in range(5)])
    assert (recorder.recorded, recorder.lost) == (5, 0)
    assert [alarm.text for alarm in alarms.active if alarm.key == "decisions_lost"] == [
        "3 decisions lost: the disk refuses, memory is kept for readings"
    ]
    recorder.record([meter_reading(n) for n in range(5, 11)])  # the five decisions go first, then one reading
    assert (recorder.recorded, recorder.lost) == (11, 1)
    await outbox.stop()
