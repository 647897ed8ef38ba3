"""What the tables do by themselves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.errors import CheckViolation, ForeignKeyViolation, RestrictViolation, UniqueViolation
from tests.support import NOON, add_device, fetch

from flux.model import CommandSource, DeviceState, MarketDataType
from flux.store.db import connect
from flux.store.rights import FENCE_FUNCTIONS

Conn = AsyncConnection[Any]


async def test_a_site_appears_by_itself(db: Conn) -> None:
    await add_device(db, "WLCE-BESS-01", "bess", site="WLCE")
    await add_device(db, "WLCE-GRID", site="WLCE")
    assert await fetch(db, "SELECT site, timezone FROM flux.sites") == [("WLCE", "Europe/London")]
    await db.execute("UPDATE flux.mg_device_registry SET site = 'HMCE' WHERE name = 'WLCE-GRID'")
    assert await fetch(db, "SELECT site FROM flux.sites ORDER BY 1") == [("HMCE",), ("WLCE",)]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        await db.execute("UPDATE flux.sites SET timezone = 'Europe/Londno'")


async def test_names_are_unique_among_those_not_decommissioned(db: Conn) -> None:
    first = await add_device(db, "M")
    with pytest.raises(UniqueViolation):
        await add_device(db, "M")
    await db.execute("UPDATE flux.mg_device_registry SET state = 'decommissioned' WHERE id = %s", (first,))
    await add_device(db, "M")
    with pytest.raises(RestrictViolation, match="a device that is decommissioned stays so"):
        await db.execute("UPDATE flux.mg_device_registry SET state = 'active' WHERE id = %s", (first,))


async def test_defaults_and_updated_at(db: Conn) -> None:
    await db.execute("INSERT INTO flux.mg_device_registry (name, type, site) VALUES ('M', 'meter', 'WLCE')")
    query = "SELECT state, active, metadata, created_at = updated_at FROM flux.mg_device_registry"
    assert await fetch(db, query) == [("registered", True, {}, True)]
    await db.execute("UPDATE flux.mg_device_registry SET active = false")
    assert await fetch(db, "SELECT updated_at > created_at FROM flux.mg_device_registry") == [(True,)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("type", "'inverter'"),
        ("state", "'broken'"),
        ("metadata", "'[]'"),
        ("metadata", "NULL"),
        ("name", "''"),
        ("site", "'a b'"),
    ],
)
async def test_the_registry_refuses_nonsense(db: Conn, column: str, value: str) -> None:
    await add_device(db, "M")
    with pytest.raises(psycopg.IntegrityError):
        await db.execute(f"UPDATE flux.mg_device_registry SET {column} = {value}")


async def test_every_state_of_the_model_is_allowed(db: Conn) -> None:
    for state in DeviceState:
        await add_device(db, f"M-{state}", state=state)


async def test_listeners_are_told_of_changes(dsn: str, db: Conn) -> None:
    async with await connect(dsn, autocommit=True) as listener:
        await listener.execute("LISTEN flux_registry")
        await add_device(db, "M", state="registered")
        await db.execute("INSERT INTO flux.device_templates (name, hash, body) VALUES ('t', 'h', 'b')")
        heard = [notice.payload async for notice in listener.notifies(timeout=5, stop_after=2)]
    assert heard == ["mg_device_registry", "device_templates"]


@pytest.mark.parametrize("statement", ["UPDATE {} SET time = now()", "DELETE FROM {}", "TRUNCATE {}"])
async def test_what_is_append_only(db: Conn, statement: str) -> None:
    await add_device(db, "M")
    await db.execute("INSERT INTO flux.market_data_history (time, type, value) VALUES (now(), 2, 55.5)")
    for table in ("flux.device_events", "flux.market_data_history"):
        with pytest.raises(RestrictViolation, match="append-only"):
            await db.execute(statement.format(table))


async def test_devices_with_readings_cannot_be_deleted(db: Conn) -> None:
    meter = await add_device(db, "M")
    await db.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (NOON, NOON))
    await db.execute("INSERT INTO flux.mg_meter_readings (time, device_id) VALUES (%s, %s)", (NOON, meter))
    with pytest.raises(ForeignKeyViolation):
        await db.execute("DELETE FROM flux.mg_device_registry")


async def test_market_data_keeps_one_value_for_all_sites(db: Conn) -> None:
    insert = "INSERT INTO flux.market_data (time, type, value, site) VALUES (%s, %s, %s, %s)"
    await add_device(db, "M")
    await db.execute(insert, (NOON, MarketDataType.IMBALANCE_PRICE, 91.5, None))
    await db.execute(insert, (NOON, MarketDataType.IMBALANCE_PRICE, 92.5, "WLCE"))
    with pytest.raises(UniqueViolation):
        await db.execute(insert, (NOON, MarketDataType.IMBALANCE_PRICE, 93.5, None))
    with pytest.raises(CheckViolation):
        await db.execute(insert, (NOON, MarketDataType.NIV, float("nan"), None))
    with pytest.raises(ForeignKeyViolation):
        await db.execute(insert, (NOON, 99, 1, None))


async def test_market_data_types_are_those_of_the_model(db: Conn) -> None:
    rows = await fetch(db, "SELECT id, unit FROM flux.market_data_types ORDER BY id")
    assert rows == [(1, "MW"), (2, "£/MWh"), (3, "£/MWh"), (4, "kW"), (5, "MWh")]
    assert [number for number, _ in rows] == [int(member) for member in MarketDataType]
    comment = await fetch(db, "SELECT col_description('flux.mg_bess_readings'::regclass, 8)")
    assert all(str(int(source)) in comment[0][0] for source in CommandSource)


@pytest.mark.partitions
async def test_partitions(db: Conn) -> None:
    ensure = "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)"
    monday = datetime(2026, 1, 12, tzinfo=UTC)
    await db.execute("SET timezone = 'Australia/Sydney'")
    assert await fetch(db, ensure, (monday, monday + timedelta(days=6))) == [(1,)]
    assert await fetch(db, ensure, (monday, monday + timedelta(days=7))) == [(1,)], "the end is included"
    assert await fetch(db, ensure, (monday, monday + timedelta(days=7))) == [(0,)]
    await db.execute("SET timezone = 'UTC'")
    bounds = await fetch(
        db,
        """SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'flux.mg_meter_readings'::regclass ORDER BY 1""",
    )
    assert bounds[0] == (
        "mg_meter_readings_20260112",
        "FOR VALUES FROM ('2026-01-12 00:00:00+00') TO ('2026-01-19 00:00:00+00')",
    )
    with pytest.raises(psycopg.errors.WrongObjectType):
        await db.execute("SELECT flux.ensure_partitions('flux.sites', now(), now())")


@pytest.mark.partitions
async def test_making_a_partition_does_not_wait_for_readers_or_writers(dsn: str, db: Conn) -> None:
    meter = await add_device(db, "M")
    await db.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (NOON, NOON))
    async with db.transaction(), await connect(dsn, autocommit=True) as other:
        await db.execute("INSERT INTO flux.mg_meter_readings (time, device_id) VALUES (%s, %s)", (NOON, meter))
        await fetch(db, "SELECT count(*) FROM flux.mg_meter_readings")
        await other.execute("SET lock_timeout = '2s'")
        later = NOON + timedelta(weeks=1)
        await other.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (later, later))


@pytest.mark.partitions
async def test_a_partition_has_what_its_table_has(db: Conn) -> None:
    await db.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (NOON, NOON))
    query = """SELECT contype, count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype <> 'n'
               GROUP BY 1 ORDER BY 1"""
    parent = await fetch(db, query, ("flux.mg_meter_readings",))
    assert await fetch(db, query, ("flux.mg_meter_readings_20260112",)) == parent
    assert {kind for kind, _ in parent} == {"c", "f", "p"}


async def test_every_table_says_what_it_is_for(db: Conn) -> None:
    rows = await fetch(
        db,
        """SELECT relname FROM pg_class WHERE relnamespace = 'flux'::regnamespace AND relkind IN ('r', 'p')
           AND NOT relispartition AND obj_description(oid) IS NULL AND relname <> 'schema_version'""",
    )
    assert rows == []


async def test_what_runs_with_the_rights_of_another_has_a_search_path_of_its_own(db: Conn) -> None:
    rows = await fetch(
        db,
        """SELECT proname FROM pg_proc WHERE pronamespace = 'flux'::regnamespace
           AND (prosecdef OR prorettype = 'trigger'::regtype)
           AND NOT coalesce(array_to_string(proconfig, ',') LIKE '%search_path=pg_catalog%', false)""",
    )
    assert rows == []


async def test_nothing_is_granted_to_everybody(db: Conn) -> None:
    rows = await fetch(
        db,
        """SELECT relname FROM pg_class
           WHERE relnamespace = 'flux'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
           AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE')
           UNION ALL
           SELECT p.proname FROM pg_proc p
           WHERE p.pronamespace = 'flux'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
           AND NOT EXISTS (SELECT FROM unnest(%s::text[]) f(name) WHERE to_regprocedure('flux.' || f.name) = p.oid)""",
        (list(FENCE_FUNCTIONS),),
    )
    assert rows == []
    assert await fetch(db, "SELECT has_schema_privilege('public', 'flux', 'USAGE')") == [(False,)]


@pytest.mark.partitions
@pytest.mark.parametrize("span", ["'2026-01-01', 'infinity'", "'-infinity', '2026-01-01'"])
async def test_partitions_without_end_are_refused(db: Conn, span: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="begins and ends"):
        await db.execute(f"SELECT flux.ensure_partitions('flux.mg_bess_readings', {span})")


async def test_ids_of_readings_count_up(db: AsyncConnection[Any]) -> None:
    """So that they compress: only the end of one differs from the end of the next. Whoever may insert gets them."""
    meter, bess = await add_device(db, "M"), await add_device(db, "B", "bess")
    await db.execute("CREATE ROLE id_writer")
    try:
        await db.execute("GRANT USAGE ON SCHEMA flux TO id_writer")
        await db.execute("GRANT INSERT, SELECT ON flux.mg_meter_readings, flux.mg_bess_readings TO id_writer")
        await db.execute("SET ROLE id_writer")
        for table, device in (("meter", meter), ("bess", bess)):
            insert = f"INSERT INTO flux.mg_{table}_readings (time, device_id) SELECT now() - n * '1 s'::interval, %s"
            await db.execute(f"{insert} FROM generate_series(1, 300) n", (device,))
        await db.execute("RESET ROLE")
    finally:
        await db.execute("RESET ROLE")
        await db.execute("DROP OWNED BY id_writer")
        await db.execute("DROP ROLE id_writer")
    query = """SELECT count(DISTINCT id), count(DISTINCT left(id::text, 20)), min(substr(id::text, 15, 1))
               FROM (SELECT id FROM flux.mg_meter_readings UNION ALL SELECT id FROM flux.mg_bess_readings) r"""
    assert await fetch(db, query) == [(600, 1, "8")]
