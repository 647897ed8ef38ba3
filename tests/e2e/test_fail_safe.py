"""What makes a battery safe, each over real Modbus TCP and judged at the battery's own registers.

An orderly end is 0 kW; a process that is killed leaves the battery to its own command timeout; stale data is no
command; a stop is 0 kW at once, whatever the modes and the grid say.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.e2e.closed_loop import BESS, GRID, SECOND, START, Loop, Setup, closed_loop
from tests.edge.conftest import PLAN, make_site
from tests.edge.plant import Plant, running_plant

from flux.devices import template as templates
from flux.devices.simulator import LoadConfig, SimulatedSite
from flux.edge.stops import StopFile
from flux.registry.for_edges import StopOrder

Begin = Callable[[Setup], AbstractAsyncContextManager[Loop]]
MakeSite = Callable[..., SimulatedSite]
__all__ = ["make_site"]
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 2


@pytest.fixture
def begin(dsn: str, db: AsyncConnection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    return lambda setup: closed_loop(setup, dsn, db, tmp_path, monkeypatch)


async def test_an_edge_that_ends_leaves_zero(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        assert loop.battery_kw[-1] == pytest.approx(40, abs=0.1)
    assert loop.powers_written[-1].value == 0
    assert loop.powers_written[-1].time == START + 40 * SECOND


async def test_stale_data_is_no_command_to_a_battery_that_answers(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        loop.server.add_fault(f"{GRID}:drop,for=61s")
        await loop.run(60)
        log = loop.site.device(BESS).register_log
        silent = [write for write in log if write.time > START + 52 * SECOND]
        assert silent == [], "not even a heartbeat"
        assert loop.battery_kw[-1] == 0, "30 s after the last one it gave up by itself"
        await loop.run(40)
        loop.settled_within(0.1, last_s=8)


async def test_a_stop_goes_before_every_mode_and_limit_and_holds_until_resume(begin: Begin, tmp_path: Path) -> None:
    """The connection alone asks for 20 kW of discharge; the stop is 0 kW all the same."""
    async with begin(Setup(load=LoadConfig(constant_kw=80.0), import_limit_kw=60, modes="")) as loop:
        await loop.run(20)
        assert loop.battery_kw[-1] == pytest.approx(20, abs=0.1)
        stop = StopFile(loop.state_dir)
        stop.set(StopOrder("anna", "smoke", loop.clock.now))
        await loop.run(1)
        await loop.until(lambda: loop.powers_written[-1].value == 0)
        await loop.run(1)
        assert loop.battery_kw[-1] == 0, "at once, not with the next cycle"
        writes = len(loop.site.device(BESS).register_log)
        await loop.run(60)
        assert len(loop.site.device(BESS).register_log) == writes, "acknowledged once, then it is left alone"
        assert loop.site_kw[-1] == pytest.approx(80, abs=0.1), "beyond the grid limit: a stop is a stop"
        stop.clear()
        await loop.run(20)
        assert loop.battery_kw[-1] == pytest.approx(20, abs=0.1)


def impatient_template(folder: Path) -> Path:
    """The package's own with a command timeout of 2 s."""
    text = (Path(templates.__file__).parent / "templates" / "tesla_powerpack.yaml").read_text()
    changed = text.replace("value: 30}", f"value: {TIMEOUT_S}}}")
    assert changed != text
    folder.mkdir(exist_ok=True)
    (folder / "tesla_powerpack.yaml").write_text(changed)
    return folder / "tesla_powerpack.yaml"


@asynccontextmanager
async def edge_process(plant: Plant, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """``flux edge`` as a process of its own."""
    site_file = plant.write_site_file(PLAN)
    site_file.write_text(f"templates_dir: {plant.home / 'templates'}\n{site_file.read_text()}")
    environment = os.environ | {"FLUX_DATABASE_URL": plant.dsn, "FLUX_HOME": str(plant.home)}
    command = [sys.executable, "-m", "flux", "edge", "--site", str(site_file)]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def plant(make_site: MakeSite, dsn: str, db: AsyncConnection[Any], tmp_path: Path) -> AsyncIterator[Plant]:
    path = impatient_template(tmp_path / "templates")
    site = make_site(load_kw=40, port=0)
    bess = site.config.devices[0].model_copy(update={"template": str(path)})
    config = site.config.model_copy(update={"devices": (bess, *site.config.devices[1:])})
    async with running_plant(SimulatedSite(config, site.time), dsn, db, tmp_path) as plant:
        yield plant


async def test_a_process_that_is_killed_leaves_the_battery_to_its_own_timeout(plant: Plant, tmp_path: Path) -> None:
    async with edge_process(plant, tmp_path / "edge.log") as process:
        await plant.until(lambda: plant.battery_kw == pytest.approx(40, abs=0.5))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    log = plant.server.site.device(BESS).register_log
    await plant.until(lambda: plant.battery_kw == 0, within_s=3 * TIMEOUT_S)
    powers = [write for write in log if write.register == "command_power"]
    assert powers[-1].value == pytest.approx(40, abs=0.5), "nobody told it 0 kW"
    assert {write.value for write in log if write.register == "command_timeout"} == {TIMEOUT_S}
    rested_after = plant.server.site.time - log[-1].time
    assert timedelta(seconds=TIMEOUT_S) <= rested_after <= timedelta(seconds=TIMEOUT_S + 2)


@pytest.mark.long
async def test_a_process_that_is_asked_to_end_tells_it_zero(plant: Plant, tmp_path: Path) -> None:
    async with edge_process(plant, tmp_path / "edge.log") as process:
        await plant.until(lambda: plant.battery_kw == pytest.approx(40, abs=0.5))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    log = plant.server.site.device(BESS).register_log
    assert [write.value for write in log if write.register == "command_power"][-1] == 0
