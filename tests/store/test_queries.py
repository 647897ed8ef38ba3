"""Reading back what was stored."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.errors import InputError
from flux.model import Device, DeviceId, DeviceType, parse_metadata
from flux.store import queries
from flux.store.ingest import ingest

MINUTE = timedelta(minutes=1)
Conn = AsyncConnection[Any]


def device(id: DeviceId, name: str, type: DeviceType) -> Device:
    return Device(
        id=id, name=name, type=type, site="WLCE", metadata=parse_metadata(type, {}), created_at=NOON, updated_at=NOON
    )


async def test_latest_of_each_device(db: Conn) -> None:
    meter, bess = await add_device(db, "M"), await add_device(db, "B", "bess")
    other = await add_device(db, "A", site="HMCE")
    await add_device(db, "OLD", site="WLCE", state="decommissioned")
    await ingest(db, [meter_reading(meter, NOON + i * MINUTE, frequency=50 + i / 10) for i in range(-3000, 2)])
    await ingest(db, [bess_reading(bess, NOON, soe=33.3, command_source=3)])
    rows = await queries.latest_readings(db)
    assert [(row["site"], row["device"], row["time"]) for row in rows] == [
        ("HMCE", "A", None),
        ("WLCE", "B", NOON),
        ("WLCE", "M", NOON + MINUTE),
    ]
    assert rows[0]["age_s"] is None
    assert rows[0]["device_id"] == other
    assert (rows[1]["soe"], rows[1]["command_source"]) == (33.3, 3)
    assert rows[2]["frequency"] == 50.1, "a real reads back as it was written"
    assert rows[2]["age_s"] == pytest.approx((datetime.now(UTC) - NOON - MINUTE).total_seconds(), abs=60)
    assert [row["device"] for row in await queries.latest_readings(db, site="HMCE")] == ["A"]


@pytest.mark.partitions
async def test_latest_uses_the_index_of_each_partition(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, NOON - i * timedelta(weeks=1)) for i in range(4)])
    await db.execute("SET enable_seqscan = off")
    query = "EXPLAIN SELECT * FROM flux.mg_meter_readings WHERE device_id = %s ORDER BY time DESC LIMIT 1"
    plan = "\n".join(line for (line,) in await fetch(db, query, (meter,)))
    assert "Index Scan Backward" in plan
    assert "Sort" not in plan, "partitions are read in order of time, newest first, and only until one has a row"


async def test_a_range_is_half_open_and_keeps_the_newest(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, NOON + i * MINUTE, frequency=float(i)) for i in range(10)])
    found = device(meter, "M", DeviceType.METER)
    rows = await queries.readings(db, found, NOON + 2 * MINUTE, NOON + 5 * MINUTE)
    assert [row["frequency"] for row in rows] == [2.0, 3.0, 4.0]
    assert list(rows[0])[:2] == ["time", "device"]
    newest = await queries.readings(db, found, NOON, NOON + timedelta(hours=1), limit=3)
    assert [row["frequency"] for row in newest] == [7.0, 8.0, 9.0]


async def test_an_unknown_level_is_told(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    found = device(bess, "B", DeviceType.BESS)
    with pytest.raises(InputError, match="5m, 30m, 1h"):
        await queries.rollups(db, found, "2m", NOON, NOON + MINUTE)  # type: ignore[arg-type]
