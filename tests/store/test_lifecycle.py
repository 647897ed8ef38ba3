"""Retention: what goes, what stays because somebody needs it, and that no rollup changes when raw readings go."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb
from tests.support import add_device, bess_reading, fetch, meter_reading

from flux.errors import FluxError, InputError, NotFoundError, RefusedError
from flux.model import DeviceId
from flux.store.db import connect
from flux.store.ingest import IngestResult, ingest
from flux.store.lifecycle import due_pieces, run_retention, set_retention, storage_status
from flux.store.migrate import migrate
from flux.store.queries import latest_readings
from flux.store.rejected import retry_rejected
from flux.store.rollups import refresh

Conn = AsyncConnection[Any]
MONDAY = datetime(2025, 1, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)
KEEP = timedelta(days=90)
METER_ROLLUPS = ("mg_meter_readings_5m_intermediate", "mg_meter_readings_30m_intermediate", "mg_meter_readings_1h")
ROLLUPS = (*METER_ROLLUPS, "mg_bess_readings_5m", "mg_bess_readings_30m", "mg_bess_readings_1h")


async def rollups(conn: Conn, tables: Sequence[str] = ROLLUPS) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every level, with the gaps and events."""
    found = {}
    for table in tables:
        query = sql.SQL("SELECT * FROM flux.{} ORDER BY device_id, time_b").format(sql.Identifier(table))
        found[table] = await (await conn.execute(query)).fetchall()
    for table in ("rollup_gaps", "counter_events"):
        query = sql.SQL("SELECT * FROM flux.{} ORDER BY 1, 2, 3, 4").format(sql.Identifier(table))
        found[table] = await (await conn.execute(query)).fetchall()
    return found


def assert_same(found: dict[str, list[tuple[Any, ...]]], expected: dict[str, list[tuple[Any, ...]]]) -> None:
    """To 1e-9; how a bucket was worked out (`irregular`) is no figure."""
    for table, rows in expected.items():
        assert len(found[table]) == len(rows), table
        for new, old in zip(found[table], rows, strict=True):
            for a, b in zip(new, old, strict=True):
                assert a == b or isinstance(a, bool) or a == pytest.approx(b, rel=1e-9, abs=1e-9), (table, new[:3])


async def raw(conn: Conn, table: str = "mg_meter_readings") -> int:
    query = sql.SQL("SELECT count(*) FROM flux.{}").format(sql.Identifier(table))
    ((count,),) = await (await conn.execute(query)).fetchall()
    return int(count)


def counted(device: DeviceId, seed: int, until: datetime, every: timedelta = timedelta(hours=3)) -> list[Any]:
    """A meter from MONDAY on: two counters (one in some readings only) and a power; falls of every kind, most often
    around the midnights at which weeks begin, and now and then a hole."""
    dice = random.Random(seed)
    time, imported, exported = MONDAY + dice.random() * DAY, 5000.0, 100.0
    readings = []
    while time < until:
        near = min((time - MONDAY) % WEEK, WEEK - (time - MONDAY) % WEEK) < timedelta(hours=1)
        step = every / (90 if near else 1)
        imported += dice.random()
        exported += dice.random()
        shown = imported
        if dice.random() < (0.15 if near else 0.01):
            kind = dice.choice(("glitch", "restart", "correction"))
            shown = {"glitch": 0.0, "restart": imported, "correction": imported * 0.9}[kind]
            if kind == "restart":
                imported = shown = dice.random()
            elif kind == "correction":
                imported = shown
        values: dict[str, float] = {"power_total_active": round(dice.uniform(-50, 50), 3)}
        if dice.random() < 0.9:
            values["energy_imported_active"] = shown
        if dice.random() < 0.3:
            values["energy_exported_active"] = exported
        readings.append(meter_reading(device, time, **values))
        time += step * dice.uniform(0.5, 1.5) + (3 * DAY if dice.random() < 0.002 else timedelta())
    return readings


async def fill(conn: Conn, weeks: int, seed: int = 1) -> list[DeviceId]:
    """Two meters and a battery with readings of so many weeks, and their rollups."""
    meters = [await add_device(conn, f"M{n}") for n in range(2)]
    bess = await add_device(conn, "B", "bess")
    until = MONDAY + weeks * WEEK
    for n, meter in enumerate(meters):
        await ingest(conn, counted(meter, seed * 10 + n, until))
    steps = int((until - MONDAY) / timedelta(hours=1))
    await ingest(
        conn,
        [
            bess_reading(bess, MONDAY + i * timedelta(hours=1), soe=float(i % 100), target_power=float(i % 7 - 3))
            for i in range(steps)
        ],
    )
    await refresh(conn)
    return [*meters, bess]


