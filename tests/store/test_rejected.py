"""What becomes of refused readings."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.errors import NotFoundError, RefusedError
from flux.store.ingest import IngestResult, ingest
from flux.store.rejected import accept_rejected, list_rejected, retry_rejected

Conn = AsyncConnection[Any]


async def statuses(conn: Conn) -> list[tuple[Any, ...]]:
    return await fetch(conn, "SELECT reason, status FROM flux.rejected_readings ORDER BY id")


async def test_an_unknown_device_is_registered_and_its_readings_tried_again(db: Conn) -> None:
    unknown = uuid4()
    batch = [meter_reading(unknown, NOON + timedelta(minutes=i), energy_imported_active=0.1 * i) for i in range(3)]
    assert await ingest(db, batch) == IngestResult(0, 0, 3)
    assert await retry_rejected(db) == IngestResult(0, 0, 3), "still unknown"
    await db.execute(
        "INSERT INTO flux.mg_device_registry (id, name, type, site) VALUES (%s, 'M', 'meter', 'WLCE')", (unknown,)
    )
    first = (await list_rejected(db))[0]
    assert (first.device_id, first.device_name, first.reason) == (unknown, "M", "unknown_device")
    assert await retry_rejected(db, [first.id]) == IngestResult(1, 0, 0)
    assert await retry_rejected(db) == IngestResult(2, 0, 0)
    assert await list_rejected(db) == []
    assert await statuses(db) == [("unknown_device", "retried")] * 3
    rows = await fetch(db, "SELECT energy_imported_active FROM flux.mg_meter_readings ORDER BY time")
    assert rows == [(0.0,), (0.1,), (0.2,)]


async def test_accepting_a_conflict_replaces_every_metric(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, frequency=50.0, power_total_active=1.0)])
    await ingest(db, [meter_reading(meter, frequency=49.0)])
    (row,) = await list_rejected(db)
    assert await retry_rejected(db) == IngestResult(0, 0, 1), "a conflict stays one"
    assert await accept_rejected(db, [row.id]) == 1
    assert await fetch(db, "SELECT frequency, power_total_active FROM flux.mg_meter_readings") == [(49.0, None)]
    assert await statuses(db) == [("conflict", "accepted")]
    assert await ingest(db, [meter_reading(meter, frequency=49.0)]) == IngestResult(0, 1, 0)


async def test_only_conflicts_can_be_accepted(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    await ingest(db, [bess_reading(bess, soe=5.0)])
    await ingest(db, [bess_reading(bess, soe=6.0), bess_reading(bess, NOON + timedelta(minutes=1), soe=float("nan"))])
    both = [row.id for row in await list_rejected(db)]
    with pytest.raises(RefusedError, match="impossible_value"):
        await accept_rejected(db, both)
    assert await fetch(db, "SELECT soe FROM flux.mg_bess_readings") == [(5.0,)], "then none is accepted"
    with pytest.raises(NotFoundError, match="999"):
        await accept_rejected(db, [999])


async def test_not_a_number_is_kept_as_text_and_refused_again(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    await ingest(db, [bess_reading(bess, soe=float("nan"), target_power=float("-inf"))])
    ((payload),) = await fetch(db, "SELECT payload ->> 'soe', payload ->> 'target_power' FROM flux.rejected_readings")
    assert payload == ("nan", "-inf")
    assert await retry_rejected(db) == IngestResult(0, 0, 1)
    assert await statuses(db) == [("impossible_value", "pending")]


async def test_a_new_reason_replaces_the_old_one(db: Conn) -> None:
    unknown = uuid4()
    await ingest(db, [meter_reading(unknown)])
    await db.execute(
        "INSERT INTO flux.mg_device_registry (id, name, type, site) VALUES (%s, 'B', 'bess', 'WLCE')", (unknown,)
    )
    await retry_rejected(db)
    assert await statuses(db) == [("wrong_type", "pending")]
