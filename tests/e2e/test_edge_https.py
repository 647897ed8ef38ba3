"""A whole edge that has nothing but a URL and a key; `flux serve` is killed over and over, and the database stops.

As in `test_kill_edge`, the devices' own record of their replies is the witness: each answer to a recording poll is one
row.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.test_kill_edge import (
    ROOT,
    SITE_FILE,
    World,
    check_nothing_was_skipped,
    stored_times,
    the_world,
    unstored,
)

from flux.edge.ticks import system_clock
from flux.model import JobKind, JobState
from flux.store import ownership
from flux.store.db import connect
from flux.store.jobs import create_job, get_job

KILLS = 8
BESS = "WLCE-BESS-01"


@dataclass
class Serving:
    """`flux serve` on a port of its own; ``kill`` is SIGKILL."""

    home: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "FLUX_DATABASE_URL"}
        environment |= {"FLUX_HOME": str(self.home), "FLUX_LOG_LEVEL": "WARNING"}
        command = [sys.executable, "-m", "flux", "serve", "--port", str(self.port)]
        with (self.home / "serve.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stderr=log, stdout=log
            )
        await until(self.answers)

    async def answers(self) -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.url}/healthz")).status_code == 200
            except httpx.HTTPError:
                return False

    async def kill(self) -> None:
        assert self.process is not None
        assert self.process.returncode is None, (self.home / "serve.log").read_text()
        self.process.kill()
        await self.process.wait()

    async def key(self, role: str = "edge") -> str:
        command = [sys.executable, "-m", "flux", "keys", "create", f"wlce-{role}", "--role", role]
        environment = {key: value for key, value in os.environ.items() if key != "FLUX_DATABASE_URL"}
        made = await asyncio.create_subprocess_exec(
            *command,
            "--site",
            "WLCE",
            cwd=ROOT,
            env=environment | {"FLUX_HOME": str(self.home)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await made.communicate()
        assert made.returncode == 0
        return out.decode().strip()


async def until(what: Callable[[], Awaitable[bool]], within_s: float = 40.0) -> None:
    async with asyncio.timeout(within_s):
        while not await what():
            await asyncio.sleep(0.1)


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Serving]:
    """The platform, and an edge's site file that knows its URL and a file with a key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serving = Serving(world.home, port)
    await serving.start()
    key_file = world.home / "edge.key"
    key_file.touch(mode=0o600)
    key_file.write_text(await serving.key())
    platform = f"platform: {{link: https, url: '{serving.url}', key_file: edge.key}}\n"
    (world.home / "site.yaml").write_text(SITE_FILE + platform)
    try:
        yield serving
    finally:
        if serving.process is not None and serving.process.returncode is None:
            await serving.kill()


def battery(world: World) -> Any:
    return world.simulator.site.battery(BESS)


async def controls(world: World) -> bool:
    return float(battery(world).set_point_kw) > 5


def what_it_says(home: Path) -> str:
    """Why the edge controls nothing, in its own words."""
    log, status = (home / "edge.log").read_text(), json.loads((home / "edge" / "WLCE" / "status.json").read_text())
    return f"{log[-4000:]}\n{status['controller']}\n{status['alarms']}"


@pytest.mark.long
async def test_a_platform_that_is_killed_over_and_over_loses_no_reading(home: Path) -> None:
    chance = random.Random(5)
    async with the_world(home) as world, served(world) as serving:
        await world.start_edge()
        # an edge that never had an answer knows no device and ends: what is killed is the platform of one that runs
        await until(lambda: controls(world))
        for number in range(KILLS):
            await asyncio.sleep(chance.uniform(0.5, 4.0))
            if number % 2:  # where it hurts most: just after the tick, while the batch is on its way
                await asyncio.sleep(1 - system_clock().microsecond / 1e6 + chance.uniform(0.01, 0.1))
            await serving.kill()
            if number == KILLS // 2:
                await world.stop_database_for(3)
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await serving.start()
        await asyncio.sleep(20)  # the platform is asked again after 15 s at the latest
        assert world.edge is not None
        assert world.edge.returncode is None, (home / "edge.log").read_text()
        assert await controls(world), what_it_says(home)
        assert await world.end_edge(signal.SIGTERM) == 0, (world.home / "edge.log").read_text()
        stored = await stored_times(world)
        for name, answered in world.witness.answered.items():
            missing = unstored(answered, stored[name])
            print(name, len(answered), "answers,", len(missing), "on their way at the end")
            assert len(missing) <= 1, f"{name}: {[reply.time for reply in missing]}"
        check_nothing_was_skipped(world)
        key = (home / "edge.key").read_text()
        assert key not in (home / "edge.log").read_text() + (home / "serve.log").read_text()


@pytest.mark.long
async def test_orders_reach_the_battery_through_the_url_alone(home: Path) -> None:
    """A set-point, a stop and a resume; the lease is the first edge's, and a second one sends nothing."""
    async with the_world(home) as world, served(world), await connect(world.server.dsn, autocommit=True) as db:
        await world.start_edge()

        async def rests() -> bool:
            return float(battery(world).set_point_kw) == 0

        async def charges() -> bool:
            return abs(float(battery(world).set_point_kw) + 20) < 0.5

        await until(lambda: controls(world))
        now = system_clock()
        args = {"device": BESS, "power_kw": -20, "until": (now + timedelta(minutes=5)).isoformat()}
        job = await create_job(
            db, "WLCE", JobKind.SET_POINT, args, expires_at=now + timedelta(seconds=30), actor="anna"
        )
        await until(charges, 5)

        async def answered() -> bool:
            return (await get_job(db, job.id)).state is JobState.DONE

        await until(answered, 5)
        await ownership.stop_site(db, "WLCE", actor="anna", reason="smoke")
        await until(rests, 5)

        async def acknowledged() -> bool:
            stop = await ownership.stop_in_force(db, "WLCE")
            return stop is not None and stop.acknowledged_at is not None

        await until(acknowledged, 5)
        await ownership.resume_site(db, "WLCE", actor="anna")
        await until(lambda: controls(world), 10)
        other = await ownership.take_lease(db, "WLCE", holder="another", host="elsewhere", lasts=timedelta(minutes=5))
        assert not other.granted
        assert await world.end_edge(signal.SIGTERM) == 0
        given = await ownership.take_lease(db, "WLCE", holder="another", host="elsewhere", lasts=timedelta(minutes=5))
        assert given.granted, "an edge that stops in order gives the lease back"
        status = home / "edge" / "WLCE" / "status.json"
        status.unlink()
        await world.start_edge()

        async def is_held_back() -> bool:
            controller = json.loads(status.read_text())["controller"] if status.exists() else None
            return controller is not None and controller["cycles"] > 5 and "is with another" in controller["withheld"]

        await until(is_held_back)
        assert battery(world).set_point_kw == 0, "the second edge records only"
        assert await world.end_edge(signal.SIGTERM) == 0