@pytest.mark.partitions
@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 12))])
async def test_no_rollup_changes_when_raw_goes_and_none_when_all_is_computed_anew(db: Conn, seed: int) -> None:
    devices = await fill(db, 3, seed)
    before = await rollups(db)
    for week in (1, 2):
        report = await run_retention(db, as_of=MONDAY + week * WEEK + KEEP)
        gone = [(piece.table_name, piece.from_time) for piece in report.dropped]
        start = MONDAY + (week - 1) * WEEK
        assert gone == [("mg_bess_readings", start), ("mg_meter_readings", start)]
        assert_same(await rollups(db), before)
        for device in devices:
            await db.execute("SELECT flux.note_rollup_change(%s)", (device,))
        await refresh(db)
        assert_same(await rollups(db), before)
    assert 0 < await raw(db, "mg_meter_anchors") < 150


async def test_late_readings_after_the_cut_are_counted_on_from_the_anchor(db: Conn) -> None:
    meter = await add_device(db, "M")
    start = [meter_reading(meter, MONDAY + i * DAY / 2, energy_imported_active=100.0 * i) for i in range(14)]
    later = meter_reading(meter, MONDAY + WEEK + DAY, energy_imported_active=1600.0)
    await ingest(db, [*start, later])
    await refresh(db)
    await run_retention(db, as_of=MONDAY + WEEK + KEEP)
    between = meter_reading(meter, MONDAY + WEEK + DAY / 2, energy_imported_active=1350.0)
    assert await ingest(db, [between]) == IngestResult(1, 0, 0)
    await refresh(db)
    query = """SELECT sum(energy_imported_active_delta) FILTER (WHERE time_b < %s), sum(energy_imported_active_delta)
               FROM flux.get_meter_readings_1h('2025-01-01', '2025-02-01')"""
    # what was between 1300, 12 h before the cut, and 1600 was a listed gap; rows before the cut have none of it, and so
    # it stays: all that the counter counted is in rows after the cut
    assert await fetch(db, query, (MONDAY + WEEK,)) == [(pytest.approx(1300), pytest.approx(1600))]
    assert await fetch(db, "SELECT * FROM flux.rollup_gaps") == []


async def everything_counted(conn: Conn) -> float:
    query = """SELECT (SELECT sum(energy_imported_active_delta) FROM flux.mg_meter_readings_1h)
                    + (SELECT coalesce(sum(step), 0) FROM flux.rollup_gaps)"""
    ((total,),) = await fetch(conn, query)
    return float(total)


@pytest.mark.partitions
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 60))])
async def test_rows_and_gaps_conserve_energy_over_the_cut_whatever_comes_later(db: Conn, seed: int) -> None:
    dice = random.Random(seed)
    cut, meter = MONDAY + WEEK, await add_device(db, "M")
    spread = timedelta(minutes=dice.choice([2, 7, 40, 600, 2000]))  # of the readings about the cut
    near = {cut + spread * dice.uniform(-1, 1) for _ in range(8)} | {cut} if dice.random() < 0.5 else set()
    times = sorted({MONDAY + DAY, cut - spread, *near, cut + spread, cut + 9 * DAY})
    last = (times[-1] - MONDAY) / DAY
    value = {time: 1000 * ((time - MONDAY) / DAY / last) ** 2 for time in times}  # faster and faster: no straight line
    late = [time for time in times if cut <= time < times[-1] and dice.random() < 0.5]
    values = [meter_reading(meter, t, energy_imported_active=v) for t, v in value.items() if t not in late]
    await ingest(db, values)
    await refresh(db)
    await run_retention(db, as_of=cut + KEEP)
    assert await raw(db, "mg_meter_anchors") > 0
    old_rows = "SELECT * FROM flux.mg_meter_readings_5m_intermediate WHERE time_b < %s ORDER BY time_b"
    before = await fetch(db, old_rows, [cut])
    for _ in range(6):
        match dice.choice(["late", "late", "delete", "correct", "limits"]):
            case "late" if late:
                time = late.pop(dice.randrange(len(late)))
                await ingest(db, [meter_reading(meter, time, energy_imported_active=value[time])])
            case "delete":
                first = cut + spread * dice.uniform(0, 1)
                await db.execute("SELECT flux.delete_readings(%s, %s, %s)", [meter, first, first + spread / 2])
            case "correct":
                await db.execute(
                    """UPDATE flux.mg_meter_readings r SET energy_imported_active = NULL
                       WHERE r.time = (SELECT min(time) FROM flux.mg_meter_readings) AND r.time < %s""",
                    [times[-1]],
                )
            case "limits":
                limit = Jsonb({"gap_limit": dice.choice(["1h", "5h", "30h", "90h"])})
                await db.execute("UPDATE flux.mg_device_registry SET metadata = %s", [limit])
        await refresh(db)
        assert await everything_counted(db) == pytest.approx(value[times[-1]] - value[times[0]], rel=1e-9)
    after = await fetch(db, old_rows, [cut])
    assert after == before


