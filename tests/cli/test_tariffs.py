"""``flux tariffs``, as a person types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flux.cli.app import app
from flux.errors import InputError

TARIFF = """\
supply_points: {nsp: 1.1}
rates:
  import:
    - {name: imbalance, market: imbalance, supply_point: nsp}
    - {name: red, price: 100, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}
daily: [{name: standing, charge: -20}]
"""


def run(*args: str | Path) -> str:
    result = CliRunner().invoke(app, ["tariffs", *map(str, args)], catch_exceptions=False, standalone_mode=False)
    return result.stdout


@pytest.fixture
def tariff(tmp_path: Path) -> Path:
    path = tmp_path / "tariff.yaml"
    path.write_text(TARIFF)
    return path


def test_check_says_what_it_is(tariff: Path) -> None:
    out = run("check", tariff)
    assert "the tariff is valid" in out
    assert "rates: 2 for import; daily charges: 1; it follows imbalance" in out


def test_show_joins_what_is_alike(tariff: Path) -> None:
    rows = json.loads(run("show", tariff, "--day", "2024-01-11", "--imbalance", "50", "--json"))
    assert [(row["from"], row["to"], round(row["import"], 6)) for row in rows] == [
        ("00:00", "17:00", 55.0),
        ("17:00", "19:00", 155.0),
        ("19:00", "24:00", 55.0),
    ]
    assert "standing: −£20.00 a day" in run("show", tariff, "--day", "2024-01-13")


def test_convert_writes_a_tariff_and_never_over_a_file(tmp_path: Path) -> None:
    rates, out = tmp_path / "rates.json", tmp_path / "out.yaml"
    rates.write_text('{"powerFixed": {"fee": {"rate": 1.177}}}')
    assert "price: 11.77" in run("convert", "--import", rates)
    assert run("convert", "--import", rates, "-o", out).strip() == f"wrote {out}"
    assert "rates: 1 for import" in run("check", out)
    with pytest.raises(InputError, match="File exists"):
        run("convert", "--import", rates, "-o", out)


@pytest.mark.parametrize(
    ("args", "message"),
    [(("convert",), "no rate files"), (("show", "TARIFF", "--day", "today"), "--day today: not a day")],
)
def test_what_is_typed_wrong_is_told(tariff: Path, args: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*(str(tariff) if arg == "TARIFF" else arg for arg in args))
