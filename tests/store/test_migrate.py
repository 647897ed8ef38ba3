"""Migrations: from nothing to the newest schema, twice at once, and what a new metric does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import op
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.conftest import run_admin

from flux.errors import RefusedError
from flux.model import BESS_METRICS, METER_METRICS, Metric, MetricKind
from flux.store import migrate as migrate_module
from flux.store import repeatable
from flux.store.migrate import READINGS_TABLES, SQL_TYPES, known_versions, migrate, status


def columns(dsn: str, table: str) -> list[tuple[str, str]]:
    query = """SELECT column_name, data_type FROM information_schema.columns
               WHERE table_schema = 'flux' AND table_name = %s ORDER BY ordinal_position"""
    with psycopg.connect(dsn) as connection:
        return list(connection.execute(query, (table,)).fetchall())


def test_migrate_from_nothing_and_again(empty_dsn: str) -> None:
    assert status(empty_dsn).version is None
    first = migrate(empty_dsn)
    assert first.version_before is None
    assert first.columns_added == (), "the migrations hold every metric of today; sync adds those of tomorrow"
    second = migrate(empty_dsn)
    assert not second.changed
    assert status(empty_dsn).current


def test_two_at_once_take_turns(empty_dsn: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(migrate, [empty_dsn] * 4))
    assert sorted(r.version_before is None for r in reports) == [False, False, False, True]
    assert status(empty_dsn).current


@pytest.mark.parametrize("table", READINGS_TABLES)
def test_readings_columns_are_the_model(dsn: str, table: str) -> None:
    metrics = {"mg_meter_readings": METER_METRICS, "mg_bess_readings": BESS_METRICS}[table]
    expected = [
        ("time", "timestamp with time zone"),
        ("device_id", "uuid"),
        ("id", "uuid"),
        ("created_at", "timestamp with time zone"),
        *((metric.name, SQL_TYPES[metric.kind]) for metric in metrics),
    ]
    assert columns(dsn, table) == expected


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of a later version: one more metric of each kind."""
    metrics = tuple(Metric(f"new_{kind}", kind, "") for kind in MetricKind)
    monkeypatch.setitem(migrate_module.READINGS_TABLES, "mg_bess_readings", (*BESS_METRICS, *metrics))


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_becomes_a_column_with_its_check(dsn: str) -> None:
    added = tuple(f"mg_bess_readings.new_{kind}" for kind in MetricKind)
    assert status(dsn).missing_columns == added
    assert migrate(dsn).columns_added == added
    assert columns(dsn, "mg_bess_readings")[-3:] == [
        ("new_level", "real"),
        ("new_counter", "double precision"),
        ("new_code", "smallint"),
    ]
    assert not migrate(dsn).changed
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('B', 'bess', 'WLCE')")
        connection.execute("SELECT flux.ensure_partitions('flux.mg_bess_readings', now(), now())")
        insert = "INSERT INTO flux.mg_bess_readings (time, device_id, new_counter) SELECT now(), id, %s"
        connection.execute(f"{insert} FROM flux.mg_device_registry", (1.0,))
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(f"{insert} FROM flux.mg_device_registry", (-1.0,))


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_is_in_the_views_of_the_api_and_nothing_else_of_them_changes(dsn: str) -> None:
    def rights() -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(
                """SELECT relname, relowner::regrole::text, reloptions, array(SELECT unnest(relacl)::text ORDER BY 1)
                   FROM pg_class WHERE relnamespace = 'flux_api'::regnamespace ORDER BY 1"""
            ).fetchall()

    before = rights()
    assert "api" in migrate(dsn).objects_applied
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT new_level, new_counter FROM flux_api.mg_bess_readings")
        connection.execute("ALTER TABLE flux.mg_bess_readings DROP COLUMN new_level CASCADE")
    assert "api" in migrate(dsn).objects_applied, "the view went with its column, and is made again"
    assert rights() == before
    assert not migrate(dsn).changed


def test_repeatable_sql_is_applied_when_it_changes(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        repeatable, "repeatable_sql", lambda: {"extra": "CREATE OR REPLACE VIEW flux.extra AS SELECT 1 AS n"}
    )
    assert status(dsn).stale_objects == ("extra",)
    assert migrate(dsn).objects_applied == ("extra",)
    assert migrate(dsn).objects_applied == ()
    broken = "CREATE OR REPLACE VIEW flux.extra AS SELECT 2 AS n; SELECT 1 / 0"
    monkeypatch.setattr(repeatable, "repeatable_sql", lambda: {"extra": broken})
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(dsn)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM flux.extra").fetchone() == (1,)


