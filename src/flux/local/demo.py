"""The demo: a simulated site, registered, with a week behind it, that then goes on live.

The week is made by the same simulator and the same controller in fast time, through the same ingest. It is made in
pieces: after each, the simulated site's state is saved, so that a demo that was stopped half-way goes on there.
"""

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flux.api.keys import key_file
from flux.config import Settings
from flux.control.plan import ControllerPlan
from flux.devices.simulator import SimConfig, SimulatedSite, demo_site
from flux.devices.simulator.statefile import StateFile
from flux.edge.config import SiteFile, load_site_file
from flux.edge.decisions import observe_nothing
from flux.edge.fast import at_interval, run_fast
from flux.errors import UnavailableError
from flux.local.demo_ledger import BackfillLedger
from flux.local.demo_market import market_between, market_job, store_market
from flux.local.jobs import run_jobs
from flux.local.ports import require_free
from flux.local.supervisor import ChildSpec, stopped
from flux.local.up import Database, UpOptions, check_ports, migrated_database, only_one, run_children, utc_now
from flux.model import Device, DeviceId, Reading
from flux.registry import add_device, list_devices, parse_new_device, set_metadata
from flux.store import rollups
from flux.store.db import connect
from flux.store.ingest import ingest

SITE = "WLCE"
MODBUS_PORT = 15020
_PIECE = timedelta(hours=6)
_RECORD_INTERVAL = timedelta(seconds=60)
_CONTROL_INTERVAL = timedelta(seconds=20)
_BATCH = 5000
_LEDGER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where the demo keeps what it made."""

    home: Path

    @property
    def site_file(self) -> Path:
        return self.home / "demo" / "site.yaml"

    @property
    def sim_state(self) -> Path:
        return self.home / "demo" / "sim.json"

    @property
    def backfilled(self) -> Path:
        """Exists once the backfill is whole."""
        return self.home / "demo" / "backfilled.json"


def write_site_file(files: DemoFiles) -> SiteFile:
    """Write the demo's site file unless there is one, which may have been edited; checked whole."""
    if not files.site_file.exists():
        text = resources.files("flux.local").joinpath("demo_site.yaml").read_text()
        draft = files.site_file.with_suffix(".new")
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text)
            draft.replace(files.site_file)
        except OSError as error:
            raise UnavailableError(f"{files.site_file}: {error.strerror}; make room, or set FLUX_HOME") from None
    return load_site_file(files.site_file)


async def register_devices(conn: AsyncConnection[Any], config: SimConfig) -> list[Device]:
    """Register what is simulated; devices that are known are given their present address."""
    known = {device.name: device for device in await list_devices(conn, site=config.site)}
    for simulated in SimulatedSite(config, datetime.fromisoformat("2026-01-01T00:00:00Z")).devices:
        metadata = simulated.metadata
        device = known.get(simulated.name)
        if device is None:
            new = {"name": simulated.name, "type": simulated.type, "site": config.site, "metadata": metadata}
            await add_device(conn, parse_new_device(new), actor="flux demo")
        elif (device.metadata.host, device.metadata.port) != (metadata["host"], metadata["port"]):
            address = {"host": metadata["host"], "port": metadata["port"]}
            await set_metadata(conn, device.id, address, actor="demo")
    return await list_devices(conn, site=config.site)


class Backfill:
    """The days before the demo's start, made in fast time; stopped anywhere it goes on from the last whole piece."""

    def __init__(self, files: DemoFiles, config: SimConfig, days: int, clock: Callable[[], datetime]) -> None:
        self._files = files
        self._config = config
        self._clock = clock
        self._days = days
        self._state = StateFile(files.sim_state)
        self._newest_stored: dict[DeviceId, datetime] = {}

    @property
    def needed(self) -> bool:
        return self._days > 0 and not self._files.backfilled.exists()

    async def run(
        self,
        conn: AsyncConnection[Any],
        devices: list[Device],
        plan: ControllerPlan | None,
        progress: Callable[[datetime, datetime, datetime], None],
    ) -> int:
        """Returns how many readings were made; ``progress`` gets (start, end, done until)."""
        state = self._state.load()
        end = self._end()
        start = end - timedelta(days=self._days)
        site = SimulatedSite(self._config, start)
        if state is not None:
            start = datetime.fromisoformat(state["backfill"]["start"])
            site.restore(state, datetime.fromisoformat(state["backfill"]["until"]))
        self._newest_stored = await _newest(conn, devices)
        ledger = BackfillLedger(at_interval(plan, _CONTROL_INTERVAL), devices, end - _LEDGER) if plan else None
        made = 0

        async def sink(readings: list[Reading]) -> None:
            nonlocal made
            made += len(readings)
            await self._store(conn, readings)

        while site.time < (end := self._end()):
            until = min(site.time + _PIECE, end)
            await run_fast(
                site,
                plan,
                devices,
                site.time,
                until,
                control_interval=_CONTROL_INTERVAL,
                record_interval=_RECORD_INTERVAL,
                sink=sink,
                progress=partial(progress, start, end),
                observe=ledger.observe if ledger else observe_nothing,
                market=market_between(site.time, until),
            )
            if ledger is not None:
                await ledger.store(conn)
            await store_market(conn, self._config.site, start, until)
            marks = {"start": start.isoformat(), "until": until.isoformat()}
            self._state.save({**site.state(), "backfill": marks})
        await rollups.refresh(conn)
        self._files.backfilled.write_text(json.dumps({"start": start.isoformat(), "end": end.isoformat()}))
        return made

    def _end(self) -> datetime:
        """The last full minute: the live edge records from the next one on."""
        return self._clock().replace(second=0, microsecond=0)

    async def _store(self, conn: AsyncConnection[Any], readings: list[Reading]) -> None:
        """Store what is not there yet: a piece that was cut off is made again, and begins with what is stored."""
        newest = self._newest_stored
        fresh = [r for r in readings if r.device_id not in newest or r.time > newest[r.device_id]]
        for first in range(0, len(fresh), _BATCH):
            await ingest(conn, fresh[first : first + _BATCH])


