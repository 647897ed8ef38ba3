"""`flux readings export` and `import`, as a person uses them."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.support import NOON, add_device, bess_reading, meter_reading
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.errors import ConflictError, InputError, NotFoundError
from flux.store.ingest import ingest

Run = Callable[..., Result]


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
async def stored(db: AsyncConnection[Any]) -> None:
    meter, bess = await add_device(db, "WLCE-GRID"), await add_device(db, "WLCE-BESS-01", "bess")
    await ingest(db, [meter_reading(meter, NOON + timedelta(hours=i), frequency=50) for i in range(30)])
    await ingest(db, [bess_reading(bess, NOON, soe=50.1)])


@pytest.mark.usefixtures("stored")
def test_out_and_in_again(dsn: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "site.parquet"
    told = run("readings", "export", "--site", "WLCE", "-o", file)
    assert told.stdout == f"{file}: 31 readings of 2 devices, {file.stat().st_size:,} bytes\n"
    assert told.stderr == "", "no progress bar where stderr is no terminal"
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "SELECT flux.delete_readings(id, %s, 'infinity') FROM flux.mg_device_registry WHERE type = 'meter'",
            [NOON + timedelta(hours=20)],
        )
    told = run("readings", "import", file)
    assert (told.stdout, told.exit_code) == (f"{file}: 31 rows: stored 10, stored before 21, rejected 0\n", 0)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM flux.mg_meter_readings").fetchone() == (30,)
    day = ("--device", "WLCE-GRID", "--from", "2026-01-15", "--to", "2026-01-16")
    assert "12 readings of 1 device," in run("readings", "export", *day, "-o", tmp_path / "day.csv").stdout


@pytest.mark.usefixtures("stored")
def test_rejected_rows(run: Run, tmp_path: Path) -> None:
    file, rejects = tmp_path / "a.csv", tmp_path / "rejects.csv"
    file.write_text("time,frequency\n2026-01-15T12:00Z,49\n2026-01-15 12:30,50\n2026-01-15T12:00Z,50\n")
    told = run("readings", "import", file, "--device", "WLCE-GRID")
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        f"{file}: 3 rows: stored 0, stored before 1, rejected 2",
        "rejected: conflict 1, impossible_time 1; --rejects FILE writes them to a file; "
        "what could be kept waits in `flux readings rejected`",
    ]
    assert [line for line in told.stderr.splitlines() if "readings refused" not in line] == [  # that is the log
        "line 2: conflict: another reading of this device and time is stored",
        "line 3: impossible_time: time 2026-01-15T12:30:00 has no offset: write Z or +01:00, or --timezone",
    ]
    again = ("readings", "import", file, "--device", "WLCE-GRID", "--timezone", "Europe/London", "--rejects", rejects)
    told = run(*again)
    assert (told.exit_code, "line 2" in told.stderr) == (1, False)
    assert f"they are in {rejects}" in told.stdout
    assert rejects.read_text().splitlines()[1].startswith("2,conflict,")
    with pytest.raises(ConflictError, match="--force"):
        run(*again)


@pytest.mark.usefixtures("stored")
def test_what_cannot_be_meant(run: Run, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "a.csv")
    with pytest.raises(NotFoundError, match="no device is meant"):
        run("readings", "export", "--site", "NONE", *out)
    with pytest.raises(InputError, match="--type 'batery'"):
        run("readings", "export", "--type", "batery", *out)
    with pytest.raises(InputError, match="format"):
        run("readings", "export", "-o", tmp_path / "a.xls")
    with pytest.raises(InputError, match="Europe/London"):
        run("readings", "import", tmp_path / "a.csv", "--timezone", "Mars/Base")
    with pytest.raises(InputError, match="No such file"):
        run("readings", "import", tmp_path / "none.csv")
    assert list(tmp_path.iterdir()) == []


def test_market_data_out_and_in_again(run: Run, tmp_path: Path) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text("time,type,value\n2026-01-15T12:00Z,imbalance_price,80\n2026-01-15T12:30Z,3,90.5\n")
    told = run("market", "load", prices)
    assert (told.exit_code, told.stdout) == (0, f"{prices}: 2 rows: stored 2, stored before 0, rejected 0\n")
    file = tmp_path / "all.parquet"
    assert run("market", "export", "--type", "imbalance_price", "-o", file).stdout.startswith(f"{file}: 2 values, ")
    assert "stored 0, stored before 2" in run("market", "load", file).stdout
    prices.write_text("time,type,value\n2026-01-15T12:00Z,99,80\n")
    told = run("market", "load", prices)
    assert (told.exit_code, told.stderr.startswith("line 2: unknown_type: there is no market data type '99'")) == (
        1,
        True,
    )
