"""What the log says of each statement: the keys of its rows, in the order in which they took effect."""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch, meter_reading

from flux.store.changes import FOLLOWED, MOST_KEYS
from flux.store.db import connect
from flux.store.ingest import ingest
from flux.store.lifecycle import run_retention
from flux.store.rollups import LEVELS, refresh

Conn = AsyncConnection[Any]
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LOG = "SELECT table_name, op, rows, devices, times, parts, sites, spans FROM flux.changes WHERE id > %s ORDER BY id"


async def newest(conn: Conn) -> int:
    ((highest,),) = await fetch(conn, "SELECT coalesce(max(id), 0) FROM flux.changes")
    return int(highest)


async def test_a_batch_of_readings_is_one_row(db: Conn) -> None:
    first, second = [await add_device(db, name) for name in ("M1", "M2")]
    before = await newest(db)
    await ingest(db, [meter_reading(device, NOON, frequency=50) for device in (first, second)])
    await ingest(db, [meter_reading(device, NOON, frequency=50) for device in (first, second)])  # duplicates
    assert await fetch(db, LOG, (before,)) == [
        ("mg_meter_readings", "INSERT", 2, [first, second], [NOON, NOON], None, None, False)
    ]


async def test_an_update_names_the_site_before(db: Conn) -> None:
    device = await add_device(db, "M1", site="WLCE")
    before = await newest(db)
    await db.execute("UPDATE flux.mg_device_registry SET site = 'HMCE' WHERE id = %s", (device,))
    await db.execute("UPDATE flux.mg_device_registry SET site = 'LFCE' WHERE name = 'nobody'")
    log = await fetch(db, LOG, (before,))
    assert [row for row in log if row[0] == "mg_device_registry"] == [
        ("mg_device_registry", "UPDATE", 1, [device], None, None, ["WLCE"], False)
    ]
    assert ("sites", "INSERT", 1, None, None, ["HMCE"], ["HMCE"], False) in log


async def test_a_changed_key_is_a_row_gone_and_a_row_made(db: Conn) -> None:
    device = await add_device(db, "M1")
    await ingest(db, [meter_reading(device, NOON, frequency=50), meter_reading(device, NOON + MINUTE, frequency=50)])
    before = await newest(db)
    await db.execute(
        """UPDATE flux.mg_meter_readings SET frequency = 49,
               time = CASE WHEN time = %s THEN time ELSE time + interval '1 minute' END""",
        (NOON,),
    )
    assert [(op, times) for _, op, _, _, times, *_ in await fetch(db, LOG, (before,))] == [
        ("DELETE", [NOON + MINUTE]),
        ("INSERT", [NOON + 2 * MINUTE]),
        ("UPDATE", [NOON]),
    ]


async def test_what_goes_with_a_group_is_noted(db: Conn) -> None:
    device = await add_device(db, "M1")
    ((group,),) = await fetch(db, "INSERT INTO flux.device_groups (name, site) VALUES ('g', 'WLCE') RETURNING id")
    await db.execute("INSERT INTO flux.device_group_members (group_id, device_id) VALUES (%s, %s)", (group, device))
    before = await newest(db)
    await db.execute("DELETE FROM flux.device_groups")
    log = await fetch(db, LOG, (before,))
    assert ("device_groups", "DELETE", 1, None, None, [str(group)], ["WLCE"], False) in log
    assert ("device_group_members", "DELETE", 1, [device], None, [str(group)], None, False) in log


async def test_a_bucket_that_is_made_again_is_an_update(db: Conn) -> None:
    device = await add_device(db, "M1")
    of_buckets = f"SELECT op, times FROM flux.changes WHERE id > %s AND table_name = '{LEVELS[0].table}' ORDER BY id"
    before = await newest(db)
    await ingest(db, [meter_reading(device, NOON, energy_imported_active=5)])
    await refresh(db)
    assert (await fetch(db, of_buckets, (before,)))[0] == ("INSERT", [NOON])
    before = await newest(db)
    await ingest(db, [meter_reading(device, NOON + 6 * MINUTE, energy_imported_active=6)])
    await refresh(db)
    told = {(op, time) for op, times in await fetch(db, of_buckets, (before,)) for time in times}
    assert told == {("DELETE", NOON), ("UPDATE", NOON), ("INSERT", NOON + 5 * MINUTE)}


async def test_a_huge_statement_is_noted_by_its_spans(db: Conn) -> None:
    first, second = sorted([await add_device(db, name) for name in ("M1", "M2")])
    await db.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (NOON, NOON + 7 * DAY))
    before = await newest(db)
    await db.execute(
        """INSERT INTO flux.mg_meter_readings (device_id, time, frequency)
           SELECT d, %s + n * interval '1 minute', 50 FROM unnest(%s::uuid[]) d, generate_series(0, %s) n""",
        (NOON, [first, second], MOST_KEYS // 2),
    )
    ((table, op, rows, devices, times, *_, spans),) = await fetch(db, LOG, (before,))
    last = NOON + MOST_KEYS // 2 * MINUTE
    assert (table, op, rows, spans) == ("mg_meter_readings", "INSERT", MOST_KEYS + 2, True)
    assert sorted(zip(devices, times, strict=True)) == [(first, NOON), (first, last), (second, NOON), (second, last)]


async def test_a_table_that_is_emptied_is_noted_without_keys(db: Conn) -> None:
    before = await newest(db)
    await db.execute("TRUNCATE flux.site_plans")
    assert await fetch(db, LOG, (before,)) == [("site_plans", "DELETE", 1, None, None, None, None, True)]


async def test_the_keys_are_the_tables_own(db: Conn) -> None:
    found = await fetch(
        db,
        """SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attname)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'flux'::regnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
           WHERE c.relname = ANY(%s) AND i.indisprimary GROUP BY 1""",
        (list(FOLLOWED),),
    )
    assert dict(found) == {followed.table: sorted(followed.key) for followed in FOLLOWED.values()}


async def test_what_is_trimmed_is_known(db: Conn) -> None:
    await add_device(db, "M1")
    ((highest,),) = await fetch(db, "SELECT max(txid::text::bigint) FROM flux.changes")
    trimmed = "SELECT trimmed::text::bigint FROM flux.change_log"
    assert await fetch(db, trimmed) == [(0,)]
    await run_retention(db)
    assert await fetch(db, trimmed) == [(0,)], "a day is kept"
    await run_retention(db, as_of=datetime.now(UTC) + timedelta(days=2))
    assert await fetch(db, trimmed) == [(highest,)]
    assert await newest(db) == 0


async def test_listeners_are_told_once_for_a_transaction_and_nothing_of_it(dsn: str, db: Conn) -> None:
    device = await add_device(db, "M1")
    async with await connect(dsn, autocommit=True) as listener:
        await listener.execute("LISTEN flux_changes")
        async with db.transaction():
            for minute in range(3):
                await db.execute(
                    "UPDATE flux.mg_device_registry SET metadata = jsonb_build_object('note', %s::int) WHERE id = %s",
                    (minute, device),
                )
        heard = [notice.payload async for notice in listener.notifies(timeout=1, stop_after=2)]
    assert heard == [""]
