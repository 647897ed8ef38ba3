"""The drawing of series and clouds: whole documents, and what is where."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import NOON

from flux.charts import Cloud, Line, Panel, draw_clouds, draw_series
from flux.charts.parts import Scale

LONDON = ZoneInfo("Europe/London")
SVG = "{http://www.w3.org/2000/svg}"


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=8), st.integers(80, 600))
def test_a_scale_holds_its_values_and_has_round_marks(values: list[float], length: int) -> None:
    scale = Scale.of(values, length)
    assert all(-0.1 <= scale.at(value) <= length + 0.1 for value in [*values, 0.0])
    marks = scale.marks()
    assert [marks[0], marks[-1]] == pytest.approx([scale.low, scale.high])
    assert 2 <= len(marks) <= length // 40 + 3


def test_a_value_holds_until_the_next_and_a_gap_stays_a_gap() -> None:
    half = timedelta(minutes=30)
    line = Line(
        "price", "#123456", [(NOON, 10.0), (NOON + half, 20.0), (NOON + 2 * half, None), (NOON + 3 * half, 5.0)]
    )
    svg = draw_series([Panel("£/MWh", [line])], NOON, NOON + 4 * half, UTC, "prices & volumes")
    paths = [path.get("d", "") for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("fill") == "none"]
    assert [len(re.findall("[HV]", path)) for path in paths] == [3, 1]
    x = [float(part) for part in re.findall(r"[MH]([\d.]+)", " ".join(paths))]
    assert x == pytest.approx([64, 286, 508, 730, 952], abs=0.6)
    assert "prices &amp; volumes" in svg


@pytest.mark.parametrize(("days", "labels"), [(1, ["29 Mar", "02:00", "22:00"]), (31, ["31 Mar"])])
def test_marks_are_at_round_local_times(days: int, labels: list[str]) -> None:
    start = datetime(2026, 3, 29, tzinfo=UTC)  # the day the clocks go forward
    svg = draw_series([Panel("MW", [])], start, start + timedelta(days=days), LONDON, "niv")
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert set(labels) <= set(texts)


def test_clouds_are_thinned_and_coloured_by_group() -> None:
    points = [(float(n % 200), float(n % 90), "niv chase" if n % 2 else "manual") for n in range(9_001)]
    svg = draw_clouds([Cloud("£/MWh", "kW", points), Cloud("MW", "kW", [])], "power and price")
    circles = list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))
    assert 3_000 < len(circles) < 4_010
    assert len({circle.get("fill") for circle in circles}) == 2