async def _newest(conn: AsyncConnection[Any], devices: list[Device]) -> dict[DeviceId, datetime]:
    cursor = await conn.execute(
        "SELECT id, max(time) FROM unnest(%s::uuid[]) id, LATERAL ("
        " SELECT max(time) AS time FROM flux.mg_meter_readings WHERE device_id = id"
        " UNION ALL SELECT max(time) FROM flux.mg_bess_readings WHERE device_id = id) newest"
        " WHERE time IS NOT NULL GROUP BY id",
        ([device.id for device in devices],),
    )
    return dict(await cursor.fetchall())


def run_demo(settings: Settings, *, days: int, modbus_port: int) -> None:
    """Run until SIGINT or SIGTERM."""
    console = Console()
    files = DemoFiles(settings.home)
    config = demo_site(SITE, port=modbus_port)
    with only_one(settings.home):
        check_ports(settings)
        for device in config.devices:
            require_free(device.host, device.port, device.name, "choose other ports with --modbus-port")
        if files.site_file.exists():
            load_site_file(files.site_file)  # what was edited is told before anything is started
        if settings.database_url is None:
            console.print("starting PostgreSQL …")
        with migrated_database(settings) as database:
            site_file = write_site_file(files)
            asyncio.run(_demo(console, UpOptions(settings, site_file), files, config, database, days))
    readings = "; readings are in your database" if settings.database_url else ""
    console.print(f"stopped; `make demo` goes on where it was, everything is kept in {settings.home}{readings}")


async def _demo(
    console: Console, options: UpOptions, files: DemoFiles, config: SimConfig, database: Database, days: int
) -> None:
    async with await connect(database.dsn, application_name="flux demo", autocommit=True) as conn:
        devices = await register_devices(conn, config)
        backfill = Backfill(files, config, days, utc_now)
        if backfill.needed:
            await _show_backfill(console, backfill, conn, devices, options)
    port = config.devices[0].port
    simulator = ["sim", "--site", SITE, "--port", str(port), "--state", str(files.sim_state)]
    options = replace(options, before=(ChildSpec("sim", simulator, {}),))
    market = asyncio.create_task(run_jobs([market_job(SITE, utc_now)], database.dsn), name="the demo's market")
    try:
        await run_children(options, database, console, lambda: _heading(options))
    finally:
        await stopped(market)


async def _show_backfill(
    console: Console, backfill: Backfill, conn: AsyncConnection[Any], devices: list[Device], options: UpOptions
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[day]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("backfilling", total=1.0, day="")

        def progress(start: datetime, end: datetime, done: datetime) -> None:
            share = (done - start) / (end - start) if end > start else 1.0
            bar.update(task, completed=share, day=f"{done:%a %d %b %H:%M}")

        plan = options.site_file.config.controller if options.site_file else None
        made = await backfill.run(conn, devices, plan, progress)
    console.print(f"backfilled {made:,} readings of {len(devices)} devices")


def _heading(options: UpOptions) -> str:
    """Lines that can be pasted as they are; those that begin with $ are run by the smoke test."""
    flux = _command()
    grid = f"{SITE}-GRID-METER"
    key = shlex.quote(str(key_file(options.settings, "service")))
    return f"""
Flux is live: {options.url}/docs

  [dim]the newest reading of each device; every request needs a key, and `flux keys create` makes others[/]
  $ curl -sf -H "apikey: $(cat {key})" {options.url}/v1/readings/latest
  [dim]half-hours of the grid meter: energy is exact[/]
  $ curl -sf -H "apikey: $(cat {key})" {options.url}/v1/devices/{grid}/rollups/30m
  [dim]the same on the command line[/]
  $ {flux} devices list
  $ {flux} readings {SITE}-BESS-01 --last 5
  $ {flux} rollups {grid} --level 1h --since 24h
  [dim]what the controller did in the last hour, and why (its market is made up: source "simulated")[/]
  $ {flux} control log --site {SITE} --since 1h --changes
  $ {flux} control why {SITE}-BESS-01
  $ {flux} doctor
"""


def _command() -> str:
    """How to call `flux` from here: by its path in the environment that runs this, relative where that is shorter."""
    script = Path(sys.executable).with_name("flux")
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return str(script)
