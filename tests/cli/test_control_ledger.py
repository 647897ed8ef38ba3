"""`flux control log`, `why`, `compare`, `plan`: the ledger for people and for programs."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from tests.control.kit import SAMPLE
from tests.support import add_device
from typer.testing import CliRunner, Result

from flux.cli.app import app
from flux.config import YamlDocument
from flux.control.decide import decide
from flux.control.ledger import BatteryCommand, Fault, KeptDecision, keep, plan_text
from flux.control.plan import ControllerPlan, parse_plan
from flux.control.state import (
    AcknowledgedCommand,
    CycleState,
    MarketPair,
    MarketState,
    Measurement,
    ScheduleStep,
    Stop,
)
from flux.errors import InputError, NotFoundError
from flux.model import DeviceId
from flux.store.decisions import store_decisions

Run = Callable[..., Result]
FIVE_PAST = datetime(2026, 7, 15, 16, 5, tzinfo=UTC)
"""17:05 on a Wednesday in British summer time."""
SPAN = ("--since", "2026-07-15T16:00Z", "--until", "2026-07-15T17:00Z")
LIVE = parse_plan(YamlDocument(SAMPLE, "site.yaml"))
CALM = LIVE.model_copy(update={"modes": ()})


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the test's database, in this process; errors of ours come back as they are raised."""
    monkeypatch.setenv("FLUX_DATABASE_URL", dsn)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def state(seconds: float = 0, site_kw: float = 35.0) -> CycleState:
    time = FIVE_PAST + timedelta(seconds=seconds)
    return CycleState(
        time=time,
        site_power=Measurement(site_kw, time - timedelta(seconds=2)),
        soe_kwh=Measurement(210.0, time - timedelta(seconds=4)),
        battery_power=Measurement(0.0, time - timedelta(seconds=1)),
        last_command=AcknowledgedCommand(0.0, time - timedelta(seconds=8)),
        market=MarketState((MarketPair(FIVE_PAST.replace(minute=0), 95.0, -120.0),)),
    )


def kept(bess: DeviceId, one: CycleState, plan: ControllerPlan = LIVE, name: str = "", **more: Any) -> KeptDecision:
    return keep(decide(plan, one), one, device_id=bess, hash_of_plan=plan_text(plan).hash, plan=name, **more)


@pytest.fixture
async def bess(db: AsyncConnection[Any]) -> DeviceId:
    """Ten minutes: three of demand, one stale, the rest stopped; a calm shadow plan beside it."""
    device = await add_device(db, "WLCE-BESS-01", "bess")
    told = BatteryCommand("WLCE-BESS-01", 20.0, True, 20.0, FIVE_PAST)
    decisions = [kept(device, state(60 * n), commands=[told]) for n in range(3)]
    away = Fault("not_following", "WLCE-BESS-01", FIVE_PAST + timedelta(seconds=182), "WLCE-BESS-01 does not follow")
    decisions.append(kept(device, state(184, 42.0), faults=(away,)))
    decisions.append(kept(device, replace(state(240), soe_kwh=None)))
    stop = Stop("stopped by anna", FIVE_PAST + timedelta(seconds=300))
    decisions += [kept(device, replace(state(60 * n), stop=stop)) for n in range(5, 10)]
    decisions += [kept(device, state(60 * n), CALM, "calm") for n in range(10)]
    await store_decisions(db, decisions, [plan_text(LIVE), plan_text(CALM)])
    return device


