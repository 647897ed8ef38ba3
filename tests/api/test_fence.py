"""What the database lets whom do: sessions of the API's login, with the claims of a token."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from tests.api import probes
from tests.api.probes import LATER, thing
from tests.support import NOON

from flux.store import rollups
from flux.store.db import connect
from flux.store.gateway import gateway_dsn as make_gateway_dsn

WLCE = {"role": "service", "sites": ["WLCE"], "name": "wlce service"}
ALL = {"role": "service", "name": "everything"}


@pytest.fixture(scope="module")
def filled(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The gateway's DSN of a database with a row of everything at two sites, rolled up."""
    with psycopg.connect(module_dsn) as conn:
        probes.fill(conn)

    async def refresh() -> None:
        async with await connect(module_dsn, autocommit=True) as conn:
            await rollups.refresh(conn)

    asyncio.run(refresh())
    return make_gateway_dsn(module_dsn, Path(tmp_path_factory.mktemp("home")))


@contextmanager
def session(dsn: str, role: str, claims: dict[str, Any] | None, **settings: str) -> Iterator[Connection[Any]]:
    """A transaction as ``role`` with these claims, rolled back at the end."""
    with psycopg.connect(dsn) as conn:
        if claims is not None:
            settings |= {"request.jwt.claims": json.dumps(claims), "flux.actor": str(claims.get("name", ""))}
        for name, value in settings.items():
            conn.execute("SELECT set_config(%s, %s, true)", (name, value))
        conn.execute("SELECT set_config('role', %s, true)", (role,))
        yield conn
        conn.rollback()


def ask(conn: Connection[Any], query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return conn.execute(query.encode(), parameters or None).fetchall()


REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.WithCheckOptionViolation)
READINGS = "SELECT count(*) FROM flux_api.mg_meter_readings"


# ── Who is asked ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("claims", "rows"),
    [
        ({"role": "authenticated"}, 2),
        ({"role": "authenticated", "sites": ["WLCE", "HMCE"]}, 2),
        ({"role": "authenticated", "sites": ["WLCE"]}, 1),
        ({"role": "authenticated", "site": "WLCE"}, 1),
        ({"role": "authenticated", "sites": []}, 0),
        ({"role": "authenticated", "sites": None}, 0),
        ({"role": "authenticated", "sites": "WLCE"}, 0),
        ({"role": "authenticated", "sites": {"WLCE": True}}, 0),
        ({"role": "authenticated", "sites": [None, 1, "NONE"]}, 0),
        ({"role": "authenticated", "site": ["WLCE"]}, 0),
        ({"role": "edge"}, 0),
        ({"role": "anon"}, 0),
        ([], 0),
        (None, 0),
    ],
)
def test_claims_that_do_not_say_clearly_what_may_be_seen_show_nothing(filled: str, claims: Any, rows: int) -> None:
    text = {} if claims is None else {"request.jwt.claims": json.dumps(claims)}
    with session(filled, "flux_authenticated", None, **text) as conn:
        assert ask(conn, READINGS) == [(rows,)]
    with session(filled, "flux_server", None, **text) as conn:
        assert ask(conn, "SELECT count(*) FROM flux.mg_device_registry") == [(2 * rows,)]


def test_claims_that_are_no_json_are_an_error_not_a_view(filled: str) -> None:
    with (
        session(filled, "flux_authenticated", None, **{"request.jwt.claims": "{"}) as conn,
        pytest.raises(psycopg.errors.InvalidTextRepresentation),
    ):
        ask(conn, READINGS)


