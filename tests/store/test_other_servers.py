"""The schema, ingest and reading back on the PostgreSQL servers that this machine has besides ours."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.conftest import reachable_folder
from tests.support import NOON, add_device, meter_reading

from flux.store.backup import backup, describe, restore
from flux.store.binaries import ServerUser, choose_user, run_as
from flux.store.db import connect
from flux.store.ingest import IngestResult, ingest
from flux.store.lifecycle import run_retention
from flux.store.migrate import migrate, status
from flux.store.queries import latest_readings

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no PostgreSQL of the system in /usr/lib/postgresql")


@pytest.fixture(params=INSTALLED, ids=lambda path: path.parent.name)
def system_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    yield from system_server(request.param)


def system_server(programs: Path) -> Iterator[str]:
    """A server of the system's own programs, on a socket in a private folder."""
    with reachable_folder() as folder:
        user = choose_user(folder / "data")
        user.own(folder)
        data = folder / "data"
        run(user, programs / "initdb", "-D", str(data), "-U", "flux", "-A", "trust", "-N", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=32MB"
        run(user, programs / "pg_ctl", "start", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", options)
        try:
            yield f"host={folder} user=flux dbname=postgres"
        finally:
            run(user, programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))


def test_a_backup_goes_from_the_embedded_server_to_another_and_back(
    dsn: str, empty_dsn: str, system_dsn: str, tmp_path: Path
) -> None:
    there, back = tmp_path / "there.dump", tmp_path / "back.dump"
    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('M', 'meter', 'WLCE')")
    backup(dsn, there)
    assert restore(system_dsn, there).devices == 1
    assert status(system_dsn).current
    backup(system_dsn, back)
    assert restore(empty_dsn, back) == describe(dsn)


WEEK = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'mg_bess_readings_20260601'"


@pytest.mark.parametrize(("zone", "style"), [("Asia/Kolkata", "SQL, DMY"), ("Europe/Dublin", "German")])
def test_partitions_are_weeks_of_utc_whatever_the_session_calls_its_times(
    system_dsn: str, zone: str, style: str
) -> None:
    migrate(system_dsn)
    with psycopg.connect(system_dsn) as conn:
        conn.execute(f"SET TimeZone = '{zone}'; SET DateStyle = '{style}'")  # IST means several zones
        conn.execute("SELECT flux.ensure_partitions('flux.mg_bess_readings', '2026-06-03Z', '2026-06-03Z')")
        conn.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
        assert conn.execute(WEEK).fetchone() == (
            "FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-06-08 00:00:00+00')",
        )


def run(user: ServerUser, program: Path, *arguments: str) -> None:
    result = run_as(user, [str(program), *arguments])
    assert result.returncode == 0, result.stderr


async def test_everything_runs_on_it(system_dsn: str) -> None:
    assert migrate(system_dsn).version_before is None
    found = status(system_dsn)
    assert found.current
    assert re.match(r"1[5-9]|[2-9]\d", found.server_version)
    async with await connect(system_dsn, autocommit=True) as conn:
        meter = await add_device(conn, "M")
        batch = [meter_reading(meter, NOON + i * timedelta(days=1), energy_imported_active=float(i)) for i in range(10)]
        assert await ingest(conn, batch) == IngestResult(10, 0, 0)
        other = meter_reading(meter, NOON, energy_imported_active=5.0)
        assert await ingest(conn, [*batch, other]) == IngestResult(0, 10, 1)
        await conn.execute("CALL flux.refresh_rollups()")
        last_bucket = "SELECT max(time_b) FROM flux.mg_meter_readings_5m_intermediate"
        before = await (await conn.execute(last_bucket)).fetchall()
        report = await run_retention(conn, as_of=NOON + timedelta(days=100))
        assert [piece.table_name for piece in report.dropped] == ["mg_meter_readings"]
        assert await (await conn.execute("SELECT * FROM flux.retired_pieces()")).fetchall() == []
        assert await ingest(conn, [meter_reading(meter, NOON, energy_imported_active=0.0)]) == IngestResult(0, 0, 1)
        assert await (await conn.execute(last_bucket)).fetchall() == before
        rows = await latest_readings(conn)
        assert [(row["device"], row["energy_imported_active"]) for row in rows] == [("M", 9.0)]
