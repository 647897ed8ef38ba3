"""`flux readings` and `flux rollups`: tables for people, JSON and CSV for programs."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, meter_reading
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import InputError, NotFoundError
from flux.model import METER_METRICS
from flux.store.ingest import ingest

Run = Callable[..., Result]


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; errors of ours come back as they are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
async def stored(db: AsyncConnection[Any]) -> None:
    meter, bess = await add_device(db, "WLCE-GRID"), await add_device(db, "WLCE-BESS-01", "bess")
    minutes = [NOON + timedelta(minutes=i) for i in range(30)]
    for i, t in enumerate(minutes):
        values = {"power_total_active": -1.2345, "energy_imported_active": 1000 + i / 4}
        await ingest(db, [meter_reading(meter, t, **values)])
    await ingest(db, [bess_reading(bess, t, soe=50.1, command_source=3) for t in minutes])
    await ingest(db, [bess_reading(bess, NOON, soe=99.0)])
    await ingest(db, [bess_reading(bess, datetime.now(UTC) - timedelta(minutes=5), soe=1.0)])
    await db.execute("CALL flux.refresh_rollups()")


@pytest.mark.usefixtures("stored")
class TestReadings:
    def test_the_short_form(self, run: Run) -> None:
        assert run("readings", "WLCE-GRID", "--last", "2", "--json").stdout == (
            run("readings", "list", "--device", "WLCE-GRID", "--last", "2", "--json").stdout
        )

    def test_json_is_exact(self, run: Run) -> None:
        rows = json.loads(run("readings", "WLCE-GRID", "--since", "2026-01-15T12:10Z", "--json").stdout)
        assert len(rows) == 20
        first = rows[0]
        assert (first["time"], first["device"]) == ("2026-01-15T12:10:00+00:00", "WLCE-GRID")
        assert (first["power_total_active"], first["energy_imported_active"]) == (-1.2345, 1002.5)
        assert first["frequency"] is None

    def test_csv_has_every_column(self, run: Run) -> None:
        rows = list(csv.DictReader(run("readings", "WLCE-GRID", "--since", "2026-01-15", "--csv").stdout.splitlines()))
        assert len(rows) == 30
        assert list(rows[0]) == ["time", "device", *(m.name for m in METER_METRICS)]
        assert (rows[0]["energy_imported_active"], rows[0]["frequency"]) == ("1000.0", "")

    def test_a_table_shows_power_to_a_watt_and_energy_to_ten(self, run: Run) -> None:
        lines = run("readings", "WLCE-GRID", "--last", "1").stdout.splitlines()
        assert lines[0].split()[0] == "time"
        assert "2026-01-15 12:29:00" in lines[1]
        assert "1,007.25" in lines[1]
        assert "-1.234" in lines[1] or "-1.235" in lines[1]

    def test_since_is_a_duration_or_a_time(self, run: Run) -> None:
        assert len(json.loads(run("readings", "WLCE-BESS-01", "--since", "1h", "--json").stdout)) == 1
        spans = ("--since", "2026-01-15T12:00", "--until", "2026-01-15T13:05+01:00")
        assert len(json.loads(run("readings", "WLCE-BESS-01", *spans, "--json").stdout)) == 5
        with pytest.raises(InputError, match="--since 'yesterday'"):
            run("readings", "WLCE-BESS-01", "--since", "yesterday")

    def test_an_unknown_device(self, run: Run) -> None:
        with pytest.raises(NotFoundError, match="NOBODY"):
            run("readings", "NOBODY")

    def test_latest(self, run: Run) -> None:
        rows = json.loads(run("readings", "latest", "--json").stdout)
        assert [(row["device"], row["soe"], row["energy_imported_active"]) for row in rows] == [
            ("WLCE-BESS-01", 1.0, None),
            ("WLCE-GRID", None, 1007.25),
        ]

    def test_rejected_are_listed_retried_and_accepted(self, run: Run) -> None:
        (row,) = json.loads(run("readings", "rejected", "--json").stdout)
        assert (row["reason"], row["device_name"], row["payload"]["soe"]) == ("conflict", "WLCE-BESS-01", 99.0)
        assert "conflict" in run("readings", "rejected").stdout
        assert run("readings", "rejected", "--retry").stdout == "stored 0, stored before 0, still refused 1\n"
        with pytest.raises(InputError, match="--id"):
            run("readings", "rejected", "--accept")
        assert run("readings", "rejected", "--accept", "--id", str(row["id"])).stdout == "accepted 1\n"
        first = json.loads(run("readings", "WLCE-BESS-01", "--since", "2026-01-15", "--json").stdout)[0]
        assert first["soe"] == 99.0
        assert "no readings wait" in run("readings", "rejected").stdout

    def test_rollups(self, run: Run) -> None:
        span = ("--since", "2026-01-15T12:00Z", "--until", "2026-01-15T12:30Z")
        rows = json.loads(run("rollups", "WLCE-GRID", "--level", "5m", *span, "--json").stdout)
        assert [row["time_b"][11:16] for row in rows] == ["12:00", "12:05", "12:10", "12:15", "12:20", "12:25"]
        assert sum(row["energy_imported_active_delta"] for row in rows) == pytest.approx(7.25, abs=1e-9)
        half_hour = list(
            csv.DictReader(run("rollups", "WLCE-GRID", "--level", "30m", *span, "--csv").stdout.splitlines())
        )
        assert float(half_hour[0]["energy_imported_active_delta"]) == pytest.approx(7.25, abs=1e-9)
        table = run("rollups", "WLCE-BESS-01", *span).stdout
        assert "50.100" in table or "50.1" in table
        with pytest.raises(InputError, match="5m, 30m, 1h"):
            run("rollups", "WLCE-GRID", "--level", "2m")
