"""The whole edge on a disk that is really full: control goes on, and what is lost is counted to the reading."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.edge.conftest import PLAN, devices_of
from tests.edge.fakes import MemoryPlatform

from flux.devices.simulator import SimulatedSite, SimulatorServer
from flux.edge.config import load_site_file
from flux.edge.link import RegistrySnapshot
from flux.edge.runtime import EdgeRuntime
from flux.edge.ticks import system_clock


def mount(folder: Path, *options: str) -> bool:
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not mount(folder, "-o", "size=400k"):
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.05)


@pytest.mark.long
async def test_a_full_disk(small_disk: Path, tmp_path: Path, make_site: Callable[..., SimulatedSite]) -> None:
    site = make_site(load_kw=40, start=system_clock(), port=0)
    path = tmp_path / "site.yaml"
    recording = "recording: {polling_interval: 100ms, memory_readings: 150}\n"
    path.write_text(f"site: WLCE\n{recording}{PLAN.replace('interval: 4s', 'interval: 300ms')}")
    async with SimulatorServer(site, system_clock):
        platform = MemoryPlatform()
        platform.clock = system_clock
        platform.snapshot = RegistrySnapshot(tuple(devices_of(site)))
        edge = EdgeRuntime(load_site_file(path), platform, small_disk, platform=str(tmp_path))
        async with edge:
            platform.away = True
            await until(lambda: edge.recorder.lost > 20)
            assert {"outbox_refuses", "readings_lost"} <= {alarm.key for alarm in edge.alarms.active}
            controller = edge.site.controller
            assert controller is not None
            cycles = controller.cycles
            await until(lambda: controller.cycles > cycles + 5)
            assert site.battery("WLCE-BESS-01").power_kw == pytest.approx(40, abs=0.5)
            mount(small_disk, "-o", "remount,size=10m")
            await until(lambda: edge.recorder.in_memory < 20)
            lost = edge.recorder.lost
            assert "outbox_refuses" not in {alarm.key for alarm in edge.alarms.active}
            platform.away = False
            await until(lambda: edge.recorder.depth < 20)
        assert edge.recorder.lost == lost
        assert len(platform.stored) == edge.recorder.recorded - lost
