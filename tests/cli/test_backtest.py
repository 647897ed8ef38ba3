"""``flux backtest``: from files to figures, and what wrong input says."""

import json
from pathlib import Path

import pytest
from tests.analysis.kit import MARKET, START
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import FluxError
from flux.model import SETTLEMENT_PERIOD

SPAN = ["--from", "2026-01-14", "--to", "2026-01-15"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(MARKET)
    starts = [START + number * SETTLEMENT_PERIOD for number in range(48)]
    rows = [f"{start.isoformat()},{20.0 if start.hour < 16 else 25.0}" for start in starts]
    (tmp_path / "load.csv").write_text("\n".join(["UTCTime,energy", *rows]) + "\n")
    rows = [
        f"{start.isoformat()},{4.0 if start.hour < 16 else 20.0},{-50 if start.hour < 16 else 50}" for start in starts
    ]
    (tmp_path / "prices.csv").write_text("\n".join(["time,price,volume", *rows]) + "\n")
    return tmp_path


def run(folder: Path, *more: str) -> str:
    given = ["backtest", "--plan", str(folder / "plan.yaml"), *more]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def history(folder: Path) -> list[str]:
    prices = ["--prices", str(folder / "prices.csv"), "--price-unit", "p/kWh"]
    return ["--load", str(folder / "load.csv"), "--solar", "50", *prices]


def test_json_says_everything_and_the_files_are_written(files: Path) -> None:
    out, page = files / "hh.csv", files / "report.html"
    said = json.loads(run(files, *SPAN, *history(files), "--json", "--out", str(out), "--report", str(page)))
    assert len(said) == 1
    assert said[0]["decisions"] == 144
    assert said[0]["energy_kwh"]["load"] == pytest.approx(32 * 20 + 16 * 25)
    assert said[0]["costs_gbp"]["earned"] > 0
    assert 0 < said[0]["perfect"]["share"] <= 1
    assert said[0]["battery"]["start_soe_kwh"] == 250
    assert len(out.read_text().splitlines()) == 49
    assert page.read_text().startswith("<!doctype html>")


def test_the_table_has_a_column_for_each_plan(files: Path) -> None:
    other = files / "b" / "plan.yaml"
    other.parent.mkdir()
    other.write_text(MARKET.replace("target_soe_kwh: 100", "target_soe_kwh: 200"))
    out = files / "hh.parquet"
    said = run(files, "--plan", str(other), *SPAN, *history(files), "--out", str(out))
    lines = {line.strip().split("  ")[0]: line for line in said.splitlines()}
    assert "plan-1" in said
    assert "plan-2" in said
    assert len(lines["earned by the battery"].split()) == 4 + 2
    assert sorted(path.name for path in files.glob("*.parquet")) == ["hh-plan-1.parquet", "hh-plan-2.parquet"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--from", "2026-01-14", "--to", "2026-01-14"], "the span ends at 2026-01-14T00:00Z"),
        (["--from", "then", "--to", "2026-01-14"], "--from then: write it like 2024-01-01"),
        (["--from", "2026-01-14T00:10", "--to", "2026-01-15"], "is no start of a half hour"),
        ([*SPAN, "--step", "7m"], "a step of 7m does not divide half an hour"),
        ([*SPAN, "--step", "7"], "--step: '7' is not a duration"),
        ([*SPAN], "--load is missing"),
        ([*SPAN, "--load", "much"], "--load much: a power in kW, or a .csv file"),
        ([*SPAN, "--load", "-3"], "--load -3: a power must be 0 kW or more"),
        ([*SPAN, "--load", "none.csv"], "none.csv: No such file or directory"),
        ([*SPAN, "--load", "30", "--prices", "none.csv"], "none.csv: No such file or directory"),
        ([*SPAN, "--load", "30", "--price-unit", "EUR"], "--price-unit EUR: one of £/MWh, p/kWh"),
        ([*SPAN, "--load", "30", "--out", "a.xlsx"], "a.xlsx: must end with .csv or .parquet"),
        ([*SPAN, "--load", "30", "--report", "a.pdf"], "a.pdf: must end with .html"),
    ],
)
def test_wrong_input_is_told_in_a_line(files: Path, more: list[str], message: str) -> None:
    with pytest.raises(FluxError) as caught:
        CliRunner().invoke(app, ["backtest", "--plan", str(files / "plan.yaml"), *more], catch_exceptions=False)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,price\n", ":1: needs a first column of times"),
        ("time,cost\n", ":1: needs a first column of times"),
        ("time,price\n2026-01-14T00:10Z,3\n", ":2: 2026-01-14T00:10Z is no start of a half hour"),
        ("time,price\n2026-01-14T00:00Z,dear\n", ":2: could not convert string to float: 'dear'"),
        ("time,price\n2026-01-14T00:00Z,nan\n", ":2: nan is no number"),
        ("time,niv_mw,price\n2026-01-14T00:00Z\n", ":2: has 1 cells, its header 3"),
    ],
)
def test_a_wrong_market_file_is_told_with_its_line(files: Path, text: str, message: str) -> None:
    path = files / "wrong.csv"
    path.write_text(text)
    given = ["backtest", "--plan", str(files / "plan.yaml"), *SPAN, "--load", "30", "--prices", str(path)]
    with pytest.raises(FluxError) as caught:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert f"{path}{message}" in str(caught.value)