def test_a_schema_newer_than_the_program_is_left_alone(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE flux.schema_version SET version_num = '9999'")
    with pytest.raises(RefusedError, match="9999"):
        migrate(dsn)
    assert not status(dsn).current


def test_a_session_killed_midway_leaves_the_version_before(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of the second migration is killed inside it: the first stays, the second is not there at all."""
    real = migrate_module.run_migration_file

    def run_and_die(name: str) -> None:
        real(name)
        if name.startswith("0002"):
            backend = op.get_bind().connection.driver_connection
            assert backend is not None
            with psycopg.connect(empty_dsn, autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s, 5000)", (backend.info.backend_pid,))

    monkeypatch.setattr(migrate_module, "run_migration_file", run_and_die)
    with pytest.raises(psycopg.OperationalError):
        migrate(empty_dsn)
    found = status(empty_dsn)
    assert (found.version, found.pending) == ("0001", tuple(known_versions()[1:]))
    assert columns(empty_dsn, "mg_meter_readings") == []
    monkeypatch.undo()
    assert migrate(empty_dsn).version_before == "0001"
    assert status(empty_dsn).current


def test_every_migration_file_has_its_revision() -> None:
    folder = Path(migrate_module.__file__).parent
    files = sorted(path.stem for path in (folder / "sql" / "migrations").glob("*.sql"))
    revisions = sorted(path.stem.removeprefix("r") for path in (folder / "revisions").glob("r*.py"))
    assert files == revisions


@pytest.fixture
def roles(admin_dsn: str) -> Iterator[tuple[str, str]]:
    """Two roles that may do nothing but log in."""
    names = [f"flux_test_{uuid4().hex[:12]}" for _ in range(2)]
    for name in names:
        run_admin(admin_dsn, "CREATE ROLE {} LOGIN PASSWORD 'secret'", name)
    yield names[0], names[1]
    for name in names:
        run_admin(admin_dsn, "DROP ROLE {}", name)


@pytest.fixture
def closed_dsn(roles: tuple[str, str], empty_dsn: str) -> str:
    """A database in which nobody but its owner may make a schema; on top of ``roles``, so that it goes first."""
    run_admin(empty_dsn, "REVOKE CREATE ON DATABASE {} FROM PUBLIC", str(conninfo_to_dict(empty_dsn)["dbname"]))
    return empty_dsn


def test_who_owns_the_schema_needs_nothing_else(roles: tuple[str, str], closed_dsn: str) -> None:
    run_admin(closed_dsn, "CREATE SCHEMA flux AUTHORIZATION {}", roles[0])
    ours = make_conninfo(closed_dsn, user=roles[0], password="secret")
    assert migrate(ours).version_before is None
    assert not migrate(ours).changed
    assert status(ours).current


def test_a_schema_of_somebody_else_is_left_alone(roles: tuple[str, str], closed_dsn: str) -> None:
    run_admin(closed_dsn, "CREATE SCHEMA flux AUTHORIZATION {}", roles[1])
    with pytest.raises(RefusedError, match=f"belongs to role {roles[1]}, not to {roles[0]}"):
        migrate(make_conninfo(closed_dsn, user=roles[0], password="secret"))


def test_functions_are_closed_to_everybody_even_if_the_migration_was_cut_off_before(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        function = "flux.note_rollup_change(uuid, timestamptz, timestamptz)"
        connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
        migrate(dsn)
        open_to_all = "SELECT has_function_privilege('public', %s, 'EXECUTE')"
        assert connection.execute(open_to_all, (function,)).fetchone() == (False,)


def test_ingest_goes_on_while_the_rollups_are_applied_anew(dsn: str) -> None:
    """A writer holds the readings when the migration comes; neither may wait for the other for ever."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', '2026-01-05', '2026-01-05')")
        connection.execute("UPDATE flux.schema_objects SET hash = 'of an earlier version'")
        (meter,) = connection.execute(
            "INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('M', 'meter', 'WLCE') RETURNING id"
        ).fetchone() or (None,)
        insert = "INSERT INTO flux.mg_meter_readings (device_id, time) VALUES (%s, %s)"
        waiting = """SELECT count(*) FROM pg_locks WHERE NOT granted
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        with psycopg.connect(dsn) as writer, ThreadPoolExecutor(1) as pool:
            writer.execute(insert, (meter, "2026-01-05 00:00Z"))
            migrating = pool.submit(migrate, dsn)
            while connection.execute(waiting).fetchone() == (0,):
                assert not migrating.done()
            writer.execute(insert, (meter, "2026-01-05 00:01Z"))
            writer.commit()
            assert migrating.result().objects_applied == tuple(repeatable.repeatable_sql())


def test_what_is_built_on_the_read_functions_outlives_an_upgrade(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW public.settled AS SELECT * FROM flux.get_meter_readings_30m()")
        connection.execute("GRANT EXECUTE ON FUNCTION flux.get_meter_readings_1h TO pg_monitor")
        connection.execute("UPDATE flux.schema_objects SET hash = 'of an earlier version'")
        assert migrate(dsn).objects_applied == tuple(repeatable.repeatable_sql())
        assert connection.execute("SELECT * FROM public.settled").fetchall() == []
        granted = "SELECT has_function_privilege('pg_monitor', 'flux.get_meter_readings_1h'::regproc, 'EXECUTE')"
        assert connection.execute(granted).fetchone() == (True,)
