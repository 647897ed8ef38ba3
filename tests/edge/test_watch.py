"""What is seen of a battery that does not do, or does not hold, what it was told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.edge.conftest import PLAN
from tests.edge.fakes import START
from tests.edge.rig import STEP, Rig

from flux.control.state import AcknowledgedCommand, Measurement
from flux.devices.codec import encode
from flux.devices.simulator import SimulatedSite
from flux.devices.simulator.physics import BatterySpec
from flux.devices.template import builtin_template
from flux.edge.daily import DailyCount
from flux.edge.following import Following, RecentCommands, StoredEnergy

MakeSite = Callable[..., SimulatedSite]
BESS = "WLCE-BESS-01"
SET_POINT = 2008
MAX_DISCHARGE = 141
POWER = 1020
READABLE = PLAN.replace("  interval: 4s\n", "  interval: 4s\n  without_timeout: accepted\n")


def target_words(power_kw: float) -> list[int]:
    """Of the set-point of the powerpack_bess template, which can be read as well."""
    return list(encode(builtin_template("powerpack_bess").register("target_power"), power_kw))


@pytest.fixture
def rig(make_site: MakeSite) -> Rig:
    return Rig(make_site(load_kw=40))


@pytest.fixture
def readable(make_site: MakeSite) -> Rig:
    """A battery whose set-point can be read back."""
    config = make_site(load_kw=40).config
    bess = config.devices[0].model_copy(update={"template": "powerpack_bess"})
    return Rig(SimulatedSite(config.model_copy(update={"devices": (bess, *config.devices[1:])}), START), READABLE)


async def test_all_well_raises_nothing(rig: Rig) -> None:
    await rig.step(60)
    assert rig.heard == []


async def test_all_well_with_a_set_point_that_is_read_back(readable: Rig) -> None:
    await readable.step(60)
    assert readable.heard == []
    assert readable.battery_kw == pytest.approx(40, abs=0.01)


async def test_an_answer_that_differs_is_told_once_and_cleared_once(readable: Rig) -> None:
    readable.bess.answers[SET_POINT] = target_words(20)
    await readable.step(10)
    assert readable.heard == [f"read_back:{BESS}"]
    text = readable.alarms.active[0].text
    assert "target_power holds 20" in text
    assert "40 was written" in text
    last = readable.controller.batteries[0].last_command
    assert last is not None
    assert last.power_kw == 20  # what the battery says of itself counts, not what was wished
    readable.bess.answers.clear()
    await readable.step(2)
    assert readable.up == []
    assert readable.heard == [f"read_back:{BESS}"]


async def test_a_write_that_fails_is_told_once_and_cleared_once(rig: Rig) -> None:
    rig.bess.refuses_writes = True
    await rig.step(5)
    assert rig.heard == [f"command:{BESS}"]
    assert "not acknowledged" in rig.alarms.active[0].text
    rig.bess.refuses_writes = False
    await rig.step(2)
    assert rig.up == []


async def test_a_restart_is_told_and_over_when_the_battery_is_set_up(rig: Rig) -> None:
    await rig.step(3)
    rig.site.restart_device(BESS)
    await rig.step(4)
    assert rig.heard == [f"restarted:{BESS}"]
    assert rig.up == []
    assert rig.battery_kw == pytest.approx(40, abs=0.01)


async def test_a_battery_that_does_not_follow_is_told_and_nothing_winds_up(rig: Rig) -> None:
    await rig.step(3)
    rig.site.battery(BESS).spec = _cannot(rig.site)  # it reports limits as before, and gives 5 kW
    rig.bess.answers[MAX_DISCHARGE] = _kw(100)
    targets = [(await rig.step()).target_power_kw for _ in range(30)]
    assert rig.heard[0] == f"not_following:{BESS}"
    assert rig.heard.count(f"not_following:{BESS}") == 1
    assert targets == [pytest.approx(40, abs=0.1)] * 30


def _kw(power_kw: float) -> list[int]:
    """Of the command register of the Tesla template."""
    return list(encode(builtin_template("tesla_powerpack").register("command_power"), power_kw))


def _cannot(site: SimulatedSite) -> BatterySpec:
    return replace(site.battery(BESS).spec, discharge_limit_kw=5.0)


async def test_a_slow_ramp_is_not_a_battery_that_does_not_follow(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=90))
    await rig.step(1)
    rig.site.battery(BESS).ramp_up_kw_s = 0.8  # 90 kW take two minutes
    await rig.step(60)
    assert rig.heard == []
    assert rig.battery_kw == pytest.approx(90, abs=0.5)


UNMEASURED = PLAN.replace("  bess_meter: [WLCE-BESS-METER]\n", "")


async def test_where_nothing_measures_it_the_stored_energy_tells(
    make_site: MakeSite,
) -> None:
    rig = Rig(make_site(load_kw=40), UNMEASURED)
    await rig.step(10)
    rig.site.set_tripped(BESS, True)
    told = [(await rig.step()).target_power_kw for _ in range(40)]
    assert told[-1] == pytest.approx(40, abs=0.01), "what the site draws, and no more"
    assert rig.heard == ["not_following:WLCE-BESS-01"]
    rig.site.set_tripped(BESS, False)
    await rig.step(60)
    assert rig.up == []
    assert rig.battery_kw == pytest.approx(40, abs=0.01)
    assert rig.heard == ["not_following:WLCE-BESS-01"], "said once"


async def test_where_nothing_measures_it_one_that_follows_is_believed(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40), UNMEASURED)
    await rig.step(200)
    rig.site.battery(BESS).energy_kwh = 25.2  # a few kWh more and it rests by the plan's own limit
    await rig.step(60)
    assert rig.heard == []


async def test_a_stop_is_over_only_when_zero_was_acknowledged_even_if_it_does_not_follow(make_site: MakeSite) -> None:
    rig = Rig(make_site(load_kw=40), UNMEASURED)
    await rig.step(5)
    rig.site.set_tripped(BESS, True)
    await rig.step(40)
    rig.halted = "stopped"
    before = rig.power_writes
    await rig.step(1)
    assert rig.power_writes == before + 1
    assert rig.site.battery(BESS).set_point_kw == 0


def energy_after(readings: Sequence[tuple[float, float]], capacity_kwh: float = 500.0) -> list[bool]:
    """Whether it fails after each (kWh, kW in force) 10 s apart."""
    watch, fails = StoredEnergy(capacity_kwh), []
    for number, (soe_kwh, told_kw) in enumerate(readings):
        watch.look(Measurement(soe_kwh, START + number * timedelta(seconds=10)), told_kw)
        fails.append(watch.failing)
    return fails


def test_stored_energy_that_does_not_move_is_found_out() -> None:
    assert not any(energy_after([(250.0 - 36 * n / 360, 36.0) for n in range(300)]))
    stuck = energy_after([(250.0, 36.0)] * 60)
    assert stuck.index(True) in (50, 51), "5 kWh of 500 as long as no step of its energy was seen"
    moving = [(250.0 - 0.1 * n, 36.0) for n in range(20)]
    assert energy_after(moving + [(248.0, 36.0)] * 20).index(True) <= 40


def test_energy_in_coarse_steps_is_waited_for() -> None:
    coarse = [(float(round((250 - 0.1 * n) / 2.5) * 2.5), 36.0) for n in range(400)]
    assert not any(energy_after(coarse))


def test_charging_is_judged_alike() -> None:
    assert not any(energy_after([(250.0 + 0.09 * n, -36.0) for n in range(300)]))
    assert energy_after([(250.0 - 0.05 * n, -36.0) for n in range(300)])[-1], "the wrong way"


async def test_another_master_is_noticed_and_control_stops_until_released(readable: Rig) -> None:
    await readable.step(3)
    await readable.bess.inner.write(1, SET_POINT, target_words(-50))  # somebody wants it to charge
    decision = await readable.step()
    assert readable.heard == [f"other_master:{BESS}"]
    assert "target_power holds -50, 40 was written" in readable.alarms.active[0].text
    assert decision.target_power_kw is None
    assert decision.reason.startswith("nothing is sent")
    sent = len(readable.bess.writes)
    await readable.step(30)
    assert len(readable.bess.writes) == sent
    assert readable.battery_kw == -50
    assert await readable.controller.shut_down("the edge is stopping")  # not even 0 kW: it is not ours
    assert not readable.controller.stop_acknowledged
    assert len(readable.bess.writes) == sent


async def test_after_a_release_control_goes_on(readable: Rig) -> None:
    await readable.step(3)
    await readable.bess.inner.write(1, SET_POINT, target_words(-50))
    await readable.step(3)
    readable.controller.batteries[0].release()
    await readable.step(4)
    assert readable.up == []
    assert readable.battery_kw == pytest.approx(40, abs=0.01)


async def test_another_master_shows_in_the_target_where_no_set_point_can_be_read(rig: Rig) -> None:
    await rig.step(20)
    for _ in range(3):
        await rig.bess.inner.write(1, POWER, _kw(-70))
        await rig.step()
        await rig.bess.inner.write(1, POWER, _kw(-70))
    assert rig.heard == [f"other_master:{BESS}"]
    assert "shows a target of -70.0 kW" in rig.alarms.active[0].text


@pytest.mark.parametrize("kind", ["rig", "readable"])
async def test_what_was_written_without_an_answer_is_no_other_master(kind: str, request: pytest.FixtureRequest) -> None:
    """The battery takes each write and the answers are lost: what it holds is ours all the same."""
    rig: Rig = request.getfixturevalue(kind)

    async def foreign(rig: Rig) -> None:
        at, words = (SET_POINT, target_words(-50)) if kind == "readable" else (POWER, _kw(-50))
        await rig.bess.inner.write(1, at, words)

    await rig.step(20)
    rig.bess.loses_answers = frozenset([POWER, SET_POINT])
    for load_kw in (55.0, 70.0, 62.0, 80.0):
        rig.set_load(load_kw)
        await rig.step(3)
    assert f"command:{BESS}" in rig.up
    rig.bess.loses_answers = frozenset()
    await rig.step(20)
    assert rig.up == []
    assert f"other_master:{BESS}" not in rig.heard
    assert rig.battery_kw == pytest.approx(80, abs=0.01)
    for _ in range(3):  # and after that another master is found as before
        await foreign(rig)
        await rig.step()
        await foreign(rig)
    assert rig.up == [f"other_master:{BESS}"]


async def test_a_set_point_that_the_battery_holds_back_is_no_other_master(readable: Rig) -> None:
    readable.bess.answers[SET_POINT] = target_words(20)
    await readable.step(30)
    assert f"other_master:{BESS}" not in readable.heard


async def test_where_nothing_may_be_sent_nothing_is_sent_not_even_zero(rig: Rig) -> None:
    rig.withheld = "the control lease is with another edge"
    decision = await rig.step(3)
    assert decision.target_power_kw is None
    assert rig.bess.writes == []
    rig.halted = "stopped"
    await rig.step(3)
    assert await rig.controller.shut_down("the edge is stopping")
    assert rig.bess.writes == []


async def test_register_writes_are_counted_by_day(rig: Rig) -> None:
    await rig.step(5)
    battery = rig.controller.batteries[0]
    assert battery.writes.today(rig.site.time) == len(rig.bess.writes) > 0
    tomorrow = rig.site.time + timedelta(days=1)
    assert battery.writes.today(tomorrow) == 0
    assert battery.writes.yesterday(tomorrow) == len(rig.bess.writes)


def test_a_count_goes_on_from_an_earlier_run_of_the_same_day() -> None:
    count = DailyCount()
    count.go_on_from(START.date(), 100)
    count.add(5, START)
    assert count.today(START) == 105
    other = DailyCount()
    other.go_on_from((START - timedelta(days=3)).date(), 100)
    other.add(5, START)
    assert (other.today(START), other.yesterday(START)) == (5, 0)


def follows(powers: Sequence[float], told: Sequence[float], limit_kw: float = 100.0) -> bool:
    """Whether a battery with these measurements follows these commands, one of each in each cycle."""
    following, recent = Following(3 * STEP, 5.0), RecentCommands()
    for number, (power, command) in enumerate(zip(powers, told, strict=True)):
        recent.add(AcknowledgedCommand(command, START + number * STEP))
        seen = Measurement(power, START + number * STEP + STEP / 2)
        following.look(seen, recent, lambda kw: max(-limit_kw, min(limit_kw, kw)))
    return not following.failing


def test_following_in_words() -> None:
    assert follows([0, 0, 0] + [40] * 20, [0] + [40] * 22)
    assert not follows([0] * 23, [0] + [40] * 22)
    assert not follows([-40] * 23, [0] + [40] * 22)
    assert follows([30] * 23, [40] * 23, limit_kw=30)  # it says that it can give no more
    assert follows([3.0 * n for n in range(23)], [0] + [66] * 22)  # on its way
    assert follows([0, 0] + [(-1) ** n * 50 for n in range(21)], [(-1) ** n * 50 for n in range(23)])  # two cycles late
