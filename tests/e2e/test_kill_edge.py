"""The edge killed at random, the database stopped, the Modbus server restarted: what the devices answered is stored.

The devices' own record of their replies is the witness: each answer to a recording poll is one row, and at most one for
each device and kill is missing, the one that was on its way. Nothing of Flux's own counting is believed.
"""

import asyncio
import bisect
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flux.devices.codec import plan_blocks
from flux.devices.simulator import (
    Reply,
    SimulatedSite,
    SimulatorServer,
    SolarConfig,
    StateFile,
    demo_site,
    system_clock,
)
from flux.devices.template import DeviceTemplate
from flux.registry import NewDevice, add_device, list_devices
from flux.store.db import connect
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

SITE_FILE = """\
site: WLCE
recording: {polling_interval: 1s}
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 300ms
  max_reading_age: 2s
  battery: {capacity_kwh: 500, charge_limit_kw: 100, discharge_limit_kw: 105, soe_min_kwh: 25, soe_max_kwh: 475}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: import_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
"""
SMALL = {"shared_buffers": "32MB", "max_connections": "20"}
ROOT = Path(__file__).parents[2]
KILLS = 10
RESTARTS = 2
_SOON = timedelta(seconds=2)
_ON_ITS_WAY = timedelta(milliseconds=500)
"""From an answer to its commit in the outbox; milliseconds, but this machine is busy with everything else as well."""


class Witness:
    """When each device finished answering a recording poll: its reply to the last block of a poll of everything."""

    def __init__(self) -> None:
        self._last_block: dict[str, tuple[int, int]] = {}
        self.answered: dict[str, list[Reply]] = defaultdict(list)

    def knows(self, name: str, template: DeviceTemplate) -> None:
        block = plan_blocks(template.readable, template.max_block_words, template.max_gap_words)[-1]
        self._last_block[name] = (block.address, block.count)

    def __call__(self, reply: Reply) -> None:
        is_read = reply.function in (3, 4) and reply.exception is None
        if is_read and (reply.address, reply.count) == self._last_block[reply.device]:
            self.answered[reply.device].append(reply)


@dataclass
class World:
    """Simulator, database and edge, each of which can be taken away."""

    home: Path
    server: EmbeddedServer
    simulator: SimulatorServer
    witness: Witness
    edge: asyncio.subprocess.Process | None = None
    starts: list[datetime] = field(default_factory=list)
    ends: list[datetime] = field(default_factory=list)
    """When the edge was killed, or the Modbus server stopped."""

    async def start_edge(self) -> None:
        command = [sys.executable, "-m", "flux", "edge", "--site", str(self.home / "site.yaml")]
        environment = {key: value for key, value in os.environ.items() if key != "FLUX_DATABASE_URL"}
        environment |= {"FLUX_HOME": str(self.home), "FLUX_LOG_LEVEL": "WARNING"}
        with (self.home / "edge.log").open("ab") as log:
            self.edge = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stderr=log, stdout=log
            )
        self.starts.append(system_clock())

    async def end_edge(self, number: signal.Signals) -> int:
        assert self.edge is not None
        assert self.edge.returncode is None, (self.home / "edge.log").read_text()
        self.edge.send_signal(number)
        self.ends.append(system_clock())
        return await self.edge.wait()

    async def restart_modbus(self) -> None:
        await self.simulator.stop()
        self.ends.append(system_clock())
        await asyncio.sleep(1.5)
        self.simulator = simulated(self.home, self.witness, [device.port for device in self.simulator.devices])
        await self.simulator.start()

    async def stop_database_for(self, seconds: float) -> None:
        await asyncio.to_thread(self.server.stop)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.server.start)


def simulated(home: Path, witness: Witness, ports: list[int]) -> SimulatorServer:
    # without sun the site draws at any time of day, so there is something to command
    config = demo_site(port=0).model_copy(update={"solar": SolarConfig()})
    if ports:
        devices = [one.model_copy(update={"port": port}) for one, port in zip(config.devices, ports, strict=True)]
        config = config.model_copy(update={"devices": tuple(devices)})
    site = SimulatedSite(config, system_clock())
    for device in site.devices:
        witness.knows(device.name, device.template)
    return SimulatorServer(site, system_clock, state=StateFile(home / "sim.json"), on_reply=witness)


@asynccontextmanager
async def the_world(home: Path) -> AsyncIterator[World]:
    (home / "site.yaml").write_text(SITE_FILE)
    server = EmbeddedServer(home, fast_unsafe=True, settings=SMALL)
    await asyncio.to_thread(server.start)
    witness = Witness()
    world = World(home, server, simulated(home, witness, []), witness)
    try:
        await asyncio.to_thread(migrate, server.dsn)
        await world.simulator.start()
        async with await connect(server.dsn, autocommit=True) as db:
            for device in world.simulator.devices:
                new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
                await add_device(db, new, actor="test")
        yield world
    finally:
        if world.edge is not None and world.edge.returncode is None:
            world.edge.kill()
            await world.edge.wait()
        await world.simulator.stop()
        await asyncio.to_thread(world.server.stop)


