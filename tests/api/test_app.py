"""The HTTP interface on a real database."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.api.live import key, live_server_on

from flux.control.decide import decide
from flux.control.ledger import BatteryCommand, Fault, keep
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState
from flux.model import BessReading, MeterReading
from flux.registry import add_device, get_device, parse_new_device
from flux.store import rollups
from flux.store.db import connect
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


@pytest.fixture(scope="module")
def client(module_dsn: str) -> Iterator[httpx.Client]:
    """Asks a server on a database with a site in it, as the key that may do everything."""
    asyncio.run(_fill(module_dsn))
    with client_on(module_dsn) as http:
        yield http


@contextmanager
def client_on(dsn: str) -> Iterator[httpx.Client]:
    headers = {"apikey": key("service", exp=NOW.timestamp() + 3600)}
    with live_server_on(dsn, clock=lambda: NOW) as live, httpx.Client(base_url=live.url, headers=headers) as http:
        yield http


async def _fill(dsn: str) -> None:
    """A grid meter with an hour of readings up to NOW: 60 kW drawn, so 1 kWh a minute; and a battery."""
    async with await connect(dsn, application_name="test", autocommit=True) as db:
        grid = await add_device(db, parse_new_device(GRID), actor="test")
        bess = await add_device(db, parse_new_device(BESS), actor="test")
        minutes = [(n, NOW - timedelta(minutes=60 - n)) for n in range(61)]
        await ingest(
            db,
            [
                MeterReading(device_id=grid.id, time=time, power_total_active=60.0, energy_imported_active=1000.0 + n)
                for n, time in minutes
            ],
        )
        await ingest(db, [BessReading(device_id=bess.id, time=NOW, soe=55.5, target_power=-20.125, command_source=4)])
        await rollups.refresh(db)


def test_health_says_that_the_database_answers(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"


def test_devices_can_be_filtered_and_found(client: httpx.Client, module_dsn: str) -> None:
    assert [d["name"] for d in client.get("/v1/devices", params={"type": "meter"}).json()] == ["WLCE-GRID-METER"]
    assert client.get("/v1/devices", params={"site": "HMCE"}).json() == []
    one = client.get("/v1/devices/WLCE-GRID-METER").json()
    with psycopg.connect(module_dsn) as db:
        ids = db.execute("SELECT id::text FROM flux.mg_device_registry WHERE name = 'WLCE-GRID-METER'").fetchall()
    assert [(one["id"],)] == ids
    assert one["metadata"]["register_map"] == "acuvim2_standard"


def test_an_unknown_device_is_404_with_a_hint(client: httpx.Client) -> None:
    answer = client.get("/v1/devices/WLCE-GRID-METRE")
    assert answer.status_code == 404
    assert "did you mean WLCE-GRID-METER?" in answer.json()["message"]


def test_the_latest_reading_of_each_device(client: httpx.Client) -> None:
    rows = {row["device"]: row for row in client.get("/v1/readings/latest").json()}
    assert rows["WLCE-BESS-01"]["soe"] == 55.5
    assert rows["WLCE-BESS-01"]["target_power"] == -20.125
    assert rows["WLCE-GRID-METER"]["energy_imported_active"] == 1060.0
    assert datetime.fromisoformat(rows["WLCE-GRID-METER"]["time"]) == NOW


def test_readings_are_half_open_and_keep_the_newest(client: httpx.Client) -> None:
    span = {"start": (NOW - timedelta(minutes=10)).isoformat(), "end": NOW.isoformat()}
    rows = client.get("/v1/devices/WLCE-GRID-METER/readings", params=span).json()
    assert [row["energy_imported_active"] for row in rows] == [1050.0 + n for n in range(10)]
    newest = client.get("/v1/devices/WLCE-GRID-METER/readings", params={**span, "limit": 2}).json()
    assert newest == rows[-2:]


@pytest.mark.parametrize(("level", "buckets"), [("5m", 12), ("30m", 2), ("1h", 1)])
def test_rollups_of_each_level_hold_the_same_energy(client: httpx.Client, level: str, buckets: int) -> None:
    span = {"start": (NOW - timedelta(hours=1)).isoformat(), "end": NOW.isoformat()}
    rows = client.get(f"/v1/devices/WLCE-GRID-METER/rollups/{level}", params=span).json()
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
def test_bad_input_is_refused(client: httpx.Client, path: str, status: int) -> None:
    assert (client.get(path)).status_code == status


def test_metrics_are_in_prometheus_format(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    assert 'flux_devices{site="WLCE",state="testing",type="meter"} 1.0' in text
    assert "flux_rollup_lag_seconds 0.0" in text
    assert "flux_rejected_readings 0.0" in text


def test_metrics_have_the_register_writes_and_faults_of_control(client: httpx.Client, module_dsn: str) -> None:
    asyncio.run(_decide_without_site_power(module_dsn))
    text = client.get("/metrics").text
    assert 'flux_register_writes_today{device="WLCE-BESS-01",site="WLCE"} 312.0' in text
    assert 'flux_control_fault{device="WLCE-BESS-01",kind="stale",site="WLCE"} 1.0' in text


async def _decide_without_site_power(dsn: str) -> None:
    now = datetime.now(UTC)
    state = CycleState(time=now, site_power=None, soe_kwh=None)
    plan = ControllerPlan.model_validate(
        {
            "site_meter": "WLCE-GRID-METER",
            "bess": ["WLCE-BESS-01"],
            "battery": {"capacity_kwh": 500, "charge_limit_kw": 100, "discharge_limit_kw": 105},
            "site": {"import_limit_kw": 220, "export_limit_kw": 475},
        }
    )
    told = BatteryCommand("WLCE-BESS-01", None, False, None, None, register_writes_today=312)
    fault = Fault("stale", "WLCE-BESS-01", now, "stale: no site power")
    async with await connect(dsn, application_name="test", autocommit=True) as db:
        bess = await get_device(db, "WLCE-BESS-01")
        one = keep(decide(plan, state), state, device_id=bess.id, hash_of_plan="h", faults=[fault], commands=[told])
        await store_decisions(db, [one])


def test_a_database_that_goes_away_is_503_and_its_name_is_not_told(dsn: str, admin_dsn: str) -> None:
    name = str(conninfo_to_dict(dsn)["dbname"])
    with client_on(dsn) as client, psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        answer = client.get("/v1/devices")
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
def test_what_no_database_can_hold_is_the_askers_error(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 422
    assert "message" in answer.json()
