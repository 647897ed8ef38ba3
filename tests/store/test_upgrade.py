"""A database of version 0004, whose rollups are plain tables, becomes one of today without losing a row."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from flux.errors import FluxError
from flux.store import migrate as migrate_module
from flux.store import repeatable
from flux.store.db import connect_sync
from flux.store.migrate import migrate

ENGINE_0004 = Path(__file__).parent / "data" / "rollups_0004.sql.gz"
START = datetime(2025, 11, 24, tzinfo=UTC)  # five weeks, over the end of a month and of a year
TABLES = (
    "mg_meter_readings_5m_intermediate",
    "mg_meter_readings_30m_intermediate",
    "mg_meter_readings_1h",
    "mg_bess_readings_5m",
)


@pytest.fixture
def old_dsn(empty_dsn: str) -> str:
    """Version 0004 with the engine that it was released with, and some weeks of readings and rollups."""
    with connect_sync(empty_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA flux")
        migrate_module._run_migrations(conn, "0004")
        conn.execute(gzip.decompress(ENGINE_0004.read_bytes()).decode())
        conn.execute(
            """INSERT INTO flux.mg_device_registry (name, type, site, state) VALUES
               ('M', 'meter', 'WLCE', 'active'), ('B', 'bess', 'WLCE', 'active')"""
        )
        for kind, columns in (("meter", "power_total_active, energy_imported_active"), ("bess", "soe, target_power")):
            table = f"mg_{kind}_readings"
            conn.execute(f"SELECT flux.ensure_partitions('flux.{table}', %s, %s + interval '35 days')", (START, START))
            conn.execute(
                f"""INSERT INTO flux.{table} (device_id, time, {columns})
                    SELECT id, %s::timestamptz + i * interval '20 minutes', i %% 50, i * 0.01
                    FROM flux.mg_device_registry, generate_series(0, 2519) i WHERE type = %s""",
                (START, kind),
            )
        conn.execute("CALL flux.refresh_rollups()")
        conn.execute("CREATE VIEW public.hours AS SELECT device_id, time_b, samples FROM flux.mg_meter_readings_1h")
        conn.execute(
            "CREATE VIEW public.days AS SELECT date_trunc('day', time_b) AS day, sum(samples) FROM hours GROUP BY 1"
        )
        conn.execute("GRANT SELECT ON public.hours, flux.mg_meter_readings_1h TO pg_monitor")
    return empty_dsn


def contents(
    dsn: str, columns: dict[str, list[str]] | None = None
) -> dict[str, tuple[list[str], list[tuple[object, ...]]]]:
    found = {}
    with psycopg.connect(dsn) as conn:
        for table in TABLES:
            names = (columns or {}).get(table)
            what = sql.SQL("*") if names is None else sql.SQL(", ").join(map(sql.Identifier, names))
            query = sql.SQL("SELECT {} FROM {} ORDER BY device_id, time_b").format(what, sql.Identifier("flux", table))
            cursor = conn.execute(query)
            found[table] = ([column.name for column in cursor.description or []], cursor.fetchall())
    return found


@pytest.mark.partitions
def test_no_row_is_lost_and_what_was_built_on_it_stays(old_dsn: str) -> None:
    before = contents(old_dsn)
    assert all(len(rows) > 500 for _, rows in before.values())
    with psycopg.connect(old_dsn) as conn:
        days = conn.execute("SELECT * FROM public.days ORDER BY 1").fetchall()
    report = migrate(old_dsn)
    assert report.version_before == "0004"
    assert contents(old_dsn, {table: names for table, (names, _) in before.items()}) == before
    with psycopg.connect(old_dsn) as conn:
        kinds = "SELECT relname FROM pg_class WHERE relnamespace = 'flux'::regnamespace AND relkind = 'p'"
        assert {*TABLES, "device_health"} <= {name for (name,) in conn.execute(kinds).fetchall()}
        assert conn.execute("SELECT * FROM public.days ORDER BY 1").fetchall() == days
        for relation in ("public.hours", "flux.mg_meter_readings_1h"):
            allowed = "SELECT has_table_privilege('pg_monitor', %s, 'SELECT')"
            assert conn.execute(allowed, (relation,)).fetchone() == (True,)
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_before'").fetchone() == (0,)
    assert not migrate(old_dsn).changed


def test_keys_that_are_checked_now_leave_no_device_out(empty_dsn: str) -> None:
    wrong = {
        "gap_limit": "soon",
        "hold_limit": 5,
        "power_stuck_after": "99999999999h",
        "counter_width": -1,
        "counter_widths": {"energy_imported_active": "wide"},
        "storage_of": "B",
    }
    right = {"gap_limit": "1d 12h", "counter_width": None, "counter_widths": {"energy_imported_active": 1e6}, "note": 1}
    with connect_sync(empty_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA flux")
        migrate_module._run_migrations(conn, "0004")
        for name, metadata in (("WRONG", wrong), ("RIGHT", right)):
            conn.execute(
                "INSERT INTO flux.mg_device_registry (name, type, site, metadata) VALUES (%s, 'meter', 'WLCE', %s)",
                (name, Jsonb(metadata)),
            )
        migrate(empty_dsn)
        query = "SELECT metadata, flux.metadata_problem(type, metadata) FROM flux.mg_device_registry ORDER BY name"
        (kept, fine), (renamed, problem) = conn.execute(query).fetchall()
    assert (kept, fine, problem) == (right, None, None)
    assert renamed == {f"{key}_not_understood": value for key, value in wrong.items()}


@pytest.mark.long
@pytest.mark.partitions
def test_one_that_is_cut_off_changes_nothing_and_the_next_one_does_it(
    old_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend is killed when all tables are moved and nothing is committed."""
    before = contents(old_dsn)
    real = repeatable.repeatable_sql

    def deadly() -> dict[str, str]:
        return {name: text + "SELECT pg_terminate_backend(pg_backend_pid());" for name, text in real().items()}

    monkeypatch.setattr(repeatable, "repeatable_sql", deadly)
    with pytest.raises((psycopg.OperationalError, FluxError)):
        migrate(old_dsn)
    assert contents(old_dsn) == before
    monkeypatch.undo()
    migrate(old_dsn)
    assert contents(old_dsn, {table: names for table, (names, _) in before.items()}) == before


def test_a_view_that_cannot_be_made_again_is_told(old_dsn: str) -> None:
    with psycopg.connect(old_dsn, autocommit=True) as conn:
        conn.execute("CREATE MATERIALIZED VIEW public.stored AS SELECT * FROM flux.mg_meter_readings_1h")
    with pytest.raises(psycopg.Error, match=r"public\.stored is built on flux\.mg_meter_readings_1h: drop it, migrate"):
        migrate(old_dsn)
