"""``flux optimum``, as a person types it."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import InputError

PLAN = """\
site_meter: GRID
bess: [BESS]
battery: {capacity_kwh: 100, charge_efficiency: 0.8, charge_limit_kw: 50, discharge_limit_kw: 50}
site: {import_limit_kw: 200, export_limit_kw: 200}
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A day at £50/MWh, £200/MWh from 17:00 to 19:00, and 40 kW of load all day."""
    (tmp_path / "site.yaml").write_text(PLAN)
    halves = [f"2024-01-{11 + n // 48:02d}T{n % 48 // 2:02d}:{n % 2 * 30:02d}Z" for n in range(48)]
    rows = [f"{time},{200 if '17:' in time or '18:' in time else 50}" for time in halves]
    (tmp_path / "prices.csv").write_text("\n".join(["time,price", *rows]))
    (tmp_path / "load.csv").write_text("\n".join(["time,energy", *(f"{time},20" for time in halves)]))
    days = ["--from", "2024-01-11", "--to", "2024-01-12"]
    names = [f"--{name}={tmp_path / file}" for name, file in (("plan", "site.yaml"), ("prices", "prices.csv"))]
    return [*names, f"--load={tmp_path / 'load.csv'}", *days]


def run(*args: str) -> str:
    result = CliRunner().invoke(app, ["optimum", *args], catch_exceptions=False, standalone_mode=False)
    return result.stdout


def test_a_day_by_hand(files: list[str], tmp_path: Path) -> None:
    found = json.loads(run(*files, "--soe", "0", "--json", "--out", str(tmp_path / "steps.csv")))
    # full before 17:00 with 125 kWh at £50; in the two dear hours 80 kWh serve the load and 20 kWh are sold at £200
    assert found["energy_kwh"]["grid_to_battery"] == pytest.approx(125.0)
    assert found["energy_kwh"]["battery_to_load"] == pytest.approx(80.0)
    assert found["energy_kwh"]["battery_to_grid"] == pytest.approx(20.0)
    assert found["objective_gbp"] == pytest.approx((22 * 40 + 125) * 0.05 - 20 * 0.2)
    assert found["earned_gbp"] == pytest.approx(100 * 0.2 - 125 * 0.05)
    assert found["bound_gbp"] == pytest.approx(found["objective_gbp"], abs=1e-6)
    assert (found["cycles"], found["losses_kwh"]) == pytest.approx((1.0, 25.0))
    assert sum(found["costs_gbp"].values()) == pytest.approx(found["objective_gbp"])
    rows = list(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))
    assert len(rows) == 144
    assert sum(float(row["charge_kwh"]) for row in rows) == pytest.approx(125.0, abs=1e-4)


def test_it_is_told_in_words(files: list[str]) -> None:
    out = run(*files, "--soe", "0", "--end-soe", "50", "--horizon", "12h")
    assert "at the end 50.00 kWh" in out
    assert "a limited horizon: no bound" in out


def test_a_wish_that_cannot_be_met_is_refused(files: list[str]) -> None:
    with pytest.raises(InputError, match="no whole number of steps"):
        run(*files, "--horizon", "25m")
    with pytest.raises(InputError, match=r"must end with \.csv"):
        run(*files, "--out", "steps.txt")
