"""Readings from files: every bit, again for nothing, and each refused row with its line."""

import asyncio
import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, sql
from tests.support import NOON, add_device, fetch

from flux.errors import ConflictError, InputError
from flux.model import BESS_METRICS, METER_METRICS, BessReading, DeviceId, MeterReading, Metric, MetricKind, Reading
from flux.store.db import connect
from flux.store.ingest import KINDS, ingest
from flux.store.transfer import (
    ImportReport,
    RejectedRow,
    export_readings,
    exported_devices,
    format_of,
    import_readings,
    open_rows,
    rejects_file,
)
from flux.store.transfer.columns import read_header

LONDON = ZoneInfo("Europe/London")
HEADER = "time,device,power_total_active,energy_imported_active\n"


async def run_import(conn: AsyncConnection[Any], path: Path, **options: Any) -> tuple[ImportReport, list[RejectedRow]]:
    told: list[RejectedRow] = []
    with open_rows(path) as source:
        report = await import_readings(
            conn, source, rejected=told.append, progress=lambda _done, _rows: None, **options
        )
    return report, told


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


async def stored(conn: AsyncConnection[Any]) -> list[tuple[Any, ...]]:
    return await fetch(
        conn,
        """SELECT r.time, d.name, r.power_total_active, r.energy_imported_active FROM flux.mg_meter_readings r
           JOIN flux.mg_device_registry d ON d.id = r.device_id ORDER BY 1, 2""",
    )


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