@pytest.mark.usefixtures("bess")
class TestLog:
    def test_it_tells_each_decision_in_local_time(self, run: Run) -> None:
        lines = run("control", "log", "--site", "WLCE", *SPAN).stdout.splitlines()
        assert len(lines) == 11  # ten decisions and a fault
        assert lines[0].startswith("2026-07-15 17:05:00 BST      +35.0 kW  discharging 35.0 kW: dynamic peak")
        assert lines[4].strip() == "fault: WLCE-BESS-01 does not follow"
        assert "   no command  stale: no SoE" in lines[5]
        assert "+0.0 kW  stopped by anna: sending 0 kW" in lines[6]

    def test_changes_only(self, run: Run) -> None:
        rows = json.loads(run("control", "log", "--site", "WLCE", *SPAN, "--changes", "--json").stdout)
        assert [row["time"][14:19] for row in rows] == ["05:00", "08:04", "09:00", "10:00", "11:00"]

    def test_the_last_ones(self, run: Run) -> None:
        rows = json.loads(run("control", "log", "--site", "WLCE", *SPAN, "--last", "2", "--json").stdout)
        assert [row["time"][14:19] for row in rows] == ["13:00", "14:00"]

    def test_of_a_shadow_plan_or_of_all(self, run: Run) -> None:
        rows = json.loads(run("control", "log", "--site", "WLCE", *SPAN, "--plan", "calm", "--json").stdout)
        assert {(row["plan"], row["target_power_kw"]) for row in rows} == {("calm", 0.0)}
        lines = run("control", "log", "--site", "WLCE", *SPAN, "--plan", "all").stdout.splitlines()
        assert len(lines) == 21
        assert "BST live " in lines[0]
        assert "BST calm " in lines[1]

    def test_a_site_that_is_not_there(self, run: Run) -> None:
        with pytest.raises(NotFoundError, match="no site NOWHERE"):
            run("control", "log", "--site", "NOWHERE")
        assert run("control", "log", "--site", "WLCE", "--since", "1h").stdout == "no decisions in that span\n"


@pytest.mark.usefixtures("bess")
class TestFaults:
    def test_each_has_its_beginning_its_end_and_its_words(self, run: Run) -> None:
        (row,) = json.loads(run("control", "faults", "--site", "WLCE", *SPAN, "--json").stdout)
        assert (row["kind"], row["device"]) == ("not_following", "WLCE-BESS-01")
        assert row["words"] == "WLCE-BESS-01 does not follow"
        assert row["since"] == "2026-07-15T16:08:02+00:00"
        assert row["until"] == "2026-07-15T16:09:00+00:00", "the first decision without it"
        line = run("control", "faults", "--site", "WLCE", *SPAN).stdout.splitlines()[1]
        assert line.split()[:4] == ["2026-07-15", "17:08:02", "2026-07-15", "17:09:00"], "local time"

    def test_one_that_lasts_has_no_end(self, run: Run) -> None:
        text = run("control", "faults", "--site", "WLCE", *SPAN[:2], "--until", "2026-07-15T16:08:30Z").stdout
        assert "still there" in text

    def test_by_kind_and_device(self, run: Run) -> None:
        for only in (("--kind", "stale"), ("--device", "WLCE-BESS-02")):
            assert run("control", "faults", "--site", "WLCE", *SPAN, *only).stdout == "no faults in that span\n"


def explained(run: Run, at: str, *more: str) -> str:
    return run("control", "why", "WLCE-BESS-01", "--at", at, *more).stdout


async def later(run: Run, at: str) -> str:
    """The same from a test with a loop of its own."""
    return await asyncio.to_thread(explained, run, at)


