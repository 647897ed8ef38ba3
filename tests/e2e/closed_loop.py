"""A whole edge in closed loop with a simulated site: real Modbus TCP, real PostgreSQL, time that is moved by hand.

Each second of the site is one step: the physics move, whoever slept wakes, and on the control grid the step waits until
the edge has polled, decided and written. A busy machine makes it slower and nothing else.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from flux.control.explain import explain
from flux.control.faults import FaultSpan, fault_spans
from flux.devices import client, patience
from flux.devices import template as templates
from flux.devices.codec import decode
from flux.devices.simulator import (
    BatteryConfig,
    LoadConfig,
    RegisterWrite,
    Reply,
    SimConfig,
    SimulatedSite,
    SimulatorServer,
    SolarConfig,
    demo_site,
)
from flux.edge.config import load_site_file
from flux.edge.runtime import EdgeRuntime
from flux.edge.sql_link import SqlLink
from flux.registry import NewDevice, add_device
from flux.store.decisions import LedgerSpan, fault_rows

START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
INTERVAL = timedelta(seconds=4)
STEP_H = INTERVAL / timedelta(hours=1)
BESS, GRID, STORAGE = "WLCE-BESS-01", "WLCE-GRID-METER", "WLCE-BESS-METER"
SECOND_BESS, SECOND_STORAGE = "WLCE-BESS-02", "WLCE-BESS-METER-2"
ROUNDING_KW = 0.02
"""Registers hold 1 W and 1 Wh, meters answer with 32-bit floats of V × A."""

SITE_FILE = """
site: WLCE
templates_dir: templates
recording: {{polling_interval: 60s}}
controller:
  site_meter: WLCE-GRID-METER
  bess: [{bess}]
  bess_meter: [{bess_meter}]
  interval: 4s
  max_reading_age: 10s
  battery: {{capacity_kwh: {plan_kwh}, charge_efficiency: 0.9, charge_limit_kw: 100, discharge_limit_kw: 105,
            soe_min_kwh: {soe_min_kwh}, soe_max_kwh: {soe_max_kwh}}}
  site: {{import_limit_kw: {import_limit_kw}, export_limit_kw: {export_limit_kw}}}
  modes: [{modes}]
"""

WHOLE_KW = """
device_template:
  name: whole_kw
  type: bess
  manufacturer: Test
  model: whole kilowatts
  default_config: {timeout: 300ms, retry_count: 1}
  registers:
    - {name: soe, address: 1, type: uint32, scale: 0.00001, unit: "%"}
    - {name: target_power, address: 5, type: int16, unit: kW}
    - {name: set_point, address: 10, type: int16, scale: 1.0, unit: kW, access: read_write}
    - {name: give_up_after, address: 11, type: uint16, unit: s, access: write}
    - {name: ramp, address: 12, type: int32, unit: W/s, access: write}
    - {name: ramp_down, address: 14, type: int32, unit: W/s, access: write}
  control:
    ramp_up: {register: ramp, value: 20000}
    ramp_down: {register: ramp_down, value: 20000}
    power: {register: set_point}
    timeout: {register: give_up_after, value: 30}
"""


class HandClock:
    """A clock that is moved by hand, and the sleep that goes with it."""

    def __init__(self, start: datetime) -> None:
        self.now = start
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._number = count()

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wakes = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + timedelta(seconds=seconds), next(self._number), wakes))
        await wakes

    def advance(self, by: timedelta) -> None:
        """Move on and wake whose time has come, earliest first."""
        self.now += by
        while self._sleepers and self._sleepers[0][0] <= self.now:
            wakes = heapq.heappop(self._sleepers)[2]
            if not wakes.done():
                wakes.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a scenario is made of. Powers in kW, energies in kWh."""

    load: LoadConfig = field(default_factory=lambda: LoadConfig(constant_kw=40.0))
    solar: SolarConfig = field(default_factory=lambda: SolarConfig(constant_kw=0.0))
    capacity_kwh: float = 500.0
    soe_pct: float = 50.0
    soe_min_kwh: float = 25.0
    soe_max_kwh: float = 475.0
    import_limit_kw: float = 220.0
    export_limit_kw: float = 475.0
    modes: str = "{mode: import_avoidance}, {mode: export_avoidance}"
    bess: str = BESS
    bess_meter: str = STORAGE
    template: str = "tesla_powerpack"
    ramp_w_s: int = 100_000

    def config(self) -> SimConfig:
        demo = demo_site(port=0)
        battery = BatteryConfig(
            capacity_kwh=self.capacity_kwh, charge_limit_kw=100, discharge_limit_kw=105, soe_pct=self.soe_pct
        )
        bess = demo.devices[0].model_copy(update={"battery": battery, "template": self.template})
        devices = (bess, *demo.devices[1:])
        if SECOND_BESS in self.bess:
            fuller = battery.model_copy(update={"soe_pct": min(100.0, self.soe_pct + 30)})
            twin = bess.model_copy(update={"name": SECOND_BESS, "battery": fuller})
            *others, meter = demo.devices[1:]
            meters = [
                meter.model_copy(update={"name": name, "batteries": (of,)})
                for name, of in ((STORAGE, BESS), (SECOND_STORAGE, SECOND_BESS))
            ]
            devices = (bess, twin, *others, *meters)
        return demo.model_copy(update={"load": self.load, "solar": self.solar, "devices": devices, "resolution": 20})

    def write_templates(self, folder: Path) -> dict[str, templates.DeviceTemplate]:
        """The package's own but for patience: a second of this site takes milliseconds."""
        folder.mkdir()
        package = Path(templates.__file__).parent / "templates"
        (folder / "whole_kw.yaml").write_text(WHOLE_KW.replace("20000", str(self.ramp_w_s)))
        for name in ("tesla_powerpack", "acuvim2_standard"):
            text = (package / f"{name}.yaml").read_text()
            quick = text.replace("timeout: 5s, retry_count: 3", "timeout: 300ms, retry_count: 1")
            assert quick != text, f"{name} says its patience in other words now"
            (folder / f"{name}.yaml").write_text(quick.replace("value: 100000", f"value: {self.ramp_w_s}"))
        return {path.stem: templates.load_template(path) for path in folder.glob("*.yaml")}


