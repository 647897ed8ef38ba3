"""Market data into files and back: what was known, and since when."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, fetch

from flux.errors import InputError
from flux.model import MarketValue
from flux.store.db import connect
from flux.store.market import add_data_type, upsert
from flux.store.transfer import ImportReport, RejectedRow, export_market, format_of, import_market, open_rows

HISTORY = """SELECT t.name, h.time, h.site, h.value, h.known_at, h.repeated_at, h.metadata::text
             FROM flux.market_data_history h
             JOIN flux.market_data_types t ON t.id = h.type ORDER BY 1, 2, 3 NULLS FIRST, 5"""
SPAN = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
HALF = timedelta(minutes=30)


async def run_import(conn: AsyncConnection[Any], path: Path) -> tuple[ImportReport, list[RejectedRow]]:
    told: list[RejectedRow] = []
    with open_rows(path) as source:
        report = await import_market(conn, source, rejected=told.append, progress=lambda _done, _rows: None)
    return report, told


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_history_exported_and_imported_is_the_same(two_databases: tuple[str, str], tmp_path: Path, ending: str) -> None:
    asyncio.run(round_trip(two_databases, tmp_path / f"market.{ending}"))


async def round_trip(dsns: tuple[str, str], file: Path) -> None:
    async with await connect(dsns[0], autocommit=True) as here, await connect(dsns[1], autocommit=True) as there:
        for conn in (here, there):
            await add_device(conn, "GRID")
        await add_data_type(there, "other", "£", "shifts the next type's id")
        for conn in (here, there):
            await add_data_type(conn, "carbon", "g/kWh", "of the grid")
        values = [
            MarketValue(
                type=kind,
                time=NOON + n * HALF,
                value=0.1 * n + kind + known / 7,
                site=site,
                known_at=NOON + known * HALF,
                metadata={"source": 'a "quoted", one', "run": known},
            )
            for kind in (1, 3, 100)
            for n in range(5)
            for site in (None, "WLCE")
            for known in range(2)
        ]
        await upsert(here, values)
        # said again before it changed: another value that arrives late between the two ends the first one earlier
        await upsert(here, [replace(values[0], known_at=NOON + HALF / 2)])
        report = await export_market(here, file, None, *SPAN, format=format_of(file))
        assert report.rows == 61
        stored, told = await run_import(there, file)
        assert (stored.stored + stored.duplicates, told) == (61, [])
        assert await fetch(here, HISTORY) == await fetch(there, HISTORY)
        again, _ = await run_import(there, file)
        assert (again.stored, again.duplicates) == (0, 61)
        newest = file.with_name(f"newest-{file.name}")
        report = await export_market(here, newest, [3], *SPAN, format=format_of(newest), newest_only=True)
        assert report.rows == 10


async def test_every_refused_row_is_told(db: AsyncConnection[Any], tmp_path: Path) -> None:
    await add_device(db, "GRID")
    known = "2026-01-15T11:00Z"
    await upsert(db, [MarketValue(type=2, time=NOON, value=50, known_at=datetime(2026, 1, 15, 11, tzinfo=UTC))])
    rows = [
        (f"2026-01-15T12:30Z,2,51,WLCE,{known},", None),
        (f"2026-01-15T12:00Z,2,55,,{known},", "conflict"),
        (f"2026-01-15T12:00Z,9,55,,{known},", "unknown_type"),
        (f"2026-01-15T12:00Z,niv_estimate,55,NONE,{known},", "unknown_site"),
        (f"2026-01-15T12:00,2,55,,{known},", "impossible_time"),
        (f"2026-01-15T13:00Z,2,much,,{known},", "impossible_value"),
        (f"2026-01-15T13:00Z,2,inf,,{known},", "impossible_value"),
        ("2026-01-15T13:00Z,2,5,,2099-01-01T00:00Z,", "impossible_value"),
        (f"2026-01-15T13:00Z,2,5,,{known},[]", "impossible_value"),
        ("2026-01-15T13:00Z,2,5", "wrong_shape"),
    ]
    file = tmp_path / "a.csv"
    file.write_text("time,type,value,site,known_at,metadata\n" + "\n".join(row for row, _ in rows))
    report, told = await run_import(db, file)
    expected = [(line, reason) for line, (_, reason) in enumerate(rows, start=2) if reason]
    assert [(row.line, row.reason) for row in told] == expected
    assert (report.rows, report.stored, report.duplicates, report.rejected.total()) == (10, 1, 0, 9)
    file.write_text("time,value\n")
    with pytest.raises(InputError, match="no column is called type"):
        await run_import(db, file)
