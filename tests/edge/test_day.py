"""A simulated day and its picture."""

import asyncio
from datetime import date, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.edge.conftest import PLAN, plan_of
from tests.edge.fakes import START
from typer.testing import CliRunner

from flux.cli.app import app
from flux.control.state import MarketPair
from flux.devices.simulator import LoadConfig, SolarConfig
from flux.edge.day import DayPoint, known_at, load_market, simulate_day
from flux.edge.picture import draw_day
from flux.errors import InputError

DAY = date(2026, 1, 15)
SVG = "{http://www.w3.org/2000/svg}"
HOUR = timedelta(hours=1)
LOAD, NO_SUN = LoadConfig(constant_kw=40), SolarConfig()
EVENING = PLAN[: PLAN.index("  modes:")] + (
    '  modes:\n    - {mode: import_avoidance, periods: [{days: all, start: "17:00", end: "19:00"}]}\n'
)


async def test_a_day_is_the_plans_local_day() -> None:
    points = await simulate_day(plan_of(EVENING), DAY, LOAD, NO_SUN, step=timedelta(minutes=5))
    assert len(points) == 288
    inside = [p for p in points if p.mode == "import_avoidance"]
    assert (inside[0].time.hour, inside[-1].time.hour, inside[-1].time.minute) == (17, 18, 55)
    assert all(p.site_kw == pytest.approx(0, abs=0.5) for p in inside[2:])
    assert all(p.battery_kw == pytest.approx(40, abs=0.5) for p in inside[2:])
    assert points[0].soe_kwh == pytest.approx(250, abs=0.1)
    assert points[-1].soe_kwh == pytest.approx(250 - 2 * 40, abs=4)


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
async def test_days_on_which_the_clocks_change(day: date, hours: int) -> None:
    points = await simulate_day(plan_of(EVENING), day, LOAD, NO_SUN, step=timedelta(minutes=30))
    assert len(points) == 2 * hours
    evening = [p.time.astimezone(plan_of().zone).hour for p in points if p.mode == "import_avoidance"]
    assert evening == [17, 17, 18, 18]
    picture = draw_day(points, plan_of().zone, "a day")
    labels = [text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert "03:00" in labels if hours == 23 else "23:00" in labels


def pair(half_hours: int, price: float) -> MarketPair:
    return MarketPair(START.replace(second=0) + half_hours * HOUR / 2, price, 50.0)


def test_a_half_hour_is_known_from_ten_minutes_into_it() -> None:
    market = known_at([pair(1, 20.0), pair(0, 10.0)])
    begin = pair(0, 0).sp_start

    def prices(minutes: float) -> list[float]:
        return [one.price for one in market(begin + timedelta(minutes=minutes)).pairs]

    assert [prices(m) for m in (0, 9.9, 10, 39.9, 40, 59.9, 70, 200)] == [
        [],
        [],
        [10],
        [10],
        [10, 20],
        [10, 20],
        [20],
        [],
    ]


def some_points(count: int = 240) -> list[DayPoint]:
    modes = ("niv_chase", None, "a <new> mode")
    return [
        DayPoint(
            time=START + n * timedelta(minutes=6),
            soe_kwh=None if 100 <= n < 110 else 200.0 + n / 3,
            site_kw=float(n % 7),
            battery_kw=-float(n % 5),
            price=80.0 if n > 20 else None,
            mode=modes[n // 80],
            limits=(),
        )
        for n in range(count)
    ]


def test_the_picture_has_a_band_for_each_stretch_of_a_mode() -> None:
    root = ElementTree.fromstring(draw_day(some_points(), plan_of().zone, "a & b"))
    bands = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill-opacity") == "0.35"]
    assert len(bands) == 2
    assert float(bands[0].get("width", 0)) == pytest.approx(float(bands[1].get("width", 0)), rel=0.05)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a & b", "niv_chase", "a <new> mode", "SoE, kWh", "power, kW", "price, £/MWh"} <= set(texts)
    lines = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert len(lines) == 2 + 1 + 1 + 1, "SoE has a gap; site, battery and price have none"


def test_without_prices_there_is_no_price_panel() -> None:
    assert "£/MWh" not in draw_day(some_points(20), plan_of().zone, "no price")


def test_a_long_day_makes_a_small_picture() -> None:
    assert len(draw_day(some_points(240) * 90, plan_of().zone, "long")) < 150_000


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(EVENING.replace("interval: 4s", "interval: 15s"))
    (tmp_path / "market.csv").write_text("time,price,niv_mw\n2026-01-15T17:00Z,95,-120\n")
    command = ["control", "picture", "--plan", str(tmp_path / "plan.yaml"), "--day", "2026-01-15"]
    market = ["--market", str(tmp_path / "market.csv")]
    result = CliRunner().invoke(app, [*command, *market, "--load", "20", "-o", str(tmp_path / "day.svg")])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "day.svg").read_text()
    assert "WLCE-BESS-01 on Thursday 15 January 2026, simulated" in text
    assert "import_avoidance" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--day", "tomorrow"], "--day tomorrow: not a day"),
        (["--load", "much"], "--load much: a power in kW"),
        (["--solar", "nowhere.csv"], "--solar nowhere.csv: no such file"),
        (["--market", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "plan.yaml").write_text(EVENING)
    command = ["control", "picture", "--plan", str(tmp_path / "plan.yaml"), "--day", "2026-01-15"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "day.svg"), *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,price\n2026-01-15T17:00Z,1\n", "no column 'niv_mw'"),
        ("time,price,niv_mw\n2026-01-15T17:00Z,x,1\n", "market.csv:2: could not convert"),
        ("time,price,niv_mw\n2026-01-15T17:00Z,1\n", "market.csv:2:"),
        ("time,price,niv_mw\n2026-01-15T17:00,1,1\n", "market.csv:2: 2026-01-15T17:00: needs its offset"),
    ],
)
def test_a_market_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "market.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_market(tmp_path / "market.csv")


def test_the_days_picture_of_the_docs_can_be_made(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    from flux.control.plan import load_plan

    plan, market = load_plan(docs / "examples" / "plan.yaml"), load_market(docs / "examples" / "market.csv")
    points = asyncio.run(
        simulate_day(
            plan, DAY, LoadConfig(mean_kw=60), SolarConfig(peak_kw=260), market=market, step=timedelta(minutes=5)
        )
    )
    assert {"niv_chase", "discharge_to_soe", "dynamic_peak_discharge"} <= {p.mode for p in points}
    assert (docs / "images" / "day.svg").stat().st_size < 150_000
