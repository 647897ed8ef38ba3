"""One simulated day at speed, end to end: real load and sun, real Modbus TCP, the real edge, outbox, ingest, rollups.

The same object is the clock of the devices and of the edge, so that both live in the same, faster time. The day is in
the past, since the store refuses readings from the future.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncCursor

from flux.devices.simulator import (
    BatteryConfig,
    DeviceConfig,
    LoadConfig,
    SimClock,
    SimConfig,
    SimulatedSite,
    SimulatorServer,
    SolarConfig,
)
from flux.edge.config import load_site_file
from flux.edge.runtime import EdgeRuntime
from flux.edge.sql_link import SqlLink
from flux.model import DeviceType, MeterType
from flux.registry import add_device, list_devices, parse_new_device
from flux.store import rollups

DATA = Path(__file__).parents[3] / "shared" / "data" / "gb_2024_01"
START = datetime(2024, 1, 19, 23, 50, tzinfo=UTC)  # ten minutes before a day with sun enough to charge from
DAY = datetime(2024, 1, 20, tzinfo=UTC)
END = datetime(2024, 1, 21, 0, 10, tzinfo=UTC)
SPEED = 900.0
CAPACITY_KWH, POWER_KW = 1280.0, 565.0
SOE_MIN_KWH, SOE_MAX_KWH = 64.0, 1216.0
SETTLING = timedelta(minutes=5)  # after the load's step at each half hour: one control cycle, and the machine's delays

SITE_FILE = f"""
site: WLCE
templates_dir: templates
controller:
  site_meter: WLCE-GRID-METER
  bess: [WLCE-BESS-01]
  bess_meter: [WLCE-BESS-METER]
  interval: 60s
  max_reading_age: 15m
  battery: {{capacity_kwh: {CAPACITY_KWH}, charge_efficiency: 0.85, charge_limit_kw: {POWER_KW},
            discharge_limit_kw: {POWER_KW}, soe_min_kwh: {SOE_MIN_KWH}, soe_max_kwh: {SOE_MAX_KWH}}}
  site: {{import_limit_kw: 220, export_limit_kw: 475}}
  modes:
    - {{mode: import_avoidance, periods: [{{days: all, start: "00:00", end: "24:00"}}]}}
    - {{mode: export_avoidance, periods: [{{days: all, start: "00:00", end: "24:00"}}]}}
"""

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"real load and solar profiles are not at {DATA}"),
    pytest.mark.timeout(300),
]


@dataclass(frozen=True)
class Counters:
    """A grid meter's counters as read over Modbus (kWh)."""

    imported_kwh: float
    exported_kwh: float


def site_config(template: Path) -> SimConfig:
    """54 homes, 210 kWp, 1,280 kWh: the site that the profiles belong to."""

    def meter(kind: MeterType, name: str) -> DeviceConfig:
        return DeviceConfig(
            name=name, type=DeviceType.METER, template="acuvim2_standard", meter_type=kind, ct_ratio=400, vt_ratio=4
        )

    battery = BatteryConfig(
        capacity_kwh=CAPACITY_KWH,
        charge_limit_kw=POWER_KW,
        discharge_limit_kw=POWER_KW,
        charge_efficiency=0.85,
        ramp_kw_s=POWER_KW,
        soe_pct=45,
    )
    return SimConfig(
        site="WLCE",
        load=LoadConfig(file=DATA / "load_12_homes.csv", scale=54 / 12),
        solar=SolarConfig(file=DATA / "solar_4_4_kwp.csv", scale=210 / 4.4),
        devices=(
            DeviceConfig(name="WLCE-BESS-01", type=DeviceType.BESS, template=str(template), battery=battery),
            meter(MeterType.GRID, "WLCE-GRID-METER"),
            meter(MeterType.GENERATION, "WLCE-GENERATION-METER"),
            meter(MeterType.LOAD, "WLCE-LOAD-METER"),
            meter(MeterType.STORAGE, "WLCE-BESS-METER"),
        ),
    )


def patient_template(folder: Path) -> Path:
    """The Tesla template with a command timeout of an hour: at this speed 30 s are over in a blink."""
    from flux.devices import template as package

    text = (Path(package.__file__).parent / "templates" / "tesla_powerpack.yaml").read_text()
    changed = text.replace("value: 30}", "value: 3600}")
    assert changed != text
    path = folder / "templates" / "tesla_powerpack.yaml"
    path.parent.mkdir()
    path.write_text(changed)
    return path


