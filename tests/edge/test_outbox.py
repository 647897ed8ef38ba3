"""The outbox on a real SQLite file: order, durability, a full disk, a damaged file, a killed process."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.edge.fakes import FixedClock, SmallDisk, bess_reading, kept_decision, meter_reading

from flux.control.ledger import PlanText
from flux.edge.alarms import Alarms
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import OutboxError, OutboxFile
from flux.model import Reading
from flux.store.encoding import Recorded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge" / "outbox.sqlite"


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(FixedClock())


@pytest.fixture
async def outbox(path: Path, alarms: Alarms) -> AsyncIterator[Outbox]:
    async with started(path, alarms) as one:
        yield one


class started:  # noqa: N801 - reads as a statement
    """``async with started(path, alarms) as outbox``."""

    def __init__(self, path: Path, alarms: Alarms) -> None:
        self._outbox = Outbox(OutboxFile(path, FixedClock()), alarms)

    async def __aenter__(self) -> Outbox:
        await self._outbox.start()
        return self._outbox

    async def __aexit__(self, *_error: object) -> None:
        await self._outbox.stop()


async def numbers(outbox: Outbox, limit: int = 1000) -> list[Reading]:
    return [record for _, record in await outbox.peek(limit) if isinstance(record, Reading)]


async def test_what_is_appended_is_handed_out_in_order(outbox: Outbox) -> None:
    await outbox.append([meter_reading(1), bess_reading(2)])
    await outbox.append([meter_reading(3)])
    assert await numbers(outbox) == [meter_reading(1), bess_reading(2), meter_reading(3)]
    assert outbox.depth == 3


async def test_acknowledged_readings_are_gone_the_others_stay(outbox: Outbox) -> None:
    await outbox.append([meter_reading(n) for n in range(10)])
    first = await outbox.peek(4)
    await outbox.acknowledge(first[-1][0])
    assert await numbers(outbox) == [meter_reading(n) for n in range(4, 10)]
    assert outbox.depth == 6


async def test_appends_of_many_tasks_are_committed_together(path: Path, alarms: Alarms) -> None:
    commits = 0

    def traced(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        def trace(statement: str) -> None:
            nonlocal commits
            commits += statement == "COMMIT"

        db.set_trace_callback(trace)
        return db

    outbox = Outbox(OutboxFile(path, FixedClock(), traced), alarms)
    await outbox.start()
    commits = 0
    await asyncio.gather(*(outbox.append([meter_reading(n)]) for n in range(200)))
    depth = outbox.depth
    await outbox.stop()
    assert depth == 200
    assert commits < 100


async def test_readings_outlive_the_process_that_wrote_them(path: Path, alarms: Alarms) -> None:
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(1), bess_reading(2)])
    async with started(path, alarms) as outbox:
        assert outbox.depth == 2
        assert await numbers(outbox) == [meter_reading(1), bess_reading(2)]


async def test_places_in_the_order_are_never_given_twice(path: Path, alarms: Alarms) -> None:
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(1)])
        last = (await outbox.peek(1))[-1][0]
        await outbox.acknowledge(last)
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(2)])
        assert (await outbox.peek(1))[0][0] > last


async def test_the_file_is_as_durable_as_it_says(path: Path) -> None:
    disk = SmallDisk(1_000)
    OutboxFile(path, FixedClock(), disk).open()
    assert disk.pragma("journal_mode") == "wal"
    assert disk.pragma("synchronous") == 2  # FULL


async def test_a_backlog_gives_its_space_back(path: Path, outbox: Outbox) -> None:
    await outbox.append([meter_reading(n) for n in range(20_000)])
    while entries := await outbox.peek(2_000):
        await outbox.acknowledge(entries[-1][0])
    with sqlite3.connect(path) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.close()
    assert pages < 50


async def test_a_full_disk_is_an_error_and_spoils_nothing(path: Path, alarms: Alarms) -> None:
    disk = SmallDisk(20)
    outbox = Outbox(OutboxFile(path, FixedClock(), disk), alarms)
    await outbox.start()
    await outbox.append([meter_reading(1)])
    with pytest.raises(OutboxError, match=r"outbox\.sqlite: database or disk is full"):
        await outbox.append([meter_reading(n) for n in range(2, 2_000)])
    assert await numbers(outbox) == [meter_reading(1)]
    disk.grow(10_000)
    await outbox.append([meter_reading(2)])
    assert await numbers(outbox) == [meter_reading(1), meter_reading(2)]
    await outbox.stop()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, alarms: Alarms) -> None:
    (tmp_path / "edge").write_text("a file, not a folder")
    outbox = Outbox(OutboxFile(tmp_path / "edge" / "outbox.sqlite", FixedClock()), alarms)
    with pytest.raises(OutboxError, match="exists"):
        await outbox.start()
    await outbox.stop()


def overwrite(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def overwrite_second_half(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size - size // 2))


async def test_a_file_that_is_no_database_is_set_aside_with_an_alarm(path: Path, alarms: Alarms) -> None:
    overwrite(path, b"not a database at all, but somebody's notes" * 100)
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(1)])
        assert await numbers(outbox) == [meter_reading(1)]
    (kept,) = path.parent.glob("outbox.sqlite.damaged-*")
    assert kept.read_bytes().startswith(b"not a database")
    assert [alarm.key for alarm in alarms.active] == ["outbox_damaged"]


async def test_what_can_be_read_of_a_damaged_file_goes_on_in_a_new_one(path: Path, alarms: Alarms) -> None:
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(n) for n in range(500)])
    overwrite_second_half(path)
    async with started(path, alarms) as outbox:
        saved = await numbers(outbox)
        await outbox.append([meter_reading(1000)])
        assert outbox.depth == len(saved) + 1
    assert 0 < len(saved) < 500
    assert saved == [meter_reading(n) for n in range(len(saved))]
    assert "readings that could be read" in alarms.active[0].text


async def test_an_acknowledgement_from_before_the_damage_deletes_nothing_after_it(path: Path, alarms: Alarms) -> None:
    async with started(path, alarms) as outbox:
        await outbox.append([meter_reading(n) for n in range(300)])
        in_flight = await outbox.peek(300)
        wreck(path)
        await outbox.append([meter_reading(1000)])
        await outbox.acknowledge(in_flight[-1][0])
        assert meter_reading(1000) in await numbers(outbox)
    assert "outbox_damaged" in [alarm.key for alarm in alarms.active]


def wreck(path: Path) -> None:
    """Damage the file while it is open, so that the next use of it finds out."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("UPDATE sqlite_sequence SET seq = seq")  # makes the open connection read its pages again
    db.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    path.with_name(path.name + "-wal").write_bytes(b"")


