"""Ingest: what is stored, what is a duplicate, what is refused and why. The database never blocks the rest."""

import asyncio
import dataclasses
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.model import METER_METRICS, MeterReading, MetricKind, Reading
from flux.store.db import connect
from flux.store.ingest import IngestResult, ingest
from flux.store.rejected import list_rejected, retry_rejected

MINUTE = timedelta(minutes=1)
Conn = AsyncConnection[Any]


async def rejected(conn: Conn) -> list[tuple[Any, ...]]:
    return await fetch(conn, "SELECT reason, detail FROM flux.rejected_readings ORDER BY id")


async def test_every_value_comes_back_as_it_was_decoded(db: Conn) -> None:
    meter = await add_device(db, "WLCE-GRID")
    values = {
        m.name: (i + 0.5 if m.kind is MetricKind.LEVEL else 1_234_567.01 + i) for i, m in enumerate(METER_METRICS)
    }
    time = NOON.replace(microsecond=123_457)
    assert await ingest(db, [meter_reading(meter, time, **values)]) == IngestResult(1, 0, 0)
    columns = ", ".join(values)
    rows = await fetch(db, f"SELECT device_id, time, {columns} FROM flux.mg_meter_readings")
    assert rows == [(meter, time, *values.values())]


async def test_both_kinds_in_one_batch_in_any_order(db: Conn) -> None:
    meter, bess = await add_device(db, "M"), await add_device(db, "B", "bess")
    batch: list[Reading] = [bess_reading(bess, soe=50.0, available_inverter_blocks=3, command_source=4)]
    batch += [meter_reading(meter, power_total_active=-1.0)]
    batch += [bess_reading(bess, NOON + MINUTE, soe=None)]
    assert await ingest(db, batch) == IngestResult(3, 0, 0)
    rows = await fetch(
        db,
        "SELECT soe, target_power, available_inverter_blocks, command_source FROM flux.mg_bess_readings ORDER BY time",
    )
    assert rows == [(50.0, None, 3, 4), (None, None, None, None)]


async def test_sent_again_is_a_duplicate(db: Conn) -> None:
    meter = await add_device(db, "M")
    batch = [
        meter_reading(meter, NOON + i * MINUTE, frequency=49.97, energy_imported_active=0.1 * i) for i in range(50)
    ]
    assert await ingest(db, batch) == IngestResult(50, 0, 0)
    assert await ingest(db, batch) == IngestResult(0, 50, 0)
    assert await ingest(db, [*batch, meter_reading(meter, NOON - MINUTE)]) == IngestResult(1, 50, 0)
    assert await rejected(db) == []


async def test_twice_in_one_batch(db: Conn) -> None:
    meter = await add_device(db, "M")
    first, other = meter_reading(meter, frequency=50.0), meter_reading(meter, frequency=50.1)
    assert await ingest(db, [first, first, other, first]) == IngestResult(1, 2, 1)
    assert await fetch(db, "SELECT frequency FROM flux.mg_meter_readings") == [(50.0,)]
    assert [reason for reason, _ in await rejected(db)] == ["conflict"]


@pytest.mark.parametrize("changed", [50.2, None])
async def test_same_key_other_value_is_a_conflict_kept_whole(db: Conn, changed: float | None) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, frequency=50.1, energy_imported_active=7.0)])
    other = meter_reading(meter, frequency=changed, energy_imported_active=7.0)
    assert await ingest(db, [other]) == IngestResult(0, 0, 1)
    assert await ingest(db, [other]) == IngestResult(0, 0, 1), "sent again it is refused again, and kept once"
    (row,) = await fetch(db, "SELECT kind, device_id, time, reason, payload, status FROM flux.rejected_readings")
    payload = {"device_id": str(meter), "time": NOON.isoformat(), "energy_imported_active": 7.0}
    payload |= {} if changed is None else {"frequency": changed}
    assert row == ("meter", meter, NOON, "conflict", payload, "pending")
    assert await fetch(db, "SELECT frequency::text FROM flux.mg_meter_readings") == [("50.1",)]


