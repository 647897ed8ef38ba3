"""A plan on the calendar, as figures and as a picture."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.control.kit import at, plan_of
from typer.testing import CliRunner

from flux.cli.app import app
from flux.control.periods import Window
from flux.control.plan import ControllerPlan
from flux.control.week import CalendarRow, calendar
from flux.control.week_picture import draw_week
from flux.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)
NIGHT = 'import_avoidance, periods: [{days: all, start: "22:00", end: "05:00"}]'


def row_of(mode: str, first: date, days: int = 1) -> CalendarRow:
    (row,) = calendar(plan_of(mode), first, days)
    return row


def spans(row: CalendarRow) -> list[tuple[datetime, datetime]]:
    return [(window.start, window.end) for day in row.days for window in day]


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        (SPRING - timedelta(days=1), "2026-03-28 22:00", "2026-03-29 04:00"),  # six hours
        (AUTUMN - timedelta(days=1), "2026-10-24 21:00", "2026-10-25 05:00"),  # eight
        (date(2026, 1, 15), "2026-01-15 22:00", "2026-01-16 05:00"),
    ],
)
def test_a_night_is_as_long_as_the_clocks_make_it(day: date, start: str, end: str) -> None:
    row = row_of(NIGHT, day)
    assert spans(row) == [(at(start), at(end))]
    assert row.words(day) == [["22:00–05:00"]]


def test_a_whole_day_has_the_hours_of_the_day() -> None:
    for day, hours in ((SPRING, 23), (AUTUMN, 25), (date(2026, 1, 15), 24)):
        ((start, end),) = spans(row_of("export_avoidance", day))
        assert end - start == timedelta(hours=hours)


def test_an_approach_is_asked_from_where_its_longer_line_leaves_zero() -> None:
    """450 kWh at 90 kW × 0.9 and a factor of 2 take 11.11 h; 20 minutes are kept before the peak."""
    approach = (
        'dynamic_peak_approach, peak: {days: weekdays, start: "17:00", end: "19:00"}, to_soe_kwh: 400,'
        " encourage_to_soe_kwh: 450, assumed_charge_power_kw: 90, encourage_duration_factor: 2.0, cushion: 20m"
    )
    row = row_of(approach, date(2026, 1, 15))
    ((start, end),) = spans(row)
    assert end == at("2026-01-15 17:00")
    assert end - start == timedelta(minutes=20) + timedelta(hours=2 * 450 / 81)
    assert spans(row_of(approach, date(2026, 1, 17))) == []  # a Saturday
    early = row_of(approach.replace('"17:00"', '"03:00"').replace('"19:00"', '"04:00"'), date(2026, 1, 15))
    assert early.words(date(2026, 1, 15)) == [["Wed 15:33–03:00"]]


def test_an_approach_never_looks_further_than_a_day() -> None:
    slow = 'dynamic_peak_approach, peak: {start: "17:00", end: "19:00"}, to_soe_kwh: 400, assumed_charge_power_kw: 1'
    ((start, end),) = spans(row_of(slow, date(2026, 1, 15)))
    assert end - start == timedelta(days=1)


def test_a_set_point_by_hand_ends_when_it_ends() -> None:
    row = row_of("fixed, power_kw: 5, until: 2026-01-16T14:00:00Z", date(2026, 1, 15), 3)
    assert spans(row) == [
        (at("2026-01-15 00:00"), at("2026-01-16 00:00")),
        (at("2026-01-16 00:00"), at("2026-01-16 14:00")),
    ]


def test_dispatch_is_told_as_what_it_waits_for() -> None:
    assert row_of("axle", date(2026, 1, 15)).words(date(2026, 1, 15)) == [["when dispatched"]]


def test_rates_come_after_the_modes() -> None:
    rates = '{import: [{name: DUoS red, price: 9, periods: [{days: weekdays, start: "17:00", end: "19:00"}]}]}'
    rows = calendar(plan_of("axle", rates=rates), date(2026, 1, 15), 1)
    assert [(row.name, row.mode) for row in rows] == [("axle", "axle"), ("import rate DUoS red", None)]
    assert rows[1].days == ((Window(at("2026-01-15 17:00"), at("2026-01-15 19:00"), 0),),)


# ── The picture ──


class Picture:
    """What is drawn, by what it says."""

    def __init__(self, plan: ControllerPlan, first: date) -> None:
        self.root = ElementTree.fromstring(draw_week(plan, first))
        self.texts = [text for one in self._all("text") if (text := one.text)]

    def _all(self, tag: str) -> list[ElementTree.Element]:
        return self.root.findall(f"{{http://www.w3.org/2000/svg}}{tag}")

    @property
    def bands(self) -> list[tuple[str, float, float]]:
        """What each says when pointed at, its left edge and its width."""
        found = [(one.findtext("{http://www.w3.org/2000/svg}title"), one.attrib) for one in self._all("rect")]
        return [(words, float(at["x"]), float(at["width"])) for words, at in found if words]


def test_the_day_of_the_change_is_as_wide_as_it_is_long_and_says_so() -> None:
    picture = Picture(plan_of('import_avoidance, periods: [{days: [sun, mon], start: "00:00", end: "12:00"}]'), SPRING)
    assert "Sun 29 Mar (23 h)" in picture.texts
    assert "clocks +1 h" in picture.texts
    (_, _, sunday), (_, _, monday) = picture.bands
    assert sunday / monday == pytest.approx(11 / 12, abs=0.01)
    autumn = Picture(plan_of(NIGHT), AUTUMN)
    assert "Sun 25 Oct (25 h)" in autumn.texts
    assert "clocks −1 h" in autumn.texts
    assert not any(text.startswith("clocks") for text in Picture(plan_of(NIGHT), date(2026, 1, 12)).texts)


def test_a_night_that_began_before_the_week_is_seen_and_one_that_goes_on_is_cut() -> None:
    bands = Picture(plan_of(NIGHT), date(2026, 1, 12)).bands
    assert len(bands) == 8
    widths = [width for _, _, width in bands]
    assert widths[0] / widths[1] == pytest.approx(5 / 7, abs=0.02)
    assert widths[-1] / widths[1] == pytest.approx(2 / 7, abs=0.02)


def test_an_approach_to_a_peak_after_the_week_is_seen() -> None:
    early = 'dynamic_peak_approach, peak: {start: "03:00", end: "04:00"}, to_soe_kwh: 400, assumed_charge_power_kw: 90'
    assert len(Picture(plan_of(early), date(2026, 1, 12)).bands) == 8


def test_what_never_ends_is_one_band_and_an_entry_without_a_time_has_none() -> None:
    bands = Picture(plan_of("axle", "export_avoidance"), date(2026, 1, 12)).bands
    assert [words for words, _, _ in bands] == ["axle: when dispatched", "export_avoidance: always"]
    gone = Picture(plan_of("fixed, power_kw: 5, until: 2026-01-01T00:00:00Z"), date(2026, 1, 12))
    assert gone.bands == []
    assert "fixed" in gone.texts


def test_a_set_point_that_ends_in_the_week_says_when() -> None:
    bands = Picture(plan_of("fixed, power_kw: 5, until: 2026-01-16T14:00:00Z"), date(2026, 1, 12)).bands
    assert [words for words, _, _ in bands] == ["fixed: until Fri 14:00"]


def test_names_with_signs_of_markup_are_only_text() -> None:
    rates = '{import: [{name: "<&{red}>", price: 9, periods: [{start: "17:00", end: "19:00"}]}]}'
    assert "import rate <&{red}>" in Picture(plan_of(rates=rates), date(2026, 1, 12)).texts


# ── The command ──


def test_the_picture_of_the_docs_is_what_the_command_draws(tmp_path: Path) -> None:
    plan = DOCS / "examples" / "plan.yaml"
    drawn = tmp_path / "week.svg"
    command = ["control", "show", str(plan), "--from", "2026-03-25", "-o", str(drawn)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.output == f"{drawn}: the week from Wed 25 March 2026\n"
    assert drawn.read_text() == (DOCS / "images" / "week.svg").read_text()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    command = ["control", "show", str(DOCS / "examples" / "plan.yaml"), "-o", str(tmp_path / "no" / "week.svg")]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, InputError)
    assert "week.svg: No such file" in str(result.exception)


def test_the_table_has_a_line_for_each_entry_and_json_the_same_instants() -> None:
    command = ["control", "show", str(DOCS / "examples" / "plan.yaml"), "--from", "2026-03-25"]
    table = CliRunner().invoke(app, command).output
    assert "05:33–17:00" in table
    assert "Sun 29 Mar" in table
    rows = [json.loads(line) for line in CliRunner().invoke(app, [*command, "--json"]).output.splitlines()]
    assert [row["entry"] for row in rows][:2] == ["axle", "discharge_to_soe"]
    assert {"start": "2026-03-29T12:30:00+00:00", "end": "2026-03-29T13:00:00+00:00"} in rows[1]["windows"]
