"""Closed loop over real Modbus TCP: the site is kept at 0, no limit is passed, every fault is in the ledger."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.e2e.closed_loop import BESS, GRID, SECOND_BESS, SECOND_STORAGE, START, STORAGE, Loop, Setup, closed_loop

from flux.control.faults import FaultSpan
from flux.devices.client import ModbusConnection
from flux.devices.simulator import LoadConfig

Begin = Callable[[Setup], AbstractAsyncContextManager[Loop]]
TIMEOUT_S = 30
"""The battery's own command timeout."""


@pytest.fixture
def begin(dsn: str, db: AsyncConnection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    return lambda setup: closed_loop(setup, dsn, db, tmp_path, monkeypatch)


def of_kind(faults: list[FaultSpan], kind: str, device: str = BESS) -> FaultSpan:
    """The one fault of this kind; it began and ended."""
    (found,) = [one for one in faults if (one.kind, one.device) == (kind, device)]
    assert found.until is not None, f"{kind} has no end"
    return found


def seconds(span: FaultSpan) -> tuple[float, float]:
    """From when to when, in seconds since the beginning."""
    assert span.until is not None
    return (span.since - START).total_seconds(), (span.until - START).total_seconds()


@pytest.mark.long
async def test_a_calm_site_is_at_zero_after_two_cycles(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(120)
        loop.settled_within(0.1, last_s=110)
        loop.no_limit_was_passed()
    assert await loop.faults() == []
    assert await loop.replays() >= 2


@pytest.mark.long
async def test_with_noise_it_stays_within_two_kilowatts(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        for meter in (GRID, STORAGE):
            loop.server.add_fault(f"{meter}:noise:0.3")
        await loop.run(200)
        loop.settled_within(2.0, last_s=180)
        assert max(map(abs, loop.site_kw[20:])) > 0.3, "there was noise to follow"
        loop.no_limit_was_passed()


@pytest.mark.long
async def test_with_a_slow_ramp_it_settles(begin: Begin) -> None:
    async with begin(Setup(ramp_w_s=3000, load=LoadConfig(constant_kw=90.0))) as loop:
        await loop.run(100)
        assert loop.site_kw[10] > 50, "it ramps"
        loop.settled_within(0.1, last_s=50)
        loop.no_limit_was_passed()
    assert await loop.faults() == []


@pytest.mark.long
async def test_with_whole_kilowatts_it_settles(begin: Begin) -> None:
    async with begin(Setup(template="whole_kw", load=LoadConfig(constant_kw=40.4))) as loop:
        await loop.run(60)
        loop.settled_within(0.6, last_s=50)
        loop.no_limit_was_passed()
        assert {write.value for write in loop.powers_written} == {40}


async def test_with_a_meter_that_lags_it_settles_and_hunting_is_in_the_ledger(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        loop.server.add_fault(f"{GRID}:lag:8s")
        await loop.run(400)
        assert max(map(abs, loop.site_kw[:100])) > 30, "it swings at first"
        loop.settled_within(2.0, last_s=120)
        loop.no_limit_was_passed()
    (hunting,) = [one for one in await loop.faults() if one.kind == "hunting"]
    assert hunting.until is None
    assert hunting.since < START + timedelta(seconds=120)
    damped = [row for row in await loop.ledger() if abs(row["sent_power_kw"] - row["target_power_kw"]) > 1]
    assert len(damped) > 5, "what was sent stands beside what was decided"
    for row in damped:
        (told,) = row["commands"]
        assert told["asked_kw"] == row["sent_power_kw"]
        assert told["acknowledged_kw"] == pytest.approx(told["asked_kw"], abs=0.011)
    assert await loop.replays() > 10, "and each decision is found again"


@pytest.mark.long
async def test_a_battery_that_restarts_is_set_up_again(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        before = len(loop.site.device(BESS).register_log)
        loop.server.add_fault(f"{BESS}:restart:8s")
        await loop.run(60)
        loop.settled_within(0.1, last_s=20)
        after = [write.register for write in list(loop.site.device(BESS).register_log)[before:]]
        assert after[:2] == ["command_ramp_up", "command_ramp_down"], "ramps, timeout and mode are set again"
        assert {"command_timeout", "command_mode"} <= set(after[:7])
        loop.no_limit_was_passed()
    faults = await loop.faults()
    offline = of_kind(faults, "offline")
    assert seconds(offline)[0] == pytest.approx(44, abs=4)
    assert {one.kind for one in faults} <= {"offline", "not_acknowledged", "restarted"}


@pytest.mark.long
async def test_refused_writes(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        loop.server.add_fault(f"{BESS}:refuse-writes,for=61s")
        await loop.run(60)
        assert loop.battery_kw[-1] == 0, "its own timeout has made it rest"
        await loop.run(30)
        loop.settled_within(0.1, last_s=16)
        loop.no_limit_was_passed()
    refused = of_kind(await loop.faults(), "not_acknowledged")
    begins, ends = seconds(refused)
    assert 40 <= begins <= 52, "with the first heartbeat that is due"
    assert 100 <= ends <= 108
    assert "was not acknowledged" in refused.words
    assert await loop.replays() >= 3


@pytest.mark.long
async def test_a_lost_network(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        loop.server.add_fault("*:drop,for=61s")
        await loop.run(60)
        written = [write.time for write in loop.powers_written]
        assert max(written) <= START + timedelta(seconds=40), "no command on stale data"
        assert loop.battery_kw[-1] == 0, "its own timeout has made it rest"
        assert loop.battery_kw[40 + TIMEOUT_S - 12] > 0, "and not before"
        await loop.run(60)
        loop.settled_within(0.1, last_s=20)
        loop.no_limit_was_passed()
    faults = await loop.faults()
    for device in (BESS, GRID, STORAGE):
        begins, ends = seconds(of_kind(faults, "offline", device))
        assert 40 <= begins <= 52
        assert 100 <= ends <= 120
    stale = of_kind(faults, "stale")
    assert seconds(stale)[0] == pytest.approx(52, abs=4)
    assert stale.words.startswith("stale: ")


@pytest.mark.long
async def test_a_battery_that_takes_commands_and_rests(begin: Begin) -> None:
    """Its meter shows it: nothing winds up, it is said once, and it goes on by itself."""
    async with begin(Setup()) as loop:
        await loop.run(40)
        loop.server.add_fault(f"{BESS}:tripped,for=120s")
        await loop.run(120)
        assert max(abs(float(write.value)) for write in loop.powers_written) <= 40.1, (
            "no command beyond the site's demand"
        )
        await loop.run(40)
        loop.settled_within(0.1, last_s=20)
        loop.no_limit_was_passed()
    begins, ends = seconds(of_kind(await loop.faults(), "not_following"))
    assert 48 <= begins <= 100
    assert 160 <= ends <= 176


async def test_one_that_nothing_measures_and_that_rests_is_found_by_its_energy(begin: Begin) -> None:
    async with begin(Setup(bess_meter="")) as loop:
        await loop.run(40)
        loop.settled_within(0.1, last_s=20)
        loop.server.add_fault(f"{BESS}:tripped,for=160s")
        await loop.run(158)
        assert loop.powers_written[-1].value == pytest.approx(40, abs=0.1), "what the site draws, and no more"
        await loop.run(60)
        loop.settled_within(0.1, last_s=20)
        loop.no_limit_was_passed()
    begins, ends = seconds(of_kind(await loop.faults(), "not_following"))
    assert 60 <= begins <= 120
    assert 200 <= ends <= 230
    assert await loop.replays() > 5


@pytest.mark.long
async def test_a_restart_that_the_network_does_not_show(begin: Begin) -> None:
    async with begin(Setup()) as loop:
        await loop.run(40)
        loop.site.restart_device(BESS)
        await loop.run(40)
        loop.settled_within(0.1, last_s=20)
        assert "command_mode" in {write.register for write in list(loop.site.device(BESS).register_log)[7:]}
        loop.no_limit_was_passed()
    begins, ends = seconds(of_kind(await loop.faults(), "restarted"))
    assert 40 <= begins <= 48
    assert ends <= 56


async def test_another_master_over_modbus_stops_control_and_is_in_the_ledger(begin: Begin) -> None:
    async with begin(Setup(template="whole_kw")) as loop:
        await loop.run(40)
        device = loop.site.device(BESS)
        foreign = ModbusConnection("127.0.0.1", device.port)
        await foreign.write(device.unit, device.template.register("set_point").address, [77])
        await foreign.aclose()
        await loop.run(60)
        assert loop.powers_written[-1].value == 77, "nothing was written against it"
        assert loop.battery_kw[-1] == 0, "the battery gave up on a master that is silent"
    (found,) = [one for one in await loop.faults() if one.kind == "other_master"]
    assert found.until is None, "until an operator resumes"
    assert "77" in found.words


@pytest.mark.parametrize("template", [pytest.param("tesla_powerpack", marks=pytest.mark.long), "whole_kw"])
async def test_the_limits_of_energy_hold_at_the_register(begin: Begin, template: str) -> None:
    """It runs empty under load, then full under sun, and never has a set-point that reaches beyond."""
    setup = Setup(template=template, capacity_kwh=60, soe_pct=10, soe_min_kwh=5.3, soe_max_kwh=6.4)
    async with begin(setup) as loop:
        loop.set_load(80.7)
        await loop.run(100)
        assert loop.site.battery(BESS).energy_kwh == pytest.approx(5.3, abs=0.01)
        loop.set_load(0.0, solar_kw=90.6)
        await loop.run(120)
        assert loop.site.battery(BESS).energy_kwh == pytest.approx(6.4, abs=0.01)
        loop.no_limit_was_passed()


@pytest.mark.parametrize("template", [pytest.param("tesla_powerpack", marks=pytest.mark.long), "whole_kw"])
async def test_the_limits_of_the_grid_hold_at_the_register(begin: Begin, template: str) -> None:
    """No mode asks for anything: what is done is done for the connection alone."""
    async with begin(Setup(template=template, import_limit_kw=60.4, export_limit_kw=70.3, modes="")) as loop:
        loop.set_load(80.7)
        await loop.run(20)
        assert loop.site_kw[-1] == pytest.approx(60.4, abs=1)
        assert loop.site_kw[-1] <= 60.42
        loop.set_load(0.0, solar_kw=110.6)
        await loop.run(20)
        assert loop.site_kw[-1] == pytest.approx(-70.3, abs=1)
        assert loop.site_kw[-1] >= -70.32
        loop.no_limit_was_passed()


@pytest.mark.long
@pytest.mark.parametrize("lag_s", [0, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("ramp_w_s", [5_000, 100_000])
@pytest.mark.parametrize("template", ["tesla_powerpack", "whole_kw"])
async def test_the_sweep_of_lags_ramps_and_registers(begin: Begin, template: str, ramp_w_s: int, lag_s: int) -> None:
    """Half an hour of noise; the load jumps far twice, and each time the site settles at 0."""
    async with begin(Setup(template=template, ramp_w_s=ramp_w_s)) as loop:
        if lag_s:
            loop.server.add_fault(f"{GRID}:lag:{lag_s}s")
        for meter in (GRID, STORAGE):
            loop.server.add_fault(f"{meter}:noise:0.2")
        for load_kw in (60.4, 5.7, 88.2):
            loop.set_load(load_kw)
            await loop.run(600)
            loop.settled_within(2.0, last_s=120)
        loop.no_limit_was_passed()
    assert await loop.replays() > 20


@pytest.mark.long
async def test_the_limits_of_the_inverter_hold_at_the_register(begin: Begin) -> None:
    async with begin(Setup(load=LoadConfig(constant_kw=180.0))) as loop:
        await loop.run(20)
        assert loop.battery_kw[-1] == pytest.approx(105)
        loop.server.add_fault(f"{BESS}:blocks:4")
        loop.set_load(0.0, solar_kw=300.0)
        await loop.run(20)
        assert min(float(write.value) for write in loop.powers_written) == pytest.approx(-100)


async def test_what_a_coarse_register_holds_already_is_not_written_again(begin: Begin) -> None:
    async with begin(Setup(template="whole_kw", load=LoadConfig(constant_kw=40.4))) as loop:
        await loop.run(120)
        gaps = [later.time - sooner.time for sooner, later in pairwise(loop.powers_written)]
        assert min(gaps[1:]) >= timedelta(seconds=8), "only the heartbeat is due"
        assert max(gaps) <= timedelta(seconds=12), "a third of the command timeout, on the grid of cycles"
        taken = len(loop.site.device(BESS).register_log)
    (counted,) = (await loop.ledger())[-1]["commands"]
    assert counted["register_writes_today"] == taken, "each write is counted, by the battery's own log"


async def test_two_batteries_share_and_the_ledger_has_what_each_was_told(begin: Begin) -> None:
    """The fuller one gives more; while one refuses, the ledger tells what was asked of it and what it holds."""
    both = Setup(
        load=LoadConfig(constant_kw=60.0),
        soe_max_kwh=950,
        bess=f"{BESS}, {SECOND_BESS}",
        bess_meter=f"{STORAGE}, {SECOND_STORAGE}",
    )
    async with begin(both) as loop:
        await loop.run(40)
        loop.settled_within(0.1, last_s=20)
        first, second = (loop.site.battery(name).power_kw for name in (BESS, SECOND_BESS))
        assert 0 < first < second
        loop.server.add_fault(f"{SECOND_BESS}:refuse-writes,for=19s")
        loop.set_load(30.0)
        await loop.run(20)
    rows = await loop.ledger()
    sixty = next(row for row in rows if row["sent_power_kw"] == pytest.approx(60, abs=0.1))
    calm = sixty["commands"]
    assert [one["battery"] for one in calm] == [BESS, SECOND_BESS]
    assert [one["acknowledged_kw"] for one in calm] == [pytest.approx(first, abs=0.1), pytest.approx(second, abs=0.1)]
    refused = next(row for row in rows if row["faults"])
    asked = refused["commands"][1]
    assert asked["written"]
    assert asked["asked_kw"] < second - 5, "its part of 30 kW"
    assert asked["acknowledged_kw"] == pytest.approx(second, abs=0.1), "what it still does"
    assert {one.device for one in await loop.faults() if one.kind == "not_acknowledged"} == {SECOND_BESS}


async def test_everything_together(begin: Begin) -> None:
    """Lag, noise, ramps and whole kilowatts; meanwhile a restart, refused writes and a lost network."""
    setup = Setup(load=LoadConfig(mean_kw=40), template="whole_kw", ramp_w_s=20_000)
    async with begin(setup) as loop:
        loop.server.add_fault(f"{GRID}:lag:2s")
        for meter in (GRID, STORAGE):
            loop.server.add_fault(f"{meter}:noise:0.1")
        await loop.run(120)
        loop.server.add_fault(f"{BESS}:restart:8s")
        await loop.run(80)
        loop.server.add_fault(f"{BESS}:refuse-writes,for=40s")
        await loop.run(120)
        loop.server.add_fault("*:drop,for=40s")
        await loop.run(300)
        loop.no_limit_was_passed()
        settled = [kw for second, kw in enumerate(loop.site_kw) if second >= 420 and second % 20 >= 12]
        assert max(map(abs, settled)) <= 2.0, "after each step of the load, which come every 20 s"
    kinds = {one.kind for one in await loop.faults()}
    assert {"offline", "not_acknowledged", "stale"} <= kinds
    assert await loop.replays() > 50