class TestRows:
    async def test_names_offsets_and_missing_values(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await add_device(db, "GRID")
        text = HEADER + (
            "2026-01-15T12:00:00Z,GRID,1.5,100\n"
            "2026-01-15 13:01:00+01:00,GRID,,NaN\n"
            "\n"
            "2026-01-15T12:02:00.000001Z,GRID,null,1e2\n"
        )
        report, told = await run_import(db, write(tmp_path / "a.csv", text))
        assert (report.rows, report.stored, told) == (3, 3, [])
        assert await stored(db) == [
            (at(0), "GRID", 1.5, 100.0),
            (at(1), "GRID", None, None),
            (at(2) + timedelta(microseconds=1), "GRID", None, 100.0),
        ]

    async def test_again_it_changes_nothing_and_other_values_are_conflicts(
        self, db: AsyncConnection[Any], tmp_path: Path
    ) -> None:
        await add_device(db, "GRID")
        file = write(tmp_path / "a.csv", HEADER + "2026-01-15T12:00Z,GRID,1,100\n2026-01-15T12:01Z,GRID,1,101\n")
        await run_import(db, file)
        report, told = await run_import(db, file)
        assert (report.stored, report.duplicates, told) == (0, 2, [])
        changed = write(tmp_path / "b.csv", file.read_text().replace("101", "99"))
        report, told = await run_import(db, changed)
        assert (report.stored, report.duplicates, dict(report.rejected)) == (0, 1, {"conflict": 1})
        assert (told[0].line, told[0].reason) == (3, "conflict")
        assert await fetch(db, "SELECT reason, payload ->> 'energy_imported_active' FROM flux.rejected_readings") == [
            ("conflict", "99.0")
        ]
        assert [row[3] for row in await stored(db)] == [100, 101]

    async def test_every_kind_of_bad_row_is_told_with_its_line(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await add_device(db, "GRID")
        await add_device(db, "BESS", "bess")
        rows = [
            ("2026-01-15T12:00Z,GRID,1,100", None),
            ("2026-01-15T12:01Z,GRID,1", "wrong_shape: has 3 fields, the header 4"),
            ("2026-01-15T12:01Z,GRID,1,100,7", "wrong_shape: has 5 fields, the header 4"),
            ("2026-01-15T12:02,GRID,1,100", "impossible_time: time 2026-01-15T12:02:00 has no offset: write Z or …"),
            ("yesterday,GRID,1,100", "impossible_time: time 'yesterday' is not like 2026-01-15T12:00:00Z"),
            (",GRID,1,100", "impossible_time: has no time"),
            ("1999-12-31T23:59Z,GRID,1,100", "impossible_time: time 1999-12-31T23:59:00+00:00 is before 2000-01-01"),
            ("2099-01-01T00:00Z,GRID,1,100", "impossible_time: time 2099-01-01T00:00:00+00:00 is more than 10 …"),
            ("2026-01-15T12:03Z,GIRD,1,100", "unknown_device: no device is called 'GIRD'"),
            ("2026-01-15T12:03Z,,1,100", "unknown_device: names no device"),
            ("2026-01-15T12:03Z,BESS,1,100", "wrong_type: power_total_active is a meter's, the device is a bess"),
            ("2026-01-15T12:04Z,GRID,1 kW,100", "impossible_value: power_total_active = '1 kW' is not a number"),
            ("2026-01-15T12:05Z,GRID,1,-1", "impossible_value: energy_imported_active = -1.0: a counter is never …"),
            ("2026-01-15T12:06Z,GRID,inf,1", "impossible_value: power_total_active = inf: is not a finite number"),
        ]
        report, told = await run_import(db, write(tmp_path / "a.csv", HEADER + "\n".join(row for row, _ in rows)))
        assert (report.stored, report.rejected.total()) == (1, 13)
        expected = [(line, said) for line, (_, said) in enumerate(rows, start=2) if said is not None]
        for row, (line, said) in zip(told, expected, strict=True):
            assert row.line == line
            actual = f"{row.reason}: {row.detail}"
            assert actual.startswith(said.removesuffix("…")) if said.endswith("…") else actual == said
        kept = await fetch(db, "SELECT count(*) FROM flux.rejected_readings")
        assert kept == [(4,)], "two impossible times, two impossible values; the others were no readings"

    async def test_the_device_by_id_by_name_or_for_the_whole_file(
        self, db: AsyncConnection[Any], tmp_path: Path
    ) -> None:
        grid, other = await add_device(db, "GRID"), await add_device(db, "OTHER")
        text = (
            "time,device,device_id,frequency\n"
            f"2026-01-15T12:00Z,renamed since,{grid},50\n"  # the id is known
            f"2026-01-15T12:00Z,OTHER,{uuid4()},50\n"  # of another database
            f"2026-01-15T12:01Z,,{other},50\n"
            f"2026-01-15T12:02Z,nobody,{uuid4()},50\n"
        )
        report, told = await run_import(db, write(tmp_path / "a.csv", text))
        assert (report.stored, [(row.line, row.reason) for row in told]) == (3, [(5, "unknown_device")])
        assert set(report.spans) == {grid, other}
        assert report.spans[other] == (at(0), at(1))
        one = write(tmp_path / "b.csv", "time;frequency\n2026-01-15T12:09Z;50\n")
        assert (await run_import(db, one, device=grid))[0].stored == 1
        assert await fetch(db, "SELECT reason, count(*) FROM flux.rejected_readings GROUP BY 1") == [
            ("unknown_device", 1)
        ]

    async def test_units_in_headings(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        meter = await add_device(db, "GRID")
        text = (
            "\ufeffTimestamp;Device Name;Power Total Active [W];energy-imported-active (MWh);"
            "energy_imported_reactive [varh];power_factor_total [%];created_at\n"
            "2026-01-15T12:00Z;GRID;1500;0.3;250;95;whenever\n"
        )
        await run_import(db, write(tmp_path / "a.csv", text))
        assert await fetch(
            db,
            """SELECT power_total_active, energy_imported_active, energy_imported_reactive, power_factor_total
               FROM flux.mg_meter_readings WHERE device_id = %s""",
            [meter],
        ) == [(1.5, 300.0, 0.25, pytest.approx(0.95))]

    @pytest.mark.parametrize(
        ("header", "problem"),
        [
            ("time,device,power_total_actve", "'power_total_actve' is not known; did you mean power_total_active"),
            ("time,device", "no column is a metric"),
            ("device,frequency", "no column is called time"),
            ("time,frequency", "--device"),
            ("time,device,frequency,Frequency", "is there twice"),
            ("time,timestamp,device,frequency", "is there twice"),
            ("time,device,frequency [kW]", "the unit of frequency is Hz, 'kW' does not fit"),
            ("time,device,energy_imported_active [xWh]", "does not fit"),
        ],
    )
    def test_a_header_that_cannot_be_meant(self, header: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem.replace("[", r"\[")):
            read_header(header.split(","), device_given=False)

    async def test_unknown_columns_can_be_passed_over(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await add_device(db, "GRID")
        file = write(tmp_path / "a.csv", "time,device,weather,frequency\n2026-01-15T12:00Z,GRID,fine,50\n")
        assert (await run_import(db, file, ignore_unknown=True))[0].stored == 1

    async def test_local_times(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await add_device(db, "GRID")
        text = "time,device,frequency\n" + "".join(
            f"{time},GRID,50\n"
            for time in ("2025-07-01T12:00", "2025-03-30T01:30", "2025-10-26 01:30", "2025-10-26T01:30+01:00")
        )
        report, told = await run_import(db, write(tmp_path / "a.csv", text), zone=LONDON)
        assert [row[0] for row in await stored(db)] == [
            datetime(2025, 7, 1, 11, 0, tzinfo=UTC),
            datetime(2025, 10, 26, 0, 30, tzinfo=UTC),
        ]
        assert [(row.line, row.detail) for row in told] == [
            (3, "time 2025-03-30T01:30:00 does not exist in Europe/London: give its offset"),
            (4, "time 2025-10-26T01:30:00 comes twice in Europe/London: give its offset"),
        ]
        assert report.stored == 2


class TestFiles:
    async def test_gzip(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await add_device(db, "GRID")
        (tmp_path / "a.gz").write_bytes(gzip.compress((HEADER + "2026-01-15T12:00Z,GRID,1,100\n").encode()))
        assert (await run_import(db, tmp_path / "a.gz"))[0].stored == 1

    async def test_parquet_of_other_programs(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        """Nanoseconds, plain local times, floats of another width, NaN, whole numbers, and text for a time."""
        await add_device(db, "GRID")
        await add_device(db, "BESS", "bess")
        ns = pa.array([1_768_478_400_000_000_123, None], pa.timestamp("ns", tz="UTC"))
        table = pa.table({"time": ns, "device": ["GRID", "GRID"], "power_total_active": [0.1, float("nan")]})
        pq.write_table(table, tmp_path / "a.parquet")
        report, told = await run_import(db, tmp_path / "a.parquet")
        assert (report.stored, [(row.line, row.detail) for row in told]) == (1, [(2, "has no time")])
        assert [row[0] for row in await stored(db)] == [NOON]
        plain = pa.table({"time": [datetime(2026, 1, 15, 12, 5)], "device": ["BESS"], "command_source": [3.0]})  # noqa: DTZ001
        pq.write_table(plain, tmp_path / "b.parquet")
        assert (await run_import(db, tmp_path / "b.parquet", zone=LONDON))[0].stored == 1
        assert await fetch(db, "SELECT time, command_source FROM flux.mg_bess_readings") == [(at(5), 3)]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "is empty"),
            (b"PAR1 and then nothing", "is not a Parquet file"),
            (b"\x1f\x8bnot gzip", "cannot be read"),
            (HEADER.encode() + b"2026-01-15T12:00Z,GR\xfcN,1,1\n", "is not UTF-8"),
            (HEADER.encode() + b'2026-01-15T12:00Z,GRID,1,1\n"a"b,GRID,1,1\n', "after line 3: is not CSV"),
            (gzip.compress(HEADER.encode() + b"2026-01-15T12:00Z,GRID,1,1\n" * 99)[:-9], "cannot be read on"),
        ],
    )
    def test_a_damaged_file(self, tmp_path: Path, content: bytes, problem: str) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(InputError, match=problem), open_rows(tmp_path / "a") as source:
            list(source.rows())

    @pytest.mark.parametrize("name", ["none.csv", "."])
    def test_no_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=r"No such file|Is a directory"), open_rows(tmp_path / name):
            pass

    async def test_rejected_rows_can_be_mended_and_imported_again(
        self, db: AsyncConnection[Any], tmp_path: Path
    ) -> None:
        await add_device(db, "GRID")
        text = HEADER + "2026-01-15T12:00Z,GRID,1,100\n2026-01-15T12:01Z,GIRD,1,\n2026-01-15T12:02Z,GRID,1,1,1\n"
        file, rejects = write(tmp_path / "a.csv", text), tmp_path / "rejects.csv"
        for again, options in enumerate(({}, {"force": True})):
            with open_rows(file) as source, rejects_file(rejects, source.header, **options) as rejected:
                await import_readings(db, source, rejected=rejected, progress=lambda _done, _rows: None)
            lines = rejects.read_text().splitlines()
            assert lines == [
                "rejected_line,rejected_reason,rejected_detail,time,device,power_total_active,energy_imported_active",
                f"{3 - again},unknown_device,no device is called 'GIRD',2026-01-15T12:01Z,GIRD,1,",
                *(['4,wrong_shape,"has 5 fields, the header 4",2026-01-15T12:02Z,GRID,1,1,1'] if again == 0 else []),
            ]
            file.write_text("\n".join(lines[:2]) + "\n")
            with pytest.raises(ConflictError), rejects_file(rejects, []):
                pass
        file.write_text("\n".join(lines[:2]).replace("GIRD", "GRID"))
        with open_rows(file) as source, rejects_file(tmp_path / "none.csv", source.header) as rejected:
            await import_readings(db, source, rejected=rejected, progress=lambda _done, _rows: None)
        assert not (tmp_path / "none.csv").exists()
        assert [row[0] for row in await stored(db)] == [at(0), at(1)]


# ── the round trip ─────────────────────────────────────────────────────────────────────────────────────────────────


def values_of(metric: Metric) -> st.SearchStrategy[Any]:
    if metric.kind is MetricKind.CODE:
        return st.none() | st.integers(0, 32767)
    if metric.kind is MetricKind.COUNTER:
        return st.none() | st.floats(0, allow_nan=False, allow_infinity=False)
    if metric.name == "soe":
        return st.none() | st.floats(-0.5, 100.5, width=32)
    return st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)


def readings_of(type: type[Reading], device: UUID, metrics: tuple[Metric, ...]) -> st.SearchStrategy[Any]:
    times = st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 20), timezones=st.just(UTC))  # noqa: DTZ001
    chosen = {m.name: values_of(m) for m in metrics}
    return st.builds(type, device_id=st.just(DeviceId(device)), time=times, **chosen)


