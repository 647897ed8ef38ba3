"""The same store on TimescaleDB: schema, policies, compression, refresh and retention, on the real thing."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests import timescale
from tests.store.rollup_checks import check
from tests.store.rollup_reference import Limits
from tests.store.test_lifecycle import KEEP, MONDAY, WEEK, assert_same, counted, rollups
from tests.support import add_device, bess_reading, fetch, meter_reading

from flux.model import BESS_METRICS, METER_METRICS
from flux.store.db import connect
from flux.store.ingest import IngestResult, ingest
from flux.store.lifecycle import run_retention, storage_status
from flux.store.migrate import migrate, status
from flux.store.rollups import BESS_LEVELS, LEVELS, refresh

Conn = AsyncConnection[Any]
CHUNK_END = MONDAY + timedelta(days=3)  # chunks begin on Thursdays
SERIES = {"mg_meter_readings", "mg_bess_readings", "device_health", "control_decisions"} | {
    level.table for level in (*LEVELS, *BESS_LEVELS)
}

pytestmark = pytest.mark.skipif(timescale.missing() is not None, reason=f"TimescaleDB: {timescale.missing()}")


@pytest.fixture(scope="module")
def server_dsn() -> Iterator[str]:
    with timescale.timescale_server() as dsn:
        migrate(dsn)
        yield dsn


@pytest.fixture
def timescale_dsn(server_dsn: str) -> Iterator[str]:
    """The one database there is, emptied after each test."""
    yield server_dsn
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute("SET client_min_messages = warning")
        conn.execute("SET session_replication_role = replica")  # also what is append-only
        conn.execute("TRUNCATE flux.mg_device_registry, flux.dropped_pieces, flux.rejected_readings CASCADE")
        conn.execute("TRUNCATE flux.rollup_changes, flux.rollup_gaps, flux.counter_events")
        for level in (*LEVELS, *BESS_LEVELS):
            conn.execute(f"TRUNCATE flux.{level.table}")


async def run_jobs(conn: Conn, name: str) -> None:
    jobs = await fetch(conn, "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s", (name,))
    assert jobs
    ((procedure,),) = await fetch(conn, "SELECT flux.timescale('run_job')")
    for (job,) in jobs:
        await conn.execute(f"CALL {procedure}({job})")


async def test_the_schema_has_hypertables_policies_and_the_retention_job(timescale_dsn: str) -> None:
    assert status(timescale_dsn).current
    async with await connect(timescale_dsn, autocommit=True) as conn:
        assert await fetch(conn, "SELECT engine FROM flux.storage") == [("hypertable",)]
        query = "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'flux'"
        assert {name for (name,) in await fetch(conn, query)} == SERIES
        jobs = await fetch(conn, "SELECT proc_name, hypertable_name, config FROM timescaledb_information.jobs")
        compressed = {table: config for name, table, config in jobs if name == "policy_compression"}
        assert set(compressed) == SERIES
        assert {config["compress_after"] for config in compressed.values()} == {"7 days"}
        assert [name for name, _, _ in jobs].count("retention_job") == 1
        segments = await fetch(
            conn, "SELECT DISTINCT segmentby FROM timescaledb_information.hypertable_columnstore_settings"
        )
        assert segments == [("device_id",)]
    with psycopg.connect(timescale_dsn, autocommit=True) as connection:
        connection.execute("UPDATE flux.schema_objects SET hash = 'of an earlier version'")
    assert "rollups" in migrate(timescale_dsn).objects_applied, "it may be applied again"


async def test_rollups_are_the_references_also_in_compressed_chunks(timescale_dsn: str) -> None:
    async with await connect(timescale_dsn, autocommit=True) as conn:
        meter = await add_device(conn, "M")
        sent = counted(meter, 3, MONDAY + WEEK)
        random.Random(3).shuffle(sent)
        half = len(sent) // 2
        assert await ingest(conn, sent[:half]) == IngestResult(half, 0, 0)
        await refresh(conn)
        await run_jobs(conn, "policy_compression")
        ((packed,),) = await fetch(conn, "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")
        assert packed > 0
        assert (await ingest(conn, sent)).stored == len(sent) - half, "late readings get into compressed chunks"
        await conn.execute(
            "UPDATE flux.mg_meter_readings SET power_total_active = 7 WHERE device_id = %s AND time < %s",
            (meter, MONDAY + timedelta(days=2)),
        )
        ((gone,),) = await fetch(
            conn,
            "SELECT flux.delete_readings(%s, %s, %s)",
            (meter, MONDAY + timedelta(days=4), MONDAY + timedelta(days=4, hours=9)),
        )
        assert gone > 0
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=r"use SELECT flux\.delete_readings"):
            await conn.execute("DELETE FROM flux.mg_meter_readings")
        await refresh(conn)
    with psycopg.connect(timescale_dsn) as plain:
        check(plain, meter, Limits())


async def test_retention_by_its_job(timescale_dsn: str) -> None:
    async with await connect(timescale_dsn, autocommit=True) as conn:
        meter = await add_device(conn, "M")
        bess = await add_device(conn, "B", "bess")
        end = meter_reading(meter, MONDAY + WEEK, energy_imported_active=9999.0, energy_exported_active=9999.0)
        await ingest(conn, [*counted(meter, 5, MONDAY + WEEK), end])  # (no fall is undecided: that would hold them)
        await ingest(
            conn, [bess_reading(bess, MONDAY + i * timedelta(hours=1), target_power=float(i % 5)) for i in range(168)]
        )
        await refresh(conn)
        before = await rollups(conn)
        await run_jobs(conn, "policy_compression")
        dropped = (await run_retention(conn, as_of=CHUNK_END + KEEP)).dropped
        assert [(piece.table_name, piece.to_time) for piece in dropped] == [
            ("mg_bess_readings", CHUNK_END),
            ("mg_meter_readings", CHUNK_END),
        ]
        assert_same(await rollups(conn), before)
        await conn.execute("SELECT flux.note_rollup_change(id) FROM flux.mg_device_registry")
        await refresh(conn)
        assert_same(await rollups(conn), before)
        late = meter_reading(meter, MONDAY, energy_imported_active=1.0)
        assert await ingest(conn, [late]) == IngestResult(0, 0, 1)
        await run_jobs(conn, "retention_job")  # by now: all of it is long past 90 days and a year
        left = {series.table_name: series.pieces for series in await storage_status(conn)}
        assert (left["mg_meter_readings"], left[LEVELS[0].table], left[LEVELS[2].table]) == (0, 0, 1)
        assert_same(await rollups(conn, [LEVELS[2].table]), {LEVELS[2].table: before[LEVELS[2].table]})


def test_every_metric_is_a_column(timescale_dsn: str) -> None:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    with psycopg.connect(timescale_dsn) as conn:
        for table, metrics in (("mg_meter_readings", METER_METRICS), ("mg_bess_anchors", BESS_METRICS)):
            found = {name for (name,) in conn.execute(query, (f"flux.{table}",)).fetchall()}
            assert {metric.name for metric in metrics} <= found


async def test_the_fence_reaches_compressed_chunks(timescale_dsn: str) -> None:
    """A view's condition on one device goes to the compressed scan, and what is another site's is not unpacked."""
    async with await connect(timescale_dsn, autocommit=True) as conn:
        own, other = await add_device(conn, "W"), await add_device(conn, "H", site="HMCE")
        for minute in range(0, 600, 5):
            at = MONDAY + timedelta(minutes=minute)
            await ingest(conn, [meter_reading(own, at, frequency=50.0), meter_reading(other, at, frequency=49.0)])
        await run_jobs(conn, "policy_compression")
        claims = '{"role": "service", "sites": ["WLCE"], "name": "k"}'
        async with conn.transaction(force_rollback=True):
            await conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
            await conn.execute("SET LOCAL ROLE flux_service")
            assert await fetch(conn, "SELECT DISTINCT device_id FROM flux_api.mg_meter_readings") == [(own,)]
            one = (
                f"FROM flux_api.mg_meter_readings WHERE device_id = '{own}' AND time < '{MONDAY + timedelta(hours=2)}'"
            )
            assert await fetch(conn, f"SELECT count(*) {one}") == [(24,)]
            plan = "\n".join(line for (line,) in await fetch(conn, f"EXPLAIN (COSTS OFF) SELECT * {one}"))
            assert "ColumnarScan" in plan or "DecompressChunk" in plan, plan
            assert "Index Cond: ((device_id = " in plan, plan
            merge = """INSERT INTO flux_api.mg_meter_readings (device_id, time, frequency) VALUES (%s, %s, 51)
                       ON CONFLICT (device_id, time) DO UPDATE SET frequency = excluded.frequency RETURNING frequency"""
            assert await fetch(conn, merge, (own, MONDAY)) == [(51.0,)]
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WithCheckOptionViolation)):
                await fetch(conn, merge, (other, MONDAY))