WRITER = """
import asyncio, sys
from pathlib import Path
from flux.edge.alarms import Alarms
from flux.store.encoding import Recorded
from flux.edge.outbox import Outbox
from flux.edge.outbox_file import OutboxFile
from flux.edge.ticks import system_clock
from tests.edge.fakes import meter_reading

async def main(first):
    outbox = Outbox(OutboxFile(Path(sys.argv[1]), system_clock), Alarms(system_clock))
    await outbox.start()
    number = first
    while True:
        await outbox.append([meter_reading(number), meter_reading(number + 1)])
        print(number + 1, flush=True)
        number += 2

asyncio.run(main(int(sys.argv[2])))
"""


def kill_a_writer(path: Path, first: int, after_s: float) -> int:
    """Let a process append from ``first`` on, kill it, and return the last number that it was promised."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout is not None
    promised = int(process.stdout.readline())
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().split("\n")
    process.wait()
    process.stdout.close()
    whole = [line for line in lines[:-1] if line]
    return int(whole[-1]) if whole else promised


async def check_kills(path: Path, alarms: Alarms, delays_s: list[float]) -> None:
    first = 0
    for delay_s in delays_s:
        promised = await asyncio.to_thread(kill_a_writer, path, first, delay_s)
        async with started(path, alarms) as outbox:
            stored = await numbers(outbox, 1_000_000)
        first = len(stored)
        # every reading that append() returned for is there, in order; the one transaction in flight may be too
        assert stored == [meter_reading(n) for n in range(first)]
        assert promised + 1 <= first <= promised + 3
    assert alarms.active == ()


async def test_a_killed_process_loses_nothing_that_it_was_promised(path: Path, alarms: Alarms) -> None:
    await check_kills(path, alarms, [0.05, 0.11])


@pytest.mark.long
async def test_thirty_kills_lose_nothing(path: Path, alarms: Alarms) -> None:
    chance = random.Random(7)
    await check_kills(path, alarms, [chance.uniform(0, 0.3) for _ in range(30)])


async def test_decisions_keep_their_place_among_readings(tmp_path: Path) -> None:
    records: list[Recorded] = [
        meter_reading(1),
        kept_decision(1),
        PlanText("h", "{}"),
        meter_reading(2),
        kept_decision(2, plan="calm"),
    ]
    outbox = Outbox(OutboxFile(tmp_path / "outbox.sqlite", FixedClock()), Alarms(FixedClock()))
    await outbox.start()
    await outbox.append(records)
    await outbox.stop()
    again = Outbox(OutboxFile(tmp_path / "outbox.sqlite", FixedClock()), Alarms(FixedClock()))
    await again.start()
    assert [record for _, record in await again.peek(10)] == records
    await again.stop()