async def test_a_null_that_was_stored_and_a_value_that_comes_is_a_conflict(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    await ingest(db, [bess_reading(bess)])
    assert await ingest(db, [bess_reading(bess, soe=1.0)]) == IngestResult(0, 0, 1)


async def test_refused_rows_never_block_the_rest(db: Conn) -> None:
    meter, bess = await add_device(db, "M"), await add_device(db, "B", "bess")
    nobody = uuid4()
    batch: list[Reading] = [
        meter_reading(meter, NOON, frequency=50.0),
        meter_reading(nobody, NOON),
        meter_reading(bess, NOON),
        bess_reading(meter, NOON),
        meter_reading(meter, NOON + 1 * MINUTE, frequency=float("nan")),
        meter_reading(meter, NOON + 2 * MINUTE, energy_imported_active=-0.01),
        meter_reading(meter, NOON + 3 * MINUTE, power_total_active=float("-inf")),
        bess_reading(bess, NOON + 4 * MINUTE, soe=101.0),
        bess_reading(bess, NOON + 5 * MINUTE, soe=100.2),
        meter_reading(meter, datetime.now(UTC) + timedelta(minutes=11)),
        meter_reading(meter, datetime.now(UTC) + timedelta(minutes=9)),
        meter_reading(meter, datetime(1970, 1, 1, tzinfo=UTC)),
    ]
    assert await ingest(db, batch) == IngestResult(stored=3, duplicates=0, rejected=9)
    reasons = sorted(reason for reason, _ in await rejected(db))
    assert reasons == sorted(
        ["unknown_device", "wrong_type", "wrong_type", "impossible_time", "impossible_time"] + ["impossible_value"] * 4
    )
    details = [detail for reason, detail in await rejected(db) if reason == "impossible_value"]
    assert details[0] == "frequency = nan: is not a finite number"
    assert details[1] == "energy_imported_active = -0.01: a counter is never negative"
    assert await ingest(db, batch[:9]) == IngestResult(stored=0, duplicates=2, rejected=7)
    assert len(await rejected(db)) == 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"soe": "much"},
        {"soe": 1e39},
        {"target_power": 3.4028235677973366e38},
        {"command_source": 40_000},
        {"command_source": 1.5},
        {"available_inverter_blocks": -1},
    ],
)
async def test_values_that_do_not_fit_their_column(db: Conn, wrong: dict[str, Any]) -> None:
    bess = await add_device(db, "B", "bess")
    batch = [bess_reading(bess, NOON, **wrong), bess_reading(bess, NOON + MINUTE, soe=5.0)]
    assert await ingest(db, batch) == IngestResult(1, 0, 1)
    ((reason, detail),) = await rejected(db)
    assert reason == "impossible_value"
    assert detail.startswith(next(iter(wrong)))


async def test_no_time_zone_no_time_no_uuid(db: Conn) -> None:
    meter = await add_device(db, "M")
    good = meter_reading(meter)
    batch = [
        dataclasses.replace(good, time=NOON.replace(tzinfo=None)),
        dataclasses.replace(good, time="noon"),  # type: ignore[arg-type]
        dataclasses.replace(good, device_id="M"),  # type: ignore[arg-type]
        good,
    ]
    assert await ingest(db, batch) == IngestResult(1, 0, 3)
    assert [r for r, _ in await rejected(db)] == ["impossible_time", "impossible_time", "unknown_device"]


@pytest.mark.partitions
async def test_partitions_are_made_as_needed(db: Conn) -> None:
    meter = await add_device(db, "M")
    sunday = datetime(2026, 1, 4, 23, 59, 59, 999_999, tzinfo=UTC)
    times = [sunday, sunday + timedelta(microseconds=1), datetime(2024, 2, 29, tzinfo=UTC)]
    await ingest(db, [meter_reading(meter, t) for t in times])
    rows = await fetch(
        db,
        """SELECT relname, time FROM flux.mg_meter_readings r
               JOIN pg_class c ON c.oid = r.tableoid ORDER BY time DESC""",
    )
    names = ["mg_meter_readings_20260105", "mg_meter_readings_20251229", "mg_meter_readings_20240226"]
    assert rows == [(n, t) for n, t in zip(names, [times[1], times[0], times[2]], strict=True)]


async def test_two_senders_of_the_same_new_week_at_once(dsn: str, db: Conn) -> None:
    meter = await add_device(db, "M")
    batch = [meter_reading(meter, NOON + i * MINUTE, frequency=50.0) for i in range(500)]

    async def send(readings: list[MeterReading]) -> IngestResult:
        async with await connect(dsn, autocommit=True) as conn:
            return await ingest(conn, readings)

    results = await asyncio.gather(send(batch), send(batch[::-1]), send(batch))
    assert sum(r.stored for r in results) == 500
    assert sum(r.duplicates for r in results) == 1000


async def test_not_inside_a_transaction(db: Conn) -> None:
    async with db.transaction():
        with pytest.raises(RuntimeError, match="transaction"):
            await ingest(db, [meter_reading(uuid4())])


async def test_a_connection_that_is_not_in_autocommit(dsn: str, db: Conn) -> None:
    meter = await add_device(db, "M")
    async with await connect(dsn) as conn:
        assert await ingest(conn, [meter_reading(meter)]) == IngestResult(1, 0, 0)
        assert await ingest(conn, [meter_reading(meter)]) == IngestResult(0, 1, 0)
    assert await fetch(db, "SELECT count(*) FROM flux.mg_meter_readings") == [(1,)]


