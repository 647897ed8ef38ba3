"""`flux --url` with an operator's key: what it orders is done at the site, and told as if it were done here."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.test_edge_https import BESS, battery, controls, served, until
from tests.e2e.test_kill_edge import ROOT, SITE_FILE, World, the_world

from flux.store.db import connect


@dataclass(frozen=True)
class Far:
    """A host that has nothing but a URL and a key."""

    url: str
    key: str
    home: Path

    async def flux(self, *arguments: str) -> tuple[int | None, str]:
        """The exit code, and what was said on both streams."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flux", *arguments),
            cwd=ROOT,
            env=environment | {"FLUX_URL": self.url, "FLUX_KEY": self.key, "FLUX_HOME": str(self.home)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await ran.communicate()
        return ran.returncode, said.decode()


def set_point(world: World) -> float:
    return float(battery(world).set_point_kw)


async def comes_to(world: World, power_kw: float, within_s: float) -> None:
    async def so() -> bool:
        return abs(set_point(world) - power_kw) < 0.5

    await until(so, within_s)


async def one_that_expired_is_never_run(world: World, far: Far) -> None:
    """Ordered while the edge is off."""
    code, said = await far.flux("control", "set-point", BESS, "-20", "--wait", "0s")
    assert (code, "has not taken it yet" in said) == (6, True), said
    async with await connect(world.server.dsn, autocommit=True) as db:
        await db.execute("UPDATE flux.edge_jobs SET expires_at = clock_timestamp()")  # its minute is over
    await world.start_edge()
    await until(lambda: controls(world))
    assert "expired" in (await far.flux("jobs", "list"))[1]
    assert set_point(world) > 5


async def one_reaches_the_battery_and_ends_by_itself(world: World, far: Far) -> None:
    code, said = await far.flux("control", "set-point", BESS, "-20", "--for", "10s")
    assert (code, f"{BESS}: -20.0 kW acknowledged" in said) == (0, True), said
    assert set_point(world) == pytest.approx(-20)
    await until(lambda: controls(world), 20)
    async with await connect(world.server.dsn, autocommit=True) as db:

        async def kept() -> bool:
            query = """SELECT command_source, inputs -> 'set_point' ->> 'actor' FROM flux.control_decisions
                       WHERE effective = 'set_point' ORDER BY time LIMIT 1"""
            return await (await db.execute(query)).fetchall() == [(0, "wlce-operator")]

        await until(kept, 20)


async def none_leaves_the_limits_or_outlives_a_stop(world: World, far: Far) -> None:
    code, said = await far.flux("control", "set-point", BESS, "-9000")
    assert (code, "-9000.0 kW acknowledged" in said) == (0, False), said
    assert -9000 < set_point(world) < 0
    code, said = await far.flux("control", "why", BESS)
    assert (code, "set-point by wlce-operator" in said) == (0, True), said
    assert (await far.flux("control", "stop", "--site", "WLCE", "--reason", "smoke"))[0] == 0
    await comes_to(world, 0, 5)
    code, said = await far.flux("control", "set-point", BESS, "-20")
    assert (code, "stopped by wlce-operator: smoke" in said) == (6, True), said
    assert set_point(world) == 0


async def its_devices_are_tested_and_looked_for(far: Far) -> None:
    code, said = await far.flux("devices", "test", BESS)
    assert (code, f"{BESS} answers in" in said) == (0, True), said
    code, said = await far.flux("devices", "scan", "127.0.0.1", "--site", "WLCE")
    assert (code, "left out, since their devices are polled: 127.0.0.1" in said) == (0, True), said
    assert (await far.flux("devices", "scan", "8.8.8.8", "--site", "WLCE"))[0] == 5
    assert (await far.flux("devices", "scan", "127.0.0.1", "--site", "HMCE"))[0] == 3


@pytest.mark.long
@pytest.mark.parametrize("link", ["https", "sql"])
async def test_a_command_line_far_away_works_through_the_sites_edge(home: Path, link: str) -> None:
    async with the_world(home) as world, served(world) as serving:
        far = Far(serving.url, await serving.key("operator"), home / "far away")
        if link == "sql":
            (home / "site.yaml").write_text(SITE_FILE)
        await one_that_expired_is_never_run(world, far)
        await one_reaches_the_battery_and_ends_by_itself(world, far)
        await none_leaves_the_limits_or_outlives_a_stop(world, far)
        await its_devices_are_tested_and_looked_for(far)
        assert far.key not in (home / "edge.log").read_text() + (home / "serve.log").read_text()
        assert await world.end_edge(signal.SIGTERM) == 0
