"""The HTTP interface on a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from psycopg import AsyncConnection
from tests.api.live import key, live_server_on

from flux.control.decide import decide
from flux.control.ledger import BatteryCommand, Fault, keep
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState
from flux.model import BessReading, Device, MeterReading
from flux.registry import add_device, parse_new_device
from flux.store import rollups
from flux.store.decisions import store_decisions
from flux.store.ingest import ingest

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
GRID = {
    "name": "WLCE-GRID-METER",
    "type": "meter",
    "site": "WLCE",
    "metadata": {"meter_type": "grid", "register_map": "acuvim2_standard", "host": "127.0.0.1"},
}
BESS = {"name": "WLCE-BESS-01", "type": "bess", "site": "WLCE", "metadata": {"capacity_kwh": 500}}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    with live_server_on(dsn, clock=lambda: NOW) as live:
        headers = {"apikey": key("service", exp=NOW.timestamp() + 3600)}
        async with httpx.AsyncClient(base_url=live.url, headers=headers) as http:
            yield http


@pytest.fixture
async def grid(db: AsyncConnection[Any]) -> Device:
    """A grid meter with an hour of readings up to NOW: 60 kW drawn, so 1 kWh a minute."""
    device = await add_device(db, parse_new_device(GRID), actor="test")
    minutes = [NOW - timedelta(minutes=60 - minute) for minute in range(61)]
    readings = [
        MeterReading(device_id=device.id, time=time, power_total_active=60.0, energy_imported_active=1000.0 + minute)
        for minute, time in enumerate(minutes)
    ]
    await ingest(db, readings)
    await rollups.refresh(db)
    return device


async def test_health_says_that_the_database_answers(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json()["status"] == "ok"


async def test_devices_can_be_filtered_and_found(client: httpx.AsyncClient, grid: Device) -> None:
    assert [d["name"] for d in (await client.get("/v1/devices", params={"type": "meter"})).json()] == [grid.name]
    assert (await client.get("/v1/devices", params={"site": "HMCE"})).json() == []
    one = (await client.get(f"/v1/devices/{grid.name}")).json()
    assert one["id"] == str(grid.id)
    assert one["metadata"]["register_map"] == "acuvim2_standard"


async def test_an_unknown_device_is_404_with_a_hint(client: httpx.AsyncClient, grid: Device) -> None:
    answer = await client.get("/v1/devices/WLCE-GRID-METRE")
    assert answer.status_code == 404
    assert "did you mean WLCE-GRID-METER?" in answer.json()["message"]


async def test_the_latest_reading_of_each_device(
    client: httpx.AsyncClient, db: AsyncConnection[Any], grid: Device
) -> None:
    bess = await add_device(db, parse_new_device(BESS), actor="test")
    await ingest(db, [BessReading(device_id=bess.id, time=NOW, soe=55.5, target_power=-20.125, command_source=4)])
    rows = {row["device"]: row for row in (await client.get("/v1/readings/latest")).json()}
    assert rows["WLCE-BESS-01"]["soe"] == 55.5
    assert rows["WLCE-BESS-01"]["target_power"] == -20.125
    assert rows["WLCE-GRID-METER"]["energy_imported_active"] == 1060.0
    assert datetime.fromisoformat(rows["WLCE-GRID-METER"]["time"]) == NOW


async def test_readings_are_half_open_and_keep_the_newest(client: httpx.AsyncClient, grid: Device) -> None:
    span = {"start": (NOW - timedelta(minutes=10)).isoformat(), "end": NOW.isoformat()}
    rows = (await client.get(f"/v1/devices/{grid.name}/readings", params=span)).json()
    assert [row["energy_imported_active"] for row in rows] == [1050.0 + n for n in range(10)]
    newest = (await client.get(f"/v1/devices/{grid.name}/readings", params={**span, "limit": 2})).json()
    assert newest == rows[-2:]


@pytest.mark.parametrize(("level", "buckets"), [("5m", 12), ("30m", 2), ("1h", 1)])
async def test_rollups_of_each_level_hold_the_same_energy(
    client: httpx.AsyncClient, grid: Device, level: str, buckets: int
) -> None:
    span = {"start": (NOW - timedelta(hours=1)).isoformat(), "end": NOW.isoformat()}
    rows = (await client.get(f"/v1/devices/{grid.name}/rollups/{level}", params=span)).json()
    assert len(rows) == buckets
    assert sum(row["energy_imported_active_delta"] for row in rows) == pytest.approx(60.0, abs=1e-9)
    assert {row["power_total_active_avg"] for row in rows} == {60.0}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/devices/WLCE-GRID-METER/rollups/7m", 422),
        ("/v1/devices/WLCE-GRID-METER/readings?limit=0", 422),
        ("/v1/devices/WLCE-GRID-METER/readings?start=yesterday", 422),
        ("/v1/devices/WLCE-GRID-METER/readings?start=2026-01-02T00:00Z&end=2026-01-01T00:00Z", 422),
        ("/v1/devices/WLCE-GRID-METER/rollups/5m?start=2020-01-01T00:00Z", 422),
        ("/v1/devices?state=asleep", 422),
        ("/v1/devices/'; DROP TABLE flux.sites; --", 404),
    ],
)
async def test_bad_input_is_refused(client: httpx.AsyncClient, grid: Device, path: str, status: int) -> None:
    assert (await client.get(path)).status_code == status


async def test_metrics_are_in_prometheus_format(client: httpx.AsyncClient, grid: Device) -> None:
    text = (await client.get("/metrics")).text
    assert 'flux_devices{site="WLCE",state="testing",type="meter"} 1.0' in text
    assert "flux_rollup_lag_seconds 0.0" in text
    assert "flux_rejected_readings 0.0" in text


async def test_metrics_have_the_register_writes_and_faults_of_control(
    client: httpx.AsyncClient, db: AsyncConnection[Any]
) -> None:
    device = await add_device(db, parse_new_device(BESS), actor="test")
    now = datetime.now(UTC)
    state = CycleState(time=now, site_power=None, soe_kwh=None)
    plan = ControllerPlan.model_validate(
        {
            "site_meter": "WLCE-GRID-METER",
            "bess": [device.name],
            "battery": {"capacity_kwh": 500, "charge_limit_kw": 100, "discharge_limit_kw": 105},
            "site": {"import_limit_kw": 220, "export_limit_kw": 475},
        }
    )
    told = BatteryCommand(device.name, None, False, None, None, register_writes_today=312)
    fault = Fault("stale", device.name, now, "stale: no site power")
    one = keep(decide(plan, state), state, device_id=device.id, hash_of_plan="h", faults=[fault], commands=[told])
    await store_decisions(db, [one])
    text = (await client.get("/metrics")).text
    assert 'flux_register_writes_today{device="WLCE-BESS-01",site="WLCE"} 312.0' in text
    assert 'flux_control_fault{device="WLCE-BESS-01",kind="stale",site="WLCE"} 1.0' in text


async def test_a_database_that_goes_away_is_503_and_its_name_is_not_told(
    client: httpx.AsyncClient, dsn: str, admin_dsn: str
) -> None:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        answer = await client.get("/v1/devices")
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    assert answer.status_code == 503
    assert name not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/devices/a%00b",
        "/v1/readings/latest?site=%00",
        "/v1/devices/WLCE-GRID-METER/readings?end=0001-01-01T00:00:00Z",
        "/v1/devices/WLCE-GRID-METER/rollups/5m?end=0001-01-01T00:30:00Z",
    ],
)
async def test_what_no_database_can_hold_is_the_askers_error(
    client: httpx.AsyncClient, grid: Device, path: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 422
    assert "message" in answer.json()
