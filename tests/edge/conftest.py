"""A simulated site, its devices as the registry would have them, and a plan for its battery."""

from collections.abc import Callable
from datetime import datetime
from uuid import NAMESPACE_DNS, uuid5

import pytest
from tests.edge.fakes import START

from flux.config import YamlDocument
from flux.control.plan import ControllerPlan, parse_plan
from flux.devices.simulator import SimulatedSite, demo_site
from flux.model import Device, DeviceState, parse_metadata

PLAN = """
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 4s
  max_reading_age: 10s
  battery: {capacity_kwh: 500, charge_efficiency: 0.9, charge_limit_kw: 100, discharge_limit_kw: 105,
            soe_min_kwh: 25, soe_max_kwh: 475}
  site: {import_limit_kw: 220, export_limit_kw: 475}
  modes:
    - {mode: import_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
    - {mode: export_avoidance, periods: [{days: all, start: "00:00", end: "24:00"}]}
"""


def plan_of(text: str = PLAN) -> ControllerPlan:
    return parse_plan(YamlDocument(text, "site.yaml"))


def devices_of(site: SimulatedSite, state: DeviceState = DeviceState.ACTIVE) -> list[Device]:
    """What the registry would hold of a simulated site; the ids follow from the names."""
    return [
        Device(
            id=uuid5(NAMESPACE_DNS, one.name),
            name=one.name,
            type=one.type,
            site=site.config.site,
            metadata=parse_metadata(one.type, one.metadata, one.name),
            state=state,
            created_at=START,
            updated_at=START,
        )
        for one in site.devices
    ]


@pytest.fixture
def make_site() -> Callable[..., SimulatedSite]:
    """A demo site at ``start`` whose load and sun (kW) stay the same."""

    def make(
        load_kw: float = 40.0,
        solar_kw: float = 0.0,
        soe_pct: float = 50.0,
        start: datetime = START,
        port: int = 15020,
    ) -> SimulatedSite:
        config = demo_site(port=port)
        battery = config.devices[0]
        assert battery.battery is not None
        charged = battery.model_copy(update={"battery": battery.battery.model_copy(update={"soe_pct": soe_pct})})
        return SimulatedSite(
            config.model_copy(
                update={
                    "load": config.load.model_copy(update={"constant_kw": load_kw}),
                    "solar": config.solar.model_copy(update={"constant_kw": solar_kw}),
                    "devices": (charged, *config.devices[1:]),
                }
            ),
            start,
        )

    return make
