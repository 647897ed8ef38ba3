"""Flux's own driver on the simulated site: a real day in fast time, its energies and a battery that avoids imports."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from flux.devices.driver import DeviceDriver
from flux.devices.simulator import LoadConfig, SimulatedSite, SolarConfig, demo_site, memory_transport
from flux.model import BessReading, Device, DeviceType, MeterReading, parse_metadata

DATA = Path(__file__).parents[4] / "shared" / "data" / "gb_2024_01"
DAY = datetime(2024, 1, 17, tzinfo=UTC)
LOAD_SCALE, SOLAR_SCALE = 54 / 12, 210 / 4.4


@pytest.fixture
def site() -> SimulatedSite:
    if not DATA.exists():
        pytest.skip("the shared data is missing")
    update = {
        "load": LoadConfig(file=DATA / "load_12_homes.csv", scale=LOAD_SCALE),
        "solar": SolarConfig(file=DATA / "solar_4_4_kwp.csv", scale=SOLAR_SCALE),
    }
    return SimulatedSite(demo_site(port=0).model_copy(update=update), DAY)


def driver(site: SimulatedSite, name: str) -> DeviceDriver:
    simulated = site.device(name)
    metadata = parse_metadata(simulated.type, simulated.metadata | {"port": 502})
    device = Device(
        id=UUID(int=1), name=name, type=simulated.type, site="WLCE", metadata=metadata, created_at=DAY, updated_at=DAY
    )
    return DeviceDriver(device, simulated.template, memory_transport(site, name), lambda: site.time)


def energies_of_the_day(file: str) -> Iterator[float]:
    """kWh of each half hour of the same day a year before, from the file itself."""
    with (DATA / file).open() as rows:
        for row in csv.DictReader(rows):
            if row["UTCTime"].startswith("2023-01-17"):
                yield float(row["energy"] or 0)


async def meter(one: DeviceDriver) -> MeterReading:
    reading = one.reading(await one.poll())
    assert isinstance(reading, MeterReading)
    return reading


async def test_a_day_of_the_real_files_is_what_the_meters_count(site: SimulatedSite) -> None:
    load, generation, grid = (driver(site, f"WLCE-{kind}-METER") for kind in ("LOAD", "GENERATION", "GRID"))
    for minute in range(1, 24 * 60 + 1):
        site.step(DAY + timedelta(minutes=minute))
    used = sum(energies_of_the_day("load_12_homes.csv")) * LOAD_SCALE
    made = sum(energies_of_the_day("solar_4_4_kwp.csv")) * SOLAR_SCALE
    assert used > 1000
    assert made > 50
    assert site.meter("WLCE-LOAD-METER").active.imported == pytest.approx(used, abs=1e-6)
    assert site.meter("WLCE-GENERATION-METER").active.exported == pytest.approx(made, abs=1e-6)
    assert (await meter(load)).energy_imported_active == pytest.approx(used, abs=0.05)
    assert (await meter(generation)).energy_exported_active == pytest.approx(made, abs=0.05)
    at_grid = await meter(grid)
    assert at_grid.energy_imported_active is not None
    assert at_grid.energy_exported_active is not None
    assert at_grid.energy_imported_active - at_grid.energy_exported_active == pytest.approx(used - made, abs=0.1)


async def test_a_driver_that_avoids_imports_keeps_the_grid_at_zero(site: SimulatedSite) -> None:
    """Each 20 s it reads grid and battery and commands; between changes of load the grid must read 0."""
    grid, storage, bess = (driver(site, f"WLCE-{kind}") for kind in ("GRID-METER", "BESS-METER", "BESS-01"))
    site.step(DAY + timedelta(hours=15))
    stored_at_start = site.battery("WLCE-BESS-01").energy_kwh
    counted, checked = site.meter("WLCE-BESS-METER").active, 0
    commanded_for = None
    for step in range(1, 3 * 180):
        at_grid = (await meter(grid)).power_total_active
        at_battery = (await meter(storage)).power_total_active
        assert at_grid is not None
        assert at_battery is not None
        net = site.meter("WLCE-LOAD-METER").power_kw + site.meter("WLCE-GENERATION-METER").power_kw
        if commanded_for == net and -100 < net < 105:
            assert at_grid == pytest.approx(0, abs=0.01)
            checked += 1
        commanded_for = net
        await bess.command(at_grid - at_battery)
        site.step(DAY + timedelta(hours=15, seconds=20 * step))
    assert checked > 100
    reading = bess.reading(await bess.poll())
    assert isinstance(reading, BessReading)
    stored = site.battery("WLCE-BESS-01").energy_kwh
    assert reading.soe == pytest.approx(stored / 5, abs=0.001)
    assert stored - stored_at_start == pytest.approx(0.9 * counted.imported - counted.exported, abs=1e-6)
    assert stored < stored_at_start


async def test_readings_of_every_device_are_complete_and_plausible(site: SimulatedSite) -> None:
    site.step(DAY + timedelta(hours=12))
    for device in site.devices:
        one = driver(site, device.name)
        poll = await one.poll()
        assert poll.problems == ()
        assert None not in poll.values.values()
        reading = one.reading(poll)
        if device.type is DeviceType.BESS:
            assert isinstance(reading, BessReading)
            assert (reading.soe, reading.target_power, reading.available_inverter_blocks) == (50, 0, 10)
