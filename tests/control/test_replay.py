"""``flux control replay``, ``check`` and ``show``: the contract of lines in and lines out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.control.kit import ALL_DAY, HEAD, SAMPLE, plan_of, sample_plan
from typer.testing import CliRunner, Result

from flux.cli.control import app
from flux.control.replay import replay
from flux.control.steps import decision_line
from flux.errors import InputError

FOLLOW = plan_of("axle", f"import_avoidance, {ALL_DAY}", f"export_avoidance, {ALL_DAY}")
CONTRACT_STEP = {
    "time": "2026-01-15T17:05:00Z",
    "soe_kwh": 210.0,
    "site_power_kw": 35.0,
    "bess_power_kw": 0.0,
    "market": {
        "price": {"value": 95.0, "sp_start": "2026-01-15T17:00:00Z"},
        "niv": {"value_mw": -120.0, "sp_start": "2026-01-15T17:00:00Z"},
    },
    "site": {"import_limit_kw": 220, "export_limit_kw": 475},
    "schedule": [{"start": "2026-01-15T17:00:00Z", "end": "2026-01-15T17:30:00Z", "action": "avoid_import"}],
}


def step(minute: int, **keys: Any) -> str:
    return json.dumps({"time": f"2026-01-15T12:{minute:02d}:00Z", "soe_kwh": 250.0} | keys)


def targets(*lines: str, plan: Any = FOLLOW) -> list[float | None]:
    return [decision.target_power_kw for decision in replay(plan, lines)]


def test_a_line_comes_out_as_the_contract_says() -> None:
    [decision] = replay(sample_plan(), [json.dumps(CONTRACT_STEP)])
    line = json.loads(decision_line(decision))
    assert list(line) == [
        "time",
        "target_power_kw",
        "command_source",
        "active",
        "effective",
        "limits",
        "proposals",
        "reason",
    ]
    assert line["time"] == "2026-01-15T17:05:00Z"
    assert (line["target_power_kw"], line["command_source"], line["effective"]) == (35.0, 5, "axle")
    assert line["active"] == ["axle", "dynamic_peak_discharge", "import_avoidance", "export_avoidance"]
    assert line["limits"] == []
    assert line["proposals"][0] == {
        "mode": "axle",
        "target_kw": 35.0,
        "min_kw": 35.0,
        "max_kw": None,
        "reason": "dispatched to avoid import until 17:30, site would draw 35.0 kW",
    }


def test_infinity_is_text_and_refusals_are_told() -> None:
    span = {"start": "2026-01-15T17:00:00Z", "end": "2026-01-15T17:30:00Z"}
    steps = [CONTRACT_STEP | {"schedule": [span | {"action": action}]} for action in ("charge_max", "discharge_max")]
    lines = [json.loads(decision_line(d)) for d in replay(FOLLOW, map(json.dumps, steps))]
    assert [line["proposals"][0]["target_kw"] for line in lines] == ["-inf", "inf"]
    assert lines[0]["limits"] == ["inverter"]
    assert "refused" in lines[0]["proposals"][1]["reason"]


def test_without_a_measured_battery_it_is_at_the_previous_target() -> None:
    assert targets(step(0, site_power_kw=40), step(1, site_power_kw=0), step(2, site_power_kw=10)) == [40, 40, 50]


def test_a_measured_battery_counts() -> None:
    assert targets(step(0, site_power_kw=40), step(1, site_power_kw=0, bess_power_kw=15)) == [40, 15]


def test_net_load_is_what_the_site_draws_with_the_battery_at_rest() -> None:
    assert targets(step(0, net_load_kw=40), step(1, net_load_kw=40), step(2, net_load_kw=-30)) == [40, 40, -30]


def test_net_load_with_a_measured_battery_adds_the_measurement() -> None:
    # site power = 40 − 40 (the previous target) = 0; 25 measured at the battery: 25 at rest
    assert targets(step(0, net_load_kw=40), step(1, net_load_kw=40, bess_power_kw=25)) == [40, 25]


def test_a_step_that_sends_nothing_leaves_the_battery_where_it_was() -> None:
    blind = step(1, site_power_kw=10, soe_kwh=None)
    assert targets(step(0, site_power_kw=40), blind, step(2, site_power_kw=0)) == [40, None, 40]


@pytest.mark.parametrize(
    "keys",
    [
        {"site_power_kw": 10, "soe_kwh": None},
        {"soe_kwh": 250},
        {"site_power_kw": 10, "site_power_at": "2026-01-15T11:59:49Z"},
        {"site_power_kw": 10, "soe_at": "2026-01-15T12:00:11Z"},
        {"net_load_kw": 10, "site_power_at": "2026-01-15T11:59:49Z"},
        {"site_power_kw": float("nan")},
        {"site_power_kw": 1, "soe_kwh": float("inf")},
        {"site_power_kw": 10**400},
    ],
)
def test_missing_and_stale_readings_send_nothing(keys: dict[str, Any]) -> None:
    [decision] = replay(FOLLOW, [step(0, **keys)])
    assert decision.target_power_kw is None
    line = json.loads(decision_line(decision))
    assert (line["target_power_kw"], line["command_source"], line["effective"], line["active"]) == (
        None,
        None,
        None,
        [],
    )
    assert line["reason"].startswith("stale")


def test_stale_means_zero_where_the_plan_accepts_a_battery_without_timeout() -> None:
    plan = plan_of(f"import_avoidance, {ALL_DAY}", head=HEAD + "  without_timeout: accepted\n")
    assert targets(step(0, net_load_kw=40), step(1), step(2, site_power_kw=40), plan=plan) == [40, 0, 40]


def test_a_reading_ten_seconds_old_is_fresh() -> None:
    assert targets(
        step(0, site_power_kw=10, site_power_at="2026-01-15T11:59:50Z", soe_at="2026-01-15T13:00:10+01:00")
    ) == [10]


def test_a_battery_measured_at_another_time_is_not_measured() -> None:
    old = step(1, site_power_kw=0, bess_power_kw=15, bess_power_at="2026-01-15T12:00:55Z")
    assert targets(step(0, site_power_kw=40), old) == [40, 40]


def test_a_schedule_holds_until_it_is_replaced() -> None:
    def dispatch(action: str) -> list[dict[str, str]]:
        return [{"start": "2026-01-15T12:00:00Z", "end": "2026-01-15T12:10:00Z", "action": action}]

    lines = [
        step(0, net_load_kw=1, schedule=dispatch("charge_max")),
        step(1, net_load_kw=1),
        step(2, net_load_kw=1, schedule=dispatch("discharge_max")),
        step(3, net_load_kw=1),
        step(4, net_load_kw=1, schedule=[]),
        step(5, net_load_kw=1),
    ]
    assert targets(*lines) == [-100, -100, 105, 105, 1, 1]


def test_market_and_site_limits_hold_for_their_step_only() -> None:
    plan = plan_of("niv_chase, response: proportional, factor_kw_per_mw: 0.1")
    about = {"sp_start": "2026-01-15T12:00:00Z"}
    told = {"price": {"value": 1, **about}, "niv": {"value_mw": 500, **about}}
    assert targets(step(15, net_load_kw=0, market=told), step(16, net_load_kw=0), plan=plan) == [50, 0]
    limited = step(0, net_load_kw=-50, site={"import_limit_kw": 0, "export_limit_kw": 10})
    assert targets(limited, step(1, net_load_kw=-50), plan=plan) == [-40, 0]


@pytest.mark.parametrize(
    "market",
    [
        None,
        {},
        {"price": None, "niv": {"value_mw": 500, "sp_start": "2026-01-15T12:00:00Z"}},
        {"price": {"value": 1, "sp_start": "2026-01-15T12:00:00Z"}},
        {
            "price": {"value": None, "sp_start": "2026-01-15T12:00:00Z"},
            "niv": {"value_mw": 5, "sp_start": "2026-01-15T12:00:00Z"},
        },
        {
            "price": {"value": 1, "sp_start": "2026-01-15T11:30:00Z"},
            "niv": {"value_mw": 5, "sp_start": "2026-01-15T12:00:00Z"},
        },
        {"price": {"value": 1, "sp_start": None}, "niv": {"value_mw": 5, "sp_start": None}},
    ],
)
def test_half_a_market_state_is_none(market: Any) -> None:
    plan = plan_of("niv_chase, response: proportional, factor_kw_per_mw: 0.1")
    assert targets(step(15, net_load_kw=0, market=market), plan=plan) == [0]


def test_a_peak_remembers_from_step_to_step() -> None:
    lines = [
        json.dumps({"time": f"2026-01-15T18:{m:02d}:01Z", "soe_kwh": soe, "net_load_kw": 35})
        for m, soe in ((0, 205), (5, 150))
    ]
    assert targets(*lines, plan=sample_plan()) == [105, 105]
    assert targets(lines[1], plan=sample_plan()) == [35]


def test_the_step_length_counts_for_the_soe_limits() -> None:
    from datetime import timedelta

    line = step(0, net_load_kw=90, soe_kwh=30)
    [short], [long] = replay(FOLLOW, [line]), replay(FOLLOW, [line], step=timedelta(minutes=30))
    assert (short.target_power_kw, long.target_power_kw) == (90, 10)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, found list"),
        ('{"soe_kwh": 1}', "time: is missing"),
        ('{"time": "2026-01-15T12:00:00"}', "time: '2026-01-15T12:00:00': expected a time with its offset"),
        ('{"time": 1768478400}', "time: 1768478400: expected a time"),
        ('{"time": "0001-01-01T00:00:00Z"}', "time: '0001-01-01T00:00:00Z': expected a year from 1900"),
        (step(0, site_power_kw=1, net_load_kw=1), "net_load_kw: give either it or site_power_kw, not both"),
        (step(0, site_power=1), "site_power: unknown key; known are bess_power_at"),
        (step(0, soe_kwh="250"), "soe_kwh: '250': expected a number"),
        (step(0, soe_kwh=True), "soe_kwh: True: expected a number"),
        (step(0, soe_at="noon"), "soe_at: 'noon': expected a time"),
        (step(0, market=[]), "market: []: expected an object"),
        (step(0, market={"price": 1, "niv": {}}), "market.price: 1: expected an object"),
        (step(0, market={"price": {"value": "x"}, "niv": {}}), "market.price.value: 'x': expected a number"),
        (step(0, site={"import_kw": 1}), "site.import_kw: unknown key"),
        (step(0, site={"import_limit_kw": "1"}), "site.import_limit_kw: '1': expected a number"),
        (step(0, schedule={}), "schedule: {}: expected a list"),
        (step(0, schedule=[{"action": "charge_max"}]), "schedule[0].start: is missing"),
        (
            step(0, schedule=[{"start": "2026-01-15T12:00:00Z", "end": "2026-01-15T12:00:00Z", "action": "x"}]),
            "schedule[0].end: '2026-01-15T12:00:00Z': must be after the step's start",
        ),
        (
            step(0, schedule=[{"start": "2026-01-15T12:00:00Z", "end": "2026-01-15T12:30:00Z"}]),
            "schedule[0].action: None: expected text",
        ),
    ],
)
def test_a_bad_line_is_named_by_number_and_field(line: str, message: str) -> None:
    decisions = replay(FOLLOW, [step(0, net_load_kw=40), "", line], source="steps.jsonl")
    assert next(decisions).target_power_kw == 40
    with pytest.raises(InputError) as caught:
        next(decisions)
    assert str(caught.value).startswith(f"steps.jsonl:3: {message}")


# the command line


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    plan, steps = tmp_path / "site.yaml", tmp_path / "steps.jsonl"
    plan.write_text(SAMPLE)
    steps.write_text(json.dumps(CONTRACT_STEP) + "\n\n" + json.dumps(CONTRACT_STEP) + "\n")
    return plan, steps


def run_flux(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=text)


def test_replay_is_a_program_that_streams(files: tuple[Path, Path]) -> None:
    """The real thing, as its own process: an answer comes before the next step is asked."""
    code = "from flux.cli.control import app; app()"
    command = [sys.executable, "-c", code, "replay", "--plan", str(files[0]), "--steps", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for load in (35.0, 20.0):
            process.stdin.write(json.dumps(CONTRACT_STEP | {"site_power_kw": load}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["target_power_kw"] == load
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_replay_prints_a_line_for_each_step(files: tuple[Path, Path]) -> None:
    plan, steps = files
    done = run_flux("replay", "--plan", str(plan), "--steps", str(steps), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line)["target_power_kw"] for line in done.stdout.splitlines()] == [35.0, 35.0]
    piped = run_flux("replay", "--plan", str(plan), "--steps", "-", text=steps.read_text())
    assert piped.stdout == done.stdout


def test_replay_ends_at_a_bad_line(files: tuple[Path, Path]) -> None:
    plan, steps = files
    steps.write_text(steps.read_text() + '{"time": "now"}\n')
    done = run_flux("replay", "--plan", str(plan), "--steps", str(steps))
    assert len(done.stdout.splitlines()) == 2
    assert refusal_of(done).startswith(f"{steps}:4: time: 'now': expected a time")


def test_replay_takes_overlaps_with_a_warning_and_check_refuses_them(tmp_path: Path) -> None:
    plan, steps = tmp_path / "plan.yaml", tmp_path / "steps.jsonl"
    periods = '[{start: "02:00", end: "05:00"}, {start: "04:00", end: "06:00"}]'
    plan.write_text(HEAD + f"  modes: [{{mode: charge_to_soe, soe_kwh: 130, periods: {periods}}}]\n")
    steps.write_text('{"time": "2026-01-15T04:30:00Z", "soe_kwh": 121, "site_power_kw": 0}\n')
    done = run_flux("replay", "--plan", str(plan), "--steps", str(steps))
    assert json.loads(done.stdout)["target_power_kw"] == pytest.approx(-20)  # 9 kWh / 0.9 in half an hour
    assert "04:00–06:00 overlaps 02:00–05:00" in done.stderr
    assert refusal_of(run_flux("check", str(plan))).startswith(
        f"{plan}:17: controller.modes[0].periods[1]: 04:00–06:00"
    )


def test_files_that_are_not_there(files: tuple[Path, Path]) -> None:
    plan, steps = files
    no_steps = run_flux("replay", "--plan", str(plan), "--steps", "nowhere.jsonl")
    assert refusal_of(no_steps) == "nowhere.jsonl: No such file or directory"
    no_plan = run_flux("replay", "--plan", "nowhere.yaml", "--steps", str(steps))
    assert refusal_of(no_plan) == "nowhere.yaml: No such file or directory"


def refusal_of(done: Result) -> str:
    """The message of an error that the command line ends with, exit code 2."""
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    return str(done.exception)


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_check_says_what_the_plan_does(files: tuple[Path, Path]) -> None:
    output = invoke("check", str(files[0]))
    assert "the plan is valid" in output
    assert "controls WLCE-BESS-01 by WLCE-GRID-METER" in output


def test_show_tells_the_week_in_local_time(files: tuple[Path, Path]) -> None:
    output = invoke("show", str(files[0]), "--from", "2026-03-27")
    assert "Sun 29 Mar" in output
    (approach,) = [line for line in output.splitlines() if "dynamic_peak_approach" in line]
    # 450 kWh by a line of 2 × 450 kWh / (90 kW × 0.9), 20 minutes before the peak; none at the weekend
    assert [cell.strip() for cell in approach.split("│")[2:-1]] == ["05:33–17:00", "", "", *["05:33–17:00"] * 4]
    assert "import rate DUoS red" in output


def test_show_has_names_as_they_were_written(files: tuple[Path, Path]) -> None:
    plan = files[0]
    plan.write_text(plan.read_text().replace("name: DUoS red", 'name: "a [/red] :zap:"'))
    assert "import rate a [/red] :zap:" in invoke("show", str(plan), "--from", "2026-03-27")


def test_show_as_json_has_the_instants(files: tuple[Path, Path]) -> None:
    rows = [json.loads(line) for line in invoke("show", str(files[0]), "--from", "2026-03-29", "--json").splitlines()]
    charge = next(row for row in rows if row["entry"] == "charge_to_soe")
    assert charge["windows"][0] == {"start": "2026-03-29T01:00:00+00:00", "end": "2026-03-29T04:00:00+00:00"}
    peak = next(row for row in rows if row["entry"] == "dynamic_peak_discharge")
    assert [window["start"][:10] for window in peak["windows"]] == [
        "2026-03-30",
        "2026-03-31",
        "2026-04-01",
        "2026-04-02",
        "2026-04-03",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "PLAN", "--from", "someday"], "--from someday: not a day"),
        (["replay", "--plan", "PLAN", "--steps", "-", "--step", "4"], "--step: '4' is not a duration"),
        (["replay", "--plan", "PLAN", "--steps", "-", "--step", "0s"], "--step 0s: must be more than 0s"),
    ],
)
def test_wrong_arguments(files: tuple[Path, Path], arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, [str(files[0]) if a == "PLAN" else a for a in arguments])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
