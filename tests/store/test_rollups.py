"""What the rollups make of falls, gaps and edges, as small stories; refreshing from several sessions; cancelling."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from psycopg.errors import QueryCanceled
from tests.support import NOON, add_device, bess_reading, fetch, meter_reading

from flux.model import BESS_METRICS, METER_METRICS, MetricKind
from flux.store import rollups
from flux.store.db import connect
from flux.store.ingest import ingest
from flux.store.rollups import LEVELS, lag, refresh, render_sql

Conn = AsyncConnection[Any]
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WIDTH = 429_496_729.6


async def store(
    conn: Conn, device: UUID, *readings: tuple[timedelta, float | None], power: float | None = None
) -> None:
    """Readings of the import counter, by their time after noon."""
    batch = [
        meter_reading(device, NOON + after, energy_imported_active=value, power_total_active=power)
        for after, value in readings
    ]
    result = await ingest(conn, batch)
    assert result.rejected == 0


async def buckets(conn: Conn, device: UUID, table: str = "mg_meter_readings_5m_intermediate") -> dict[int, Any]:
    """Bucket, in minutes after noon → (samples, delta)."""
    rows = await fetch(
        conn,
        f"SELECT time_b, samples, energy_imported_active_delta FROM flux.{table} WHERE device_id = %s ORDER BY 1",
        [device],
    )
    return {(time_b - NOON) // MINUTE: (samples, delta) for time_b, samples, delta in rows}


async def events(conn: Conn, device: UUID) -> list[tuple[Any, ...]]:
    return await fetch(
        conn,
        "SELECT kind, good_value, value, step, needs_review FROM flux.counter_events "
        "WHERE device_id = %s ORDER BY time",
        [device],
    )


def each_minute(*values: float) -> list[tuple[timedelta, float | None]]:
    return [(k * MINUTE, value) for k, value in enumerate(values)]


async def test_a_buckets_edge_is_interpolated(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, (3 * MINUTE, 100.0), (7 * MINUTE, 104.0), (8 * MINUTE, 104.5))
    await refresh(db)
    # of the 4 kWh from 12:03 to 12:07 one half lies before 12:05
    assert await buckets(db, meter) == {0: (1, pytest.approx(2.0)), 5: (2, pytest.approx(2.5))}


async def test_an_empty_bucket_has_its_share_and_no_averages(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, (timedelta(), 100.0), (3 * HOUR, 136.0), power=12.0)
    await refresh(db)
    rows = await buckets(db, meter)
    assert rows[0] == (1, pytest.approx(1.0))
    assert [rows[k] for k in range(5, 180, 5)] == [(0, pytest.approx(1.0))] * 35
    assert rows[180] == (1, 0.0)
    empty = await fetch(
        db,
        """SELECT energy_imported_active_min, power_total_active_avg, power_total_active_max
           FROM flux.get_meter_readings_5m(%s, %s) WHERE samples = 0 GROUP BY 1, 2, 3""",
        [NOON, NOON + 4 * HOUR],
    )
    assert empty == [(None, None, None)]


async def test_a_gap_longer_than_the_limit_is_listed_whole(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, (timedelta(), 100.0), (30 * HOUR, 250.0), (30 * HOUR + MINUTE, 251.0))
    await refresh(db)
    assert await buckets(db, meter) == {0: (1, 0.0), 1800: (2, pytest.approx(1.0))}
    gap = "SELECT counter, from_time, to_time, step FROM flux.rollup_gaps"
    assert await fetch(db, gap) == [("energy_imported_active", NOON, NOON + 30 * HOUR, 150.0)]
    # a late reading in the middle makes two gaps of it that are short enough
    await store(db, meter, (15 * HOUR, 200.0))
    await refresh(db)
    assert await fetch(db, gap) == []
    assert sum(delta for _, delta in (await buckets(db, meter)).values()) == pytest.approx(151.0)


async def test_a_gap_that_is_filled_so_well_that_nothing_beside_it_is_irregular_goes(db: Conn) -> None:
    meter = await add_device(db, "M")
    hours = [(0, 100.0), (0.5, 101.0), (1, 102.0), (30, 160.0), (30.5, 161.0)]
    await ingest(db, [meter_reading(meter, NOON + h * HOUR, energy_imported_active=kwh) for h, kwh in hours])
    await refresh(db)
    assert len(await fetch(db, "SELECT 1 FROM flux.rollup_gaps")) == 1
    late = [meter_reading(meter, NOON + h * HOUR, energy_imported_active=100 + 2.0 * h) for h in range(2, 12)]
    await ingest(db, late)
    await refresh(db)
    assert await fetch(db, "SELECT 1 FROM flux.rollup_gaps") == []
    assert await fetch(
        db, "SELECT round(sum(energy_imported_active_delta)::numeric, 9) FROM flux.mg_meter_readings_1h"
    ) == [(61,)]


async def test_the_gap_limit_is_the_devices_own_and_changes_with_it(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"gap_limit": "2h"})
    await store(db, meter, (timedelta(), 100.0), (3 * HOUR, 136.0))
    await refresh(db)
    assert len(await buckets(db, meter)) == 2
    await db.execute("""UPDATE flux.mg_device_registry SET metadata = '{"gap_limit": "4h"}'""")
    await refresh(db)
    assert len(await buckets(db, meter)) == 37
    assert await fetch(db, "SELECT 1 FROM flux.rollup_gaps") == []


async def test_a_fall_that_comes_back_is_a_glitch(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(100, 101, 0, 0, 102, 103))
    await refresh(db)
    assert await events(db, meter) == [("glitch", 101.0, 0.0, None, False)]
    (row,) = await fetch(
        db,
        "SELECT energy_imported_active_min, energy_imported_active_delta FROM flux.get_meter_readings_1h(%s, %s)",
        [NOON, NOON + HOUR],
    )
    assert row == (100.0, pytest.approx(3.0))


async def test_a_counter_that_goes_on_from_zero_has_restarted(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"max_power_kw": 600})
    await store(db, meter, *each_minute(1000, 1001, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5))
    await refresh(db)
    assert await events(db, meter) == [("restart", 1001.0, 0.5, 0.5, False)]
    assert sum(delta for _, delta in (await buckets(db, meter)).values()) == pytest.approx(1 + 0.5 + 6)


async def test_a_register_that_overflowed_is_counted_through(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"counter_width": WIDTH})
    await store(db, meter, *each_minute(WIDTH - 1, WIDTH - 0.5, 0.25, 0.75, 1, 1, 1, 1, 1))
    await refresh(db)
    assert await events(db, meter) == [("rollover", WIDTH - 0.5, 0.25, pytest.approx(0.75), False)]
    assert sum(delta for _, delta in (await buckets(db, meter)).values()) == pytest.approx(0.5 + 0.75 + 0.75, abs=1e-6)


async def test_any_other_fall_counts_nothing_and_asks_for_review(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(1000, 1001, 900, 901, 902, 903, 904, 905, 906))
    await refresh(db)
    assert await events(db, meter) == [("correction", 1001.0, 900.0, 0.0, True)]
    assert sum(delta for _, delta in (await buckets(db, meter)).values()) == pytest.approx(1 + 6)


async def test_a_low_first_value_beyond_what_the_device_can_carry_is_no_restart(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"max_power_kw": 60})
    await store(db, meter, *each_minute(1000, 1001, 400, 401, 402, 403, 404, 405, 406))
    await refresh(db)
    assert await events(db, meter) == [("correction", 1001.0, 400.0, 0.0, True)]


async def test_v_is_flat_until_a_fall_is_decided(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(100, 101, 5, 6))
    await refresh(db)
    assert await buckets(db, meter) == {0: (4, pytest.approx(1.0))}
    assert await events(db, meter) == [("undecided", 101.0, 5.0, None, False)]
    await store(db, meter, (20 * MINUTE, 7.0))  # 18 minutes later, but only the second reading: still open
    await refresh(db)
    assert await events(db, meter) == [("undecided", 101.0, 5.0, None, False)]
    await store(db, meter, (21 * MINUTE, 102.0))  # the third: back in time
    await refresh(db)
    assert await events(db, meter) == [("glitch", 101.0, 5.0, None, False)]
    assert sum(delta for _, delta in (await buckets(db, meter)).values()) == pytest.approx(2.0)


async def test_deleting_the_bad_reading_takes_its_event_away(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(1000, 1001, 900, 1002, 1003))
    await refresh(db)
    assert [kind for kind, *_ in await events(db, meter)] == ["glitch"]
    await db.execute("SELECT flux.delete_readings(%s, %s, %s)", (meter, NOON + 2 * MINUTE, NOON + 3 * MINUTE))
    await refresh(db)
    assert await events(db, meter) == []
    assert await buckets(db, meter) == {0: (4, pytest.approx(3.0))}
    await db.execute("TRUNCATE flux.mg_meter_readings")
    await refresh(db)
    assert await buckets(db, meter) == {}


async def test_a_correction_by_update_moves_the_energy(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *[(5 * k * MINUTE, 100.0 + k) for k in range(13)])
    await refresh(db)
    await db.execute(
        "UPDATE flux.mg_meter_readings SET energy_imported_active = 102.5 WHERE energy_imported_active = 102"
    )
    await refresh(db)
    rows = await buckets(db, meter)
    assert (rows[5][1], rows[10][1]) == (pytest.approx(1.5), pytest.approx(0.5))
    assert (await buckets(db, meter, "mg_meter_readings_1h"))[0] == (12, pytest.approx(12.0))


async def test_a_counter_never_reported_is_unknown_not_zero(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(1, 2, 3))
    await refresh(db)
    rows = await fetch(
        db, "SELECT energy_exported_active_delta, energy_exported_active_min FROM flux.mg_meter_readings_1h"
    )
    assert rows == [(None, None)]


async def test_coarser_means_weigh_by_samples(db: Conn) -> None:
    meter = await add_device(db, "M")
    powers: list[float | None] = [10, 10, 10, 10, 10, 400, None]
    batch = [meter_reading(meter, NOON + k * MINUTE, power_total_active=p) for k, p in enumerate(powers)]
    await ingest(db, batch)
    await refresh(db)
    for level in ("30m", "1h"):
        rows = await fetch(
            db,
            f"""SELECT samples, power_total_active_avg, power_total_active_min, power_total_active_max
                FROM flux.get_meter_readings_{level}(%s, %s)""",
            [NOON, NOON + HOUR],
        )
        assert rows == [(7, 75.0, 10.0, 400.0)]  # not the mean of the means, (10 + 400) / 2


async def test_any_window_gives_the_same_figures(db: Conn) -> None:
    meter, other = await add_device(db, "M"), await add_device(db, "N")
    await store(db, meter, *[(k * 7 * MINUTE, 100.0 + k * k) for k in range(30)])
    await store(db, other, *each_minute(5, 6, 7))
    await refresh(db)
    query = "SELECT * FROM flux.get_meter_readings_5m(%s, %s, %s) ORDER BY device_id, time_b"
    whole = await fetch(db, query, [NOON, NOON + 4 * HOUR, [meter]])
    assert len(whole) == 41
    for row in whole:
        assert await fetch(db, query, [row[0], row[0] + timedelta(microseconds=1), [meter]]) == [row]
    everybody = await fetch(db, query, [NOON, NOON + 5 * MINUTE, None])
    assert {row[1] for row in everybody} == {meter, other}


async def test_what_the_functions_return_is_what_the_design_names(db: Conn) -> None:
    expected = ["time_b", "device_id", "samples"]
    expected += [f"{m.name}_{s}" for m in METER_METRICS if m.kind is MetricKind.LEVEL for s in ("avg", "min", "max")]
    expected += [f"{m.name}_{s}" for m in METER_METRICS if m.kind is MetricKind.COUNTER for s in ("min", "delta")]
    for level in LEVELS:
        cursor = await db.execute(f"SELECT * FROM flux.{level.function}()")
        assert [column.name for column in cursor.description or []] == expected
        types = {column.name: column.type_display for column in cursor.description or []}
        assert types["power_total_active_avg"] == "float4"
        assert types["energy_imported_active_delta"] == "float8"


async def test_the_script_may_run_again_and_a_new_metric_becomes_columns(
    db: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(1, 2, 3))
    await refresh(db)
    await db.execute(render_sql())
    assert await buckets(db, meter) == {0: (3, 2.0)}
    temperature = type(METER_METRICS[0])("temperature", MetricKind.LEVEL, "°C")
    monkeypatch.setattr(rollups, "METER_METRICS", (temperature, *METER_METRICS))
    await db.execute("ALTER TABLE flux.mg_meter_readings ADD COLUMN temperature real")
    await db.execute(render_sql())
    await db.execute("UPDATE flux.mg_meter_readings SET temperature = 20")
    await refresh(db)
    assert await fetch(db, "SELECT temperature_avg FROM flux.get_meter_readings_1h(%s, %s)", [NOON, NOON + HOUR]) == [
        (20.0,)
    ]


async def test_nothing_before_the_cut_is_computed_again(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *[(k * 10 * MINUTE, 100.0 + k) for k in range(25)], power=5.0)
    await refresh(db)
    before = await buckets(db, meter)
    cut = NOON + 2 * HOUR
    await db.execute("UPDATE flux.rollup_devices SET cut = %s", [cut])
    # all but the anchor
    await db.execute("SELECT flux.delete_readings(%s, '-infinity', %s)", (meter, cut - 10 * MINUTE))
    await refresh(db)
    assert await buckets(db, meter) == before
    await db.execute("SELECT flux.note_rollup_change(%s)", [meter])
    await refresh(db)
    assert await buckets(db, meter) == before
    assert (await buckets(db, meter, "mg_meter_readings_1h"))[0] == (6, pytest.approx(6.0))


async def test_lag_is_the_oldest_change_that_is_not_in_the_rollups(db: Conn) -> None:
    assert await lag(db) is None
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(1, 2, 3))
    behind = await lag(db)
    assert behind is not None
    assert behind.changes == 1
    assert timedelta() <= behind.age < timedelta(minutes=1)
    report = await refresh(db)
    assert (report.devices, report.buckets) == (1, 1)
    assert await lag(db) is None
    assert (await refresh(db)).devices == 0


async def _wait_until_working(conn: Conn) -> int:
    """The process id of the session that is in a refresh."""
    while True:
        rows = await fetch(
            conn,
            """SELECT pid FROM pg_stat_activity
               WHERE state = 'active' AND query LIKE '%%refresh_rollups%%' AND pid <> pg_backend_pid()""",
        )
        if rows:
            return int(rows[0][0])
        await asyncio.sleep(0)


async def fill(conn: Conn, devices: int, days: int) -> list[UUID]:
    ids: list[UUID] = [await add_device(conn, f"M{k}") for k in range(devices)]
    await conn.execute(
        "SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", [NOON, NOON + timedelta(days=days)]
    )
    await conn.execute(
        """INSERT INTO flux.mg_meter_readings (device_id, time, energy_imported_active, power_total_active)
           SELECT d, %s + k * interval '1 minute', CASE WHEN k %% 500 = 7 THEN 0 ELSE 1000 + k / 7.0 END, 8.5
           FROM unnest(%s::uuid[]) d, generate_series(0, %s * 1440) k""",
        [NOON, ids, days],
    )
    return ids


async def snapshot(conn: Conn) -> list[tuple[Any, ...]]:
    return await fetch(
        conn,
        """SELECT device_id, time_b, samples, energy_imported_active_delta FROM flux.mg_meter_readings_5m_intermediate
           UNION ALL SELECT device_id, time_b, samples, energy_imported_active_delta FROM flux.mg_meter_readings_1h
           ORDER BY 1, 2, 3""",
    )


async def test_two_refreshes_at_once_share_the_devices(db: Conn, dsn: str) -> None:
    ids = await fill(db, devices=8, days=1)
    async with await connect(dsn, autocommit=True) as a, await connect(dsn, autocommit=True) as b:
        reports = await asyncio.gather(refresh(a, max_devices=1), refresh(b, max_devices=1))
    # (devices may come to more: one that the other session has just finished counts, with nothing left to do)
    buckets_of_all = await fetch(db, "SELECT count(*) FROM flux.mg_meter_readings_5m_intermediate")
    assert [(sum(report.buckets for report in reports),)] == buckets_of_all, "nothing was computed twice"
    assert await lag(db) is None
    both = await snapshot(db)
    for device in ids:
        await db.execute("SELECT flux.note_rollup_change(%s)", [device])
    await refresh(db)
    assert await snapshot(db) == [(*row[:3], pytest.approx(row[3], abs=1e-9)) for row in both]


async def test_a_device_that_another_session_works_on_is_left_to_it(db: Conn, dsn: str) -> None:
    (first, second) = await fill(db, devices=2, days=1)
    async with await connect(dsn, autocommit=True) as other, other.transaction():
        await other.execute("SELECT 1 FROM flux.rollup_devices WHERE device_id = %s FOR UPDATE", [first])
        assert (await refresh(db)).devices == 1  # returns at once, with what it could do
        assert await buckets(db, first) == {}
        assert len(await buckets(db, second)) == 289
    assert (await refresh(db)).devices == 1


async def test_cancelled_in_the_middle_it_leaves_no_half_bucket(db: Conn, dsn: str) -> None:
    await fill(db, devices=6, days=3)
    async with await connect(dsn, autocommit=True) as worker:
        task = asyncio.create_task(worker.execute("CALL flux.refresh_rollups(1)"))
        pid = await _wait_until_working(db)
        while not await fetch(db, "SELECT 1 FROM flux.mg_meter_readings_1h LIMIT 1"):
            await asyncio.sleep(0)  # until the first batch is committed
        await db.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(QueryCanceled):
            await task
    done = await fetch(
        db, "SELECT device_id, sum(samples), count(*) FROM flux.mg_meter_readings_5m_intermediate GROUP BY 1"
    )
    assert 1 <= len(done) < 6
    assert {row[1:] for row in done} == {(3 * 1440 + 1, 3 * 288 + 1)}
    await db.execute("CALL flux.refresh_rollups()")
    whole = await fetch(
        db, "SELECT sum(samples), count(*) FROM flux.mg_meter_readings_5m_intermediate GROUP BY device_id"
    )
    assert whole == [(3 * 1440 + 1, 3 * 288 + 1)] * 6


async def test_a_batch_that_is_rolled_back_keeps_its_changes(db: Conn) -> None:
    await fill(db, devices=1, days=1)
    noted = await lag(db)
    async with db.transaction(force_rollback=True):
        await db.execute("SELECT flux.refresh_rollups_batch()")
        assert await lag(db) is None
    kept = await lag(db)
    assert noted is not None
    assert kept is not None
    assert kept.changes == noted.changes
    assert await snapshot(db) == []


async def test_a_battery_is_summed_up_from_what_it_was_told(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    batch = [
        bess_reading(
            bess,
            NOON + k * MINUTE,
            soe=50.0 + k,
            target_power=power,
            command_source=source,
            available_inverter_blocks=4 - k % 2,
        )
        for k, (power, source) in enumerate([(-60.0, 3), (-60.0, 3), (120.0, 1), (120.0, 1), (120.0, 1), (0.0, 0)])
    ]
    await ingest(db, batch)
    await refresh(db)
    rows = await fetch(
        db,
        """SELECT time_b, samples, soe_avg, soe_min, soe_max, soe_last, target_power_avg, available_inverter_blocks_min,
                  energy_charged, energy_discharged, energy_from, command_seconds
           FROM flux.mg_bess_readings_5m ORDER BY time_b""",
    )
    assert rows[0] == (
        NOON,
        5,
        52.0,
        50.0,
        54.0,
        54.0,
        48.0,
        3,
        pytest.approx(2.0),
        pytest.approx(6.0),
        "target_power",
        {"1": 180, "3": 120},
    )
    # the newest reading holds nothing yet
    assert rows[1][:2] == (NOON + 5 * MINUTE, 1)
    assert rows[1][-1] == {}


async def test_a_battery_that_went_silent_holds_its_power_for_ten_minutes(db: Conn) -> None:
    bess = await add_device(db, "B", "bess")
    await ingest(
        db, [bess_reading(bess, NOON, target_power=60.0), bess_reading(bess, NOON + 3 * HOUR, target_power=0.0)]
    )
    await refresh(db)
    rows = await fetch(db, "SELECT time_b, samples, energy_discharged FROM flux.mg_bess_readings_5m ORDER BY 1")
    assert rows == [(NOON, 1, 5.0), (NOON + 5 * MINUTE, 0, 5.0), (NOON + 3 * HOUR, 1, 0.0)]


def test_every_metric_of_a_battery_is_rolled_up() -> None:
    text = render_sql()
    for metric in BESS_METRICS:
        if metric.kind is MetricKind.LEVEL:
            assert f"ADD COLUMN IF NOT EXISTS {metric.name}_avg real" in text


async def test_a_bucket_is_final_once_a_later_reading_exists(db: Conn) -> None:
    meter = await add_device(db, "M")
    await store(db, meter, *each_minute(*range(8)))

    async def final_before(as_of: datetime) -> datetime:
        ((time,),) = await fetch(db, "SELECT flux.rollup_final_before(%s, %s)", [meter, as_of])
        return time  # type: ignore[no-any-return]

    assert await final_before(NOON + 8 * MINUTE) == NOON + 5 * MINUTE
    assert await final_before(NOON + 25 * HOUR) == NOON + HOUR  # or the gap limit has passed
