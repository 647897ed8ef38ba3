"""The closed loop settles: with meters that lag, ramps, and set-points that are rounded."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.edge.conftest import PLAN
from tests.edge.fakes import START
from tests.edge.rig import Rig

from flux.devices.simulator import SimulatedSite
from flux.devices.template import parse_template

MakeSite = Callable[..., SimulatedSite]
BESS, METER = "WLCE-BESS-01", "WLCE-GRID-METER"


def site_kw(rig: Rig) -> float:
    """What flows through the connection now, whatever a register shows."""
    return rig.site.meter(METER).power_kw


async def run(rig: Rig, cycles: int) -> list[float]:
    seen = []
    for _ in range(cycles):
        await rig.step()
        seen.append(site_kw(rig))
    return seen


@pytest.mark.parametrize("lag_s", [4, 8, 12, 16])
async def test_with_a_grid_meter_that_lags_it_settles(make_site: MakeSite, lag_s: int) -> None:
    rig = Rig(make_site(load_kw=40))
    rig.site.publish_on_demand = True
    rig.site.set_lag(METER, timedelta(seconds=lag_s))
    swings = await run(rig, 450)
    assert max(abs(power) for power in swings[150:]) <= 2.0
    assert max(abs(power) for power in swings[420:]) <= 0.6


async def test_without_the_damping_it_would_not(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flux.edge.control_loop.damped", lambda _p, _s, decision, _l, one, _r: (decision.target_power_kw, one)
    )
    rig = Rig(make_site(load_kw=40))
    rig.site.set_lag(METER, timedelta(seconds=8))
    swings = await run(rig, 300)
    assert max(abs(power) for power in swings[200:]) > 40


async def test_it_is_said_while_it_lasts(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40))
    rig.site.set_lag(METER, timedelta(seconds=8))
    await run(rig, 60)
    assert "hunting" in rig.heard
    assert rig.controller.damping.gain < 1
    await run(rig, 60)
    rig.site.set_lag(METER, timedelta())
    for load_kw in (80, 20, 70):
        await run(rig, 10)
        set_load(rig.site, load_kw)
    await run(rig, 30)
    assert rig.controller.damping.gain == 1
    assert "hunting" not in rig.up


async def test_a_load_that_jumps_is_followed_in_one_cycle(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40))
    await run(rig, 3)
    for load_kw in (80, -30, 60, 10, -20, 50):
        set_load(rig.site, load_kw)
        await run(rig, 2)
        assert site_kw(rig) == pytest.approx(0, abs=0.1)
        await run(rig, 40)
    assert rig.controller.damping.gain == 1


def set_load(site: SimulatedSite, net_kw: float) -> None:
    """Load above 0, sun below."""
    other = SimulatedSite(
        site.config.model_copy(
            update={
                "load": site.config.load.model_copy(update={"constant_kw": max(net_kw, 0.0)}),
                "solar": site.config.solar.model_copy(update={"constant_kw": max(-net_kw, 0.0)}),
            }
        ),
        START,
    )
    site._load, site._solar = other._load, other._solar


async def test_a_load_that_flips_every_other_cycle_is_followed_all_the_way(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40))
    await run(rig, 3)
    for number in range(60):
        set_load(rig.site, 50 if number % 2 else 20)
        await run(rig, 2)
        assert site_kw(rig) == pytest.approx(0, abs=0.1)
    assert rig.controller.damping.gain == 1
    assert "hunting" not in rig.heard


async def test_with_a_ramp_it_settles(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=90))
    await run(rig, 1)
    rig.site.battery(BESS).ramp_up_kw_s = rig.site.battery(BESS).ramp_down_kw_s = 2.0
    for load_kw in (90, 20, -60, 30):
        set_load(rig.site, load_kw)
        assert max(abs(power) for power in (await run(rig, 60))[40:]) <= 0.5


async def test_with_whole_kilowatts_only_it_settles(make_site: MakeSite) -> None:
    config = make_site(load_kw=40.4).config
    text = parse_template(COARSE, "coarse")
    bess = config.devices[0].model_copy(update={"template": "coarse"})
    site = SimulatedSite(config.model_copy(update={"devices": (bess, *config.devices[1:])}), START, {"coarse": text})
    rig = Rig(site, PLAN)
    swings = await run(rig, 100)
    assert max(abs(power) for power in swings[5:]) <= 0.51
    assert rig.controller.damping.gain == 1


async def test_lag_and_ramp_and_whole_kilowatts_together(make_site: MakeSite) -> None:
    config = make_site(load_kw=60.4).config
    bess = config.devices[0].model_copy(update={"template": "coarse"})
    devices = (bess, *config.devices[1:])
    templates = {"coarse": parse_template(COARSE, "coarse")}
    rig = Rig(SimulatedSite(config.model_copy(update={"devices": devices}), START, templates))
    rig.site.set_lag(METER, timedelta(seconds=8))
    await run(rig, 1)
    rig.site.battery(BESS).ramp_up_kw_s = rig.site.battery(BESS).ramp_down_kw_s = 5.0
    swings = await run(rig, 450)
    assert max(abs(power) for power in swings[150:]) <= 2.0


COARSE = """
device_template:
  name: coarse
  type: bess
  manufacturer: Test
  registers:
    - {name: soe, address: 1, type: uint16, scale: 0.01, unit: "%"}
    - {name: set_point, address: 10, type: int16, scale: 1.0, unit: kW, access: read_write}
    - {name: give_up_after, address: 11, type: uint16, unit: s, access: write}
  control:
    power: {register: set_point}
    timeout: {register: give_up_after, value: 30}
"""