def test_the_login_itself_may_do_nothing(filled: str) -> None:
    with psycopg.connect(filled, autocommit=True) as conn:
        conn.execute("SELECT set_config('request.jwt.claims', %s, false)", (json.dumps(ALL),))
        for query in (READINGS, "SELECT 1 FROM flux.sites", "SELECT flux.actor()", "SET ROLE flux_views"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(query.encode())


def test_nobody_without_a_role_sees_the_schema_and_no_role_sees_the_tables(filled: str) -> None:
    with session(filled, "flux_anon", ALL) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(conn, READINGS)
    for role in ("flux_authenticated", "flux_operator", "flux_edge", "flux_service"):
        with session(filled, role, ALL) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(conn, "SELECT 1 FROM flux.mg_meter_readings")


def test_the_login_of_another_database_sees_nothing_here(filled: str, module_dsn: str, admin_dsn: str) -> None:
    """Logins belong to the whole server; whoever holds another database's login could say any claims."""
    other = "flux_gateway_another"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {other} LOGIN NOINHERIT PASSWORD 'x'")
        admin.execute(f"GRANT flux_server, flux_service TO {other}")
        try:
            there = psycopg.conninfo.make_conninfo(module_dsn, user=other, password="x")
            with session(there, "flux_service", ALL) as conn:
                assert ask(conn, READINGS) == [(0,)]
            with session(there, "flux_server", ALL) as conn:
                assert ask(conn, "SELECT count(*) FROM flux.sites") == [(0,)]
        finally:
            admin.execute(f"DROP ROLE {other}")


# ── Functions ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "all_rows", "own_rows"),
    [
        ("get_meter_readings_5m('2026-01-01Z', '2026-02-01Z')", 2, 1),
        ("get_meter_readings_5m('2026-01-01Z', '2026-02-01Z', %s)", 1, 0),
        ("get_meter_readings_30m('2026-01-01Z', '2026-02-01Z')", 2, 1),
        ("get_meter_readings_1h(end_time => '2026-02-01Z', start_time => '2026-01-01Z')", 2, 1),
        ("market_as_of('{4}', '2026-01-01Z', '2026-02-01Z', site => 'HMCE')", 1, 0),
        ("market_as_of('{4}', '2026-01-01Z', '2026-02-01Z', site => 'WLCE')", 1, 1),
        ("market_as_of(NULL, '2026-01-01Z', '2026-02-01Z')", 1, 1),
        ("bess_with_market('2026-01-01Z', '2026-02-01Z', types => '{4}')", 2, 1),
        ("device_uptime('2026-01-01Z', '2026-02-01Z')", 4, 2),
        ("settlement_period('2026-01-01Z')", 1, 1),
    ],
)
def test_functions_are_fenced_as_tables_are(filled: str, call: str, all_rows: int, own_rows: int) -> None:
    parameters = [[thing("meter", "HMCE")]] if "%s" in call else []
    for claims, rows in ((ALL, all_rows), (WLCE, own_rows)):
        with session(filled, "flux_service", claims) as conn:
            assert len(ask(conn, f"SELECT * FROM flux_api.{call}", *parameters)) == rows


# ── Writing ────────────────────────────────────────────────────────────────────────────────────────────────────────

UPSERT = """
    INSERT INTO flux_api.mg_meter_readings (device_id, time, frequency)
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::real[])
    ON CONFLICT (device_id, time) DO {} RETURNING device_id, frequency
"""
MERGE = UPSERT.format("UPDATE SET frequency = excluded.frequency")
IGNORE = UPSERT.format("NOTHING")


def test_readings_are_upserted_through_the_view(filled: str) -> None:
    meter = thing("meter", "WLCE")
    with session(filled, "flux_service", WLCE) as conn:
        rows = ([meter, meter], [NOON, LATER], [49.5, 50.5])
        assert ask(conn, MERGE, *rows) == [(meter, 49.5), (meter, 50.5)]
        assert ask(conn, IGNORE, *rows) == []
        assert ask(conn, "SELECT frequency FROM flux_api.mg_meter_readings ORDER BY time") == [(49.5,), (50.5,)]


def test_an_upsert_does_not_reach_a_reading_of_another_site(filled: str, module_dsn: str) -> None:
    rows = ([thing("meter", "WLCE"), thing("meter", "HMCE")], [NOON, NOON], [1.0, 1.0])
    for query in (MERGE, IGNORE):
        with session(filled, "flux_service", WLCE) as conn:
            if query is IGNORE:  # what is there already is left alone, and not told
                assert ask(conn, IGNORE, *rows) == []
                continue
            with pytest.raises(REFUSED):
                ask(conn, query, *rows)


def test_an_upsert_does_not_take_over_a_row_of_another_site(filled: str) -> None:
    """The row that is there is not in the view, but the constraint knows it: policies beneath refuse it."""
    theirs = thing("meter", "HMCE")
    with session(filled, "flux_service", WLCE) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(
            conn,
            """INSERT INTO flux_api.mg_device_registry (id, name, type, site) VALUES (%s, 'mine', 'meter', 'WLCE')
               ON CONFLICT (id) DO UPDATE SET site = 'WLCE', name = 'mine' RETURNING id""",
            theirs,
        )


def test_a_row_is_not_moved_to_another_site(filled: str) -> None:
    for query in (
        "UPDATE flux_api.mg_device_registry SET site = 'HMCE'",
        "UPDATE flux_api.dispatch_schedules SET site = 'HMCE'",
        f"UPDATE flux_api.mg_meter_readings SET device_id = '{thing('meter', 'HMCE')}', time = '2026-01-15 14:00Z'",
        f"UPDATE flux_api.device_group_members SET device_id = '{thing('meter', 'HMCE')}'",
    ):
        with session(filled, "flux_service", WLCE) as conn, pytest.raises(REFUSED):
            ask(conn, query + " RETURNING 1")


