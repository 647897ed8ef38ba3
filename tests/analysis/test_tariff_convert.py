"""Sets of rate files in p/kWh: what is converted, and that a real set costs what its rules say."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from tests.analysis.data import real_data

from flux.analysis.flows import Direction, Flow
from flux.analysis.rating import daily_charges, rate_steps
from flux.analysis.tariff import Market, parse_tariff
from flux.analysis.tariff_convert import convert
from flux.analysis.timeline import Timeline
from flux.config import YamlDocument
from flux.errors import InputError

LONDON = ZoneInfo("Europe/London")


def file(folder: Path, body: dict[str, Any], name: str = "rates.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(body))
    return path


def duos(**changes: Any) -> dict[str, Any]:
    period = {"days": "weekdays:Europe/London", "start": "17:00:00:Europe/London", "end": "23:59:59:Europe/London"}
    return {"duos": {"red": {"rate": 11.385, "periods": [period | changes]}}}


def test_pence_become_pounds_a_megawatt_hour_and_a_day_ends_at_midnight(tmp_path: Path) -> None:
    body = duos() | {"regularFixed": {"fee": {"daily": 1250}}}
    tariff = parse_tariff(YamlDocument(convert([(Direction.IMPORT, file(tmp_path, body))], [], None), "t"))
    (rate,), (charge,) = tariff.rates.import_, tariff.daily
    assert (rate.name, rate.price, rate.periods[0].end, charge.charge) == ("red", 113.85, 86_400, 12.5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"duoos": {}}, "rates.json:1: duoos: unknown key; known here: duos,"),
        (duos(days="someday:Europe/London"), "duos.red.periods[0].days: 'someday': expected one of all"),
        (duos(start="17:00:00"), "duos.red.periods[0].start: '17:00:00': expected a value and its time zone"),
        (duos(end="19:00:00:Europe/Paris"), "have different time zones: Europe/London, Europe/Paris"),
        ({"powerFixed": {"fee": {"rate": "much"}}}, "powerFixed.fee.rate: rate: expected a number, found 'much'"),
        ({"powerFixed": {"fee": {}}}, "powerFixed.fee: rate: expected a number, found None"),
        ({"powerFixed": {"fee": {"rate": 1, "supplyPoint": "gsp"}}}, "'gsp' is no supply point of this tariff"),
        ({"imbalance": {"isExport": "no"}}, "imbalance.isExport: must be true or false"),
        ({"multiplierRate": {"factor": 1, "ratesToMultiply": "some"}}, "only all-in-this-direction is known"),
        ({"duos": [1]}, "duos: expected keys and values"),
        ({"duos": {"red": {"rate": 1}}}, "duos.red.periods: expected a list of periods"),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path: Path, body: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        convert([(Direction.IMPORT, file(tmp_path, body))], [], None)
    assert message in str(caught.value)


def test_a_file_with_rates_needs_a_direction(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say of which direction"):
        convert([], [file(tmp_path, duos())], None)


def plain_pence(folder: Path, kind: str, local: datetime, price: float) -> float:
    """p/kWh of a direction of the real set at a local time, straight from its files and the rules beside them."""
    loss = {
        n: p["lossFactor"] for n, p in json.loads((folder / "supply_points_a.json").read_text())["supplyPoints"].items()
    }
    supply = json.loads((folder / f"supply_fees_{kind}.json").read_text())
    network = json.loads((folder / f"dno_fees_wpd_{kind}.json").read_text())
    total = (-price if supply["imbalance"]["isExport"] else price) * loss[supply["imbalance"]["supplyPoint"]]
    for fee in supply.get("powerFixed", {}).values():
        total += fee["rate"] * loss[fee["supplyPoint"]]
    day = "weekdays" if local.weekday() < 5 else "weekends"
    for band in network["duos"].values():
        for period in band["periods"]:
            start, end = period["start"][:8], period["end"][:8].replace("23:59:59", "24:00:00")
            if period["days"].startswith(day) and start <= local.strftime("%H:%M:%S") < end:
                total += band["rate"] * loss[band["supplyPoint"]]
    return float(total * (1 + supply.get("multiplierRate", {"factor": 0.0})["factor"]))


def test_a_real_set_costs_what_its_rules_say() -> None:
    data = real_data()
    folder = data / "rates"
    files = [
        (Direction.IMPORT, folder / "supply_fees_import.json"),
        (Direction.IMPORT, folder / "dno_fees_wpd_import.json"),
        (Direction.EXPORT, folder / "supply_fees_export.json"),
        (Direction.EXPORT, folder / "dno_fees_wpd_export.json"),
        (Direction.LOAD, folder / "customer_rates.yaml"),
    ]
    text = convert(files, [folder / "fixed_market_rates.yaml"], folder / "supply_points_a.json")
    tariff = parse_tariff(YamlDocument(text, "tariff.yaml"))
    rows = list(csv.DictReader((data / "imbalance_price.csv").read_text().splitlines()))
    prices = np.array([float(row["price"]) for row in rows])
    timeline = Timeline(datetime(2024, 1, 1, tzinfo=UTC), timedelta(minutes=30), len(rows))
    rated = rate_steps(tariff, timeline, {Market.IMBALANCE: prices * 10})
    for direction, kind in ((Direction.IMPORT, "import"), (Direction.EXPORT, "export")):
        plain = [
            plain_pence(folder, kind, at.astimezone(LONDON), price) * 10
            for at, price in zip(timeline.starts(), prices, strict=True)
        ]
        np.testing.assert_allclose(rated.direction[direction], plain, rtol=0, atol=1e-9)
    assert set(rated.flow[Flow.BATTERY_TO_LOAD]) == {-210.0}
    charges = daily_charges(tariff, timeline.start, timeline.end)
    assert charges == pytest.approx({"standingCharge": -620.0, "meterManagementFee": 387.5, "supplierFee": 93.0})
