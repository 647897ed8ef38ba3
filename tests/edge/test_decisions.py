"""The ledger over a simulated site in memory: what is kept, and what shadow plans make of the same states."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from tests.edge.conftest import PLAN, plan_of
from tests.edge.fakes import START, FixedClock
from tests.edge.rig import Rig

from flux.control.decide import decide
from flux.control.decision import Decision
from flux.control.ledger import KeptDecision, PlanText, plan_of_text, replay_kept
from flux.control.plan import ControllerPlan
from flux.control.state import CycleState
from flux.devices.simulator import SimulatedSite
from flux.edge.alarms import Alarms
from flux.edge.build import build_controller
from flux.edge.config import load_site_file
from flux.edge.decisions import Decisions
from flux.model import DeviceId, InputError
from flux.store.encoding import Recorded

BESS = DeviceId(uuid5(NAMESPACE_DNS, "WLCE-BESS-01"))
IDLE = PLAN[: PLAN.index("  modes:")] + "  modes: []\n"
PEAK = PLAN.replace(
    "  modes:",
    '  modes:\n    - {mode: dynamic_peak_discharge, target_soe_kwh: 200, periods: [{start: "12:00", end: "13:00"}]}',
)


class Ledger:
    """A rig whose decisions are kept in lists."""

    def __init__(self, rig: Rig, **shadows: str) -> None:
        self.rig = rig
        self.records: list[Recorded] = []
        self.alarms = Alarms(FixedClock())
        self.shadows = {name: plan_of(text) for name, text in shadows.items()}
        self.decisions = self.new(self.records.extend)
        rig.controller = self.controller()

    def new(self, record: Callable[[Sequence[Recorded]], None]) -> Decisions:
        return Decisions(plan_of(), self.shadows, BESS, record, self.alarms)

    def controller(self) -> Any:
        return build_controller(
            plan_of(),
            self.rig.drivers,
            self.rig.newest,
            clock=lambda: self.rig.site.time,
            halt=lambda: self.rig.halted,
            withheld=lambda: self.withheld,
            observe=lambda *cycle: self.decisions.observe(*cycle),
            tell=self.alarms.set_or_clear,
        )

    withheld: str | None = None

    def kept(self, plan: str = "") -> list[KeptDecision]:
        return [one for one in self.records if isinstance(one, KeptDecision) and one.plan == plan]

    def plans(self) -> dict[str, ControllerPlan]:
        import json

        texts = [one for one in self.records if isinstance(one, PlanText)]
        return {text.hash: plan_of_text(json.loads(text.body)) for text in texts}


MakeSite = Callable[..., SimulatedSite]


@pytest.fixture
def make_ledger(make_site: MakeSite) -> Callable[..., Ledger]:
    return lambda **shadows: Ledger(Rig(make_site(load_kw=40)), **shadows)


MakeLedger = Callable[..., Ledger]


async def test_a_steady_site_keeps_one_decision_a_minute(make_ledger: MakeLedger) -> None:
    ledger = make_ledger()
    await ledger.rig.step(75)  # five minutes
    kept = ledger.kept()
    assert [one.time.minute for one in kept] == [0, 1, 2, 3, 4, 5]
    assert {one.effective for one in kept} == {"import_avoidance"}
    assert isinstance(ledger.records[0], PlanText), "the plan goes before the first of its decisions"
    assert [type(one) for one in ledger.records].count(PlanText) == 1


async def test_every_kept_decision_is_found_again_by_replay(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(peak=PEAK)
    await ledger.rig.step(5)
    ledger.rig.wires["WLCE-GRID-METER"].cut = True
    await ledger.rig.step(5)
    ledger.rig.wires["WLCE-GRID-METER"].cut = False
    ledger.rig.halted = "WLCE-BESS-01 is in maintenance"
    await ledger.rig.step(3)
    ledger.rig.halted = None
    ledger.withheld = "another edge has the lease"
    await ledger.rig.step(3)
    plans, seen = ledger.plans(), 0
    for one in [*ledger.kept(), *ledger.kept("peak")]:
        again = replay_kept(plans[one.plan_hash], one.inputs)
        assert (again.target_power_kw, again.reason, again.effective) == (
            one.target_power_kw,
            one.reason,
            one.effective,
        )
        seen += 1
    assert seen >= 10
    reasons = [one.reason for one in ledger.kept()]
    for begin in (
        "discharging 40.0 kW",
        "stale: site power",
        "WLCE-BESS-01 is in maintenance",
        "nothing is sent: another",
    ):
        assert any(reason.startswith(begin) for reason in reasons), begin
    assert {one.stale for one in ledger.kept() if one.reason.startswith("stale")} == {True}


async def test_a_fault_is_in_the_ledger_while_it_lasts(make_ledger: MakeLedger) -> None:
    ledger = make_ledger()
    await ledger.rig.step(5)
    ledger.rig.bess.refuses_writes = True
    ledger.rig.site.step(ledger.rig.site.time)
    await ledger.rig.step(4)  # within 12 s the heartbeat is due
    assert "not acknowledged" in ledger.kept()[-1].faults[0]
    ledger.rig.bess.refuses_writes = False
    await ledger.rig.step(2)
    assert ledger.kept()[-1].faults == ()


async def test_a_shadow_plan_decides_on_the_same_states_and_commands_nothing(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(calm=IDLE, peak=PEAK)
    await ledger.rig.step(20)
    assert ledger.rig.battery_kw == pytest.approx(40, abs=0.01), "the live plan has the battery"
    assert {one.target_power_kw for one in ledger.kept("calm")} == {0.0}
    assert {one.effective for one in ledger.kept("peak")} == {"import_avoidance"}
    assert {one.active for one in ledger.kept("peak")} == {
        ("dynamic_peak_discharge", "import_avoidance", "export_avoidance")
    }
    live = {one.time: one.inputs["site_power"] for one in ledger.kept()}
    same = [one for one in ledger.kept("calm") if one.time in live]
    assert same
    assert all(one.inputs["site_power"] == live[one.time] for one in same)
    assert len({one.plan_hash for plan in ("", "calm", "peak") for one in ledger.kept(plan)}) == 3


async def test_a_shadow_plan_remembers_what_it_began(make_site: MakeSite) -> None:
    """Full discharge, once begun, goes on in the shadow's own memory, whatever the live plan does."""
    start = START.replace(minute=40)
    mode = '{mode: dynamic_peak_discharge, target_soe_kwh: 225, periods: [{start: "12:00", end: "13:00"}]}'
    late = IDLE.replace("  modes: []", f"  modes: [{mode}]")
    ledger = Ledger(Rig(make_site(load_kw=0, start=start)), late=late)  # 25 kWh at 105 kW: 14 minutes
    await ledger.rig.step(180)
    inputs = [one.inputs for one in ledger.kept("late")]
    assert "memory" not in inputs[0]
    assert inputs[-1]["memory"]["full_discharges"][0]["cause"] == "late"
    assert "memory" not in ledger.kept()[-1].inputs