def test_a_reading_of_a_week_that_has_no_partition_yet(filled: str) -> None:
    add = "INSERT INTO flux_api.mg_meter_readings (device_id, time) VALUES (%s, %s) RETURNING time"
    spring = NOON.replace(month=4)
    with session(filled, "flux_edge", WLCE) as conn:
        with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
            ask(conn, add, thing("meter", "WLCE"), spring)
        conn.rollback()
        conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(WLCE),))
        conn.execute("SET LOCAL ROLE flux_server")
        times = [spring, spring + timedelta(hours=1), NOON.replace(year=1999), NOON.replace(year=9000)]
        assert ask(conn, "SELECT flux.ensure_partitions_for('mg_meter_readings', %s)", times) == [(1,)]
        conn.execute("SET LOCAL ROLE flux_edge")
        assert ask(conn, add, thing("meter", "WLCE"), spring) == [(spring,)]


def test_rows_say_whose_key_it_was(filled: str) -> None:
    operator = {"role": "operator", "sites": ["WLCE"], "name": "ada's key"}
    with session(filled, "flux_operator", operator) as conn:
        device = thing("meter", "WLCE")
        ask(conn, "UPDATE flux_api.mg_device_registry SET state = 'maintenance' WHERE id = %s RETURNING 1", device)
        events = ask(conn, "SELECT actor FROM flux_api.device_events WHERE to_state = 'maintenance'")
        assert events == [("ada's key",)]
        changes = ask(conn, "SELECT actor FROM flux_api.device_changes ORDER BY id DESC LIMIT 1")
        assert changes == [("ada's key",)]
        stop = "INSERT INTO flux_api.site_stops (site, actor, reason) VALUES ('WLCE', 'bob', 'x') RETURNING actor, id"
        ((actor, stop_id),) = ask(conn, stop)
        assert actor == "ada's key"
        resumed = """UPDATE flux_api.site_stops SET resumed_at = now() WHERE id = %s RETURNING actor, resumed_by"""
        assert ask(conn, resumed, stop_id) == [("ada's key", "ada's key")]
        window = """INSERT INTO flux_api.maintenance_windows (device_id, starts_at, duration, created_by)
                    VALUES (%s, '2030-01-01Z', '1 hour', 'bob') RETURNING created_by"""
        assert ask(conn, window, device) == [("ada's key",)]
        moved = (
            """UPDATE flux_api.maintenance_windows SET created_by = 'bob', reason = 'r' RETURNING DISTINCT created_by"""
        )
        assert "ada's key" in {row[0] for row in ask(conn, moved.replace("DISTINCT ", ""))}


def test_a_reason_cannot_be_given_to_an_old_stop(filled: str) -> None:
    with session(filled, "flux_operator", ALL) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(conn, "UPDATE flux_api.site_stops SET reason = 'x' RETURNING 1")


def test_a_new_device_of_an_own_site_makes_the_site(filled: str) -> None:
    claims = {"role": "operator", "sites": ["LFCE"]}
    add = "INSERT INTO flux_api.mg_device_registry (name, type, site) VALUES ('L', 'meter', %s) RETURNING site"
    with session(filled, "flux_operator", claims) as conn:
        assert ask(conn, add, "LFCE") == [("LFCE",)]
        assert ask(conn, "SELECT site FROM flux_api.sites") == [("LFCE",)]
    with session(filled, "flux_operator", claims) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(conn, add, "NEWCE")


RECORD = "SELECT * FROM flux.record_market('{2}', %s, %s, '{1}', '{\"{}\"}', '{NULL}')"


def test_market_data_for_all_sites_is_written_by_who_sees_all(filled: str) -> None:
    add = "INSERT INTO flux_api.market_data (time, type, value, site) VALUES (%s, 2, 70, %s) RETURNING value"
    with session(filled, "flux_service", ALL) as conn:
        assert ask(conn, add, LATER, None) == [(70.0,)]
        assert ask(conn, "SELECT value FROM flux_api.market_data_history WHERE time = %s", LATER) == [(70.0,)]
    with session(filled, "flux_service", WLCE) as conn:
        assert ask(conn, add, LATER, "WLCE") == [(70.0,)]
    for site in (None, "HMCE"):
        with session(filled, "flux_service", WLCE) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(conn, add, LATER, site)
        with session(filled, "flux_server", WLCE) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(conn, RECORD, [site], [LATER])


