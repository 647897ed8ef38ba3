"""`flux db`, as a person runs it: the exit codes and what is said."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.conftest import fresh_database

from flux.store.rollups import render_sql

Result = subprocess.CompletedProcess[str]


def flux(dsn: str | None, *arguments: str, home: Path | None = None) -> Result:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")}
    environment |= {"FLUX_DATABASE_URL": dsn} if dsn else {}
    environment |= {"FLUX_HOME": str(home)} if home else {}
    command = [sys.executable, "-m", "flux", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def other_dsn(admin_dsn: str) -> Iterator[str]:
    yield from fresh_database(admin_dsn, "template0")


def test_migrate_and_status(empty_dsn: str) -> None:
    before = flux(empty_dsn, "db", "status", "--json")
    assert before.returncode == 1
    assert json.loads(before.stdout)["version"] is None
    migrated = flux(empty_dsn, "db", "migrate")
    assert (migrated.returncode, migrated.stdout.splitlines()[0][:22]) == (0, "schema: version none →")
    assert "up to date" in flux(empty_dsn, "db", "migrate").stdout
    after = flux(empty_dsn, "db", "status")
    assert (after.returncode, after.stdout.splitlines()[-1], after.stderr) == (0, "up to date", "")


def test_psql_gets_its_arguments_and_its_exit_code_is_kept(dsn: str) -> None:
    result = flux(dsn, "db", "psql", "-At", "-c", "SELECT current_database(), 1 + 1")
    assert result.stdout.strip() == f"{conninfo_to_dict(dsn)['dbname']}|2"
    assert flux(dsn, "db", "psql", "-c", "SELECT broken").returncode == 1


def test_sql_prints_what_migrate_applies_and_needs_no_database(tmp_path: Path) -> None:
    printed = flux(None, "db", "sql", home=tmp_path / "nothing")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == render_sql()
    assert not (tmp_path / "nothing").exists()


def test_backup_and_restore(dsn: str, other_dsn: str, tmp_path: Path) -> None:
    flux(
        dsn, "db", "psql", "-c", "INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('M', 'meter', 'WLCE')"
    )
    file = tmp_path / "flux.dump"
    assert flux(dsn, "db", "backup", str(file)).returncode == 0
    again = flux(dsn, "db", "backup", str(file))
    assert (again.returncode, again.stderr.count("\n")) == (4, 1)
    assert "restored: 1 devices, 0 meter readings" in flux(other_dsn, "db", "restore", str(file)).stdout
    refused = flux(other_dsn, "db", "restore", str(file))
    assert refused.returncode == 5
    assert "--force" in refused.stderr
    assert flux(other_dsn, "db", "restore", str(file), "--force").returncode == 0


def test_a_database_that_does_not_answer_is_one_line() -> None:
    result = flux("postgresql://flux:hunter2@127.0.0.1:1/flux", "db", "status")
    assert result.returncode == 6
    assert result.stderr.startswith("error: database flux@127.0.0.1:1/flux does not answer")
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr


def test_a_home_without_a_database_is_told_and_left_alone(home: Path) -> None:
    result = flux(None, "db", "status", home=home)
    assert result.returncode == 6
    assert "there is no database" in result.stderr
    assert list(home.iterdir()) == []


def test_the_embedded_database_is_started_for_the_command(home: Path) -> None:
    assert flux(None, "db", "migrate", home=home).returncode == 0
    assert flux(None, "db", "status", home=home).returncode == 0
    assert not (home / "postgres" / "data" / "postmaster.pid").exists(), "and stopped after it"