async def live_through_the_day(tmp_path: Path, dsn: str, conn: AsyncConnection[Any]) -> None:
    """From START to END: the simulator serves, the edge polls, controls, records and uploads."""
    site = SimulatedSite(site_config(patient_template(tmp_path)), START)
    clock = SimClock(START, SPEED)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / SPEED)

    async with SimulatorServer(site, clock, speed=SPEED) as server:
        for simulated in server.devices:
            new = {"name": simulated.name, "type": simulated.type, "site": "WLCE", "metadata": simulated.metadata}
            await add_device(conn, parse_new_device(new), actor="test")
        (tmp_path / "site.yaml").write_text(SITE_FILE)
        site_file = load_site_file(tmp_path / "site.yaml")
        link = SqlLink("WLCE", lambda: dsn)
        async with EdgeRuntime(site_file, link, tmp_path, platform="test", clock=clock, sleep=sleep):
            while clock() < END:
                await asyncio.sleep(0.1)


@pytest.fixture
async def lived_day(tmp_path: Path, dsn: str, db: AsyncConnection[Any]) -> AsyncConnection[Any]:
    await live_through_the_day(tmp_path, dsn, db)
    await rollups.refresh(db)
    return db


async def test_a_day_adds_up_and_the_battery_keeps_import_at_zero(lived_day: AsyncConnection[Any]) -> None:
    devices = {device.name: device.id for device in await list_devices(lived_day)}
    grid = devices["WLCE-GRID-METER"]
    await energy_of_every_level_is_what_the_counters_counted(lived_day, devices)
    await import_is_zero_whenever_the_battery_could(lived_day, devices)
    row = await one(
        lived_day, "SELECT count(*), count(DISTINCT time) FROM flux.mg_meter_readings WHERE device_id = %s", grid
    )
    assert row[0] == row[1] >= 1200, "a reading a minute, but for ticks that this machine was too busy for"
    assert (await one(lived_day, "SELECT count(*) FROM flux.rejected_readings"))[0] == 0


async def energy_of_every_level_is_what_the_counters_counted(
    conn: AsyncConnection[Any], devices: dict[str, Any]
) -> None:
    for name, device_id in devices.items():
        if name == "WLCE-BESS-01":
            continue
        for counter in ("energy_imported_active", "energy_exported_active"):
            first, last = await one(
                conn,
                f"SELECT (array_agg({counter} ORDER BY time))[1], (array_agg({counter} ORDER BY time DESC))[1]"
                " FROM flux.mg_meter_readings WHERE device_id = %s",
                device_id,
            )
            for level in ("5m", "30m", "1h"):
                (total,) = await one(
                    conn,
                    f"SELECT sum({counter}_delta) FROM flux.get_meter_readings_{level}(%s, %s, ARRAY[%s])",
                    START - timedelta(hours=1),
                    END + timedelta(hours=1),
                    device_id,
                )
                assert total == pytest.approx(last - first, abs=0.01), f"{name} {counter} {level}"
    (moved,) = await one(
        conn,
        "SELECT max(energy_imported_active) - min(energy_imported_active) FROM flux.mg_meter_readings"
        " WHERE device_id = %s",
        devices["WLCE-LOAD-METER"],
    )
    assert moved > 500, "54 homes use more than this in a day: the sums above were not of nothing"


async def import_is_zero_whenever_the_battery_could(conn: AsyncConnection[Any], devices: dict[str, Any]) -> None:
    """After each step of the load has settled; and the day had hours of discharging and of charging."""
    cursor = await conn.execute(
        "SELECT g.time, g.power_total_active, s.power_total_active, b.soe FROM flux.mg_meter_readings g"
        " JOIN flux.mg_meter_readings s ON s.device_id = %(storage)s"
        "  AND s.time BETWEEN g.time - interval '45 s' AND g.time + interval '45 s'"
        " JOIN flux.mg_bess_readings b ON b.device_id = %(bess)s"
        "  AND b.time BETWEEN g.time - interval '45 s' AND g.time + interval '45 s'"
        " WHERE g.device_id = %(grid)s ORDER BY g.time",
        {
            "grid": devices["WLCE-GRID-METER"],
            "storage": devices["WLCE-BESS-METER"],
            "bess": devices["WLCE-BESS-01"],
        },
    )
    discharging = charging = 0
    for time, site_kw, storage_kw, soe_pct in await cursor.fetchall():
        soe_kwh = soe_pct / 100 * CAPACITY_KWH
        settled = time > DAY and (time - DAY) % timedelta(minutes=30) > SETTLING
        rest_kw = site_kw - storage_kw
        able = SOE_MIN_KWH + 10 < soe_kwh < SOE_MAX_KWH - 10 and abs(rest_kw) < POWER_KW
        if settled and able:
            assert abs(site_kw) < 1.0, f"{time}: the site takes {site_kw:.2f} kW at {soe_kwh:.0f} kWh"
            discharging += storage_kw < -1
            charging += storage_kw > 1
    assert discharging > 200
    assert charging > 30


async def one(conn: AsyncConnection[Any], query: str, *parameters: Any) -> tuple[Any, ...]:
    cursor: AsyncCursor[tuple[Any, ...]] = await conn.execute(query.encode(), parameters)
    (row,) = await cursor.fetchall()
    return row
