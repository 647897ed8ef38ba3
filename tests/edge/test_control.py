"""The controller over a simulated site in memory: what is sent, and when nothing is."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.edge.conftest import PLAN, plan_of
from tests.edge.fakes import START
from tests.edge.rig import MODE, Rig

from flux.config import YamlDocument
from flux.control.plan import ControllerPlan, parse_plan
from flux.control.state import BatteryCapability, Cause, FullDischarge, Measurement, Memory, SetPoint
from flux.devices.simulator import SimulatedSite
from flux.edge.control_loop import _carried
from flux.edge.controlled import BatteryState
from flux.edge.sharing import Sharing
from flux.model import CommandSource

MakeSite = Callable[..., SimulatedSite]


@pytest.fixture
def rig(make_site: MakeSite) -> Rig:
    return Rig(make_site(load_kw=40))


async def test_the_battery_meets_the_load_and_stays_there(rig: Rig) -> None:
    decision = await rig.step(3)
    assert decision.target_power_kw == pytest.approx(40, abs=0.01)
    assert decision.effective == "import_avoidance"
    assert rig.battery_kw == pytest.approx(40, abs=0.01)
    assert rig.source() is CommandSource.IMPORT_AVOIDANCE


async def test_surplus_sun_is_charged(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=10, solar_kw=70))
    decision = await rig.step(3)
    assert decision.target_power_kw == pytest.approx(-60, abs=0.01)
    assert rig.source() is CommandSource.EXPORT_AVOIDANCE


async def test_an_unchanged_target_is_sent_again_only_as_a_heartbeat(rig: Rig) -> None:
    await rig.step(3)
    sent = rig.power_writes
    await rig.step(15)  # a minute; the command timeout is 30 s, a heartbeat is due each 10 s, on the grid of 4 s: 12 s
    assert rig.power_writes - sent == 5
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


async def test_the_soe_counts_by_the_capacity_of_the_device(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40, soe_pct=5.0))
    decision = await rig.step(2)
    assert decision.target_power_kw == 0
    assert [limit.value for limit in decision.limits] == ["soe_min"]


async def test_a_silent_site_meter_means_no_command_and_the_battery_stops_by_itself(rig: Rig) -> None:
    await rig.step(3)
    rig.wires["WLCE-GRID-METER"].cut = True
    await rig.step(2)  # the last reading is 8 s old: still good
    sent = rig.power_writes
    decision = await rig.step(9)
    assert decision.target_power_kw is None
    assert decision.reason.startswith("stale: site power")
    assert rig.power_writes == sent
    assert rig.battery_kw == 0  # its command timeout of 30 s has passed
    assert rig.source() is CommandSource.MANUAL


async def test_a_poll_that_took_long_is_as_old_as_its_first_reply(rig: Rig) -> None:
    """The meter says its power and then leaves a block unanswered: the poll ends 20 s later, its power is 20 s old."""
    await rig.step(3)
    poll = await rig.drivers["WLCE-GRID-METER"].poll()
    sent = rig.power_writes
    rig.site.step(rig.site.time + timedelta(seconds=20))
    rig.newest.put("WLCE-GRID-METER", replace(poll, time=rig.site.time))
    bess = rig.drivers["WLCE-BESS-01"]
    rig.newest.put("WLCE-BESS-01", await bess.poll(bess.control_names))
    decision = await rig.controller.cycle(rig.site.time)
    assert decision.reason.startswith("stale: site power is 20.0 s old")
    assert rig.power_writes == sent


async def test_a_command_that_was_not_acknowledged_counts_for_nothing(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40), PLAN.replace("  bess_meter: [WLCE-BESS-METER]\n", ""))
    rig.bess.refuses_writes = True
    for _ in range(4):  # without a measurement of the battery: no winding up against one that does not follow
        decision = await rig.step()
        assert decision.target_power_kw == pytest.approx(40, abs=0.01)
    assert rig.source() is CommandSource.MANUAL
    assert rig.controller.failed_commands == 4
    rig.bess.refuses_writes = False
    await rig.step(3)
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


async def test_without_a_measurement_the_last_command_stands_in(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40), PLAN.replace("  bess_meter: [WLCE-BESS-METER]\n", ""))
    decisions = [(await rig.step()).target_power_kw for _ in range(5)]
    assert decisions == [pytest.approx(40, abs=0.01)] * 5


async def test_a_halt_sends_zero_once_and_then_nothing(rig: Rig) -> None:
    await rig.step(3)
    rig.halted = "WLCE-BESS-01 is in maintenance"
    decision = await rig.step()
    assert decision.target_power_kw == 0
    await rig.step()
    assert rig.battery_kw == 0
    sent = rig.power_writes
    decision = await rig.step(20)
    assert decision.target_power_kw is None
    assert decision.reason.startswith("WLCE-BESS-01 is in maintenance")
    assert rig.power_writes == sent


async def test_the_zero_of_a_halt_is_tried_until_it_is_acknowledged(rig: Rig) -> None:
    await rig.step(3)
    rig.halted, rig.bess.refuses_writes = "stopped by an operator", True
    assert (await rig.step(3)).target_power_kw == 0
    rig.bess.refuses_writes = False
    assert (await rig.step()).target_power_kw == 0
    assert (await rig.step()).target_power_kw is None


async def test_after_a_halt_the_battery_is_set_up_anew(rig: Rig) -> None:
    await rig.step(3)
    rig.halted = "WLCE-BESS-01 is in maintenance"
    await rig.step(2)
    rig.bess.writes.clear()
    rig.halted = None
    await rig.step(2)
    assert MODE in rig.bess.writes
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


async def test_shutting_down_sends_zero_even_when_zero_was_the_last_target(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=0))
    await rig.step(2)
    sent = rig.power_writes
    assert await rig.controller.shut_down("the edge is stopping")
    assert rig.power_writes == sent + 1


async def test_shutting_down_tells_when_the_battery_did_not_acknowledge(rig: Rig) -> None:
    await rig.step(2)
    rig.bess.refuses_writes = True
    assert not await rig.controller.shut_down("the edge is stopping")


async def test_a_battery_that_restarted_unnoticed_is_set_up_again(rig: Rig) -> None:
    await rig.step(3)
    rig.site.restart_device("WLCE-BESS-01")
    rig.bess.writes.clear()
    await rig.step(2)
    assert MODE in rig.bess.writes
    await rig.step(2)
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


async def test_a_battery_reports_fewer_blocks_and_gets_less(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=200))
    rig.site.set_available_blocks("WLCE-BESS-01", 5)
    plan = PLAN.replace("soe_max_kwh: 475", "soe_max_kwh: 475, blocks_total: 10")
    rig.controller = rig.new_controller(plan)
    decision = await rig.step()
    assert decision.target_power_kw == pytest.approx(52.5, abs=0.1)
    assert "inverter" in [limit.value for limit in decision.limits]


async def test_a_new_controller_goes_on_where_the_last_one_was(rig: Rig) -> None:
    await rig.step(3)
    after = rig.new_controller()
    after.take_over(rig.controller)
    assert after.uses_drivers_of(rig.controller)
    rig.controller = after
    assert rig.source() is CommandSource.IMPORT_AVOIDANCE
    assert after.cycles == 3


async def test_a_battery_in_maintenance_is_not_told_that_the_edge_stops(rig: Rig) -> None:
    await rig.step(3)
    rig.halted = "WLCE-BESS-01 is in maintenance"
    await rig.step(3)
    sent = len(rig.bess.writes)
    assert await rig.controller.shut_down("the edge is stopping")
    assert len(rig.bess.writes) == sent


async def test_the_zero_of_shutting_down_is_one_acknowledged_since(make_site: MakeSite) -> None:
    """An earlier 0 kW says nothing: a command after it may have arrived although its answer was lost."""
    rig = Rig(make_site(load_kw=0))
    await rig.step(2)
    rig.bess.refuses_writes = True
    assert not await rig.controller.shut_down("the edge is stopping")


async def test_a_clock_that_is_set_back_does_not_silence_the_heartbeat(rig: Rig) -> None:
    await rig.step(3)
    rig.clock_ahead = -timedelta(hours=1)
    await rig.step(15)
    assert rig.battery_kw == pytest.approx(40, abs=0.01)
    rig.clock_ahead = timedelta(hours=1)
    await rig.step(15)
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


TWO = (
    PLAN.replace("bess: [WLCE-BESS-01]", "bess: [WLCE-BESS-01, WLCE-BESS-02]")
    .replace("bess_meter: [WLCE-BESS-METER]", "bess_meter: [WLCE-BESS-METER, WLCE-BESS-METER-2]")
    .replace("capacity_kwh: 500", "capacity_kwh: 750")
    .replace("discharge_limit_kw: 105", "discharge_limit_kw: 157.5")
    .replace("charge_limit_kw: 100", "charge_limit_kw: 150")
)


@pytest.fixture
def two(make_site: MakeSite) -> Rig:
    """A second battery of half the size beside the first, with a meter of its own; 90 kW of load."""
    config = make_site(load_kw=90).config
    bess, storage = config.devices[0], config.devices[4]
    assert bess.battery is not None
    half = bess.battery.model_copy(update={"capacity_kwh": 250, "charge_limit_kw": 50, "discharge_limit_kw": 52.5})
    second = bess.model_copy(update={"name": "WLCE-BESS-02", "port": 15030, "battery": half})
    first_meter = storage.model_copy(update={"batteries": ("WLCE-BESS-01",)})
    second_meter = storage.model_copy(
        update={"name": "WLCE-BESS-METER-2", "port": 15031, "batteries": ("WLCE-BESS-02",)}
    )
    devices = (bess, *config.devices[1:4], first_meter, second, second_meter)
    return Rig(SimulatedSite(config.model_copy(update={"devices": devices}), START), TWO)


async def test_two_batteries_share_by_what_each_can_give(two: Rig) -> None:
    decision = await two.step(4)
    assert decision.target_power_kw == pytest.approx(90, abs=0.01)
    powers = [two.site.battery(name).power_kw for name in ("WLCE-BESS-01", "WLCE-BESS-02")]
    assert powers == [pytest.approx(60, abs=0.01), pytest.approx(30, abs=0.01)]


async def test_with_one_of_two_batteries_silent_nothing_is_sent_to_either(two: Rig) -> None:
    await two.step(3)
    two.wires["WLCE-BESS-02"].cut = True
    decision = await two.step(3)
    assert decision.target_power_kw is None
    assert decision.reason.startswith("stale: SoE")


async def test_a_halt_of_two_batteries_lasts_until_both_acknowledged(two: Rig) -> None:
    await two.step(3)
    two.halted = "WLCE-BESS-02 is in maintenance"
    two.wires["WLCE-BESS-02"].refuses_writes = True
    assert (await two.step(3)).target_power_kw == 0
    assert not await two.controller.shut_down("the edge is stopping")
    two.wires["WLCE-BESS-02"].refuses_writes = False
    await two.step()
    assert (await two.step()).target_power_kw is None
    assert [two.site.battery(name).power_kw for name in ("WLCE-BESS-01", "WLCE-BESS-02")] == [0, 0]


def test_shares_follow_limits_blocks_and_soe() -> None:
    def battery(limit_kw: float | None, soe_kwh: float | None, blocks: int | None = None) -> BatteryState:
        soe = None if soe_kwh is None else Measurement(soe_kwh, START)
        total = None if blocks is None else 10
        return BatteryState(soe, None, BatteryCapability(limit_kw, limit_kw, blocks, total))

    sharing = Sharing(plan_of(), [250, 250])  # SoE from 12.5 to 237.5 kWh each
    middle = 125.0
    assert Sharing(plan_of(), [500]).split([battery(10, middle)], 90) == (90,)
    assert sharing.split([battery(100, middle), battery(50, middle)], 90) == pytest.approx((60, 30))
    assert sharing.split([battery(100, middle, 5), battery(50, middle)], -90) == pytest.approx((-45, -45))
    assert sharing.split([battery(0, middle), battery(50, middle)], 30) == (0, 30)
    assert sharing.split([battery(None, middle), battery(None, middle)], 30) == pytest.approx((15, 15))
    assert sharing.split([battery(100, 12.5), battery(100, middle)], 30) == (0, 30)
    assert sharing.split([battery(None, None), battery(None, None)], 0) == (0, 0)
    assert sharing.capability([battery(80, 12.5), battery(80, middle, 5)]) == BatteryCapability(120, 40)


async def test_of_two_batteries_one_with_another_master_is_left_alone_and_the_other_rests(two: Rig) -> None:
    await two.step(3)
    two.controller.batteries[1].hold("it shows a target of 50.0 kW")
    two.halted = "WLCE-BESS-02 is commanded by somebody else"
    two.wires["WLCE-BESS-02"].writes.clear()
    assert (await two.step()).target_power_kw == 0
    assert (await two.step(2)).target_power_kw is None
    assert two.site.battery("WLCE-BESS-01").power_kw == 0
    assert two.wires["WLCE-BESS-02"].writes == []
    assert not two.controller.stop_acknowledged
    assert await two.controller.shut_down("the edge is stopping")


async def test_of_two_batteries_the_fuller_one_gives_more(two: Rig) -> None:
    two.site.battery("WLCE-BESS-01").energy_kwh = 125.0
    two.site.battery("WLCE-BESS-02").energy_kwh = 225.0
    await two.step(4)
    first, second = (two.site.battery(name).power_kw for name in ("WLCE-BESS-01", "WLCE-BESS-02"))
    assert first + second == pytest.approx(90, abs=0.1)
    assert second == pytest.approx(52.3, abs=0.3)  # 52.5 kW nearly full, against 105 kW at a third


LATE = 'mode: dynamic_peak_discharge, target_soe_kwh: {}, periods: [{{start: "12:00", end: "13:00"}}]'
OTHER = "mode: import_avoidance"


@pytest.mark.parametrize(
    ("before", "entry", "after", "now_at"),
    [
        pytest.param([OTHER, LATE.format(100)], 1, [LATE.format(100), OTHER], 0, id="reordered"),
        pytest.param([LATE.format(100), OTHER], 0, [OTHER, OTHER, LATE.format(100)], 2, id="others put before it"),
        pytest.param([LATE.format(100)] * 2, 1, [OTHER, *[LATE.format(100)] * 2], 2, id="the second of two alike"),
        pytest.param([LATE.format(100)], 0, [OTHER, LATE.format(120)], 1, id="edited, and the only one"),
        pytest.param([LATE.format(100)], 0, [LATE.format(110), LATE.format(120)], None, id="edited, and one of two"),
        pytest.param([LATE.format(100)], 0, [OTHER], None, id="gone"),
    ],
)
def test_what_had_begun_goes_on_in_a_plan_whose_entries_moved(
    before: list[str], entry: int, after: list[str], now_at: int | None
) -> None:
    def plan(modes: list[str]) -> ControllerPlan:
        entries = "".join(f"    - {{{mode}}}\n" for mode in modes)
        text = PLAN[: PLAN.index("  modes:")] + "  modes:\n" + entries
        return parse_plan(YamlDocument(text, "site.yaml"), allow_overlaps=True)

    begun = FullDischarge(entry, START, Cause.LATE)
    carried = _carried(Memory((begun,)), plan(before), plan(after))
    assert [one.entry for one in carried.full_discharges] == ([] if now_at is None else [now_at])


async def test_a_set_point_by_hand_is_for_one_of_two_batteries(two: Rig) -> None:
    await two.step(3)
    given = SetPoint("WLCE-BESS-02", -30, two.now() + timedelta(seconds=30), "anna")
    two.controller._by_hand = lambda now: given if now < given.until else None
    decision = await two.step(3)
    assert (decision.target_power_kw, decision.effective) == (-30, "set_point")
    powers = [two.site.battery(name).power_kw for name in ("WLCE-BESS-01", "WLCE-BESS-02")]
    assert powers == [0, pytest.approx(-30, abs=0.01)]
    assert two.source() is CommandSource.MANUAL
    assert (await two.step(10)).target_power_kw == pytest.approx(90, abs=0.01)


def test_what_one_battery_can_not_carry_the_others_do_only_for_the_grid() -> None:
    def battery(soe_kwh: float) -> BatteryState:
        return BatteryState(Measurement(soe_kwh, START), None, BatteryCapability(40, 40))

    sharing = Sharing(plan_of(), [250, 250])
    both = [battery(125.0), battery(125.0)]
    assert sharing.for_one(both, 1, 60, others_help=False) == (0, 40)
    assert sharing.for_one(both, 1, 60, others_help=True) == pytest.approx((20, 40))
    assert sharing.for_one(both, 0, -30, others_help=True) == (-30, 0)