@pytest.mark.usefixtures("bess")
class TestWhy:
    def test_it_tells_what_was_known_and_proposed(self, run: Run) -> None:
        text = explained(run, "2026-07-15T17:05:30")
        assert text.startswith("WLCE-BESS-01 at 2026-07-15 17:05:00 BST (live plan ")
        assert "\ndischarging 35.0 kW: dynamic peak, 110.0 kWh above 100 kWh for before 19:00" in text
        for line in (
            "  site power        35.0 kW, 2.0 s old",
            "  SoE               210.0 kWh, 4.0 s old",
            "  last command      0.0 kW, acknowledged 8.0 s before",
            "  market            from 17:00 £95.00/MWh, NIV -120 MW",
            "  WLCE-BESS-01      asked for +20.0 kW, written; +20.0 kW is in force, acknowledged at 17:05:00",
            "  dynamic_peak_discharge     target +35.0, min +35.0, max +35.0 kW: dynamic peak",
        ):
            assert line in text
        assert text.endswith("Replaying it gives the same decision.\n")

    def test_a_clock_time_is_the_plans_and_the_last_of_its_kind(self, run: Run) -> None:
        gone = r"at .* 18:30:00 BST; the last decision before is of 2026-07-15 17:14:00"
        with pytest.raises(NotFoundError, match=gone):
            explained(run, "2026-07-15T18:30")
        assert explained(run, "2026-07-15T16:05:30Z") == explained(run, "2026-07-15T17:05:30")
        with pytest.raises(InputError, match="--at 'noon'"):
            explained(run, "noon")
        with pytest.raises(NotFoundError, match="at or before 2026-07-15 17:04:00 BST"):
            explained(run, "2026-07-15T17:04")

    def test_json_has_everything(self, run: Run) -> None:
        found = json.loads(explained(run, "2026-07-15T17:05:30", "--json"))
        assert found["replay"]["same"] is True
        assert found["inputs"]["soe_kwh"] == {"value": 210.0, "time": "2026-07-15T16:04:56+00:00", "age_s": 4.0}
        assert found["proposals"][0]["mode"] == "dynamic_peak_discharge"

    def test_faults_staleness_and_stops(self, run: Run) -> None:
        assert "\nfault: WLCE-BESS-01 does not follow\n" in explained(run, "2026-07-15T17:08:30")
        stale = explained(run, "2026-07-15T17:09")
        assert "\nstale: no SoE; nothing is sent" in stale
        assert "  SoE               no reading\n" in stale
        assert "  stop              stopped by anna, since 2026-07-15 17:10:00 BST\n" in explained(
            run, "2026-07-15T17:11"
        )

    def test_a_shadow_plans_reasons(self, run: Run) -> None:
        text = explained(run, "2026-07-15T17:05", "--plan", "calm")
        assert "(shadow plan calm " in text
        assert "idle: no mode asks for anything" in text

    async def test_a_replay_that_differs_is_told(self, run: Run, db: AsyncConnection[Any], bess: DeviceId) -> None:
        await db.execute("UPDATE flux.control_decisions SET target_power_kw = 36 WHERE plan = ''")
        text = await later(run, "2026-07-15T17:05")
        assert "Replaying it gives another decision: target_power_kw differ. It says now:\ndischarging 35.0 kW" in text
        await db.execute("DELETE FROM flux.control_plans")
        assert "It can't be replayed: its plan" in await later(run, "2026-07-15T16:05Z")

    async def test_a_plan_of_another_version_is_told(self, run: Run, db: AsyncConnection[Any], bess: DeviceId) -> None:
        await db.execute("""UPDATE flux.control_plans SET body = body || '{"weather": "rain"}'""")
        assert "this version does not take its plan (weather: Extra inputs" in await later(run, "2026-07-15T17:05")
        await db.execute("UPDATE flux.control_decisions SET inputs = '{}'")
        text = await later(run, "2026-07-15T17:05")
        assert "It can't be replayed: not the state of a control cycle" in text
        assert "What it knew" not in text


@pytest.mark.usefixtures("bess")
class TestCompare:
    def test_plans_side_by_side(self, run: Run) -> None:
        live, calm = json.loads(run("control", "compare", "--site", "WLCE", *SPAN, "--json").stdout)[::1]
        assert (live["plan"], calm["plan"]) == ("live", "calm")
        # 184 s at 35 kW, 56 s at 42 kW; the last decision stands for two minutes and no longer
        assert live["discharged_kwh"] == pytest.approx((184 * 35 + 56 * 42) / 3600, abs=0.01)
        assert live["charged_kwh"] == 0
        assert live["hours"] == pytest.approx(11 / 60, abs=0.001)
        assert live["mean_power_kw"] == pytest.approx(live["discharged_kwh"] * 60 / 11, abs=0.05)
        assert live["hours_stale"] == pytest.approx(1 / 60, abs=0.001)
        assert live["hours_by_mode"]["dynamic_peak_discharge"] == pytest.approx(4 / 60, abs=0.001)
        assert (calm["mean_power_kw"], calm["discharged_kwh"]) == (0, 0)
        table = run("control", "compare", "--site", "WLCE", *SPAN).stdout
        assert "dynamic_peak_discharge 2.4 kWh" in table