@dataclass(slots=True)
class Loop:
    """A running edge and its site, and all that was written to the battery."""

    setup: Setup
    clock: HandClock
    server: SimulatorServer
    edge: EdgeRuntime
    db: AsyncConnection[Any]
    replies: list[Reply]
    templates: dict[str, templates.DeviceTemplate]
    site_kw: list[float] = field(default_factory=list)
    battery_kw: list[float] = field(default_factory=list)

    @property
    def site(self) -> SimulatedSite:
        return self.server.site

    def set_load(self, load_kw: float, solar_kw: float = 0.0) -> None:
        """From now on."""
        update = {"load": LoadConfig(constant_kw=load_kw), "solar": SolarConfig(constant_kw=solar_kw)}
        other = SimulatedSite(self.site.config.model_copy(update=update), START, self.templates)
        self.site._load, self.site._solar = other._load, other._solar

    async def run(self, seconds: int) -> None:
        """Let so many seconds of the site pass."""
        for _ in range(seconds):
            self.clock.advance(SECOND)
            await self.server.advance()
            await self._settle()
            self.site_kw.append(self.site.meter(GRID).power_kw)
            self.battery_kw.append(self.site.battery(BESS).power_kw)

    async def until(self, what: Callable[[], bool]) -> None:
        """Time stands still meanwhile; what is waited for is under way."""
        async with asyncio.timeout(10):
            while not what():
                await asyncio.sleep(0.002)

    @property
    def state_dir(self) -> Path:
        """Where the edge keeps its own files."""
        return self.edge.status_file.parent

    async def _settle(self) -> None:
        """On the control grid, until the cycle of this instant has ended."""
        if (self.clock.now - START) % INTERVAL:
            await asyncio.sleep(0)
            return
        controller = self.edge.site.controller
        assert controller is not None
        async with asyncio.timeout(20):
            while controller.last is None or controller.last.time < self.clock.now:
                await asyncio.sleep(0.001)
            async with controller.between_cycles():
                pass

    def settled_within(self, kw: float, last_s: int) -> None:
        """The site stayed within ±``kw`` for the last seconds, whatever a meter showed."""
        worst = max(self.site_kw[-last_s:], key=abs)
        assert abs(worst) <= kw, f"the site was at {worst:.2f} kW"

    @property
    def step_kw(self) -> float:
        """Of the set-point register."""
        device = self.site.device(BESS)
        assert device.template.control is not None
        return abs(device.template.register(device.template.control.power.register_name).scale)

    @property
    def powers_written(self) -> list[RegisterWrite]:
        """What the battery's own set-point register took."""
        device = self.site.device(BESS)
        assert device.template.control is not None
        name = device.template.control.power.register_name
        return [write for write in device.register_log if write.register == name]

    def no_limit_was_passed(self) -> None:
        """Every set-point that the battery took was inside every limit, by what the devices had said just before.

        To be asked before the edge stops: its last 0 kW goes out whatever the limits say.
        """
        said = LastSaid(self)
        for write in self.powers_written:
            said.until(write.time)
            low, high = said.allowed_kw
            assert isinstance(write.value, int | float)
            if self.step_kw > high - low:  # no whole step fits in between: then it is the one towards 0
                low, high = min(low, 0.0), max(high, 0.0)
            assert low - ROUNDING_KW <= write.value <= high + ROUNDING_KW, (
                f"{write.time}: {write.value} kW was written, {low:.3f} to {high:.3f} kW was allowed"
            )
        assert len(self.powers_written) > 3, "nothing was judged"

    async def faults(self) -> list[FaultSpan]:
        """As the ledger has them."""
        span = LedgerSpan(START - timedelta(hours=1), START + timedelta(days=1))
        return fault_spans(await fault_rows(self.db, "WLCE", span))

    async def ledger(self) -> list[dict[str, Any]]:
        """All kept decisions with their plans, oldest first."""
        async with self.db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                "SELECT d.*, r.name AS device, p.body AS plan_body FROM flux.control_decisions d"
                " JOIN flux.mg_device_registry r ON r.id = d.device_id"
                " JOIN flux.control_plans p ON p.hash = d.plan_hash ORDER BY d.time"
            )
            return await cursor.fetchall()

    async def replays(self) -> int:
        """Every kept decision gives the same again; how many there are."""
        rows = await self.ledger()
        for row in rows:
            found = explain(row)
            assert found.same, (row["time"], row["reason"], found.differing, found.problem)
        return len(rows)