async def torture(world: World, kills: int, chance: random.Random) -> None:
    """Kill the edge ``kills`` times; meanwhile the database goes away once, and the Modbus server twice."""
    await world.start_edge()
    await asyncio.sleep(5)
    database = asyncio.create_task(pause_then(chance.uniform(2, 6), lambda: world.stop_database_for(12)))
    modbus = asyncio.create_task(modbus_restarts(world, chance))
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0.2, 5.0))
        if number % 2:  # where it hurts most: just after the tick, between the answers and their commit
            await asyncio.sleep(1 - system_clock().microsecond / 1e6 + chance.uniform(0, 0.06))
        assert await world.end_edge(signal.SIGKILL) == -signal.SIGKILL
        await world.start_edge()
    await database
    await modbus
    await asyncio.sleep(20)  # the platform is asked again after 15 s at the latest
    battery = world.simulator.site.battery("WLCE-BESS-01")
    assert battery.set_point_kw != 0
    assert await world.end_edge(signal.SIGTERM) == 0, (world.home / "edge.log").read_text()
    assert battery.set_point_kw == 0


async def modbus_restarts(world: World, chance: random.Random) -> None:
    for _ in range(RESTARTS):
        await pause_then(chance.uniform(5, 10), world.restart_modbus)


async def pause_then(seconds: float, work: Callable[[], Any]) -> None:
    await asyncio.sleep(seconds)
    await work()


async def stored_times(world: World) -> dict[str, list[datetime]]:
    times: dict[str, list[datetime]] = defaultdict(list)
    async with await connect(world.server.dsn, autocommit=True) as db:
        names = {device.id: device.name for device in await list_devices(db, site="WLCE")}
        for table in ("mg_meter_readings", "mg_bess_readings"):
            cursor = await db.execute(f"SELECT device_id, time FROM flux.{table} ORDER BY time".encode())
            for device_id, time in await cursor.fetchall():
                times[names[device_id]].append(time)
        rejected = await (await db.execute("SELECT count(*) FROM flux.rejected_readings")).fetchone()
    assert rejected == (0,)
    return times


def unstored(answered: list[Reply], stored: list[datetime]) -> list[Reply]:
    """The answers that no stored reading comes from; fails when two readings come from one answer, or one from none."""
    times = [reply.time for reply in answered]
    used: set[int] = set()
    for time in stored:
        place = bisect.bisect_right(times, time) - 1  # the last answer before the reading's time
        assert place >= 0
        assert time - times[place] < _SOON, f"a reading of {time} that no answer explains"
        assert place not in used, f"two readings of the answer of {times[place]}"
        used.add(place)
    return [reply for place, reply in enumerate(answered) if place not in used]


@pytest.mark.long
async def test_ten_kills_a_lost_database_and_a_restarted_modbus_server(home: Path) -> None:
    async with the_world(home) as world:
        await torture(world, KILLS, random.Random(11))
        stored = await stored_times(world)
        for name, answered in world.witness.answered.items():
            missing = unstored(answered, stored[name])
            # one on its way at each kill, and one that the Modbus server sent while it went down
            assert len(missing) <= KILLS + RESTARTS, f"{name}: {[reply.time for reply in missing]}"
            assert len({end_after(reply, world) for reply in missing}) == len(missing), f"{name}: two of one kill"
            for reply in missing:
                assert on_its_way(reply, world), f"{name}: the answer of {reply.time} is not stored"
            print(name, len(answered), "answers,", len(missing), "on their way")
        assert set(stored) == {device.name for device in world.simulator.devices}
        check_nothing_was_skipped(world)


def end_after(reply: Reply, world: World) -> datetime | None:
    return min((end for end in world.ends if end >= reply.time), default=None)


def on_its_way(reply: Reply, world: World) -> bool:
    """Whether the edge was killed, or the Modbus server stopped, right after this answer."""
    return any(timedelta() <= end - reply.time < _ON_ITS_WAY for end in world.ends)


def check_nothing_was_skipped(world: World) -> None:
    """While an edge ran for some seconds, each device was asked in each of them."""
    grid = sorted(reply.time.replace(microsecond=0) for reply in world.witness.answered["WLCE-GRID-METER"])
    last_start = world.starts[-1] + timedelta(seconds=6)
    asked = [second for second in grid if last_start < second]
    assert len(asked) >= 8
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert max(gaps) <= timedelta(seconds=2)
