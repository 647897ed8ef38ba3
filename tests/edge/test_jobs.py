"""Jobs at the site, by both adapters: ordered at the platform, run beside control, answered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.edge.both import ADAPTERS, MOSTLY_SQL, links
from tests.edge.plant import Plant, Switch, running_plant

from flux.devices.simulator import SimulatedSite
from flux.edge.ticks import system_clock
from flux.model import DeviceId, DeviceState, Job, JobKind, JobState
from flux.registry import end_maintenance, get_device, set_state, start_maintenance
from flux.store import ownership
from flux.store.jobs import create_job, get_job

BESS, METER = "WLCE-BESS-01", "WLCE-GRID-METER"


@pytest.fixture(params=MOSTLY_SQL)
async def plant(
    request: pytest.FixtureRequest,
    make_site: Callable[..., SimulatedSite],
    dsn: str,
    db: AsyncConnection[Any],
    tmp_path: Path,
) -> AsyncIterator[Plant]:
    site = make_site(load_kw=40, start=system_clock(), port=0)
    with links(request.param, dsn) as make:
        async with running_plant(site, dsn, db, tmp_path, make) as plant:
            yield plant


async def order(plant: Plant, kind: JobKind, **args: Any) -> Job:
    soon = system_clock() + timedelta(minutes=1)
    return await create_job(plant.db, "WLCE", kind, args, expires_at=soon, actor="anna")


async def over(plant: Plant, ordered: Job) -> Job:
    """The job as it is once it is over."""
    found = ordered

    async def finished() -> bool:
        nonlocal found
        found = await get_job(plant.db, ordered.id)
        return found.state not in (JobState.WAITING, JobState.RUNNING)

    await plant.until(finished)
    return found


async def controls(plant: Plant, power_kw: float = 40) -> None:
    await plant.until(lambda: abs(plant.battery_kw - power_kw) < 0.5)


def in_minutes(minutes: float) -> str:
    return (system_clock() + timedelta(minutes=minutes)).isoformat()


@pytest.mark.parametrize("plant", ADAPTERS, indirect=True)
async def test_a_set_point_holds_until_a_stop_and_is_in_the_ledger(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
        began = system_clock()
        job = await over(plant, await order(plant, JobKind.SET_POINT, device=BESS, power_kw=-20, until=in_minutes(5)))
        assert (job.state, job.error) == (JobState.DONE, None)
        assert system_clock() - began < timedelta(seconds=5)
        assert job.result["acknowledged_kw"] == pytest.approx(-20)
        assert "set-point by anna" in job.result["reason"]
        await controls(plant, -20)
        await ownership.stop_site(plant.db, "WLCE", actor="ben", reason="smoke")
        await controls(plant, 0)
        refused = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=-20, until=in_minutes(5))
        assert "control rests: the site was stopped by ben: smoke" in ((await over(plant, refused)).error or "")
        await ownership.resume_site(plant.db, "WLCE", actor="ben")
        await controls(plant)  # the stop has ended it: the plan goes on
    rows = await plant.rows(
        "SELECT command_source, inputs -> 'set_point' ->> 'actor' FROM flux.control_decisions"
        " WHERE effective = 'set_point' ORDER BY time LIMIT 1"
    )
    assert rows == [(0, "anna")]


async def test_a_set_point_ends_by_itself_and_by_order(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
        short = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=10, until=in_minutes(0.05))
        assert (await over(plant, short)).state is JobState.DONE
        await controls(plant)
        longer = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=10, until=in_minutes(5))
        assert (await over(plant, longer)).state is JobState.DONE
        await controls(plant, 10)
        ended = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=None)
        assert (await over(plant, ended)).result == {"ended": True}
        await controls(plant)


async def test_a_battery_that_does_not_take_it_fails_the_job_and_the_plan_goes_on(plant: Plant) -> None:
    async with plant.edge() as edge:
        await controls(plant)
        assert edge.site.controller is not None
        edge.site.controller.batteries[0].hold("it shows a target of 50.0 kW")
        job = await over(plant, await order(plant, JobKind.SET_POINT, device=BESS, power_kw=10, until=in_minutes(5)))
        assert job.state is JobState.FAILED
        assert "commanded by somebody else" in (job.error or "")


async def test_a_stop_says_when_it_was_carried_out(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
        job = await over(plant, await order(plant, JobKind.STOP, reason="smoke"))
        assert job.result["acknowledged"] == [BESS]
        assert "stopped by anna: smoke" in job.result["reason"]


async def test_a_device_is_tested_and_its_state_follows(plant: Plant) -> None:
    async with plant.edge():
        await controls(plant)
        job = await over(plant, await order(plant, JobKind.TEST, device=METER))
        assert job.result["failure"] is None
        assert job.result["values"]["power_total_active"] is not None
        load = DeviceId((await get_device(plant.db, "WLCE-LOAD-METER")).id)
        async with plant.db.transaction():
            await start_maintenance(plant.db, load, actor="anna", reason="wires")
            await end_maintenance(plant.db, load, actor="anna")
            await set_state(plant.db, load, DeviceState.FAILED, actor="anna", reason="wires")
        await over(plant, await order(plant, JobKind.TEST, device="WLCE-LOAD-METER"))
        assert await plant.rows("SELECT state FROM flux.mg_device_registry WHERE name = 'WLCE-LOAD-METER'") == [
            ("active",)
        ]


class Deaf(Switch):
    """Nothing that changes in the registry is heard of."""

    async def wait_for_registry_change(self, _timeout_s: float) -> bool:
        await asyncio.Event().wait()
        return False


async def test_what_was_done_before_a_job_was_ordered_counts_though_nobody_told_the_edge(plant: Plant) -> None:
    plant.link = Deaf(plant.make_link("WLCE"))
    async with plant.edge():
        await controls(plant)
        load = DeviceId((await get_device(plant.db, "WLCE-LOAD-METER")).id)
        await start_maintenance(plant.db, load, actor="anna", reason="wires")
        await end_maintenance(plant.db, load, actor="anna")
        await set_state(plant.db, load, DeviceState.FAILED, actor="anna", reason="wires")
        await over(plant, await order(plant, JobKind.TEST, device="WLCE-LOAD-METER"))
        assert (await get_device(plant.db, "WLCE-LOAD-METER")).state is DeviceState.ACTIVE
        await ownership.stop_site(plant.db, "WLCE", actor="ben", reason="smoke")
        refused = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=-20, until=in_minutes(5))
        assert "stopped by ben: smoke" in ((await over(plant, refused)).error or "")
        await ownership.resume_site(plant.db, "WLCE", actor="ben")
        given = await order(plant, JobKind.SET_POINT, device=BESS, power_kw=-20, until=in_minutes(5))
        assert (await over(plant, given)).error is None


async def test_a_scan_runs_beside_control(plant: Plant) -> None:
    """At an address where nobody answers: control goes on as if there were none."""
    answering = asyncio.Event()

    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering.wait()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.9", 0)
    async with silent, plant.edge() as edge:
        await controls(plant)
        assert edge.site.controller is not None
        began = edge.site.controller.cycles
        port = silent.sockets[0].getsockname()[1]
        scan = await order(plant, JobKind.SCAN, ranges=["127.0.0.9", "127.0.0.1"], ports=[port], timeout_s=1)
        job = await over(plant, scan)
        assert edge.site.controller.cycles - began >= 3
        assert edge.site.controller.failed_commands == 0
        answering.set()
    assert job.result["asked"] == 1
    assert job.result["left_out"] == ["127.0.0.1"], "its devices are polled, and may take one connection only"
    assert [problem["host"] for problem in job.result["problems"]] == ["127.0.0.9"]
