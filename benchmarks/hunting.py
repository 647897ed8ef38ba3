"""How well a site is kept at 0 kW whose load jumps every 20 s, by how late its grid meter is and how noisy it is.

An hour in memory, in cycles of 4 s: the controller, the drivers and the simulator's registers, without a network.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from flux.control.plan import ControllerPlan
from flux.devices.driver import DeviceDriver
from flux.devices.simulator import LoadConfig, SimulatedSite, SolarConfig, demo_site, memory_transport
from flux.edge.build import build_controller
from flux.edge.control_loop import SiteController
from flux.edge.newest import NewestPolls
from flux.model import Device, DeviceState, parse_metadata

START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
CYCLES, SETTLING, CYCLES_PER_STEP = 900, 300, 5
GRID, STORAGE = "WLCE-GRID-METER", "WLCE-BESS-METER"
PLAN = ControllerPlan.model_validate(
    {
        "site_meter": GRID,
        "bess": ["WLCE-BESS-01"],
        "bess_meter": [STORAGE],
        "battery": {"capacity_kwh": 500, "charge_limit_kw": 100, "discharge_limit_kw": 105},
        "site": {"import_limit_kw": 220, "export_limit_kw": 475},
        "modes": [{"mode": "import_avoidance"}, {"mode": "export_avoidance"}],
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Over the last 40 minutes: site power (kW) at the end of each step of the load, and the mean part of a step."""

    largest_kw: float
    mean_kw: float
    mean_gain: float


def main() -> None:
    """Print a line for each lag and noise."""
    print("site power at the end of each 20 s, the last 40 minutes of an hour; the load jumps every 20 s")
    for lag_s in (0, 2, 4, 8, 16):
        for noise_kw in (0.0, 0.3):
            one = asyncio.run(_live(lag_s, noise_kw))
            print(
                f"grid meter {lag_s:2d} s late, noise {noise_kw:.1f} kW: largest {one.largest_kw:4.1f} kW,"
                f" mean {one.mean_kw:4.2f} kW, {one.mean_gain:4.0%} of each step taken"
            )


async def _live(lag_s: int, noise_kw: float) -> Outcome:
    demo = demo_site()
    update = {"load": LoadConfig(mean_kw=40), "solar": SolarConfig(constant_kw=0)}
    site = SimulatedSite(demo.model_copy(update=update), START)
    site.publish_on_demand = False
    site.set_lag(GRID, timedelta(seconds=lag_s))
    for meter in (GRID, STORAGE):
        site.set_noise(meter, noise_kw)
    drivers, newest = _drivers(site), NewestPolls()
    controller = build_controller(PLAN, drivers, newest, clock=lambda: site.time, quiet=True)
    ends, gains = [], []
    for cycle in range(CYCLES):
        await _cycle(site, controller, drivers, newest)
        if cycle >= SETTLING:
            gains.append(controller.damping.gain)
            if cycle % CYCLES_PER_STEP == CYCLES_PER_STEP - 1:
                ends.append(abs(site.meter(GRID).power_kw))
    return Outcome(max(ends), sum(ends) / len(ends), sum(gains) / len(gains))


async def _cycle(
    site: SimulatedSite, controller: SiteController, drivers: dict[str, DeviceDriver], newest: NewestPolls
) -> None:
    for _ in range(4):
        site.step(site.time + timedelta(seconds=1))
        site.publish()
    for name in controller.needed:
        newest.put(name, await drivers[name].poll(drivers[name].control_names))
    await controller.cycle(site.time)


def _drivers(site: SimulatedSite) -> dict[str, DeviceDriver]:
    drivers = {}
    for one in site.devices:
        device = Device(
            id=uuid4(),
            name=one.name,
            type=one.type,
            site="WLCE",
            metadata=parse_metadata(one.type, one.metadata, one.name),
            state=DeviceState.ACTIVE,
            created_at=START,
            updated_at=START,
        )
        drivers[one.name] = DeviceDriver(device, one.template, memory_transport(site, one.name), lambda: site.time)
    return drivers
