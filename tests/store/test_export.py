"""Readings into files: every bit, in order, whole or not at all."""

import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, delete_all_readings, meter_reading

from flux.errors import ConflictError, InputError, UnavailableError
from flux.model import BESS_METRICS, METER_METRICS
from flux.store.db import connect
from flux.store.ingest import ingest
from flux.store.transfer import FileFormat, export_readings, exported_devices, format_of

DAY = timedelta(days=1)
METRICS = [m.name for m in (*METER_METRICS, *BESS_METRICS)]


@pytest.fixture
async def stored(db: AsyncConnection[Any]) -> None:
    meter, bess = await add_device(db, "WLCE-GRID"), await add_device(db, "WLCE-BESS-01", "bess")
    await add_device(db, "HMCE-GRID", site="HMCE")
    readings = [meter_reading(meter, NOON + i * DAY, power_total_active=0.1 + i, frequency=None) for i in range(20)]
    await ingest(db, readings[::-1])
    await ingest(db, [meter_reading(meter, NOON + timedelta(microseconds=1), energy_imported_active=1e15 / 3)])
    await ingest(db, [bess_reading(bess, NOON, soe=50.1, command_source=7)])


async def export(conn: AsyncConnection[Any], target: Path, **options: Any) -> int:
    span = (options.pop("since", NOON - DAY), options.pop("until", NOON + 99 * DAY))
    force = options.pop("force", False)
    devices = await exported_devices(conn, **options)
    return (await export_readings(conn, target, devices, *span, format=format_of(target), force=force)).rows


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("stored")
class TestExport:
    async def test_csv_has_both_kinds_in_the_order_of_devices_and_times(
        self, db: AsyncConnection[Any], tmp_path: Path
    ) -> None:
        assert await export(db, tmp_path / "all.csv", site="WLCE") == 22
        with (tmp_path / "all.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["time", "device", "device_id", *METRICS]
        assert [row["device"] for row in rows] == ["WLCE-BESS-01"] + 21 * ["WLCE-GRID"]
        bess, first, second = rows[:3]
        assert bess["time"] == "2026-01-15T12:00:00.000000Z"
        assert (bess["soe"], bess["command_source"], bess["power_total_active"]) == ("50.1", "7", "")
        assert (first["power_total_active"], first["frequency"], first["soe"]) == ("0.1", "", "")
        assert (second["time"], second["energy_imported_active"]) == (
            "2026-01-15T12:00:00.000001Z",
            repr(1e15 / 3),
        )

    async def test_gzip_holds_the_same_bytes(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        for name in ("a.csv", "a.csv.gz", "b.csv.gz"):
            await export(db, tmp_path / name)
        packed = (tmp_path / "a.csv.gz").read_bytes()
        assert gzip.decompress(packed) == (tmp_path / "a.csv").read_bytes()
        assert packed == (tmp_path / "b.csv.gz").read_bytes()

    async def test_parquet_has_the_types_of_the_table(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        await export(db, tmp_path / "all.parquet", type="meter")
        table = pq.read_table(tmp_path / "all.parquet")
        types = {name: str(table.schema.field(name).type) for name in table.schema.names}
        assert types["time"] == "timestamp[us, tz=UTC]"
        assert (types["power_total_active"], types["energy_imported_active"]) == ("float", "double")
        assert "soe" not in types
        first, second = table.slice(0, 2).to_pylist()
        assert (first["time"], first["device"], first["frequency"]) == (NOON, "WLCE-GRID", None)
        assert second["energy_imported_active"] == 1e15 / 3

    async def test_a_span_has_its_beginning_and_not_its_end(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        span = {"since": NOON + DAY, "until": NOON + 3 * DAY}
        assert await export(db, tmp_path / "a.csv", type="meter", **span) == 2

    async def test_a_device_without_readings_makes_a_heading_only(
        self, db: AsyncConnection[Any], tmp_path: Path
    ) -> None:
        for name in ("a.csv", "a.parquet"):
            assert await export(db, tmp_path / name, site="HMCE") == 0
        assert (tmp_path / "a.csv").read_text().startswith("time,device,device_id,frequency,")
        assert pq.read_table(tmp_path / "a.parquet").num_rows == 0

    async def test_no_file_is_replaced_unless_asked(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        target = tmp_path / "a.csv"
        target.write_text("precious")
        with pytest.raises(ConflictError, match="--force"):
            await export(db, target)
        assert target.read_text() == "precious"
        assert await export(db, target, force=True) == 22
        assert names_in(tmp_path) == ["a.csv"]

    async def test_an_export_that_fails_leaves_what_was_there(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        target = tmp_path / "a.parquet"
        target.write_text("precious")
        devices = await exported_devices(db)

        def full(done: int, rows: int) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(UnavailableError, match=r"a\.parquet: No space left on device"):
            await export_readings(
                db, target, devices, NOON, NOON + DAY, format=FileFormat.PARQUET, force=True, progress=full
            )
        assert (target.read_text(), names_in(tmp_path)) == ("precious", ["a.parquet"])

    async def test_inside_a_transaction_it_sees_what_that_sees(self, db: AsyncConnection[Any], tmp_path: Path) -> None:
        async with db.transaction(force_rollback=True):
            await delete_all_readings(db, "bess")
            assert await export(db, tmp_path / "a.csv") == 21


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("a.csv", None, "csv"),
        ("a.CSV.GZ", None, "csv.gz"),
        ("a.parquet", None, "parquet"),
        ("a.dat", "parquet", "parquet"),
        ("a.gz", "csv", "csv.gz"),
    ],
)
def test_the_format_follows_from_the_ending_or_is_named(name: str, wanted: str | None, expected: str) -> None:
    assert format_of(Path(name), wanted) == expected


@pytest.mark.parametrize(("name", "wanted"), [("a.xlsx", None), ("a", None), ("a.csv", "xml")])
def test_an_unknown_format_is_told(name: str, wanted: str | None) -> None:
    with pytest.raises(InputError, match="format"):
        format_of(Path(name), wanted)


async def test_a_snapshot_of_one_moment(db: AsyncConnection[Any], dsn: str, tmp_path: Path) -> None:
    """What is stored after an export began is in none of its devices."""
    first, second = await add_device(db, "A"), await add_device(db, "B")
    early = datetime(2026, 1, 1, tzinfo=UTC)
    await ingest(db, [meter_reading(first, early), meter_reading(second, early)])
    async with await connect(dsn, autocommit=True) as exporting:
        devices = await exported_devices(exporting)
        other = iter([meter_reading(second, early + DAY)])

        def meanwhile(done: int, rows: int) -> None:
            if (late := next(other, None)) is not None:
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute(
                        "INSERT INTO flux.mg_meter_readings (device_id, time) VALUES (%s, %s)",
                        (late.device_id, late.time),
                    )

        report = await export_readings(
            exporting, tmp_path / "a.csv", devices, early, early + 9 * DAY, format=FileFormat.CSV, progress=meanwhile
        )
    assert report.rows == 2
