"""The schema, ingest and reading back on the PostgreSQL servers that this machine has besides ours."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conftest import reachable_folder
from tests.support import NOON, add_device, meter_reading

from flux.store.binaries import ServerUser, choose_user, run_as
from flux.store.db import connect
from flux.store.ingest import IngestResult, ingest
from flux.store.migrate import migrate, status
from flux.store.queries import latest_readings

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no PostgreSQL of the system in /usr/lib/postgresql")


@pytest.fixture(params=INSTALLED, ids=lambda path: path.parent.name)
def system_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of the system's own programs, on a socket in a private folder."""
    programs: Path = request.param
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
        rows = await latest_readings(conn)
        assert [(row["device"], row["energy_imported_active"]) for row in rows] == [("M", 9.0)]