class LastSaid:
    """What the devices said last, from their own record of their replies: nothing of the edge's is believed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._replies = iter(loop.replies)
        self._ahead: Reply | None = next(self._replies, None)
        self._values: dict[str, dict[str, float]] = defaultdict(dict)
        self._scales = {
            device.name: {
                r.name: r.factor(vt_ratio=device.config.vt_ratio, ct_ratio=device.config.ct_ratio)
                for r in device.template.registers
            }
            for device in loop.server.devices
        }

    def until(self, instant: datetime) -> None:
        """Take in all answers up to ``instant``."""
        while self._ahead is not None and self._ahead.time <= instant:
            if self._ahead.function in (3, 4) and self._ahead.exception is None:
                self._take(self._ahead)
            self._ahead = next(self._replies, None)

    def _take(self, reply: Reply) -> None:
        device = self._loop.site.device(reply.device)
        for register in device.template.readable:
            at = register.address - reply.address
            if at >= 0 and at + register.words <= reply.count:
                factor = self._scales[reply.device][register.name]
                value = decode(register, reply.words[at : at + register.words], factor=factor)
                if isinstance(value, int | float):
                    self._values[reply.device][register.name] = value

    @property
    def allowed_kw(self) -> tuple[float, float]:
        """The powers inside every limit; where they can't all be met SoE and inverter go before the grid."""
        setup, bess = self._loop.setup, self._values[BESS]
        soe_kwh = bess["stored_energy"] if "stored_energy" in bess else bess["soe"] / 100 * setup.capacity_kwh
        charge_kw = max(0.0, min(100.0, (setup.soe_max_kwh - soe_kwh) / 0.9 / STEP_H))
        discharge_kw = max(0.0, min(105.0, (soe_kwh - setup.soe_min_kwh) / STEP_H))
        rest_kw = self._values[GRID]["power_total_active"] - self._values[STORAGE]["power_total_active"]
        low_kw, high_kw = rest_kw - setup.import_limit_kw, rest_kw + setup.export_limit_kw
        return min(max(low_kw, -charge_kw), discharge_kw), min(max(high_kw, -charge_kw), discharge_kw)


@asynccontextmanager
async def closed_loop(
    setup: Setup, dsn: str, db: AsyncConnection[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Loop]:
    """An edge that has begun to control; leaving it stops the edge in order, and all it kept is in the database."""
    # pauses between tries are the wall's, and here a second of the wall is minutes of the site
    monkeypatch.setattr(patience, "FIRST_PROBE_S", 0.001)
    for name, value in (("_FIRST_RETRY_S", 0.001), ("_FIRST_RECONNECT_S", 0.001), ("_LAST_RECONNECT_S", 0.001)):
        monkeypatch.setattr(client, name, value)
    known = setup.write_templates(folder / "templates")
    clock = HandClock(START)
    replies: list[Reply] = []
    site = SimulatedSite(setup.config(), START, known)
    async with SimulatorServer(site, clock, on_reply=replies.append) as server:
        for device in server.devices:
            new = NewDevice(name=device.name, type=device.type, site="WLCE", metadata=device.metadata)
            await add_device(db, new, actor="test")
        fields = {name: getattr(setup, name) for name in Setup.__dataclass_fields__}
        fields["plan_kwh"] = setup.capacity_kwh * len(setup.bess.split(","))
        (folder / "site.yaml").write_text(SITE_FILE.format(**fields))
        link = SqlLink("WLCE", lambda: dsn)
        edge = EdgeRuntime(
            load_site_file(folder / "site.yaml"), link, folder, platform=str(folder), clock=clock, sleep=clock.sleep
        )
        async with edge:
            yield Loop(setup, clock, server, edge, db, replies, known)
