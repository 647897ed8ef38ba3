"""One simulated day through the real edge over Modbus TCP, and the backtest of that day: the same decisions.

Both have the same load and sun, and learn of market, dispatch and envelopes at the same instants. The clock of edge and
devices is moved by hand from tick to tick; each tick is a microsecond late, since a meter shows what has just been, and
a half hour's load begins at its edge. What is left are the registers: the battery's count whole watts and watt-hours,
and a set-point that differs by less than the controller's dead band is not sent.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.analysis.kit import half_hours
from tests.edge.conftest import devices_of
from tests.edge.fakes import MemoryPlatform

from flux.analysis.known import MarketAsKnown, Release
from flux.analysis.simulate import Setting, simulate
from flux.analysis.told import Told, ToldEnvelope, ToldStep
from flux.control.decision import Decision
from flux.control.feed import ControlFeed
from flux.control.state import Envelope, ScheduleStep, SiteLimits
from flux.devices.simulator import (
    BatteryConfig,
    DeviceConfig,
    LoadConfig,
    SimConfig,
    SimulatedSite,
    SimulatorServer,
    SolarConfig,
)
from flux.edge.config import load_site_file
from flux.edge.link import RegistrySnapshot
from flux.edge.runtime import EdgeRuntime
from flux.model import DeviceType, MeterType

DAY = datetime(2024, 1, 17, tzinfo=UTC)
END = DAY + timedelta(days=1)
STEP = timedelta(minutes=5)
LATE = timedelta(microseconds=1)
SMALLEST_STEP_KW = 0.05  # watts and watt-hours that registers round, the latter spread over five minutes
SITE_FILE = """
site: WLCE
templates_dir: templates
recording: {polling_interval: 30m}
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 5m
  max_reading_age: 10m
  battery: {capacity_kwh: 1280, charge_efficiency: 0.85, charge_limit_kw: 565, discharge_limit_kw: 565,
            soe_min_kwh: 64, soe_max_kwh: 1216}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: axle}
    - {mode: discharge_to_soe, soe_kwh: 300, periods: [{start: "13:30", end: "14:00"}]}
    - {mode: dynamic_peak_discharge, periods: [{days: weekdays, start: "17:00", end: "19:00"}], target_soe_kwh: 200,
       prioritise_residual_load: true, when_short: {guess: true, cutoff: 20m}}
    - {mode: niv_chase, charge_curve: [[-.inf, 1216], [0, 1216], [60, 0]],
       discharge_curve: [[90, 1216], [140, 200], [.inf, 200]],
       when_short: {guess: true, min_niv_mw: 100, cutoff: 15m}, when_long: {guess: true, min_niv_mw: 50, cutoff: 15m}}
    - {mode: dynamic_peak_approach, peak: {days: weekdays, start: "17:00", end: "19:00"}, to_soe_kwh: 900,
       assumed_charge_power_kw: 300, cushion: 20m, when_long: {guess: true, cutoff: 20m}}
    - {mode: import_avoidance, periods: [{start: "16:00", end: "21:00"}]}
    - {mode: export_avoidance}
    - {mode: import_avoidance_when_short, when_short: {guess: true, cutoff: 20m}}