async def test_raw_readings_wait_until_their_rollups_are_final(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, MONDAY, energy_imported_active=1.0)])
    now = MONDAY + WEEK + KEEP
    (held,) = (await run_retention(db, as_of=now)).held
    assert held.held_by == "rollups are not final: M"
    assert [piece.held_by for piece in await due_pieces(db, now)] == ["rollups are not final: M"]
    await refresh(db)
    await db.execute('UPDATE flux.mg_device_registry SET metadata = \'{"gap_limit": "300d"}\'')
    await refresh(db)
    assert (await run_retention(db, as_of=now)).held, "within the gap limit a next reading could still change it"
    assert await raw(db) == 1
    await db.execute("UPDATE flux.mg_device_registry SET metadata = '{}'")
    await refresh(db)
    assert [piece.held_by for piece in await due_pieces(db, now)] == [None]
    assert await raw(db) == 1, "looking at the plan changes nothing"
    assert len((await run_retention(db, as_of=now)).dropped) == 1
    assert await raw(db) == 0
    assert await fetch(db, "SELECT table_name, from_time, to_time FROM flux.dropped_pieces") == [
        ("mg_meter_readings", MONDAY, MONDAY + WEEK)
    ]


async def test_a_level_goes_after_what_it_is_made_from_and_hours_stay(db: Conn) -> None:
    await fill(db, 2)
    hours = await rollups(db, METER_ROLLUPS[2:])
    await set_retention(db, "mg_meter_readings", "364 days")
    year_later = datetime(2026, 2, 2, tzinfo=UTC)
    await db.execute("SELECT flux.note_rollup_change(id) FROM flux.mg_device_registry WHERE name = 'M0'")
    held = {piece.table_name: piece.held_by for piece in (await run_retention(db, as_of=year_later)).held}
    assert held["mg_meter_readings_5m_intermediate"] == "mg_meter_readings is still there from 2025-01-06 on"
    await refresh(db)
    await run_retention(db, as_of=year_later)
    assert [await raw(db, table) for table in METER_ROLLUPS[:1]] == [0]
    assert await raw(db, METER_ROLLUPS[1]) > 0
    await run_retention(db, as_of=datetime(2031, 1, 2, tzinfo=UTC))
    assert await raw(db, METER_ROLLUPS[1]) == 0
    await run_retention(db, as_of=datetime(2099, 1, 1, tzinfo=UTC))
    assert_same(await rollups(db, METER_ROLLUPS[2:]), hours)


async def test_a_reading_older_than_what_was_dropped_is_refused_and_kept(db: Conn) -> None:
    meter, silent = await add_device(db, "M"), await add_device(db, "S")
    await ingest(db, [meter_reading(meter, MONDAY + i * DAY, energy_imported_active=float(i)) for i in range(8)])
    await refresh(db)
    await run_retention(db, as_of=MONDAY + WEEK + KEEP)
    old = meter_reading(meter, MONDAY + DAY / 2, energy_imported_active=0.5)
    assert await ingest(db, [old, meter_reading(meter, MONDAY + 9 * DAY)]) == IngestResult(1, 0, 1)
    rows = await fetch(db, "SELECT reason, detail FROM flux.rejected_readings")
    assert rows == [
        ("too_old", "time 2025-01-06T12:00:00+00:00 is before 2025-01-13: the device's readings of then were dropped")
    ]
    assert (await retry_rejected(db)).rejected == 1
    await db.execute("SELECT flux.ensure_partitions('flux.mg_meter_readings', %s, %s)", (MONDAY, MONDAY))
    for by_hand in (
        "INSERT INTO flux.mg_meter_readings (device_id, time) SELECT %(meter)s, %(old)s",
        "UPDATE flux.mg_meter_readings SET time = %(old)s WHERE device_id = %(meter)s AND time = %(new)s",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=r"time 2025-01-06 12:00:00\+00 is before 2025-01-13"):
            await db.execute(by_hand, {"meter": meter, "old": old.time, "new": MONDAY + 9 * DAY})
    assert await ingest(db, [meter_reading(silent, MONDAY)]) == IngestResult(1, 0, 0), "nothing of it was dropped"
    await refresh(db)
    assert len((await run_retention(db, as_of=MONDAY + WEEK + KEEP)).dropped) == 1, "and it goes again when it is final"


