"""What a backtest says: the page, the half hours, the figures beside each other."""

import csv
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.analysis.kit import HOUR, IMPORT_AVOIDANCE, MARKET, START, half_hours, plan_of, setting_of

from flux.analysis.backtest import Backtest, run_all
from flux.analysis.figures import rows_of
from flux.analysis.flows import Flow
from flux.analysis.halfhours import half_hour_columns, write_half_hours
from flux.analysis.history import History
from flux.analysis.outcome import Outcome
from flux.analysis.report import report_page
from flux.analysis.simulate import Setting
from flux.analysis.summary import summary_of
from flux.analysis.tariff import DirectionRates, Market, Tariff, TariffRate
from flux.devices.simulator.profiles import Constant, SyntheticSolar
from flux.errors import InputError

PRICES = [(40.0 if number % 48 < 32 else 180.0, 100.0 if number % 48 >= 32 else -100.0) for number in range(96)]


def setting(hours: int = 48) -> Setting:
    return setting_of(releases=half_hours(PRICES), end=START + hours * HOUR, solar=SyntheticSolar(peak_kw=60))


def run(text: str = MARKET, name: str = "a plan", hours: int = 48) -> Outcome:
    history = History(Constant(40.0), Constant(0.0), half_hours(PRICES))
    return Backtest(name, plan_of(text), setting(hours), history.tariff).run()


class Tags(HTMLParser):
    """Opens and closes, and every attribute that could reach out."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.reaching: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.reaching += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


@pytest.mark.parametrize("names", [["one <plan>"], ["one", "two"]])
def test_the_page_holds_everything_itself(names: list[str]) -> None:
    outcomes = [run(name=name) for name in names]
    page = report_page(outcomes, [summary_of(outcome) for outcome in outcomes])
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.reaching == []
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "url(" not in page
    assert tags.seen.count("svg") == 1 + len(names), "lines over time, and a carpet of modes for each"
    for words in ("SoE, kWh", "imbalance price", "earned so far", "niv chase", "battery → load", "2026-01"):
        assert words in page, words
    assert "<plan>" not in page


def test_half_hours_add_up_in_csv_and_parquet(tmp_path: Path) -> None:
    outcome = run()
    columns = half_hour_columns(outcome)
    for name in ("all.csv", "all.parquet"):
        write_half_hours(tmp_path / name, columns)
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "all.parquet")
    assert len(rows) == table.num_rows == 96
    assert table["time"][0].as_py() == START
    assert outcome.money is not None
    sums = {"load_kwh": 48 * 40.0, "battery_to_load_kwh": outcome.flows[Flow.BATTERY_TO_LOAD].sum()}
    sums["cost_gbp"] = outcome.money.total
    for name, expected in sums.items():
        assert sum(float(row[name]) for row in rows) == pytest.approx(expected, abs=1e-3)
        assert sum(table[name].to_pylist()) == pytest.approx(expected, abs=1e-9)
    assert [rows[number]["settlement_period"] for number in (0, 47, 48)] == ["1", "48", "1"]
    with pytest.raises(InputError, match="neither with"):
        write_half_hours(tmp_path / "all.xlsx", columns)


def test_a_missing_price_is_told_and_left_out() -> None:
    history = History(Constant(40.0), Constant(0.0), half_hours(PRICES))
    short = replace(setting(), releases=setting().releases[:-3])
    outcome = Backtest("gaps", plan_of(MARKET), short, history.tariff).run()
    summary = summary_of(outcome)
    assert summary["notices"][0] == "3 half hours have no price; their energy is in no cost"
    assert summary["perfect"] is None
    assert np.isfinite(summary["costs_gbp"]["total"])
    columns = half_hour_columns(outcome)
    assert np.isnan(np.array(columns["cost_gbp"], dtype=float)[-3:]).all()


def test_nobody_earns_more_than_perfect() -> None:
    """A battery that is told to charge through the cheap hours and discharge through the dear ones comes close."""
    text = IMPORT_AVOIDANCE.replace("[{mode: import_avoidance}]", "[{mode: import_avoidance, periods: [{P}]}]")
    dear = run(text.replace("{P}", '{start: "16:00", end: "24:00"}'))
    never = run(text.replace("{P}", '{start: "03:00", end: "03:30"}'))
    assert dear.perfect is not None
    assert dear.perfect.share is not None
    assert never.perfect is not None
    assert never.perfect.share is not None
    assert 0 < never.perfect.share < 0.2 < dear.perfect.share <= 1
    assert dear.money is not None
    assert dear.perfect.cost <= dear.money.total


def test_plans_side_by_side_are_what_each_is_alone() -> None:
    history = History(Constant(40.0), Constant(0.0), half_hours(PRICES))
    plans = {"one": plan_of(MARKET), "two": plan_of(IMPORT_AVOIDANCE)}
    backtests = [Backtest(name, plan, setting(), history.tariff) for name, plan in plans.items()]
    heard: list[tuple[int, float]] = []
    together = run_all(backtests, lambda number, share: heard.append((number, share)), processes=2)
    for outcome, backtest in zip(together, backtests, strict=True):
        assert summary_of(outcome) == summary_of(backtest.run())
    assert {number for number, _ in heard} == {0, 1}
    assert max(share for _, share in heard) == 1.0
    labels = [label for label, values in rows_of([summary_of(one) for one in together]) if len(values) == 2]
    assert "earned by the battery" in labels


@pytest.mark.long
def test_a_worker_that_cannot_go_on_says_why() -> None:
    follows = TariffRate(name="day ahead", market=Market.DAY_AHEAD)
    tariff = Tariff(rates=DirectionRates(import_=(follows,)))
    ill = Backtest("ill", plan_of(), setting(), tariff)
    with pytest.raises(InputError, match="the tariff follows the day_ahead price, and there are no prices of it"):
        run_all([ill], processes=2)


def test_a_month_begins_at_local_midnight() -> None:
    start = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)  # 23:30 in London
    change = setting_of(start=start, end=start + timedelta(hours=2))
    outcome = Backtest("a month's end", plan_of(), change, None).run()
    months = summary_of(outcome)["months"]
    assert [(month["month"], month["load_kwh"]) for month in months] == [
        ("2026-03", pytest.approx(20.0)),
        ("2026-04", pytest.approx(60.0)),
    ]
