"""What the database shows to whom: real sessions of the API's login, with the claims of a token."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from tests.support import NOON, add_device, bess_reading, meter_reading

from flux.store import rollups
from flux.store.ingest import ingest

Conn = AsyncConnection[Any]


@contextmanager
def session(dsn: str, role: str, claims: dict[str, Any] | None) -> Iterator[Connection[Any]]:
    """A transaction as ``role`` with these claims, rolled back at the end."""
    with psycopg.connect(dsn) as conn:
        if claims is not None:
            conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
        conn.execute("SELECT set_config('role', %s, true)", (role,))
        yield conn
        conn.rollback()


@pytest.fixture
async def fleet(db: Conn) -> dict[str, UUID]:
    """Two sites with a meter and a battery each, an hour of readings, rollups."""
    devices: dict[str, UUID] = {}
    for site in ("WLCE", "HMCE"):
        meter = devices[f"{site}-GRID"] = await add_device(db, f"{site}-GRID", site=site)
        bess = devices[f"{site}-BESS"] = await add_device(db, f"{site}-BESS", "bess", site=site)
        for minute in range(0, 60, 5):
            at = NOON + timedelta(minutes=minute)
            await ingest(db, [meter_reading(meter, at, energy_imported_active=100.0 + minute)])
            await ingest(db, [bess_reading(bess, at, soe=50.0)])
    await rollups.refresh(db)
    return devices


def count(conn: Connection[Any], relation: str) -> int:
    row = conn.execute(f"SELECT count(*) FROM {relation}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_a_token_for_one_site_sees_that_site_only(gateway_dsn: str, fleet: dict[str, UUID]) -> None:
    for claims, sites in (
        ({"role": "authenticated", "sites": ["WLCE"]}, 1),
        ({"role": "authenticated"}, 2),
        ({"role": "authenticated", "sites": []}, 0),
    ):
        with session(gateway_dsn, "flux_authenticated", claims) as conn:
            assert count(conn, "flux_api.mg_device_registry") == 2 * sites
            assert count(conn, "flux_api.mg_meter_readings") == 12 * sites
            assert count(conn, "flux_api.mg_meter_readings_5m_intermediate") == 12 * sites
            assert count(conn, "flux_api.mg_meter_daily_totals") == sites
            call = "flux_api.get_meter_readings_5m('2026-01-01Z', '2026-02-01Z')"
            assert count(conn, call) == 12 * sites