async def test_nothing_is_stored_when_the_session_dies(dsn: str, db: Conn) -> None:
    meter = await add_device(db, "M")
    async with await connect(dsn, autocommit=True) as conn:
        await ingest(conn, [meter_reading(meter)])
        await db.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            await ingest(conn, [meter_reading(meter, NOON + MINUTE)])
    assert await fetch(db, "SELECT count(*) FROM flux.mg_meter_readings") == [(1,)]


async def test_the_tables_refuse_nonsense_by_themselves(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter)])
    for column, value in [("frequency", "NaN"), ("energy_imported_active", "-1"), ("power_total_active", "Infinity")]:
        with pytest.raises(psycopg.errors.CheckViolation):
            await db.execute(f"UPDATE flux.mg_meter_readings SET {column} = %s", (value,))


@pytest.mark.parametrize("seed", range(5))
async def test_random_batches_against_a_model(db: Conn, seed: int) -> None:
    """The first good reading of a key stays; each other one is a duplicate or refused; nothing is counted twice."""
    choose = random.Random(seed)
    devices = [await add_device(db, f"B{i}", "bess") for i in range(3)]
    stored: dict[tuple[Any, datetime], tuple[Any, ...]] = {}
    for _ in range(12):
        batch, expected = [], [0, 0, 0]
        for _ in range(choose.randrange(1, 40)):
            device = choose.choice([*devices, UUID(int=1)])
            time = NOON + choose.randrange(8) * timedelta(days=3)
            soe = choose.choice([None, 10.0, 10.1, 1e-50, float("nan"), 1e39])
            source = choose.choice([None, 1])
            batch.append(bess_reading(device, time, soe=soe, command_source=source))
            good = device in devices and (soe is None or 0 <= soe <= 100)
            value = (None if soe is None or not good else round(soe, 3), source)
            outcome = 2 if not good or stored.get((device, time), value) != value else int((device, time) in stored)
            expected[outcome] += 1
            if outcome == 0:
                stored[device, time] = value
        assert await ingest(db, batch) == IngestResult(*expected)
    rows = await fetch(db, "SELECT device_id, time, soe, command_source FROM flux.mg_bess_readings")
    assert {(device, time): values for device, time, *values in rows} == {k: list(v) for k, v in stored.items()}


@pytest.mark.parametrize(
    "values",
    [{"energy_imported_active": "a\x00b"}, {"frequency": "\ud800"}, {"frequency": -(10**400)}],
    ids=["NUL", "half a surrogate pair", "more digits than a double has"],
)
async def test_what_json_or_a_double_cannot_hold_is_refused_alone(db: Conn, values: dict[str, Any]) -> None:
    meter = await add_device(db, "M")
    bad = meter_reading(meter, NOON, **values)
    good = meter_reading(meter, NOON + MINUTE, frequency=50.0)
    for _ in range(2):
        result = await ingest(db, [bad, good])
        assert result.rejected == 1
    assert [reason for reason, _ in await rejected(db)] == ["impossible_value"]
    assert await fetch(db, "SELECT frequency FROM flux.mg_meter_readings") == [(50.0,)]
    assert await retry_rejected(db) == IngestResult(0, 0, 1)


@pytest.mark.parametrize("device", ["M\x00", ["M"], None])
async def test_an_id_that_is_no_uuid_is_refused_alone(db: Conn, device: Any) -> None:
    meter = await add_device(db, "M")
    assert await ingest(db, [meter_reading(device), meter_reading(meter)]) == IngestResult(1, 0, 1)
    assert [reason for reason, _ in await rejected(db)] == ["unknown_device"]


@pytest.mark.parametrize(
    "time",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
async def test_a_time_that_utc_has_no_year_for_can_be_listed(db: Conn, time: datetime) -> None:
    meter = await add_device(db, "M")
    assert await ingest(db, [meter_reading(meter, time)]) == IngestResult(0, 0, 1)
    (row,) = await list_rejected(db)
    assert (row.reason, row.time, row.payload["time"]) == ("impossible_time", None, time.isoformat())


async def test_many_senders_of_the_same_readings_in_any_order_all_get_through(db: Conn, dsn: str) -> None:
    meters = [await add_device(db, f"M{i}") for i in range(5)]
    batch: list[Reading] = [meter_reading(m, NOON + i * MINUTE, frequency=50.0) for i in range(400) for m in meters]
    orders = [random.Random(seed).sample(batch, len(batch)) for seed in range(6)]

    async def send(order: list[Reading]) -> IngestResult:
        async with await connect(dsn, autocommit=True) as conn:
            await conn.execute("SET deadlock_timeout = '50ms'")
            return await ingest(conn, order)

    results = await asyncio.gather(*map(send, orders))
    assert sum(results, IngestResult(0, 0, 0)) == IngestResult(len(batch), 5 * len(batch), 0)
