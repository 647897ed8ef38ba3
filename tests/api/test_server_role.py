"""Flux's own functions on behalf of a caller: as ``flux_server``, another site's things are simply not there."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from tests.support import NOON, add_device, meter_reading

from flux.api.database import session_as_caller
from flux.api.identity import Identity, Role
from flux.control.decide import decide
from flux.control.ledger import keep
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState
from flux.errors import FluxError, NotFoundError
from flux.model import DeviceId, DeviceState, HealthRecord, HealthStatus
from flux.registry import get_device, list_devices, start_maintenance
from flux.store import dispatch, ownership, queries
from flux.store.control_feed import read_feed
from flux.store.db import open_pool
from flux.store.decisions import newest_decisions, store_decisions
from flux.store.health import health_overview, store_health
from flux.store.ingest import IngestResult, ingest

EDGE = Identity(Role.EDGE, frozenset({"WLCE"}), name="edge WLCE", claims={"role": "edge", "sites": ["WLCE"]})
OPERATOR = Identity(Role.OPERATOR, frozenset({"WLCE"}), name="ada", claims={"role": "operator", "sites": ["WLCE"]})
Conn = AsyncConnection[Any]


@pytest.fixture
async def devices(db: Conn) -> dict[str, DeviceId]:
    """A meter and a battery at each of two sites."""
    return {
        f"{site}-{kind}": await add_device(db, f"{site}-{kind}", kind, site=site)
        for site in ("WLCE", "HMCE")
        for kind in ("meter", "bess")
    }


@pytest.fixture
async def pool(gateway_dsn: str) -> AsyncIterator["AsyncConnectionPool[Conn]"]:
    async with open_pool(gateway_dsn, max_size=1) as opened:
        yield opened


async def test_an_edge_stores_its_own_readings_and_no_others(
    pool: "AsyncConnectionPool[Conn]", devices: dict[str, DeviceId], db: Conn
) -> None:
    own, foreign = devices["WLCE-meter"], devices["HMCE-meter"]
    async with session_as_caller(pool, EDGE) as conn:
        spring = NOON.replace(month=4)  # a week that has no partition yet
        assert await ingest(conn, [meter_reading(own, NOON), meter_reading(own, spring)]) == IngestResult(2, 0, 0)
        assert await ingest(conn, [meter_reading(own, NOON), meter_reading(foreign, NOON)]) == IngestResult(0, 1, 1)
        health = [HealthRecord(device_id=d, time=NOON, status=HealthStatus.ONLINE) for d in (own, foreign)]
        assert await store_health(conn, health) == IngestResult(1, 0, 1)
        state = CycleState(time=NOON, site_power=None, soe_kwh=None)
        kept = [
            keep(
                decide(PLAN, state), state, device_id=devices[f"{site}-bess"], hash_of_plan="h", faults=[], commands=[]
            )
            for site in ("WLCE", "HMCE")
        ]
        await store_decisions(conn, kept)
    for table in ("mg_meter_readings", "device_health", "control_decisions"):
        cursor = await db.execute(f"SELECT DISTINCT device_id FROM flux.{table}".encode())
        assert await cursor.fetchall() == [(devices["WLCE-bess" if table == "control_decisions" else "WLCE-meter"],)]


PLAN = ControllerPlan.model_validate(
    {
        "site_meter": "WLCE-meter",
        "bess": ["WLCE-bess"],
        "battery": {"capacity_kwh": 500, "charge_limit_kw": 100, "discharge_limit_kw": 105},
        "site": {"import_limit_kw": 220, "export_limit_kw": 475},
    }
)


async def test_an_edge_follows_its_site_and_holds_its_lease(
    pool: "AsyncConnectionPool[Conn]", devices: dict[str, DeviceId]
) -> None:
    lease: dict[str, Any] = {"holder": "edge", "host": "here", "lasts": timedelta(minutes=1)}
    async with session_as_caller(pool, EDGE) as conn:
        assert {device.site for device in await list_devices(conn)} == {"WLCE"}
        await read_feed(conn, "WLCE")
        await ownership.take_lease(conn, "WLCE", **lease)
        with pytest.raises((psycopg.errors.InsufficientPrivilege, FluxError)):
            await ownership.take_lease(conn, "HMCE", **lease)


async def test_an_operator_operates_own_devices_and_finds_no_others(
    pool: "AsyncConnectionPool[Conn]", devices: dict[str, DeviceId], db: Conn
) -> None:
    async with session_as_caller(pool, OPERATOR) as conn:
        with pytest.raises(NotFoundError):
            await get_device(conn, "HMCE-meter")
        with pytest.raises(NotFoundError):
            await start_maintenance(conn, devices["HMCE-meter"], actor="ada", reason="x")
        device = await start_maintenance(conn, devices["WLCE-meter"], actor="ada", reason="x")
        assert device.state is DeviceState.MAINTENANCE
        assert (await ownership.stop_site(conn, "WLCE", actor="ada", reason="smoke")).reason == "smoke"
        with pytest.raises((psycopg.errors.InsufficientPrivilege, FluxError)):
            await ownership.stop_site(conn, "HMCE", actor="ada")
        assert {row["device"] for row in await queries.latest_readings(conn)} <= {"WLCE-meter", "WLCE-bess"}
        assert {row.device_id for row in await health_overview(conn)} <= {devices["WLCE-meter"], devices["WLCE-bess"]}
        assert await newest_decisions(conn) == []
        with pytest.raises((psycopg.errors.InsufficientPrivilege, FluxError)):
            await dispatch.replace_schedule(conn, "HMCE", [], source="manual")
    cursor = await db.execute("SELECT count(*) FROM flux.site_stops")
    assert await cursor.fetchall() == [(1,)]


async def test_a_session_is_given_back_as_the_login_it_was(
    pool: "AsyncConnectionPool[Conn]", devices: dict[str, DeviceId]
) -> None:
    """The pool has one connection: what one caller left on it the next one would have."""

    async def fail() -> None:
        async with session_as_caller(pool, OPERATOR) as conn:
            await conn.execute("BEGIN")
            raise ZeroDivisionError

    async with session_as_caller(pool, OPERATOR) as conn:
        assert await list_devices(conn)
    with pytest.raises(ZeroDivisionError):
        await fail()
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT current_user = session_user, current_setting('request.jwt.claims', true)")
        assert await cursor.fetchall() in ([(True, "")], [(True, None)])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute("SELECT 1 FROM flux.mg_device_registry")
