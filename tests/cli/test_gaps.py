"""`flux gaps`: rows and gaps add up to what the counter counted, and late readings fill them."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, meter_reading
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import InputError, NotFoundError
from flux.store.ingest import ingest

Run = Callable[..., Result]
HOUR = timedelta(hours=1)
COUNTER = "energy_imported_active"
SINCE = ("--since", "2026-01-01", "--until", "2026-02-01")


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
async def stored(db: AsyncConnection[Any]) -> None:
    """Counted 100 → 175 kWh: an hour without gaps, 3 h missing, 29 h missing; another site has a gap, too."""
    grid = await add_device(db, "WLCE-GRID")
    other = await add_device(db, "HMCE-GRID", site="HMCE", metadata={"gap_limit": "1h"})
    await add_device(db, "WLCE-BESS-01", "bess")
    values = [(0, 100), (0.5, 101), (1, 102.5), (4, 112.25), (4.25, 113), (33.25, 174), (33.5, 175)]
    await ingest(db, [meter_reading(grid, NOON + h * HOUR, **{COUNTER: kwh}) for h, kwh in values])
    await ingest(db, [meter_reading(other, NOON + h * HOUR, **{COUNTER: kwh}) for h, kwh in ((0, 1), (2, 5))])
    await db.execute("CALL flux.refresh_rollups()")


def gaps(run: Run, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("gaps", *arguments, *SINCE, "--json").stdout)
    return found


def energy_of_rows(run: Run) -> float:
    rows = json.loads(run("rollups", "WLCE-GRID", "--level", "1h", *SINCE, "--json").stdout)
    return sum(row[f"{COUNTER}_delta"] or 0 for row in rows)


@pytest.mark.usefixtures("stored")
class TestGaps:
    def test_rows_and_listed_gaps_add_up_to_what_was_counted(self, run: Run) -> None:
        split, *others = [gap for gap in gaps(run, "--site", "WLCE") if gap["kind"] == "split"]
        assert others == []
        assert (split["device"], split["from_time"], split["length_s"]) == (
            "WLCE-GRID",
            (NOON + 4.25 * HOUR).isoformat(),
            29 * 3600,
        )
        assert split["energy"] == {COUNTER: 61.0}
        assert energy_of_rows(run) + split["energy"][COUNTER] == pytest.approx(75, rel=1e-9)

    def test_interpolated_spans_hold_what_their_rows_hold(self, run: Run) -> None:
        spans = [gap for gap in gaps(run, "--device", "WLCE-GRID") if gap["kind"] == "interpolated"]
        long = max(spans, key=lambda gap: gap["length_s"])
        assert (long["from_time"], long["to_time"]) == (
            (NOON + timedelta(minutes=65)).isoformat(),
            (NOON + 4 * HOUR).isoformat(),
        )
        assert long["energy"][COUNTER] == pytest.approx(9.75 * 175 / 180, rel=1e-9)

    def test_a_device_has_its_own_limit_and_a_site_its_own_gaps(self, run: Run) -> None:
        (gap,) = gaps(run, "--site", "HMCE")
        assert (gap["kind"], gap["energy"]) == ("split", {COUNTER: 4.0})
        assert {gap["device"] for gap in gaps(run)} == {"WLCE-GRID", "HMCE-GRID"}

    def test_the_table(self, run: Run) -> None:
        lines = run("gaps", "--site", "HMCE", *SINCE).stdout.splitlines()
        assert " ".join(lines[1].split()) == "HMCE-GRID split 2026-01-15 12:00:00 2026-01-15 14:00:00 2h 4.00 –"
        assert lines[2] == "split 1: imported 4.00 kWh, exported 0.00 kWh, in no bucket"
        assert run("gaps", "--since", "1h").stdout.startswith("no gaps since ")

    def test_rollups_that_are_behind_are_told(self, run: Run, dsn: str) -> None:
        assert run("gaps", "--site", "WLCE").stderr == ""
        with psycopg.connect(dsn) as conn:
            conn.execute(
                "SELECT flux.delete_readings(id, %(at)s, %(at)s + interval '1 s') FROM flux.mg_device_registry",
                {"at": NOON + HOUR},
            )
        assert "not in the rollups yet" in run("gaps", "--site", "WLCE").stderr

    def test_what_cannot_be_meant(self, run: Run) -> None:
        with pytest.raises(InputError, match="is a battery"):
            run("gaps", "--device", "WLCE-BESS-01")
        with pytest.raises(NotFoundError, match="site NONE has no meters"):
            run("gaps", "--site", "NONE")

    def test_late_readings_fill_gaps(self, run: Run, tmp_path: Path) -> None:
        split = next(gap for gap in gaps(run, "--site", "WLCE") if gap["kind"] == "split")
        begin = datetime.fromisoformat(split["from_time"])
        late = tmp_path / "late.csv"
        rows = [f"{(begin + h * HOUR).isoformat()},{113 + h * 61 / 29!r}" for h in range(1, 29)]
        late.write_text(f"time,{COUNTER}\n" + "\n".join(rows[:10]))
        command = ("gaps", "fill", "--from", late, "--device", "WLCE-GRID")
        (became,) = [one for one in json.loads(run(*command, "--json").stdout) if one["before"]["kind"] == "split"]
        assert (became["before"]["energy"], became["before"]["to_time"]) == ({COUNTER: 61.0}, split["to_time"])
        assert {gap["kind"] for gap in became["after"]} == {"interpolated"}, "what is left is shorter than 24 h"
        assert gaps(run, "--site", "WLCE") != []
        assert energy_of_rows(run) == pytest.approx(75, rel=1e-9)
        late.write_text(f"time,{COUNTER}\n" + "\n".join(rows))
        told = run(*command)
        assert told.stdout.splitlines()[0] == f"{late}: 28 rows: stored 18, stored before 10, rejected 0"
        assert "smaller" in told.stdout
        assert energy_of_rows(run) == pytest.approx(75, rel=1e-9)
        minutes = [f"{(begin + timedelta(minutes=m)).isoformat()},{113 + m * 61 / 1740!r}" for m in range(5, 1740, 5)]
        late.write_text(f"time,{COUNTER}\n" + "\n".join(minutes))
        told = run(*command)
        assert "rejected" in told.stdout
        assert "filled" in told.stdout
        left = [gap for gap in gaps(run, "--site", "WLCE") if split["from_time"] < gap["from_time"] < split["to_time"]]
        assert left == []
        assert energy_of_rows(run) == pytest.approx(75, rel=1e-9)
