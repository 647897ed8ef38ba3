"""Memory of ``flux edge`` with ten devices: the process of production, Modbus TCP on loopback, a real database."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flux.devices.simulator import SimulatedSite, SimulatorServer, demo_site, system_clock
from flux.registry import NewDevice, add_device
from flux.store.db import connect
from flux.store.migrate import migrate
from flux.store.server import EmbeddedServer

DEVICES = 10
SETTLE_S = 20.0
AIM_MB = 80
_SITE_FILE = """\
site: WLCE
recording: {polling_interval: 1s}
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 1s
  battery: {capacity_kwh: 500, charge_limit_kw: 100, discharge_limit_kw: 105}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: import_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
"""


def main() -> None:
    """Print the resident memory after 20 s at 60 times the usual rate of readings."""
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        Path(folder).chmod(0o755)  # the database server's user has to reach it
        with EmbeddedServer(Path(folder)) as server:
            migrate(server.dsn)
            rss_mb, peak_mb, recorded = asyncio.run(_measure(server.dsn, Path(folder)))
    verdict = "ok" if rss_mb < AIM_MB else "MISSED"
    print(
        f"edge memory: {rss_mb:.1f} MB resident (peak {peak_mb:.1f} MB), {DEVICES} devices, {recorded} readings;"
        f" aim < {AIM_MB} MB: {verdict}; ratio {rss_mb / AIM_MB:.2f}"
    )


async def _measure(dsn: str, folder: Path) -> tuple[float, float, int]:
    async with SimulatorServer(_site(), system_clock) as simulator:
        async with await connect(dsn, autocommit=True) as conn:
            for device in simulator.devices:
                new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
                await add_device(conn, new, actor="benchmark")
        return await asyncio.to_thread(_run_edge, dsn, folder)


def _site() -> SimulatedSite:
    """The demo's battery and meters, and more load meters up to ten devices."""
    config = demo_site(port=0)
    load_meter = config.devices[3]
    more = [
        load_meter.model_copy(update={"name": f"WLCE-LOAD-METER-{n}"}) for n in range(DEVICES - len(config.devices))
    ]
    return SimulatedSite(config.model_copy(update={"devices": (*config.devices, *more)}), system_clock())


def _run_edge(dsn: str, folder: Path) -> tuple[float, float, int]:
    site_file = folder / "site.yaml"
    site_file.write_text(_SITE_FILE)
    environment = {**os.environ, "FLUX_DATABASE_URL": dsn, "FLUX_HOME": str(folder)}
    command = [sys.executable, "-m", "flux", "edge", "--site", str(site_file)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            status_file = folder / "edge" / "WLCE" / "status.json"
            _wait_for_devices(process, status_file)
            time.sleep(SETTLE_S)
            status = json.loads(status_file.read_text())
            rss_mb, peak_mb = (_kb_of(process.pid, field) / 1024 for field in ("VmRSS", "VmHWM"))
        finally:
            process.terminate()
    return rss_mb, peak_mb, status["outbox"]["recorded"]


def _wait_for_devices(process: "subprocess.Popen[bytes]", status_file: Path) -> None:
    for _ in range(300):
        time.sleep(0.1)
        if process.poll() is not None:
            raise SystemExit(f"flux edge ended with {process.returncode}")
        if status_file.exists():
            devices = json.loads(status_file.read_text())["devices"]
            if len(devices) == DEVICES and all(device["time"] for device in devices):
                return
    raise SystemExit("flux edge did not poll its devices within 30 s")


def _kb_of(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise SystemExit(f"no {field} in /proc/{pid}/status")


if __name__ == "__main__":
    main()