@pytest.mark.usefixtures("bess")
def test_a_kept_plan_is_a_plan(run: Run, tmp_path: Path) -> None:
    digits = plan_text(LIVE).hash
    (tmp_path / "kept.yaml").write_text(run("control", "plan", digits[:8]).stdout)
    assert f"the plan is valid ({digits})" in run("control", "check", str(tmp_path / "kept.yaml")).stdout
    with pytest.raises(NotFoundError, match="begins with nothing"):
        run("control", "plan", "nothing")


async def test_an_action_of_a_dispatch_is_shown(run: Run, db: AsyncConnection[Any]) -> None:
    device = await add_device(db, "WLCE-BESS-01", "bess")
    step = ScheduleStep(FIVE_PAST, FIVE_PAST + timedelta(minutes=30), "discharge_max")
    await store_decisions(db, [kept(device, replace(state(), schedule=(step,)))], [plan_text(LIVE)])
    text = await later(run, "2026-07-15T17:05")
    assert "  schedule          17:05 to 17:35 discharge_max\n" in text
    assert "limits that changed it: inverter\n" in text
    assert "  axle                       target +inf, min +inf, max +inf kW: dispatched to discharge" in text


async def test_a_clock_time_is_its_last_coming_in_the_plans_zone(run: Run, db: AsyncConnection[Any]) -> None:
    device = await add_device(db, "WLCE-BESS-01", "bess")
    now = datetime.now(UTC) - timedelta(seconds=20)
    one = replace(state(), time=now, site_power=Measurement(35.0, now), soe_kwh=Measurement(210.0, now))
    await store_decisions(db, [kept(device, one)], [plan_text(LIVE)])
    local = (now + timedelta(seconds=10)).astimezone(LIVE.zone)
    assert "WLCE-BESS-01 at " in await later(run, f"{local:%H:%M:%S}")
    with pytest.raises(NotFoundError):
        await later(run, f"{local + timedelta(minutes=5):%H:%M}")  # that is yesterday's


async def test_a_decision_of_a_device_that_is_not_known_waits_and_is_stored_when_that_is_mended(
    run: Run, db: AsyncConnection[Any]
) -> None:
    device = DeviceId(UUID(int=77))
    told = BatteryCommand("WLCE-BESS-01", 20.0, True, 20.0, FIVE_PAST)
    decision = kept(device, state(), commands=[told])
    await store_decisions(db, [decision], [plan_text(LIVE)])
    (row,) = json.loads((await asyncio.to_thread(run, "control", "rejected", "--json")).stdout)
    assert (row["reason"], row["device_name"], row["plan"]) == ("unknown_device", None, "")
    assert f"no device has the id {device}" in (await asyncio.to_thread(run, "control", "rejected")).stdout
    again = await asyncio.to_thread(run, "control", "rejected", "--retry")
    assert again.stdout == "stored 0, stored before 0, still refused 1\n"
    await db.execute(
        "INSERT INTO flux.mg_device_registry (id, name, type, site) VALUES (%s, 'WLCE-BESS-01', 'bess', 'WLCE')",
        (device,),
    )
    again = await asyncio.to_thread(run, "control", "rejected", "--retry")
    assert again.stdout == "stored 1, stored before 0, still refused 0\n"
    assert (await asyncio.to_thread(run, "control", "rejected")).stdout == "no decision was refused\n"
    (found,) = json.loads((await asyncio.to_thread(run, "control", "log", "--site", "WLCE", *SPAN, "--json")).stdout)
    assert (found["reason"], found["target_power_kw"]) == (decision.reason, decision.target_power_kw)
