"""Fast time: the same site, controller and readings as live, without waiting."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from tests.edge.conftest import PLAN, devices_of, plan_of
from tests.edge.fakes import START

from flux.devices.simulator import SimulatedSite
from flux.edge.fast import run_fast
from flux.model import BessReading, InputError, MeterReading, Reading

MINUTE = timedelta(minutes=1)
STEP = timedelta(seconds=20)
MakeSite = Callable[..., SimulatedSite]


async def run(site: SimulatedSite, hours: float, plan: str | None = PLAN) -> tuple[list[Reading], list[datetime]]:
    readings: list[Reading] = []
    done: list[datetime] = []

    async def sink(batch: list[Reading]) -> None:
        readings.extend(batch)

    await run_fast(
        site,
        None if plan is None else plan_of(plan),
        devices_of(site),
        START,
        START + timedelta(hours=hours),
        control_interval=STEP,
        record_interval=MINUTE,
        sink=sink,
        progress=done.append,
    )
    return readings, done


async def test_each_device_is_recorded_on_each_minute(make_site: MakeSite) -> None:
    readings, done = await run(make_site(), 3)
    assert set(Counter(reading.device_id for reading in readings).values()) == {180}
    assert {(reading.time.second, reading.time.microsecond) for reading in readings} == {(0, 0)}
    assert readings == sorted(readings, key=lambda reading: reading.time)
    assert done[-1] == START + timedelta(hours=3)


async def test_the_controller_keeps_the_site_at_zero(make_site: MakeSite) -> None:
    site = make_site(load_kw=40)
    readings, _ = await run(site, 2)
    grid_id = next(one.id for one in devices_of(site) if one.name == "WLCE-GRID-METER")
    grid = [r for r in readings if isinstance(r, MeterReading) and r.device_id == grid_id]
    assert all(abs(r.power_total_active or 0.0) < 0.1 for r in grid[1:])
    bess = [r for r in readings if isinstance(r, BessReading)]
    assert {r.command_source for r in bess[1:]} == {3}
    assert bess[-1].soe == pytest.approx(50 - 2 * 40 / 5, abs=0.2)


async def test_pieces_make_the_same_as_the_whole(make_site: MakeSite) -> None:
    whole = make_site(load_kw=40, solar_kw=15)
    await run(whole, 2)
    pieces = make_site(load_kw=40, solar_kw=15)
    devices = devices_of(pieces)

    async def ignore(batch: list[Reading]) -> None:
        assert batch

    for hour in range(2):
        start = START + timedelta(hours=hour)
        await run_fast(
            pieces,
            plan_of(),
            devices,
            start,
            start + timedelta(hours=1),
            control_interval=STEP,
            record_interval=MINUTE,
            sink=ignore,
        )
    counters = [site.meter("WLCE-GRID-METER").active.imported for site in (whole, pieces)]
    assert counters[0] == pytest.approx(counters[1], abs=0.02)


async def test_without_a_plan_it_only_records(make_site: MakeSite) -> None:
    readings, _ = await run(make_site(load_kw=40), 1, None)
    bess = [r for r in readings if isinstance(r, BessReading)]
    assert {(r.soe, r.command_source) for r in bess} == {(50.0, None)}


async def test_a_plan_for_other_devices_is_refused(make_site: MakeSite) -> None:
    with pytest.raises(InputError, match=r"controller\.site_meter: 'WLCE-GRID-METR' is no device"):
        await run(make_site(), 1, PLAN.replace("WLCE-GRID-METER", "WLCE-GRID-METR"))
