"""Readings of a device that was decommissioned are in a file before anything may drop them."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch, meter_reading

from flux.registry import archive_decommissioned, decommission
from flux.store.ingest import ingest

Conn = AsyncConnection[Any]
DAY = timedelta(days=1)


async def held_by(db: Conn) -> Any:
    query = "SELECT flux.held_by('mg_meter_readings', %s, %s, %s)"
    return (await fetch(db, query, (NOON - DAY / 2, NOON + DAY / 2, NOON + 400 * DAY)))[0][0]


async def test_a_removed_device_is_archived_and_holds_back_retention_until_then(db: Conn, tmp_path: Path) -> None:
    device = await add_device(db, "OLD METER")
    await ingest(db, [meter_reading(device, NOON + timedelta(minutes=n), frequency=50.0 + n) for n in range(5)])
    await db.execute("CALL flux.refresh_rollups()")
    assert await held_by(db) is None
    removed = await decommission(db, device, actor="ada", reason="replaced")
    assert await held_by(db) == "readings of OLD METER, which was decommissioned, are not archived yet"

    assert await archive_decommissioned(db, tmp_path, removed.updated_at) == []  # its edge may have more to send
    later = removed.updated_at + timedelta(minutes=11)
    (file,) = await archive_decommissioned(db, tmp_path, later)
    assert await held_by(db) is None
    table = pq.read_table(file)
    assert table["frequency"].to_pylist() == [50.0 + n for n in range(5)]
    ((kept_file, rows, digest),) = await fetch(db, "SELECT file, rows, sha256 FROM flux.device_archives")
    assert (kept_file, rows) == (str(file), 5)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert await archive_decommissioned(db, tmp_path, later) == []

    await ingest(db, [meter_reading(device, NOON + timedelta(minutes=7), frequency=49.0)])
    await db.execute("CALL flux.refresh_rollups()")
    assert await held_by(db) == "readings of OLD METER, which was decommissioned, are not archived yet"
    (again,) = await archive_decommissioned(db, tmp_path, later + DAY)
    assert pq.read_table(again).num_rows == 6
    assert file.exists()


async def test_a_device_without_readings_needs_no_file(db: Conn, tmp_path: Path) -> None:
    removed = await decommission(db, await add_device(db, "NEVER", "bess"), actor="ada", reason="x")
    assert await archive_decommissioned(db, tmp_path, removed.updated_at + DAY) == []