# ── The guard beneath ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO flux.mg_meter_readings (device_id, time) VALUES (%s, '2026-01-15 13:30Z')",
        "UPDATE flux.mg_meter_readings SET frequency = 1 WHERE device_id = %s",
        "INSERT INTO flux.device_health (device_id, timestamp, status) VALUES (%s, '2026-01-15 13:30Z', 'online')",
    ],
)
def test_a_row_of_a_foreign_device_is_stopped_whatever_let_it_through(filled: str, query: str) -> None:
    with session(filled, "flux_server", WLCE) as conn:
        conn.execute(query.encode(), (thing("meter", "WLCE"),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not see"):
            conn.execute(query.encode(), (thing("meter", "HMCE"),))
    with session(filled, "flux_server", None) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(query.encode(), (thing("meter", "WLCE"),))


# ── The audit log ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_through_the_api_is_noted_with_it(filled: str) -> None:
    key_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    claims = WLCE | {"jti": key_id}
    with session(filled, "flux_service", claims, **{"flux.request_id": "r-1"}) as conn:
        before = ask(conn, "SELECT count(*) FROM flux_api.api_audit")
        ask(conn, MERGE, [thing("meter", "WLCE")] * 2, [NOON, LATER], [1.0, 2.0])
        ask(conn, "UPDATE flux_api.mg_device_registry SET metadata = '{}' RETURNING 1")
        conn.execute("DELETE FROM flux_api.market_data WHERE time < '2000-01-01Z'")  # nothing: no note
        ask(conn, "DELETE FROM flux_api.device_group_members RETURNING 1")
        noted = ask(
            conn,
            "SELECT key_id::text, name, role, sites, object, verb, rows, request_id FROM flux_api.api_audit "
            "WHERE request_id IS NOT NULL ORDER BY id",
        )
        who = (key_id, "wlce service", "service", ["WLCE"])
        assert sorted(noted) == sorted(
            [
                (*who, "mg_meter_readings", "INSERT", 1, "r-1"),
                (*who, "mg_meter_readings", "UPDATE", 1, "r-1"),
                (*who, "mg_device_registry", "UPDATE", 2, "r-1"),
                (*who, "device_group_members", "DELETE", 1, "r-1"),
            ]
        )
        assert before == [(1,)]


def test_the_audit_log_is_only_added_to(module_dsn: str, filled: str) -> None:
    with session(filled, "flux_service", ALL) as conn:
        for query in ("DELETE FROM flux_api.api_audit", "UPDATE flux_api.api_audit SET name = 'x'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
                conn.execute(query.encode())
    with psycopg.connect(module_dsn) as owner:
        for query in ("DELETE FROM flux.api_audit", "UPDATE flux.api_audit SET name = 'x'", "TRUNCATE flux.api_audit"):
            with pytest.raises(psycopg.errors.RestrictViolation), owner.transaction():
                owner.execute(query.encode())


def test_people_with_rights_of_their_own_see_and_write_as_before(module_dsn: str, filled: str) -> None:
    """Neither owner nor the API's: policies are on the tables now, and give way to them."""
    with psycopg.connect(module_dsn) as conn:
        conn.execute("CREATE ROLE analyst_of_tests")  # rolled back with the rest
        conn.execute("GRANT USAGE ON SCHEMA flux TO analyst_of_tests")
        conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA flux TO analyst_of_tests")
        conn.execute("SET LOCAL ROLE analyst_of_tests")
        for table in ("sites", "mg_meter_readings", "control_plans", "api_keys"):
            assert ask(conn, f"SELECT count(*) FROM flux.{table}")[0][0] >= 2
        conn.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('P', 'meter', 'NEWCE')")
        conn.execute("INSERT INTO flux.market_data (time, type, value) VALUES ('2026-03-01Z', 2, 70)")
        assert ask(conn, "SELECT value FROM flux.market_data_history WHERE time = '2026-03-01Z'") == [(70.0,)]
        assert ask(conn, "UPDATE flux.device_templates SET body = 'c' RETURNING name") == [("stored",)]
        conn.rollback()


def test_other_sessions_note_nothing_and_see_everything(module_dsn: str, filled: str) -> None:
    with psycopg.connect(module_dsn) as owner:
        ((before,),) = ask(owner, "SELECT count(*) FROM flux.api_audit")
        owner.execute("UPDATE flux.mg_device_registry SET metadata = '{}'")
        assert ask(owner, "SELECT count(*) FROM flux.api_audit") == [(before,)]
        owner.rollback()
