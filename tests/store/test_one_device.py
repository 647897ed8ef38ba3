"""What lets tables be distributed by device: keys begin with it, a refresh stays within it, no trigger is needed."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection
from psycopg.errors import Diagnostic, UndefinedFile
from tests.support import NOON, add_device, bess_reading, delete_all_readings, fetch, meter_reading

from flux.store.db import connect_sync
from flux.store.ingest import ingest
from flux.store.rejected import accept_rejected
from flux.store.rollups import LEVELS

MINUTE = timedelta(minutes=1)
ROLLUPS = {level.table for level in LEVELS}
SERIES = {"mg_meter_readings", "mg_bess_readings", "mg_bess_readings_5m", "rollup_gaps", "counter_events", *ROLLUPS}
"""What grows with devices and time. (``rollup_changes`` and ``rejected_readings`` are queues, and emptied.)"""


async def test_every_key_of_a_time_series_begins_with_its_device(db: AsyncConnection[Any]) -> None:
    keys = await fetch(
        db,
        """SELECT c.relname, i.indexrelid::regclass::text, a.attname FROM pg_index i
           JOIN pg_class c ON c.oid = i.indrelid
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
           WHERE c.relnamespace = 'flux'::regnamespace AND (i.indisunique OR i.indisprimary)
             AND (c.relname = ANY(%(names)s)
                  OR c.relname IN (SELECT table_name FROM flux.time_series WHERE engine <> 'rows')
                  OR c.oid IN (SELECT inhrelid FROM pg_inherits))""",
        {"names": sorted(SERIES)},
    )
    assert {table for table, _, _ in keys} >= SERIES
    assert {(table, index) for table, index, first in keys if first != "device_id"} == set()


@pytest.fixture
def plans(dsn: str) -> Iterator[tuple[Connection[Any], list[Any]]]:
    """A session that tells the plan of every statement it runs, those inside functions too."""
    told: list[Any] = []

    def take(notice: Diagnostic) -> None:
        text = notice.message_primary or ""
        if "plan:\n" in text:
            told.append(json.loads(text.partition("plan:\n")[2]))

    with connect_sync(dsn, autocommit=True) as conn:
        try:
            conn.execute("LOAD 'auto_explain'")
        except UndefinedFile:
            pytest.skip("this server has no auto_explain")
        conn.add_notice_handler(take)
        for name, value in (
            ("min_duration", "0"),
            ("nested_statements", "on"),
            ("format", "json"),
            ("level", "notice"),
        ):
            conn.execute(f"SET auto_explain.log_{name} = {value}")
        yield conn, told


def scans(node: Any) -> Iterator[dict[str, Any]]:
    """Every node of a plan that reads a table."""
    if isinstance(node, dict):
        if "Relation Name" in node and "Scan" in node.get("Node Type", ""):
            yield node
        for child in node.values():
            yield from scans(child)
    elif isinstance(node, list):
        for child in node:
            yield from scans(child)


def is_series(relation: str) -> bool:
    return relation in SERIES or any(relation.startswith(f"{name}_2") for name in SERIES)  # a partition of it


async def test_a_refresh_reads_time_series_by_device_only(
    db: AsyncConnection[Any], plans: tuple[Connection[Any], list[Any]]
) -> None:
    meters = [await add_device(db, f"M{i}") for i in range(3)]
    bess = await add_device(db, "B", "bess")
    for meter in meters:  # with a fall and a gap, so that the exact path has work, too
        values = [(0, 100.0), (1, 50.0), (2, 101.0), (3, None), (2000, 120.0), (2001, 121.0), (2002, 1.0)]
        await ingest(db, [meter_reading(meter, NOON + m * MINUTE, energy_imported_active=v) for m, v in values])
    await ingest(db, [bess_reading(bess, NOON + m * MINUTE, soe=50, target_power=10) for m in range(9)])
    conn, told = plans
    conn.execute("CALL flux.refresh_rollups()")
    assert await fetch(db, "SELECT count(*) > 0 FROM flux.rollup_gaps") == [(True,)]
    read = [node for plan in told for node in scans(plan) if is_series(node["Relation Name"])]
    assert {"mg_meter_readings", "mg_bess_readings"} <= {n["Relation Name"].rpartition("_2")[0] for n in read}
    strangers = [
        (n["Node Type"], n["Relation Name"])
        for n in read
        if "device_id" not in f"{n.get('Index Cond', '')}{n.get('Recheck Cond', '')}"
    ]
    assert strangers == []


NO_TRIGGERS = "ALTER TABLE flux.mg_{}_readings DISABLE TRIGGER USER"


async def rollups(db: AsyncConnection[Any]) -> list[tuple[Any, ...]]:
    await db.execute("CALL flux.refresh_rollups()")
    return await fetch(
        db,
        """SELECT d.name, t.time_b, t.samples, t.energy_imported_active_delta
           FROM flux.mg_meter_readings_5m_intermediate t
           JOIN flux.mg_device_registry d ON d.id = t.device_id
           UNION ALL SELECT d.name, t.time_b, t.samples, t.energy_discharged FROM flux.mg_bess_readings_5m t
           JOIN flux.mg_device_registry d ON d.id = t.device_id ORDER BY 1, 2""",
    )


@pytest.mark.parametrize("how", ["disabled", "replica"])
async def test_without_triggers_ingest_notes_what_it_stored(db: AsyncConnection[Any], how: str) -> None:
    here, there = await add_device(db, "A"), await add_device(db, "B", "bess")

    def readings(start: int) -> list[Any]:
        meter = [meter_reading(here, NOON + m * MINUTE, energy_imported_active=100.0 + m) for m in range(start, 90, 3)]
        return [*meter, *(bess_reading(there, NOON + m * MINUTE, target_power=6) for m in range(start, 90, 3))]

    for start in (1, 0):
        await ingest(db, readings(start))
    with_triggers = await rollups(db)
    assert len(with_triggers) == 36
    await delete_all_readings(db, "meter")
    await delete_all_readings(db, "bess")
    assert await rollups(db) == []
    if how == "disabled":
        await db.execute(NO_TRIGGERS.format("meter"))
        await db.execute(NO_TRIGGERS.format("bess"))
    else:
        await db.execute("SET session_replication_role = replica")
    await ingest(db, readings(1))
    await rollups(db)
    await ingest(db, readings(0))
    await ingest(db, readings(0))
    assert await fetch(db, "SELECT count(*) > 0 FROM flux.rollup_changes") == [(True,)]
    assert await rollups(db) == with_triggers
    await ingest(db, readings(0))
    assert await fetch(db, "SELECT count(*) FROM flux.rollup_changes") == [(0,)], "nothing was stored"


async def test_without_triggers_an_accepted_conflict_is_noted(db: AsyncConnection[Any]) -> None:
    meter = await add_device(db, "A")
    await ingest(db, [meter_reading(meter, NOON + m * MINUTE, energy_imported_active=100 + m) for m in range(0, 20, 5)])
    await rollups(db)
    await db.execute(NO_TRIGGERS.format("meter"))
    await ingest(db, [meter_reading(meter, NOON + 5 * MINUTE, energy_imported_active=101)])
    ((number,),) = await fetch(db, "SELECT id FROM flux.rejected_readings")
    await accept_rejected(db, [number])
    assert [row[3] for row in await rollups(db)] == pytest.approx([1, 9, 5, 0])


async def test_with_triggers_it_is_noted_once(db: AsyncConnection[Any]) -> None:
    meter = await add_device(db, "A")
    await ingest(db, [meter_reading(meter, NOON)])
    assert await fetch(db, "SELECT count(*) FROM flux.rollup_changes") == [(1,)]
