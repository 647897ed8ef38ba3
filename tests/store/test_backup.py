"""Backup and restore: whole or not at all."""

import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.conftest import fresh_database
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.errors import ConflictError, InputError, RefusedError, UnavailableError
from flux.store import backup as module
from flux.store.backup import backup, client_command, describe, restore
from flux.store.ingest import IngestResult, ingest
from flux.store.migrate import status


@pytest.fixture
def other_dsn(admin_dsn: str) -> Iterator[str]:
    """A second database, empty."""
    yield from fresh_database(admin_dsn, "template0")


async def fill(conn: AsyncConnection[Any]) -> None:
    meter, bess = await add_device(conn, "M"), await add_device(conn, "B", "bess")
    weeks = [NOON + i * timedelta(weeks=1) for i in range(-3, 1)]
    await ingest(conn, [meter_reading(meter, t, energy_imported_active=1e6 + 0.01) for t in weeks])
    await ingest(conn, [bess_reading(bess, soe=55.5), bess_reading(bess, soe=55.6)])


async def test_there_and_back(dsn: str, db: AsyncConnection[Any], other_dsn: str, tmp_path: Path) -> None:
    await fill(db)
    file = tmp_path / "flux.dump"
    assert backup(dsn, file) == file.stat().st_size > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = restore(other_dsn, file)
    assert found == describe(dsn)
    assert (found.devices, found.meter_readings, found.bess_readings) == (2, 4, 1)
    assert status(other_dsn).current
    tables = ("mg_device_registry", "mg_meter_readings", "mg_bess_readings", "rejected_readings", "sites")
    async with await AsyncConnection.connect(other_dsn, autocommit=True) as there:
        for table in tables:
            query = f"SELECT to_jsonb(t) - 'updated_at' FROM flux.{table} t ORDER BY t::text"
            assert await fetch(there, query) == await fetch(db, query), table
        # and it goes on working: triggers, partitions, identity columns
        meter = await add_device(there, "NEW", site="LFCE")
        assert await ingest(there, [meter_reading(meter, NOON + timedelta(weeks=9))]) == IngestResult(1, 0, 0)


def test_an_existing_file_is_kept(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "flux.dump"
    file.write_text("precious")
    with pytest.raises(ConflictError, match="--force"):
        backup(dsn, file)
    with pytest.raises(UnavailableError):
        backup(dsn.replace("flux_test", "no_such"), file, force=True)
    assert file.read_text() == "precious"
    backup(dsn, file, force=True)
    assert file.read_bytes().startswith(b"PGDMP")
    assert [path.name for path in tmp_path.iterdir()] == ["flux.dump"]


def test_a_backup_that_breaks_off_leaves_nothing(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", "50ms")
    with psycopg.connect(dsn) as blocker:
        blocker.execute("LOCK TABLE flux.sites IN ACCESS EXCLUSIVE MODE")
        monkeypatch.setattr(module, "describe", lambda _: module.Contents("0001", 0, 0, 0))
        with pytest.raises(UnavailableError, match="pg_dump"):
            backup(dsn, tmp_path / "flux.dump")
    assert list(tmp_path.iterdir()) == []


async def test_a_database_that_holds_something_is_not_replaced(
    dsn: str, db: AsyncConnection[Any], tmp_path: Path
) -> None:
    file = tmp_path / "flux.dump"
    backup(dsn, file)
    await fill(db)
    with pytest.raises(RefusedError, match="--force"):
        restore(dsn, file)
    assert describe(dsn).meter_readings == 4
    assert restore(dsn, file, force=True).meter_readings == 0


async def test_a_damaged_backup_changes_nothing(dsn: str, db: AsyncConnection[Any], tmp_path: Path) -> None:
    await fill(db)
    file = tmp_path / "flux.dump"
    backup(dsn, file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 9 // 10])
    before = describe(dsn)
    with pytest.raises(UnavailableError, match=r"pg_restore|psql"):
        restore(dsn, file, force=True)
    assert describe(dsn) == before
    file.write_bytes(b"not a backup")
    with pytest.raises(InputError, match="is not a file that `flux db backup` wrote"):
        restore(dsn, file, force=True)
    with pytest.raises(InputError, match="no such file"):
        restore(dsn, tmp_path / "other")


async def test_a_backup_of_a_newer_flux_is_refused(
    dsn: str, db: AsyncConnection[Any], other_dsn: str, tmp_path: Path
) -> None:
    await db.execute("UPDATE flux.schema_version SET version_num = '9999'")
    file = tmp_path / "flux.dump"
    backup(dsn, file)
    with pytest.raises(UnavailableError, match="newer Flux"):
        restore(other_dsn, file)
    assert describe(other_dsn).schema_version is None


def test_an_empty_database_has_nothing_to_back_up(empty_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="nothing to back up"):
        backup(empty_dsn, tmp_path / "flux.dump")


def test_the_password_is_in_the_environment_only() -> None:
    command, environment = client_command("psql", "postgresql://flux:hunter2@db.example:5432/flux?sslmode=require")
    assert "hunter2" not in " ".join(command)
    assert "sslmode=require" in command[1]
    assert environment["PGPASSWORD"] == "hunter2"
    assert "PGPASSWORD" not in os.environ