async def test_a_silent_device_keeps_its_last_readings(db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, MONDAY + i * DAY, energy_imported_active=float(i)) for i in range(3)])
    await refresh(db)
    await run_retention(db, as_of=MONDAY + WEEK + KEEP)
    assert await raw(db) == 0
    back = MONDAY + 20 * WEEK
    await ingest(db, [meter_reading(meter, back, energy_imported_active=50.0)])
    await refresh(db)
    assert await fetch(db, "SELECT from_time, to_time, step FROM flux.rollup_gaps") == [(MONDAY + 2 * DAY, back, 48.0)]
    assert [row["energy_imported_active"] for row in await latest_readings(db)] == [50.0]


async def test_a_fall_that_nothing_was_read_after_is_decided_before_its_readings_go(db: Conn) -> None:
    meter, kept = await add_device(db, "M"), await add_device(db, "K")
    values = [(0, 1000.0), (12, 1001.0), (24, 0.5), (25, 0.75)]
    back = (24 * 140, 10.0)
    for device in (meter, kept):
        await ingest(db, [meter_reading(device, MONDAY + h * HOUR, energy_imported_active=v) for h, v in values])
    await refresh(db)
    now = MONDAY + WEEK + KEEP
    assert [piece.held_by for piece in await due_pieces(db, now)] == ["rollups are not final: K and 1 more"]
    assert [piece.held_by for piece in (await run_retention(db, as_of=now)).held] == [
        "rollups are not final: K and 1 more"
    ]
    await refresh(db)
    assert len((await run_retention(db, as_of=now)).dropped) == 1
    assert await fetch(db, "SELECT kind, step, ruling FROM flux.counter_events") == [("restart", 0.5, "restart")] * 2
    said = "SELECT DISTINCT kind, decided_by, reason FROM flux.counter_ruling_history"
    assert await fetch(db, said) == [
        ("restart", "flux", "nothing was read after the fall until its readings were to be dropped")
    ]
    await ingest(db, [meter_reading(meter, MONDAY + back[0] * HOUR, energy_imported_active=back[1])])
    await refresh(db)
    query = """SELECT (SELECT sum(energy_imported_active_delta) FROM flux.mg_meter_readings_1h WHERE device_id = %(m)s),
                      (SELECT sum(step) FROM flux.rollup_gaps WHERE device_id = %(m)s)"""
    # 1000 to 1001, 0 to 0.75, and what was counted while it was silent
    assert await fetch(db, query, {"m": meter}) == [(pytest.approx(1.75), pytest.approx(9.25))]


async def test_a_stuck_power_across_the_cut_stays_marked(db: Conn) -> None:
    meter = await add_device(db, "M", metadata={"power_stuck_after": "2h"})
    cut, minute = MONDAY + WEEK, timedelta(minutes=1)
    stuck = range(-12 * 13, 12 * 1)  # every 5 minutes, until an hour after the cut
    await ingest(
        db,
        [
            meter_reading(
                meter,
                cut + 5 * k * minute,
                power_total_active=10.0 if k in stuck else float(k),
                energy_imported_active=10000.0 + 3 * k,
            )
            for k in range(-12 * 14, 12 * 30)
        ],
    )
    await refresh(db)
    marks = "SELECT metric, count(*), max(time) FROM flux.reading_marks WHERE time >= %s GROUP BY 1"
    marked = await fetch(db, marks, (cut,))
    assert marked == [("power_total_active", 12, cut + 55 * minute)]
    before = await rollups(db)
    assert len((await run_retention(db, as_of=cut + KEEP)).dropped) == 1
    await db.execute("SELECT flux.note_rollup_change(%s)", (meter,))
    await refresh(db)
    assert await fetch(db, marks, (cut,)) == marked
    assert_same(await rollups(db), before)