METER, BESS = uuid4(), uuid4()
READINGS = st.lists(
    readings_of(MeterReading, METER, METER_METRICS) | readings_of(BessReading, BESS, BESS_METRICS),
    max_size=12,
    unique_by=lambda r: (r.device_id, r.time),
)


async def as_stored(conn: AsyncConnection[Any]) -> list[bytes]:
    """Every bit of every reading, device by name: its id is the database's own."""
    found = []
    for kind in KINDS:
        columns = sql.SQL(", ").join(sql.Identifier("r", metric.name) for metric in kind.metrics)
        query = sql.SQL(
            """COPY (SELECT d.name, r.time, {} FROM {} r JOIN flux.mg_device_registry d ON d.id = r.device_id
                     ORDER BY 1, 2) TO STDOUT (FORMAT binary)"""
        ).format(columns, sql.Identifier("flux", kind.table))
        async with conn.cursor() as cursor, cursor.copy(query) as copy:
            found.append(b"".join([bytes(block) async for block in copy]))
    return found


async def round_trip(dsns: tuple[str, str], readings: list[Reading], target: Path) -> None:
    async with await connect(dsns[0], autocommit=True) as here, await connect(dsns[1], autocommit=True) as there:
        for conn in (here, there):
            await conn.execute("TRUNCATE flux.mg_meter_readings, flux.mg_bess_readings")
        assert (await ingest(here, readings)).stored == len(readings)
        devices = await exported_devices(here)
        span = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
        await export_readings(here, target, devices, *span, format=format_of(target), force=True)
        report, told = await run_import(there, target)
        assert (report.stored, told) == (len(readings), [])
        assert await as_stored(here) == await as_stored(there)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(readings=READINGS, ending=st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_an_export_imported_into_a_fresh_database_is_the_same_to_the_bit(
    two_databases: tuple[str, str], tmp_path: Path, readings: list[Reading], ending: str
) -> None:
    asyncio.run(prepared(two_databases, readings, tmp_path / f"readings{ending}"))


async def prepared(dsns: tuple[str, str], readings: list[Reading], target: Path) -> None:
    for dsn, ids in ((dsns[0], (METER, BESS)), (dsns[1], (uuid4(), uuid4()))):
        async with await connect(dsn, autocommit=True) as conn:
            await conn.execute(
                """INSERT INTO flux.mg_device_registry (id, name, type, site)
                   SELECT * FROM (VALUES (%s::uuid, 'GRID', 'meter', 'WLCE'), (%s::uuid, 'BESS', 'bess', 'WLCE')) v
                   WHERE NOT EXISTS (SELECT FROM flux.mg_device_registry)""",
                ids,
            )
    await round_trip(dsns, readings, target)


async def test_batches_are_stored_one_by_one_and_progress_is_told(db: AsyncConnection[Any], tmp_path: Path) -> None:
    await add_device(db, "GRID")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "device", "frequency"])
        writer.writerows([at(i).isoformat(), "GRID", 50] for i in range(7000))
    told: list[tuple[int, int]] = []
    with open_rows(tmp_path / "a.csv") as source:
        await import_readings(
            db, source, rejected=lambda row: None, progress=lambda done, rows: told.append((done, rows))
        )
        assert [rows for _, rows in told] == [5000, 7000]
        assert told[-1][0] == source.total
