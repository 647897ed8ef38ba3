"""The documented backtest of January 2024, beside a plain recomputation from the files that shares no code with it."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.analysis.data import real_data

from flux.analysis.backtest import Backtest
from flux.analysis.flows import Direction, Flow
from flux.analysis.history import History, PriceUnit, load_profile, read_market, solar_profile
from flux.analysis.known import DEFAULT_DELAY
from flux.analysis.outcome import Outcome
from flux.analysis.summary import summary_of
from flux.analysis.tariff import Tariff, parse_tariff
from flux.analysis.tariff_convert import convert
from flux.config import YamlDocument
from flux.control.plan import load_plan

PLAN = Path(__file__).parents[2] / "docs" / "examples" / "backtest_site.yaml"
LONDON = ZoneInfo("Europe/London")
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
STEP = timedelta(minutes=10)
STEP_H = 1 / 6
LOAD_SCALE, SOLAR_SCALE = 54 / 12, 210 / 4.4
EFFICIENCY, CAPACITY_KWH, START_KWH = 0.85, 1280.0, 640.0


@pytest.fixture(scope="module")
def data() -> Path:
    return real_data()


def tariff_of(data: Path) -> Tariff:
    rates = data / "rates"
    files = [
        (Direction.IMPORT, rates / "supply_fees_import.json"),
        (Direction.IMPORT, rates / "dno_fees_wpd_import.json"),
        (Direction.EXPORT, rates / "supply_fees_export.json"),
        (Direction.EXPORT, rates / "dno_fees_wpd_export.json"),
    ]
    text = convert(files, [rates / "fixed_market_rates.yaml"], rates / "supply_points_a.json")
    return parse_tariff(YamlDocument(text, "tariff.yaml"))


@pytest.fixture(scope="module")
def outcome(data: Path) -> Outcome:
    history = History(
        load=load_profile(str(data / "load_12_homes.csv"), LOAD_SCALE, LONDON),
        solar=solar_profile(str(data / "solar_4_4_kwp.csv"), SOLAR_SCALE, LONDON),
        releases=read_market(
            [data / "imbalance_price.csv", data / "imbalance_volume.csv"], PriceUnit.PENCE_PER_KWH, DEFAULT_DELAY
        )[0],
    )
    setting = history.setting(START, END, STEP, START_KWH)
    return Backtest("January", load_plan(PLAN), setting, tariff_of(data)).run()


# ── The plain recomputation: the files, the targets that were decided, and arithmetic ────────────────────────────────


def column(path: Path, name: str, year: int) -> dict[datetime, float]:
    """A column by its time; rows of another year at the same month, day and clock. Empty: as the row before."""
    values, last = {}, 0.0
    with path.open() as file:
        for row in csv.DictReader(file):
            last = float(row[name]) if row[name] else last
            time = next(iter(row.values()))
            values[datetime.fromisoformat(time).replace(year=year)] = last
    return values


@dataclass
class Rates:
    """p/kWh by direction at an instant, straight from the JSON files."""

    folder: Path
    points: dict[str, Any] = field(init=False)
    files: dict[str, list[dict[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        def read(name: str) -> dict[str, Any]:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
            return found

        self.points = read("supply_points_a.json")["supplyPoints"]
        self.files = {
            way: [read(f"supply_fees_{way}.json"), read(f"dno_fees_wpd_{way}.json")] for way in ("import", "export")
        }

    def at(self, way: str, local: datetime, imbalance_p: float) -> float:
        total, share = 0.0, 0.0
        for file in self.files[way]:
            if "imbalance" in file:
                sign = -1 if file["imbalance"]["isExport"] else 1
                total += sign * imbalance_p * self.loss(file["imbalance"])
            for rate in file.get("powerFixed", {}).values():
                total += rate["rate"] * self.loss(rate)
            for rate in file.get("duos", {}).values():
                if any(self.holds(period, local) for period in rate["periods"]):
                    total += rate["rate"] * self.loss(rate)
            share += file.get("multiplierRate", {}).get("factor", 0.0)
        return total * (1 + share)

    def loss(self, rate: dict[str, Any]) -> float:
        return float(self.points[rate["supplyPoint"]]["lossFactor"])

    @staticmethod
    def holds(period: dict[str, str], local: datetime) -> bool:
        weekend = local.weekday() >= 5
        if (period["days"].split(":")[0] == "weekends") is not weekend:
            return False
        start, end = period["start"][:8], period["end"][:8]
        return start <= f"{local:%H:%M:%S}" < ("24:00:00" if end == "23:59:59" else end)


@dataclass
class Recomputed:
    energies: list[dict[str, float]] = field(default_factory=list)
    soe_kwh: list[float] = field(default_factory=list)
    cost_gbp: float = 0.0
    without_gbp: float = 0.0


def battery_step(target_kw: float, soe_kwh: float) -> tuple[float, float, float]:
    """Charged, discharged (kWh at the meter) and what is stored after a step at ``target_kw``."""
    if target_kw >= 0:
        out = min(target_kw * STEP_H, soe_kwh)
        return 0.0, out, soe_kwh - out
    taken = min(-target_kw * STEP_H, (CAPACITY_KWH - soe_kwh) / EFFICIENCY)
    return taken, 0.0, soe_kwh + taken * EFFICIENCY


def recompute(data: Path, targets_kw: Iterator[float]) -> Recomputed:
    load, solar = (column(data / name, "energy", 2024) for name in ("load_12_homes.csv", "solar_4_4_kwp.csv"))
    pence = column(data / "imbalance_price.csv", "price", 2024)
    rates, found, soe = Rates(data / "rates"), Recomputed(), START_KWH
    for number, target in enumerate(targets_kw):
        now = START + number * STEP
        half_hour = now.replace(minute=now.minute // 30 * 30)
        used, made = load[half_hour] * LOAD_SCALE / 3, solar[half_hour] * SOLAR_SCALE / 3
        charged, discharged, soe = battery_step(target, soe)
        net = used + charged - made - discharged
        found.energies.append({"charge": charged, "discharge": discharged, "net": net})
        found.soe_kwh.append(soe)

        def paid(kwh: float, now: datetime = now, pence_now: float = pence[half_hour]) -> float:
            way = "import" if kwh > 0 else "export"
            return abs(kwh) * rates.at(way, now.astimezone(LONDON), pence_now) / 100

        found.cost_gbp += paid(net)
        found.without_gbp += paid(used - made)
    days = (END - START).days
    found.cost_gbp += days * (1250 + 300) / 100
    found.without_gbp += days * (1250 + 300) / 100
    return found


@pytest.fixture(scope="module")
def plain(data: Path, outcome: Outcome) -> Recomputed:
    return recompute(data, iter(outcome.course.target_kw))


def test_every_step_balances_to_a_millionth_of_a_kwh(outcome: Outcome, plain: Recomputed) -> None:
    flow = outcome.flows
    assert outcome.timeline.count == len(plain.energies) == 31 * 144
    stored = START_KWH
    for number, own in enumerate(plain.energies):
        charge, discharge = float(outcome.charge_kwh[number]), float(outcome.discharge_kwh[number])
        net = float(outcome.import_kwh[number] - outcome.export_kwh[number])
        load, solar = float(outcome.load_kwh[number]), float(outcome.solar_kwh[number])
        assert abs(load + charge - solar - discharge - net) < 1e-6
        assert abs(stored + charge * EFFICIENCY - discharge - float(outcome.soe_kwh[number])) < 1e-6
        assert abs(charge - own["charge"]) < 1e-6
        assert abs(discharge - own["discharge"]) < 1e-6
        assert abs(net - own["net"]) < 1e-6
        assert abs(float(outcome.soe_kwh[number]) - plain.soe_kwh[number]) < 1e-6
        stored = float(outcome.soe_kwh[number])
    into = {
        "load": (flow[Flow.SOLAR_TO_LOAD], flow[Flow.GRID_TO_LOAD], flow[Flow.BATTERY_TO_LOAD], outcome.load_kwh),
        "sun": (flow[Flow.SOLAR_TO_LOAD], flow[Flow.SOLAR_TO_BATTERY], flow[Flow.SOLAR_TO_GRID], outcome.solar_kwh),
    }
    for parts in into.values():
        assert abs(parts[0] + parts[1] + parts[2] - parts[3]).max() < 1e-6
    assert all(float(series.min()) >= -1e-12 for series in flow.values())


def test_costs_are_those_of_the_plain_recomputation(outcome: Outcome, plain: Recomputed) -> None:
    money = outcome.money
    assert money is not None
    assert money.total == pytest.approx(plain.cost_gbp, abs=1e-6)
    assert money.total_without == pytest.approx(plain.without_gbp, abs=1e-6)
    assert money.earned == pytest.approx(plain.without_gbp - plain.cost_gbp, abs=1e-6)
    assert math.isclose(plain.without_gbp - plain.cost_gbp, money.earned)
    assert money.earned > 100
    assert outcome.perfect is not None
    assert 0.3 < (outcome.perfect.share or 0.0) < 1


def test_the_site_and_the_month_are_the_real_ones(data: Path, outcome: Outcome) -> None:
    summary = summary_of(outcome)
    rows: Callable[[str], float] = lambda name: sum(column(data / name, "energy", 2024).values())  # noqa: E731
    assert summary["energy_kwh"]["load"] == pytest.approx(rows("load_12_homes.csv") * LOAD_SCALE)
    assert summary["energy_kwh"]["solar"] == pytest.approx(rows("solar_4_4_kwp.csv") * SOLAR_SCALE)
    assert summary["site"]["peak_import_kw"] <= 220 + 1e-6
    assert summary["site"]["peak_export_kw"] <= 475 + 1e-6
    assert {"niv_chase", "dynamic_peak_discharge", "import_avoidance"} <= set(summary["hours_by_mode"])
    assert sum(summary["hours_by_mode"].values()) == pytest.approx(31 * 24)
    assert [month["month"] for month in summary["months"]] == ["2024-01"]
    assert date(2024, 1, 1).weekday() == 0, "which the rates take for a working day"