@pytest.mark.partitions
async def test_nothing_may_come_into_a_partition_that_is_being_dropped(db: Conn) -> None:
    meter, other = await add_device(db, "M"), await add_device(db, "O")
    await ingest(db, [meter_reading(meter, MONDAY)])
    await refresh(db)
    await db.execute("SELECT flux.retire_piece('mg_meter_readings', %s, NULL, %s)", (MONDAY, MONDAY + WEEK + KEEP))
    insert = "INSERT INTO flux.mg_meter_readings (time, device_id) VALUES (%s, %s)"
    with pytest.raises(psycopg.errors.ObjectInUse, match="is being dropped"):
        await db.execute(insert, (MONDAY, other))
    await run_retention(db, as_of=MONDAY)
    assert await ingest(db, [meter_reading(other, MONDAY)]) == IngestResult(1, 0, 0)


@pytest.mark.partitions
async def test_what_was_interrupted_is_finished_by_the_next_run(dsn: str, db: Conn) -> None:
    """Cut off after the partition was taken out of use, and halfway through its detaching."""
    await fill(db, 2)
    before = await rollups(db)
    now = MONDAY + WEEK + KEEP
    retire = "SELECT flux.retire_piece(%s, %s, NULL, %s)"
    for table in ("mg_meter_readings", "mg_bess_readings"):
        assert await fetch(db, retire, (table, MONDAY, now)) == [(None,)]
    async with await connect(dsn) as reader:
        await reader.execute("SELECT count(*) FROM flux.mg_meter_readings")  # and its transaction stays open
        await db.execute("SET lock_timeout = '200ms'")
        piece = "flux.mg_meter_readings_20250106_retired"
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await db.execute(f"ALTER TABLE flux.mg_meter_readings DETACH PARTITION {piece} CONCURRENTLY")
        await db.execute("SET lock_timeout = 0")
    states = {
        piece: (parent, pending) for piece, parent, pending in await fetch(db, "SELECT * FROM flux.retired_pieces()")
    }
    assert states == {
        "mg_bess_readings_20250106_retired": ("mg_bess_readings", False),
        "mg_meter_readings_20250106_retired": ("mg_meter_readings", True),
    }
    report = await run_retention(db, as_of=now)
    assert not report.dropped
    assert await fetch(db, "SELECT * FROM flux.retired_pieces()") == []
    assert await rollups(db) == before


async def test_a_long_report_delays_retention_and_nothing_else(dsn: str, db: Conn) -> None:
    meter = await add_device(db, "M")
    await ingest(db, [meter_reading(meter, MONDAY)])
    await refresh(db)
    async with await connect(dsn) as reader:
        await reader.execute("SELECT count(*) FROM flux.mg_meter_readings")
        await db.execute("ALTER FUNCTION flux.retire_piece SET lock_timeout = '10ms'")
        await db.execute(
            "UPDATE pg_proc SET prosrc = replace(prosrc, '''5s''', '''10ms''') WHERE proname = 'retire_piece'"
        )
        (held,) = (await run_retention(db, as_of=MONDAY + WEEK + KEEP)).held
        assert held.held_by == "somebody is reading it"
        assert await ingest(db, [meter_reading(meter, MONDAY + DAY)]) == IngestResult(1, 0, 0)
    await refresh(db)
    assert len((await run_retention(db, as_of=MONDAY + WEEK + KEEP)).dropped) == 1


async def test_only_one_session_runs_retention(dsn: str, db: Conn) -> None:
    async with await connect(dsn, autocommit=True) as other:
        await other.execute("SELECT pg_advisory_lock(hashtextextended('flux retention', 0))")
        with pytest.raises(RefusedError, match="another session"):
            await run_retention(db)


async def test_an_archive_is_written_before_readings_go(db: Conn, tmp_path: Path) -> None:
    meter = await add_device(db, "M")
    sent = [meter_reading(meter, MONDAY + i * DAY, energy_imported_active=i / 3) for i in range(9)]
    await ingest(db, sent)
    await refresh(db)
    await set_retention(db, "mg_meter_readings", "90 days", archive=True)
    now = MONDAY + WEEK + KEEP
    (held,) = (await run_retention(db, as_of=now)).held
    assert held.held_by == "it waits for its archive: flux db retention run --archive FOLDER"
    assert len((await run_retention(db, archive=tmp_path, as_of=now)).dropped) == 1
    file = tmp_path / "mg_meter_readings_2025-01-06_2025-01-13.parquet"
    rows = pq.read_table(file).to_pylist()
    assert [(row["time"], row["energy_imported_active"]) for row in rows] == [
        (r.time, r.energy_imported_active) for r in sent[:7]
    ]
    assert await fetch(db, "SELECT archived FROM flux.dropped_pieces") == [(str(file),)]


