"""How late ``flux edge`` decides: the process of production, Modbus TCP on loopback, a real database, 1 s interval.

Lateness is from a tick of the grid to the decision that is logged for it, the polls of that tick included. Beside it,
in a process of its own, runs a loop that does nothing but sleep until each tick: what is late there is the machine's.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from flux.devices.simulator import SimulatedSite, SimulatorServer, demo_site, system_clock
from flux.registry import NewDevice, add_device
from flux.store.db import connect
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

INTERVAL_S = 1.0
_SETTLE_S = 5
_STOP_S = 30
_SITE_FILE = """\
site: WLCE
recording: {polling_interval: 10s}
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 1s
  battery: {capacity_kwh: 500, charge_limit_kw: 100, discharge_limit_kw: 105}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: import_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
    - {mode: export_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
"""
_BARE_LOOP = """
import asyncio, sys, time
async def main():
    end = time.time() + float(sys.argv[1])
    while (now := time.time()) < end:
        tick = now // 1 + 1
        await asyncio.sleep(tick - now)
        print(time.time(), flush=True)
asyncio.run(main())
"""


def main(minutes: float = 1.0) -> None:
    """Print how late the decisions were, and how late a loop without any work was in the same minutes."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)  # the database server's user has to reach it
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            decided, bare = asyncio.run(_measure(server.dsn, Path(folder), minutes * 60))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{minutes:g} min at an interval of {INTERVAL_S:g} s; load average at the end {load}")
    _tell("flux edge", decided)
    _tell("bare loop", bare)


def _tell(name: str, times: list[float]) -> None:
    """``times``: when each tick was dealt with, in seconds of the wall clock."""
    late_ms = sorted((instant % INTERVAL_S) * 1000 for instant in times)
    ticks = {instant // INTERVAL_S for instant in times}
    missed = round(max(ticks) - min(ticks)) + 1 - len(ticks)
    p50, p99 = late_ms[len(late_ms) // 2], late_ms[int(len(late_ms) * 0.99)]
    print(
        f"{name}  {len(late_ms)} ticks, {missed} missed; late by p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" max {late_ms[-1]:.1f} ms"
    )


async def _measure(dsn: str, folder: Path, lasts_s: float) -> tuple[list[float], list[float]]:
    site = SimulatedSite(demo_site(port=0), system_clock())
    async with SimulatorServer(site, system_clock) as simulator:
        async with await connect(dsn, autocommit=True) as conn:
            for device in simulator.devices:
                new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
                await add_device(conn, new, actor="benchmark")
        return await asyncio.to_thread(_run, dsn, folder, lasts_s)


def _run(dsn: str, folder: Path, lasts_s: float) -> tuple[list[float], list[float]]:
    site_file, log_file = folder / "site.yaml", folder / "edge.log"
    site_file.write_text(_SITE_FILE)
    settings = {"FLUX_DATABASE_URL": dsn, "FLUX_HOME": str(folder), "FLUX_LOG_LEVEL": "DEBUG", "FLUX_LOG_JSON": "true"}
    command = [sys.executable, "-m", "flux", "edge", "--site", str(site_file)]
    with (
        log_file.open("wb") as log,
        subprocess.Popen(command, env={**os.environ, **settings}, stderr=log, stdout=log) as edge,
    ):
        try:
            _wait_for_first_decision(edge, log_file)
            time.sleep(_SETTLE_S)
            begin = time.time()
            bare_loop = [sys.executable, "-c", _BARE_LOOP, str(lasts_s)]
            bare = subprocess.run(bare_loop, capture_output=True, text=True, check=True, timeout=lasts_s + _STOP_S)
            end = time.time()
        finally:
            edge.terminate()
            edge.wait(_STOP_S)
    decided = [instant for instant in _decided(log_file.read_text().splitlines()) if begin <= instant <= end]
    return decided, [float(line) for line in bare.stdout.splitlines()]


def _decided(lines: Iterable[str]) -> list[float]:
    """When each cycle decided, from the log, where each has a line at level DEBUG."""
    events = (json.loads(line) for line in lines if line.startswith("{"))
    return [datetime.fromisoformat(one["timestamp"]).timestamp() for one in events if one["event"] == "decision"]


def _wait_for_first_decision(edge: "subprocess.Popen[bytes]", log_file: Path) -> None:
    for _ in range(300):
        time.sleep(0.1)
        if edge.poll() is not None:
            raise SystemExit(f"flux edge ended with {edge.returncode}: {log_file.read_text()[-500:]}")
        if _decided(log_file.read_text().splitlines()):
            return
    raise SystemExit(f"flux edge decided nothing within 30 s: {log_file.read_text()[-500:]}")


if __name__ == "__main__":
    main()