async def test_a_shadow_plan_that_raises_never_disturbs_the_live_one(
    make_ledger: MakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, real = make_ledger(calm=IDLE, peak=PEAK), decide

    def breaks(plan: ControllerPlan, state: CycleState) -> Decision:
        if not plan.modes:
            raise ZeroDivisionError("a mode with a bug")
        return real(plan, state)

    monkeypatch.setattr("flux.edge.decisions.decide", breaks)
    await ledger.rig.step(5)
    assert ledger.rig.battery_kw == pytest.approx(40, abs=0.01)
    assert [alarm.key for alarm in ledger.alarms.active] == ["shadow_plan:calm"]
    assert len(ledger.kept("peak")) == len(ledger.kept()) > 0
    monkeypatch.setattr("flux.edge.decisions.decide", real)
    await ledger.rig.step()
    assert not ledger.alarms.active
    assert ledger.kept("calm")


async def test_a_ledger_that_fails_keeps_no_command_back(make_ledger: MakeLedger) -> None:
    ledger = make_ledger()

    def refuse(_records: Sequence[Recorded]) -> None:
        raise OSError("no")

    ledger.decisions = ledger.new(refuse)
    await ledger.rig.step(4)
    assert ledger.rig.battery_kw == pytest.approx(40, abs=0.01)
    assert [alarm.key for alarm in ledger.alarms.active] == ["ledger"]


async def test_the_plan_is_told_again_each_day(make_site: MakeSite) -> None:
    ledger = Ledger(Rig(make_site(load_kw=40, start=START.replace(hour=23, minute=59, second=30))))
    await ledger.rig.step(15)
    kinds = [type(one).__name__ for one in ledger.records]
    assert kinds.count("PlanText") == 2
    assert kinds[kinds.index("PlanText", 1) + 1] == "KeptDecision"


SITE = "site: WLCE\n" + PLAN


def write(folder: Path, shadows: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(SITE + shadows)
    return path


def test_shadow_plans_are_files_or_stand_in_the_site_file(tmp_path: Path) -> None:
    (tmp_path / "peak.yaml").write_text(PEAK)
    inline = "\n".join("  " + line for line in IDLE.replace("controller:", "calm:").splitlines())
    shadows = load_site_file(write(tmp_path, f"shadow_plans:\n  peak: peak.yaml\n{inline}\n")).config.shadow_plans
    assert shadows == {"peak": plan_of(PEAK), "calm": plan_of(IDLE)}


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        ("shadow_plans: {peak: nowhere.yaml}\n", r"nowhere.yaml: No such file"),
        (
            "shadow_plans: {peak: other.yaml}\n",
            r"site.yaml:15: shadow_plans.peak.site_meter: must be as in the controller",
        ),
        ("shadow_plans: {live: peak.yaml}\n", r"site.yaml:15: shadow_plans.live.*: the plan of the controller"),
        ("shadow_plans: {Peak!: peak.yaml}\n", r"site.yaml:15: shadow_plans.Peak!"),
        ("shadow_plans: {peak: {site_meter: X}}\n", r"site.yaml:15: shadow_plans.peak.bess: is missing"),
        ("shadow_plans: {peak: 5}\n", r"site.yaml:15: shadow_plans.peak: 5: a file"),
        ("shadow_plans: 5\n", r"site.yaml:15: shadow_plans: .*5"),
    ],
)
def test_a_shadow_plan_that_can_not_be_is_refused(tmp_path: Path, shadows: str, message: str) -> None:
    (tmp_path / "peak.yaml").write_text(PEAK)
    (tmp_path / "other.yaml").write_text(PEAK.replace("WLCE-GRID-METER", "HMCE-GRID-METER"))
    with pytest.raises(InputError, match=message):
        load_site_file(write(tmp_path, shadows))


def test_shadow_plans_need_a_live_one(tmp_path: Path) -> None:
    (tmp_path / "peak.yaml").write_text(PEAK)
    (tmp_path / "site.yaml").write_text("site: WLCE\nshadow_plans: {peak: peak.yaml}\n")
    with pytest.raises(InputError, match=r"site.yaml:2: shadow_plans: there is no controller section"):
        load_site_file(tmp_path / "site.yaml")