async def test_readings_stay_when_their_archive_cannot_be_written_and_the_others_go(db: Conn, tmp_path: Path) -> None:
    meter, bess = await add_device(db, "M"), await add_device(db, "B", "bess")
    await ingest(db, [meter_reading(meter, MONDAY + i * DAY, energy_imported_active=1.0 * i) for i in range(9)])
    await ingest(db, [bess_reading(bess, MONDAY + i * DAY, soe=50.0) for i in range(9)])
    await refresh(db)
    await set_retention(db, "mg_bess_readings", "90 days", archive=True)
    now = MONDAY + WEEK + KEEP
    (tmp_path / "file").write_text("no folder")
    gone = "SELECT table_name FROM flux.dropped_pieces ORDER BY id"
    for folder in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(FluxError):
            await run_retention(db, archive=folder, as_of=now)
        assert (await raw(db, "mg_bess_readings"), await fetch(db, gone)) == (9, [("mg_meter_readings",)])
    assert len((await run_retention(db, archive=tmp_path, as_of=now)).dropped) == 1
    assert len(await fetch(db, gone)) == 2


async def test_rows_of_plain_tables_are_deleted(db: Conn) -> None:
    await db.execute(
        """INSERT INTO flux.rejected_readings (received_at, kind, reason, detail, payload)
           SELECT now() - n * interval '100 days', 'meter', 'unknown_device', '', jsonb_build_object('n', n)
           FROM generate_series(1, 5) n"""
    )
    assert (await run_retention(db)).rows == 2
    assert await raw(db, "rejected_readings") == 3


@pytest.mark.parametrize(
    ("table", "keep", "error", "told"),
    [
        ("sites", "90d", NotFoundError, "sites is not a table that is kept for a time"),
        ("mg_meter_readings", "soon", InputError, "write it like 90d"),
        ("mg_meter_readings", "-1 day", RefusedError, "no time to keep anything"),
        ("mg_meter_readings", "forever", RefusedError, "must be kept as long or longer"),
        ("mg_meter_readings_5m_intermediate", "80 days", RefusedError, "is made from mg_meter_readings and must be"),
        ("mg_meter_readings_5m_intermediate", "6 years", RefusedError, "must be kept as long or longer"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    db: Conn, table: str, keep: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await set_retention(db, table, keep)


async def test_status_says_what_is_kept_and_what_goes_next(db: Conn) -> None:
    await fill(db, 2)
    found = {series.table_name: series for series in await storage_status(db, MONDAY + WEEK)}
    meters = found["mg_meter_readings"]
    assert (meters.keep, meters.oldest, meters.next_drop) == ("90 days", MONDAY, MONDAY + WEEK + KEEP)
    assert meters.bytes > 100_000
    assert found["mg_meter_readings_1h"].next_drop is None
    assert {found[name].keep for name in ("device_health", METER_ROLLUPS[0])} == {"1 year"}
    assert await set_retention(db, "mg_meter_readings", "60d") == "60 days"


async def test_delete_readings_by_its_function(db: Conn) -> None:
    devices = await fill(db, 1)
    sent = await raw(db)
    ((gone,),) = await fetch(db, "SELECT flux.delete_readings(%s, %s, %s)", (devices[0], MONDAY, MONDAY + WEEK))
    assert await raw(db) == sent - gone
    await refresh(db)
    assert await fetch(db, "SELECT 1 FROM flux.mg_meter_readings_1h WHERE device_id = %s LIMIT 1", (devices[0],)) == []
    with pytest.raises(psycopg.errors.NoDataFound):
        await db.execute("SELECT flux.delete_readings(%s, now(), now())", (UUID(int=1),))


@pytest.mark.partitions
def test_migrate_makes_partitions_ahead(dsn: str) -> None:
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        ahead = "SELECT count(*) FROM flux.pieces(%s) WHERE to_time > now()"
        assert connection.execute(ahead, ("device_health",)).fetchone() == (2,)
