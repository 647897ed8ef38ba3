"""``flux report settlement``, as a person types it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import add_device, meter_reading
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import InputError, NotFoundError
from flux.model import MarketDataType, MarketValue
from flux.store.ingest import ingest
from flux.store.market import upsert

FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def stored(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 kWh of import in each hour of January, at £100/MWh."""
    import asyncio

    async def fill() -> None:
        async with await AsyncConnection.connect(dsn, autocommit=True) as conn:
            meter = await add_device(conn, "WLCE-GRID-METER", metadata={"meter_type": "grid"})
            readings: list[Any] = []
            for n in range(744 * 2 + 1):
                counters = {"energy_imported_active": 5.0 * n, "energy_exported_active": 0.0}
                readings.append(meter_reading(meter, FIRST + n * HOUR / 2, **counters))
            await ingest(conn, readings)
            await conn.execute("CALL flux.refresh_rollups()")
            price = MarketDataType.IMBALANCE_PRICE
            await upsert(conn, [MarketValue(type=price, time=FIRST + n * HOUR / 2, value=100.0) for n in range(1488)])

    asyncio.run(fill())
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)


def run(*args: str | Path) -> str:
    words = ["report", "settlement", *map(str, args)]
    result = CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False, env={"COLUMNS": "200"})
    return result.stdout


@pytest.mark.usefixtures("stored")
def test_a_month_as_table_files_and_json(tmp_path: Path, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO flux.device_groups (name) VALUES ('Settlement-Meters')")
        conn.execute(
            """INSERT INTO flux.device_group_members (group_id, device_id)
               SELECT g.id, r.id FROM flux.device_groups g, flux.mg_device_registry r"""
        )
    page, lines = tmp_path / "page.html", tmp_path / "lines.csv"
    month = ("--group", "Settlement-Meters", "--month", "2024-01")
    out = run(*month, "--html", page, "--csv", lines)
    assert "7,440.00" in out
    assert "total: £744.00 (+ cost, − income)" in out
    assert f"wrote {page}" in out
    html = page.read_text()
    assert html.count("<details>") == 31
    assert "<svg" in html
    named = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not any(outside in named for outside in ("http:", "https:", "<script", "url(", "src="))
    assert len(lines.read_text().splitlines()) == 1489
    found = json.loads(run(*month, "--json"))
    assert found["total_gbp"] == pytest.approx(744.0)
    assert found["meters"][0]["import_kwh"] == pytest.approx(7440.0)
    assert len(found["lines"]) == 1488


@pytest.mark.usefixtures("stored")
def test_what_is_typed_wrong_is_told(tmp_path: Path) -> None:
    for args, message in (
        (("--month", "2024-01"), "name the meters: --group, or --device once or more"),
        (("--month", "January", "--device", "WLCE-GRID-METER"), "--month January: write it like 2024-01"),
        (("--month", "2024-01", "--device", "WLCE-GRID-METER", "--as-of", "now"), "--as-of now: write it like"),
        (("--month", "2024-01", "--device", "WLCE-GRID-METER", "--csv", tmp_path), "Is a directory"),
    ):
        with pytest.raises(InputError, match=message):
            run(*args)
    with pytest.raises(NotFoundError):
        run("--month", "2024-01", "--device", "NOBODY")