"""


@dataclass
class HandClock:
    """A clock that stands until it is moved; whoever sleeps wakes when it has moved far enough."""

    now: datetime
    waiting: list[tuple[datetime, asyncio.Event]] = field(default_factory=list)

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self.waiting.append((self.now + timedelta(seconds=seconds), woken))
        await woken.wait()

    def move_to(self, instant: datetime) -> None:
        self.now = instant
        due = [woken for wake_at, woken in self.waiting if wake_at <= instant]
        self.waiting = [one for one in self.waiting if one[0] > instant]
        for woken in due:
            woken.set()


class Platform(MemoryPlatform):
    """Tells the market as it is known, and notes what of it the edge has taken up."""

    taken: str | None = None

    async def control_feed(self, after: str | None, timeout_s: float) -> ControlFeed | None:
        self.taken = after
        return await super().control_feed(after, timeout_s)

    async def tell(self, feed: ControlFeed) -> None:
        self.feed = feed
        self.feed_changed.set()
        await until(lambda: self.taken == feed.cursor)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.0005)


def site_config(template: Path) -> SimConfig:
    def meter(kind: MeterType, name: str) -> DeviceConfig:
        return DeviceConfig(
            name=name, type=DeviceType.METER, template="acuvim2_standard", meter_type=kind, ct_ratio=400, vt_ratio=4
        )

    battery = BatteryConfig(
        capacity_kwh=1280,
        charge_limit_kw=565,
        discharge_limit_kw=565,
        charge_efficiency=0.85,
        ramp_kw_s=1e9,
        soe_pct=45,
    )
    return SimConfig(
        site="WLCE",
        load=LoadConfig(mean_kw=70),
        solar=SolarConfig(peak_kw=210),
        devices=(
            DeviceConfig(name="WLCE-BESS-01", type=DeviceType.BESS, template=str(template), battery=battery),
            meter(MeterType.GRID, "WLCE-GRID-METER"),
            meter(MeterType.STORAGE, "WLCE-BESS-METER"),
        ),
    )


def patient_template(folder: Path) -> Path:
    """The Tesla template for a controller that speaks every five minutes, and without its ramp of 100 kW a second."""
    from flux.devices import template as package

    text = (Path(package.__file__).parent / "templates" / "tesla_powerpack.yaml").read_text()
    changed = text.replace("value: 30}", "value: 3600}").replace("value: 100000}", "value: 0}")
    assert changed.count("value: 3600}") == 1
    assert changed.count("value: 0}") == 2
    path = folder / "templates" / "tesla_powerpack.yaml"
    path.parent.mkdir()
    path.write_text(changed)
    return path


def market_of_the_day() -> tuple[Release, ...]:
    """Prices and NIV that wander, some of them revised or late."""
    source = random.Random(17)
    figures = [(source.uniform(-20, 180), source.uniform(-400, 400)) for _ in range(50)]
    first = half_hours(figures, DAY - timedelta(hours=1))
    late = [
        replace(one, known_at=one.known_at + timedelta(minutes=7)) if n % 5 == 0 else one for n, one in enumerate(first)
    ]
    revised = [replace(one, known_at=one.known_at + timedelta(minutes=12), price=30.0) for one in late[3::7]]
    return (*late, *revised)


def told_on_the_day() -> Told:
    """Dispatch, some of it withdrawn while it holds, and an envelope that comes when it holds already."""

    def at(hour: float) -> datetime:
        return DAY + timedelta(hours=hour)

    first = ToldStep(ScheduleStep(at(9), at(11), "charge_max"), at(8), at(10))
    second = ToldStep(ScheduleStep(at(10.5), at(11), "avoid_import"), at(10.25))
    limits = ToldEnvelope(Envelope(at(2), at(7), SiteLimits(90.0, 60.0)), at(3))
    return Told((first, second), (limits,))


async def live(tmp_path: Path, config: SimConfig, releases: tuple[Release, ...], told: Told) -> list[Decision]:
    """Each decision of the day, as the edge took it."""
    clock = HandClock(DAY - timedelta(minutes=2))
    site, market, platform = SimulatedSite(config, clock()), MarketAsKnown(releases), Platform()
    platform.clock = clock
    (tmp_path / "site.yaml").write_text(SITE_FILE)
    decisions = []
    async with SimulatorServer(site, clock) as server:
        platform.snapshot = RegistrySnapshot(devices=tuple(devices_of(server.site)))
        edge = EdgeRuntime(
            load_site_file(tmp_path / "site.yaml"),
            platform,
            tmp_path,
            platform="memory",
            clock=clock,
            sleep=clock.sleep,
        )
        async with edge:
            controller = edge.site.controller
            assert controller is not None
            tick = DAY
            while tick < END:
                await platform.tell(replace(told.feed_at(tick), pairs=market.at(tick).pairs))
                cycles = controller.cycles
                clock.move_to(tick + LATE)
                server.tick()
                await until(lambda before=cycles: controller.cycles > before)  # type: ignore[misc]
                async with controller.between_cycles():  # what was decided has been commanded too
                    assert controller.last is not None
                decisions.append(controller.last)
                tick += STEP
            assert controller.failed_commands == 0
    return decisions


async def test_the_edge_over_modbus_and_the_backtest_decide_alike(tmp_path: Path) -> None:
    config, releases, told = site_config(patient_template(tmp_path)), market_of_the_day(), told_on_the_day()
    lived = await live(tmp_path, config, releases, told)
    tried: list[Decision] = []
    plan = load_site_file(tmp_path / "site.yaml").config.controller
    assert plan is not None
    setting = Setting(
        load=config.load_profile(),
        solar=config.solar_profile(),
        releases=releases,
        start=DAY,
        end=END,
        step=STEP,
        start_soe_kwh=0.45 * 1280,
        told=told,
    )
    simulate(plan, setting, observe=lambda _state, decision: tried.append(decision))
    assert [one.time - LATE for one in lived] == [one.time for one in tried]
    for mine, other in zip(lived, tried, strict=True):
        assert gist(mine) == gist(other), f"{other.time}: {mine.reason} | {other.reason}"
        assert mine.target_power_kw is not None
        assert other.target_power_kw is not None
        assert abs(mine.target_power_kw - other.target_power_kw) < SMALLEST_STEP_KW, f"{mine.reason} | {other.reason}"
    assert sum(one.effective == "axle" for one in tried) >= 12, "an hour of charging"
    assert any("site import limit 90.0 kW" in one.reason for one in tried)
    assert len({one.effective for one in tried}) >= 6, "the day had work for most modes"
    assert {limit for one in tried for limit in one.limits} >= {"inverter", "site_import"}


def gist(decision: Decision) -> tuple[object, ...]:
    """Which modes asked for what, which took effect, and what limited it.

    A mode that has just reached its level asks for a few watts more, or for none, as the last watt-hour falls.
    """
    asked = [
        (offer.mode, offer.refused)
        for offer in decision.proposals
        if offer.target_kw is None or abs(offer.target_kw) >= SMALLEST_STEP_KW
    ]
    moves = abs(decision.target_power_kw or 0.0) >= SMALLEST_STEP_KW
    effect = (decision.effective, decision.command_source, decision.limits) if moves else ()
    return asked, effect
