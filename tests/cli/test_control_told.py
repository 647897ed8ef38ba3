"""`flux control schedule` and `flux control envelope`, on a real database."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from psycopg import connect
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.cli.control_told import instant
from flux.errors import InputError, NotFoundError

Run = Callable[..., Result]
LONDON = ZoneInfo("Europe/London")
FIVE = datetime(2026, 7, 15, 16, 0, tzinfo=UTC)
"""17:00 in British summer time."""
YEAR = datetime.now(UTC).year + 1


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; errors of ours come back as they are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    with connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO flux.sites (site) VALUES ('WLCE')")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["control", *arguments, "--site", "WLCE"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def rows(result: Result) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(result.output)
    return found


def test_a_step_by_hand_is_shown_and_cleared(run: Run) -> None:
    assert run("schedule", "show").output == "WLCE: nothing is scheduled\n"
    span = ("--from", f"{YEAR}-07-15T17:00", "--until", f"{YEAR}-07-15T17:30")
    added = run("schedule", "add", "discharge_max", *span)
    assert added.output == f"WLCE: discharge_max from {YEAR}-07-15 17:00:00 BST until {YEAR}-07-15 17:30:00 BST\n"
    run("schedule", "add", "avoid_import", *span)
    shown = rows(run("schedule", "show", "--json"))
    assert [row["action"] for row in shown] == ["avoid_import", "discharge_max"]  # the newest counts
    assert {(row["from"], row["source"]) for row in shown} == {(f"{YEAR}-07-15T16:00:00+00:00", "manual")}
    assert f"{YEAR}-07-15 17:00:00 BST" in run("schedule", "show").output
    assert run("schedule", "clear", "--source", "axle").output == "WLCE: 0 steps of axle withdrawn\n"
    assert run("schedule", "clear").output == "WLCE: 2 steps of manual withdrawn\n"
    assert rows(run("schedule", "show", "--json")) == []


def test_an_envelope_is_shown_and_cleared(run: Run) -> None:
    assert run("envelope", "show").output == "WLCE: no envelope; the plan's limits hold\n"
    span = ("--from", f"{YEAR}-01-15T11:00Z", "--until", f"{YEAR}-01-15T15:00Z")
    added = run("envelope", "add", "--export", "100", *span)
    assert added.output == f"WLCE: export 100 kW from {YEAR}-01-15 11:00:00 GMT until {YEAR}-01-15 15:00:00 GMT\n"
    (row,) = rows(run("envelope", "show", "--json"))
    assert (row["import_limit_kw"], row["export_limit_kw"]) == (None, 100.0)
    assert "100.000" in run("envelope", "show").output
    assert run("envelope", "clear").output == "WLCE: 1 envelope withdrawn\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("schedule", "add", "discharge", "--until", "17:00"), "'discharge': must be one of charge_max, discharge_max"),
        (("schedule", "add", "charge_max", "--until", "soon"), "--until 'soon': write it like 17:00"),
        (("schedule", "add", "charge_max", "--until", "2026-01-15T17:00Z"), "17:00:00 GMT is over"),
        (
            ("schedule", "add", "charge_max", "--from", f"{YEAR}-02-01T17:00", "--until", f"{YEAR}-01-31T17:00"),
            "must end after it starts",
        ),
        (("envelope", "add", "--until", f"{YEAR}-01-15T17:00"), "needs an import limit or an export limit"),
        (("envelope", "add", "--import", "nan", "--until", f"{YEAR}-01-15T17:00"), "needs an import limit"),
    ],
)
def test_what_cannot_be_is_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)


def test_a_site_that_is_not_there_is_named(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)
    for command in (["schedule", "show"], ["envelope", "show"], ["envelope", "clear"], ["schedule", "clear"]):
        result = CliRunner().invoke(app, ["control", *command, "--site", "WLCF"])
        assert isinstance(result.exception, NotFoundError)
        assert str(result.exception) == "there is no site 'WLCF'; there is none yet"


@pytest.mark.parametrize(
    ("text", "option", "expected"),
    [
        ("17:30", "--until", FIVE + timedelta(minutes=30)),
        ("02:00", "--until", FIVE + timedelta(hours=9)),  # the next morning
        ("02:00", "--from", FIVE - timedelta(hours=15)),
        ("2026-07-15T17:30", "--until", FIVE + timedelta(minutes=30)),
        ("2026-07-15T17:30+00:00", "--until", FIVE + timedelta(minutes=90)),
    ],
)
def test_a_time_is_read_as_people_mean_it(text: str, option: str, expected: datetime) -> None:
    assert instant(text, LONDON, FIVE, option) == expected
