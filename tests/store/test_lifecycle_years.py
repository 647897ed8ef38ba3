"""Retention through all levels, quarter by quarter of more than six years: no row of a rollup changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection, sql
from tests.store.test_lifecycle import DAY, HOUR, MONDAY, ROLLUPS, counted, raw
from tests.support import add_device, bess_reading, fetch

from flux.model import DeviceId
from flux.store.ingest import ingest
from flux.store.lifecycle import run_retention
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
Row = tuple[Any, ...]
Kept = dict[tuple[str, UUID, datetime], Row]
SHIFT = timedelta(weeks=364)
"""What is made from MONDAY on is told as of seven years before: readings of times to come are refused."""
START = MONDAY - SHIFT
QUARTERS = [datetime(2018 + n // 4, n % 4 * 3 + 1, 1, tzinfo=UTC) for n in range(1, 27)]
END = QUARTERS[-1]
KEPT = {"5m": timedelta(days=366), "30m": timedelta(days=5 * 365 + 2)}
PIECE = timedelta(days=366)
"""The longest piece of any level: so much more than what it is kept for can be left of one."""
SETTLED = 7 * DAY
"""Beside the newest reading a fall may be undecided yet: no bucket is final there."""


def readings(device: DeviceId, kind: str) -> list[Any]:
    if kind == "meter":
        made = counted(device, 7, END + SHIFT, 12 * HOUR)
        return [replace(reading, time=reading.time - SHIFT) for reading in made]
    steps = int((END - START) / (9 * HOUR))
    return [
        bess_reading(device, START + i * 9 * HOUR, soe=float(i % 100), target_power=float(i % 7 - 3))
        for i in range(steps)
    ]


async def rows_between(conn: Conn, since: datetime, until: datetime) -> Kept:
    found: Kept = {}
    for table in ROLLUPS:
        query = sql.SQL("SELECT device_id, time_b, t.* FROM flux.{} t WHERE time_b >= %s AND time_b < %s")
        for row in await (await conn.execute(query.format(sql.Identifier(table)), (since, until))).fetchall():
            found[table, row[0], row[1]] = row[2:]
    return found


def assert_what_is_left_is_the_same(found: Kept, expected: Kept) -> None:
    for table in ROLLUPS:
        oldest = min(time for name, _, time in found if name == table)
        level = next((level for level in KEPT if f"_{level}" in table), None)
        if level is not None:
            assert END - KEPT[level] - PIECE <= oldest <= END - KEPT[level] + 4 * DAY, table
        assert {key for key in expected if key[0] == table and key[2] >= oldest} == {k for k in found if k[0] == table}
    for key, row in found.items():
        for new, old in zip(row, expected[key], strict=True):
            assert new == old or isinstance(new, bool) or new == pytest.approx(old, rel=1e-9, abs=1e-9), key


@pytest.mark.long
@pytest.mark.partitions
async def test_no_rollup_changes_through_all_levels_of_six_years(db: Conn) -> None:
    # (with the usual gap limit each 5 minutes of these years would have a row)
    meter = await add_device(db, "M", metadata={"gap_limit": "30m"})
    sent = [*readings(meter, "meter"), *readings(await add_device(db, "B", "bess"), "bess")]
    before, seen = START - DAY, START - DAY
    expected: Kept = {}
    for quarter in QUARTERS:
        await ingest(db, [reading for reading in sent if before <= reading.time < quarter])
        before = quarter
        await refresh(db)
        expected |= await rows_between(db, seen, quarter - SETTLED)
        seen = quarter - SETTLED
        assert not (await run_retention(db, as_of=quarter)).held, quarter
    dropped = dict(await fetch(db, "SELECT table_name, count(*) FROM flux.dropped_pieces GROUP BY 1"))
    assert set(dropped) >= {"mg_meter_readings", "mg_bess_readings", *(t for t in ROLLUPS if "1h" not in t)}
    assert dropped["mg_meter_readings"] > 300
    assert 0 < await raw(db) < sum(reading.device_id == meter for reading in sent) / 10
    assert_what_is_left_is_the_same(await rows_between(db, START - DAY, END - SETTLED), expected)
